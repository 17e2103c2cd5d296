//! Memory, open files and threads. These tests limit and measure processes that they start. What measures its own process
//! is a binary of its own, because the tests of a binary run beside each other in one process.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../benches/scripted/mod.rs"]
mod scripted;

mod memory;
#[cfg(target_os = "linux")]
mod system;

/// The tests run one after the other: a busy machine changes what they measure.
fn one_at_a_time() -> std::sync::MutexGuard<'static, ()> {
    static RUNNING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
