//! Shows rows of a stored table: selected rows and columns, in one of several formats, once or continuously
//! while a run commits. Files are read in batches of a thousand rows, so memory stays small.

mod condition;
mod objects;
mod sink;
mod table;

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::Value;

pub use condition::Condition;
pub(crate) use objects::objects;
pub use sink::RowFormat;
pub(crate) use table::printable;
pub use table::{aligned, fitted, width};

use condition::Check;
use sink::{End, Look, Pipe, Sink};

use crate::error::{Error, Result};
use crate::store::Scan;

/// Time between two checks of a manifest that may have grown.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Which part of a table to show, and how.
#[derive(Clone, Debug)]
pub struct Show {
    /// Shows only this iteration of a run.
    pub iteration: Option<u32>,
    /// Shows only rows for which all of these hold.
    pub conditions: Vec<Condition>,
    /// Shows these columns in this order. If empty, all columns are shown, but a table omits lists of
    /// numbers.
    pub columns: Vec<String>,
    /// Maximum number of rows.
    pub limit: Option<u64>,
    /// Output format.
    pub format: RowFormat,
    /// Width of the terminal, which limits the width of a table.
    pub width: usize,
    /// Whether to continue as a live run commits.
    pub follow: bool,
}

/// Columns and conditions of an output, resolved against the schema of the first file.
struct OutputShape {
    /// Columns to read: those shown and those used by conditions.
    read: SchemaRef,
    checks: Vec<Check>,
    /// Positions of the columns shown.
    shown: Vec<usize>,
}

impl Show {
    /// Writes the rows to `to`. With `follow`, it ends when the run has finished or `stop` returns true. It
    /// also ends when the reader closes the pipe.
    ///
    /// # Errors
    /// A file is damaged, a column does not exist, or a condition does not fit its column.
    pub fn run(&self, scan: &mut Scan, to: impl Write + Send + 'static, stop: &dyn Fn() -> bool) -> Result<()> {
        let pipe = Pipe::new(to);
        match self.write(scan, &pipe, stop) {
            Err(_) if pipe.gone() => Ok(()),
            other => other,
        }
    }

    fn write(&self, scan: &mut Scan, pipe: &Pipe, stop: &dyn Fn() -> bool) -> Result<()> {
        let mut out: Option<(OutputShape, Box<dyn Sink>)> = None;
        // Number of rows already read from each file; metrics files are rewritten as they grow.
        let mut seen: HashMap<PathBuf, u64> = HashMap::new();
        let (mut written, mut total) = (0u64, 0u64);
        let full = |written: u64| self.limit.is_some_and(|limit| written >= limit);
        loop {
            // This is checked before the files are listed, so that a commit in between is seen in the next
            // round.
            let live = self.follow && scan.live();
            let mut news = false;
            for part in scan.parts(self.iteration)? {
                let rows = part.rows()?;
                let before = seen.get(&part.path).copied();
                if before.is_some_and(|before| rows <= before) {
                    continue;
                }
                seen.insert(part.path.clone(), rows);
                total += rows - before.unwrap_or(0);
                if out.is_none() {
                    let all = part.schema()?;
                    let shape = self.shape(&all)?;
                    let shown = Arc::new(shape.read.project(&shape.shown)?);
                    let chosen = !self.columns.is_empty();
                    let look = Look { room: self.width, chosen, hidden: self.hidden(&all) };
                    let sink = sink::of(self.format, &shown, pipe, look)?;
                    out = Some((shape, sink));
                }
                let Some((shape, sink)) = out.as_mut().filter(|_| !full(written)) else { continue };
                let mut skip = before.unwrap_or(0);
                for batch in part.read(&shape.read)? {
                    if full(written) || pipe.gone() || stop() {
                        break;
                    }
                    let mut batch = batch?;
                    let known = skip.min(batch.num_rows() as u64);
                    skip -= known;
                    batch = batch.slice(known as usize, batch.num_rows() - known as usize);
                    let mut batch = shape.choose(&batch)?;
                    if let Some(limit) = self.limit {
                        batch = batch
                            .slice(0, batch.num_rows().min(usize::try_from(limit - written).unwrap_or(usize::MAX)));
                    }
                    written += batch.num_rows() as u64;
                    if batch.num_rows() > 0 {
                        sink.write(&batch)?;
                        news = true;
                    }
                }
            }
            if let Some((_, sink)) = out.as_mut().filter(|_| news && live) {
                sink.flush()?;
            }
            if !live || full(written) || pipe.gone() || stop() {
                break;
            }
            std::thread::sleep(POLL_INTERVAL);
            scan.refresh()?;
        }
        match out {
            Some((_, mut sink)) => {
                let chosen = !self.conditions.is_empty();
                sink.finish(&End { written, total, chosen, full: full(written) })
            }
            // A table without a file has no columns yet; JSON and CSV of no rows are empty.
            None if matches!(self.format, RowFormat::Table) => {
                let mut pipe = pipe.clone();
                writeln!(pipe, "no rows")?;
                Ok(pipe.flush()?)
            }
            None if matches!(self.format, RowFormat::Json | RowFormat::Csv { .. }) => Ok(()),
            None => {
                Err(Error::user(format!("`{}` has no rows yet, so its columns are unknown", scan.given().display()))
                    .help("`--follow` waits for the first rows"))
            }
        }
    }

