//! The `reflux` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    reflux::cli::main().into()
}
