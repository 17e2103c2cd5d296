//! Operators that read or make rows without an input.

mod batches;
pub(crate) mod listworld;
pub(crate) mod read;
