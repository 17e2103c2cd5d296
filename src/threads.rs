//! The memory that threads need. An allocation that fails ends a Rust program at once, so a thread is refused, with words, before
//! its stack takes the last of the memory that the process may address.

use std::hint::black_box;
use std::io::{Error, ErrorKind, Result};

/// The stack of a thread for which no other size is asked: the standard library's.
pub const STACK: usize = 2 << 20;

/// What must be left beside the stacks, in bytes. The rows of a run without a model on this machine fit into it.
const SPARE: usize = 32 << 20;

/// Asks for the memory of `count` stacks of `stack` bytes and some to spare, and gives it back.
///
/// # Errors
/// The system refuses so much (`ulimit -v`, a limit on memory without overcommitment).
pub fn check_memory(count: usize, stack: usize) -> Result<()> {
    let bytes = count.saturating_mul(stack).saturating_add(SPARE);
    let mut memory: Vec<u8> = Vec::new();
    let reserved = memory.try_reserve_exact(bytes);
    // An allocation that nobody looks at may be left out by the compiler.
    black_box(&mut memory);
    reserved.map_err(|_| Error::new(ErrorKind::OutOfMemory, format!("{} MB of memory are refused", bytes >> 20)))
}

/// The number of threads that rayon starts by itself.
#[must_use]
pub fn usual() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.filter(|n| *n > 0).unwrap_or_else(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_can_be_addressed_is_refused() {
        assert!(check_memory(4, STACK).is_ok());
        let refused = check_memory(1 << 20, 1 << 40).unwrap_err();
        assert!(refused.kind() == ErrorKind::OutOfMemory && refused.to_string().contains("MB of memory"));
    }
}
