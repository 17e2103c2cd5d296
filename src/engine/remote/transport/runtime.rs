//! The process's threads for connections.

use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};
use crate::threads;

const THREADS: usize = 2;

/// The runtime of all transports. It is started at the first use and lives as long as the process.
///
/// # Errors
/// The system gives no more threads.
pub(super) fn handle() -> Result<Handle> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let start = || {
        threads::check_memory(THREADS, threads::STACK)?;
        Builder::new_multi_thread().worker_threads(THREADS).thread_name("http").enable_all().build()
    };
    match RUNTIME.get_or_init(start) {
        Ok(runtime) => Ok(runtime.handle().clone()),
        Err(e) => Err(Error::no_thread("the threads for connections", e)),
    }
}