    fn shape(&self, all: &SchemaRef) -> Result<OutputShape> {
        let mut shown: Vec<String> = match &self.columns[..] {
            [] => all.fields().iter().filter(|f| !self.hides(f)).map(|f| f.name().clone()).collect(),
            columns => columns.to_vec(),
        };
        // Foreign files may repeat a column name; the first of these columns is shown.
        let mut seen = std::collections::HashSet::new();
        shown.retain(|name| seen.insert(name.clone()));
        // Columns are looked up in a map because foreign files may have a hundred thousand columns.
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (at, field) in all.fields().iter().enumerate() {
            places.entry(field.name()).or_insert(at);
        }
        let find = |name: &str| places.get(name).copied().ok_or_else(|| condition::no_column(name, all));
        let mut columns = shown.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
        let positions = (0..columns.len()).collect();
        let mut checks = Vec::new();
        for condition in &self.conditions {
            let at = find(condition.column())?;
            let position = columns.iter().position(|c| *c == at).unwrap_or_else(|| {
                columns.push(at);
                columns.len() - 1
            });
            checks.push(condition.check(position, all.field(at))?);
        }
        Ok(OutputShape { read: Arc::new(all.project(&columns)?), checks, shown: positions })
    }

    /// Whether a table omits a column by default. Lists of numbers, such as token ids and
    /// log-probabilities, are not readable.
    fn hides(&self, field: &Field) -> bool {
        self.format == RowFormat::Table
            && matches!(field.data_type(), DataType::List(item) if item.data_type().is_numeric())
    }

    /// Columns that a table of this schema omits by default.
    fn hidden(&self, all: &Schema) -> Vec<String> {
        let hidden = all.fields().iter().filter(|f| self.columns.is_empty() && self.hides(f));
        hidden.map(|f| f.name().clone()).collect()
    }
}

impl OutputShape {
    /// Selects the rows for which every condition holds, and the columns shown.
    fn choose(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let shown = |rows: &RecordBatch| Ok(rows.project(&self.shown)?);
        if self.checks.is_empty() {
            return shown(rows);
        }
        let about: Vec<usize> = self.checks.iter().map(|c| c.column).collect();
        let mut keep = vec![true; rows.num_rows()];
        for (check, column) in self.checks.iter().zip(about) {
            for (keep, value) in keep.iter_mut().zip(values(&rows.project(&[column])?)?) {
                *keep = *keep && check.holds(&value);
            }
        }
        shown(&filter_record_batch(rows, &BooleanArray::from(keep))?)
    }
}

/// Returns the values of a batch with one column.
fn values(rows: &RecordBatch) -> Result<Vec<Value>> {
    Ok(objects(rows)?.into_iter().map(|o| o.into_iter().next().map_or(Value::Null, |(_, v)| v)).collect())
}
