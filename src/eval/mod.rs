//! What is measured: the small world with its oracle, and statistics.

pub mod listworld;
pub mod statistics;
