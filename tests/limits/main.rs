//! Memory, open files and threads. These tests limit and measure processes that they start. What measures its own process
//! is a binary of its own, because the tests of a binary run beside each other in one process.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../benches/scripted/mod.rs"]
mod scripted;

mod memory;
#[cfg(target_os = "linux")]
mod system;
