//! Writes the page of a run to a file.

use std::path::Path;

use super::html::html;
use super::snapshot::Snapshot;
use crate::error::Result;
use crate::store::write_output;

/// Writes the page whole or not at all. Returns its size in bytes.
///
/// # Errors
/// The file cannot be written.
pub fn write_page(snapshot: &Snapshot, path: &Path) -> Result<u64> {
    Ok(write_output(path, html(snapshot).as_bytes())?.bytes)
}
