//! The folder of a revision, opened with the plan of its run.

use std::path::Path;
use std::sync::Arc;

use crate::dataflow::Revised;
use crate::error::{Error, Result};
use crate::pipeline;

/// Opens the folder.
///
/// # Errors
/// As [`Revised::open`]; the run's pipeline file cannot be read any more.
pub fn open(folder: &Path) -> Result<Revised> {
    Revised::open(folder, |own| {
        let plan = pipeline::load_without_data(own, &[], crate::operators::ALL);
        plan.map(Arc::new).map_err(|problems| Error::user(problems.to_string()))
    })
}
