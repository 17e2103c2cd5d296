//! Operators that train a model.

pub(crate) mod common;
pub(crate) mod dpo;
pub(crate) mod preferences;
pub(crate) mod reference;
pub(crate) mod reported;
pub(crate) mod sft;
pub(crate) mod starts;
pub(crate) mod train;
pub(crate) mod watch;
