//! What people see of reflux at a terminal: nothing that steers it, nothing lost that matters, and suggestions that work.

#[cfg(target_os = "linux")]
mod closed;
#[cfg(unix)]
mod escapes;
#[cfg(unix)]
mod messages;
#[cfg(unix)]
mod suggestions;
