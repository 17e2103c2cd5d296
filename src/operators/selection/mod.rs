//! Operators that choose, split, join and measure rows.

pub(crate) mod build_eft;
pub(crate) mod concat;
pub(crate) mod measure;
pub(crate) mod positives;
pub(crate) mod select;
pub(crate) mod split;
pub(crate) mod strategies;
