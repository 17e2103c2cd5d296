//! Settings of an engine.

use std::sync::Arc;

use rayon::ThreadPool;

use crate::error::{Error, Result};
use crate::jinja::DateTime;
use crate::threads;

/// Settings of a local engine. Only the date changes answers.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Maximum rows of a step, and of concurrent sequences.
    pub max_rows: usize,
    /// Maximum prompt rows of a step.
    pub prefill_chunk: usize,
    /// Bytes for the cached keys and values of all sequences together. A single sequence that needs more gets more.
    pub kv_memory: u64,
    /// The present time for chat templates, see [`Tokenizer::with_date`](crate::model::Tokenizer::with_date).
    pub date: Option<DateTime>,
    /// Threads that compute. Without them, rayon's global pool (one per core) computes. Engines may share threads.
    pub pool: Option<Arc<ThreadPool>>,
}

impl EngineConfig {
    /// Starts this many threads for the engine alone, with the priority of the calling thread. `None` changes nothing.
    ///
    /// # Errors
    /// The threads could not be started.
    pub fn with_threads(self, threads: Option<usize>) -> Result<Self> {
        let Some(threads) = threads else { return Ok(self) };
        let threads = threads.max(1);
        threads::check_memory(threads, threads::STACK).map_err(|e| Error::no_thread("the engine's threads", e))?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| Error::no_thread("the engine's threads", e))?;
        Ok(Self { pool: Some(Arc::new(pool)), ..self })
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_rows: 256, prefill_chunk: 256, kv_memory: default_kv_memory(), date: None, pool: None }
    }
}

/// The bytes in a line of one of Linux's files on memory, or none if the file does not exist.
pub fn memory(file: &str, line: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix(line))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
}

/// A quarter of the memory that this process can have now, at most 8 GiB; 1 GiB where the system does not say.
fn default_kv_memory() -> u64 {
    const GIB: u64 = 1 << 30;
    let text = |path: &str| std::fs::read_to_string(path).ok();
    let free = memory("/proc/meminfo", "MemAvailable:");
    // What a container may use, and what `ulimit -v` leaves.
    let group = text("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse::<u64>().ok());
    let used = text("/sys/fs/cgroup/memory.current").and_then(|text| text.trim().parse::<u64>().ok());
    let group = group.map(|most| most.saturating_sub(used.unwrap_or(0)));
    let address = text("/proc/self/limits").and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("Max address space"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    let mapped = memory("/proc/self/status", "VmSize:");
    let address = address.map(|most| most.saturating_sub(mapped.unwrap_or(0)));
    [free, group, address].into_iter().flatten().min().map_or(GIB, |bytes| (bytes / 4).min(8 * GIB))
}
