//! Closing figures of a run or a study, and the counters that they use.

pub(crate) mod closing;
pub(crate) mod counters;
pub(crate) mod fruitless;
pub(crate) mod health;
pub(crate) mod left_out;
pub(crate) mod rescored;
pub(crate) mod run_summary;
pub(crate) mod study;
pub(crate) mod written;
