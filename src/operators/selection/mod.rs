//! Operators that choose, split, join and measure rows.

pub(crate) mod build_eft;
pub(crate) mod concat;
mod consistency;
pub(crate) mod measure;
mod pair_rows;
pub(crate) mod positives;
pub(crate) mod select;
pub(crate) mod split;
pub(crate) mod strategies;
