//! Metrics of a training in progress. They are in a file that the manifest does not list, which is rewritten
//! as the training advances and removed once the final metrics are written. Only people and plots read it, so
//! a resumed run deletes a stale one.

use std::fs;
use std::path::PathBuf;

use arrow::array::RecordBatch;

use super::paths::check_name;
use super::run::Run;
use crate::error::Result;
use crate::store::files::io_error::io_error;
use crate::store::files::reader::read_parquet;
use crate::store::files::writer::write_parquet;

/// Name of the file, next to that of the final metrics.
const NAME: &str = "metrics.running.parquet";

impl Run {
    fn running_path(&self, step: &str, iteration: u32) -> PathBuf {
        self.dir().join(format!("metrics/{step}/iteration={iteration}/{NAME}"))
    }

    /// Writes the metrics so far of a training in progress, replacing earlier ones.
    ///
    /// # Errors
    /// A full disk.
    pub fn write_running_metrics(&self, step: &str, iteration: u32, rows: &RecordBatch) -> Result<()> {
        check_name("step", step)?;
        // Replaced atomically, so that a reader never sees half a file.
        write_parquet(&self.running_path(step, iteration), rows).map(drop)
    }

    /// Removes the metrics of a training in progress, if any.
    pub(crate) fn remove_running_metrics(&self, step: &str, iteration: u32) -> Result<()> {
        let path = self.running_path(step, iteration);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("removing", &path, &e)),
            _ => Ok(()),
        }
    }

    /// The metrics so far of a step's trainings in progress, by iteration.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn running_metrics(&self, step: &str) -> Result<Vec<(u32, RecordBatch)>> {
        let mut iterations: Vec<u32> = Vec::new();
        for entry in fs::read_dir(self.dir().join("metrics").join(step)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            iterations.extend(name.strip_prefix("iteration=").and_then(|i| i.parse::<u32>().ok()));
        }
        iterations.sort_unstable();
        let whole = self.metrics();
        iterations.retain(|i| whole.iter().all(|m| m.step != step || m.iteration != *i));
        let mut all = Vec::new();
        for iteration in iterations {
            let path = self.running_path(step, iteration);
            if !path.exists() {
                continue;
            }
            match read_parquet(&path) {
                Ok(rows) => all.push((iteration, rows)),
                // The training has ended since: its final metrics are written, and the reader finds them on
                // its next refresh.
                Err(_) if !path.exists() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }
}
