//! The program as people use it: help, messages, suggestions and exit codes, files with mistakes, and terminals and pipes
//! that misbehave.

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod closed;
mod diagnostics;
#[cfg(unix)]
mod escapes;
mod first_checks;
mod help_and_errors;
#[cfg(unix)]
mod messages;
mod no_effect;
#[cfg(unix)]
mod pipes;
#[cfg(unix)]
mod suggestions;
