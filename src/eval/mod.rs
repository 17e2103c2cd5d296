//! What is measured and never fed back: the small world with its oracle.

pub mod listworld;
