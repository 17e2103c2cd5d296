//! Operators that train a model.

pub(crate) mod common;
pub(crate) mod dpo;
pub(crate) mod preferences;
pub(crate) mod reference;
pub(crate) mod sft;
