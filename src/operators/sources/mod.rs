//! Operators that read or make rows without an input.

pub(crate) mod listworld;
pub(crate) mod read;
