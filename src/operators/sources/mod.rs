//! Operators that bring rows in.

pub(crate) mod listworld;
pub(crate) mod read;
