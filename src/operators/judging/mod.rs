//! Operators that score answers, and code that they share: the judge client and the reading of scores.

pub(crate) mod client;
pub(crate) mod compare;
pub(crate) mod expected;
pub(crate) mod judge;
pub(crate) mod meta_judge;
pub(crate) mod oracle;
pub(crate) mod pairwise;
pub(crate) mod rescore;
pub mod score;
pub(crate) mod scored;
pub(crate) mod structured;
pub(crate) mod tournament;
