//! Tables by name: the rows of a run's step, of its errors or metrics, or of any files.
//!
//! This folder knows the run directory and the datasets; neither knows it.

pub(crate) mod loaded;
pub(crate) mod part;
pub(crate) mod scan;
