//! Operators that write text: new prompts and answers to them.

pub(crate) mod dedup;
pub(crate) mod filters;
pub(crate) mod generate;
pub(crate) mod synthesize;
