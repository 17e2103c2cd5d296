//! One file of a table, read by columns.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::data::Epoch;
use crate::error::{Error, Result};
use crate::store::files::integrity::FileProblem;
use crate::store::files::reader::ParquetReader;
use crate::store::journal::damage::{damaged, problem_error};
use crate::store::journal::entry::{FileEntry, MetricsEntry};
use crate::store::journal::paths::metrics_path;
use crate::store::journal::run::Run;

/// One file of a [`Scan`](super::scan::Scan).
#[derive(Clone, Debug)]
pub struct Part {
    /// The file.
    pub path: PathBuf,
    /// Columns from the path, as a Hive-style reader adds them: `iteration`, `microbatch`.
    place: Vec<(&'static str, u32)>,
    /// Rows and bytes, if a manifest lists the file.
    committed: Option<(u64, u64)>,
    /// Source of the rows, if the file does not exist yet.
    make: Option<Make>,
}

/// Computes the rows of a [`Part`] without a file.
#[derive(Clone)]
struct Make {
    schema: SchemaRef,
    rows: Arc<dyn Fn() -> Result<RecordBatch> + Send + Sync>,
}

impl std::fmt::Debug for Make {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Make({:?})", self.schema)
    }
}

impl Run {
    /// A committed file as a part of a table.
    pub fn part(&self, file: &FileEntry) -> Part {
        Part {
            path: self.dir().join(&file.path),
            place: vec![("iteration", file.iteration), ("microbatch", file.microbatch)],
            committed: Some((file.rows, file.bytes)),
            make: None,
        }
    }
    /// A training's committed metrics as a part of a table.
    pub fn metrics_part(&self, file: &MetricsEntry) -> Part {
        Part {
            path: self.dir().join(&file.path),
            place: vec![("iteration", file.iteration)],
            committed: Some((file.rows, file.bytes)),
            make: None,
        }
    }
}

impl Part {
    pub(super) fn file(path: PathBuf) -> Self {
        Self { path, place: vec![], committed: None, make: None }
    }

    /// Sets the rows and bytes that the manifest states.
    pub(super) fn committed(self, rows: u64, bytes: u64) -> Self {
        Self { committed: Some((rows, bytes)), ..self }
    }

    /// Metrics of a training in progress, in memory, because the file may be rewritten at any time. The path
    /// is that of the training's final metrics, of which they are the first rows.
    pub(super) fn running(run: &Run, step: &str, iteration: u32, rows: RecordBatch) -> Self {
        let path = run.dir().join(metrics_path(step, iteration));
        let (schema, count) = (rows.schema(), rows.num_rows() as u64);
        let make = Make { schema, rows: Arc::new(move || Ok(rows.clone())) };
        Self { path, place: vec![("iteration", iteration)], committed: Some((count, 0)), make: Some(make) }
    }

    /// A microbatch without a file, whose rows `make` computes on demand.
    pub fn made(
        path: PathBuf,
        epoch: Epoch,
        rows: u64,
        schema: SchemaRef,
        make: impl Fn() -> Result<RecordBatch> + Send + Sync + 'static,
    ) -> Self {
        let place = vec![("iteration", epoch.iteration), ("microbatch", epoch.microbatch)];
        Self { path, place, committed: Some((rows, 0)), make: Some(Make { schema, rows: Arc::new(make) }) }
    }

    /// The iteration in the path.
    pub(super) fn iteration(&self) -> Option<u32> {
        self.place.iter().find(|(name, _)| *name == "iteration").map(|(_, iteration)| *iteration)
    }

    /// The columns: those from the path, then the file's own.
    ///
    /// # Errors
    /// The file is damaged or gone.
    pub fn schema(&self) -> Result<SchemaRef> {
        match &self.make {
            Some(make) => Ok(self.placed(&make.schema)),
            None => Ok(self.placed(self.open()?.schema())),
        }
    }

    /// Number of rows, according to the manifest or the file.
    ///
    /// # Errors
    /// As [`Part::schema`].
    pub fn rows(&self) -> Result<u64> {
        Ok(match self.committed {
            Some((rows, _)) => rows,
            None => ParquetReader::open(&self.path)?.rows(),
        })
    }

    fn open(&self) -> Result<ParquetReader> {
        if let Some((_, bytes)) = self.committed {
            let size =
                std::fs::metadata(&self.path).map_err(|e| problem_error(&self.path, &FileProblem::from_io(&e)))?.len();
            if size != bytes {
                return Err(damaged(&self.path, format!("it has {size} bytes, the manifest says {bytes}")));
            }
        }
        let parquet = ParquetReader::open(&self.path)?;
        if let Some((rows, _)) = self.committed.filter(|(rows, _)| *rows != parquet.rows()) {
            let has = parquet.rows();
            return Err(damaged(&self.path, format!("it has {has} rows, the manifest says {rows}")));
        }
        Ok(parquet)
    }

    /// The columns from the path, then `own`.
    fn placed(&self, own: &SchemaRef) -> SchemaRef {
        let place = self.place.iter().filter(|(name, _)| own.index_of(name).is_err());
        let mut fields: Vec<Arc<Field>> =
            place.map(|(name, _)| Arc::new(Field::new(*name, DataType::UInt32, false))).collect();
        fields.extend(own.fields().iter().cloned());
        Arc::new(Schema::new(fields))
    }

    /// Reads the columns of `schema`, in that order, in batches of about a thousand rows.
    ///
    /// # Errors
    /// The file is damaged or gone, or lacks one of the columns.
    pub fn read(&self, schema: &SchemaRef) -> Result<PartRows> {
        let table = match &self.make {
            Some(make) => PartData::Made((make.rows)()?),
            None => PartData::File(self.open()?),
        };
        let own = table.schema();
        // A map of the first column of each name, because a file may have a hundred thousand columns.
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (at, field) in own.fields().iter().enumerate() {
            places.entry(field.name()).or_insert(at);
        }
        let mut sources = Vec::new();
        for field in schema.fields() {
            let at = places.get(field.name().as_str()).copied();
            let placed = self.place.iter().find(|(name, _)| name == field.name()).map(|(_, value)| *value);
            let there = match at {
                Some(at) => Some(own.field(at).data_type()),
                None => placed.map(|_| &DataType::UInt32),
            };
            if there != Some(field.data_type()) {
                let (path, name) = (self.path.display(), field.name());
                let what = there.map_or("does not have".to_owned(), |t| format!("has as {t}"));
                return Err(Error::user(format!(
                    "`{path}` {what} the column `{name}`, which the files before it have as {}",
                    field.data_type()
                ))
                .help("these files are not one table: give one of them"));
            }
            sources.push(match at {
                Some(at) => ColumnSource::Column(at),
                None => ColumnSource::Place(placed.unwrap_or(0)),
            });
        }
        let column = |s: &ColumnSource| if let ColumnSource::Column(at) = s { Some(*at) } else { None };
        let mut wanted: Vec<usize> = sources.iter().filter_map(column).collect();
        wanted.sort_unstable();
        wanted.dedup();
        // With columns from the path alone, one more column is read to get the number of rows.
        if wanted.is_empty() && !own.fields().is_empty() {
            wanted.push(0);
        }
        for source in &mut sources {
            if let ColumnSource::Column(at) = source {
                *at = wanted.partition_point(|w| w < at);
            }
        }
        Ok(PartRows { path: self.path.clone(), chunks: table.read(&wanted)?, sources, schema: schema.clone() })
    }
}

/// The rows of a part: a file, or a batch in memory.
enum PartData {
    File(ParquetReader),
    Made(RecordBatch),
}

impl PartData {
    fn schema(&self) -> SchemaRef {
        match self {
            Self::File(parquet) => parquet.schema().clone(),
            Self::Made(rows) => rows.schema(),
        }
    }
    fn read(self, columns: &[usize]) -> Result<Box<dyn Iterator<Item = Result<RecordBatch>>>> {
        Ok(match self {
            Self::File(parquet) => Box::new(parquet.read(columns)?),
            Self::Made(rows) => Box::new(std::iter::once(rows.project(columns).map_err(Error::from))),
        })
    }
}

enum ColumnSource {
    /// Position among the columns that are read.
    Column(usize),
    Place(u32),
}

/// The rows of a [`Part`].
pub struct PartRows {
    path: PathBuf,
    chunks: Box<dyn Iterator<Item = Result<RecordBatch>>>,
    sources: Vec<ColumnSource>,
    schema: SchemaRef,
}

impl Iterator for PartRows {
    type Item = Result<RecordBatch>;
    fn next(&mut self) -> Option<Self::Item> {
        let chunk = match self.chunks.next()? {
            Ok(chunk) => chunk,
            Err(e) => return Some(Err(e)),
        };
        let column = |source: &ColumnSource| -> ArrayRef {
            match source {
                ColumnSource::Column(at) => chunk.column(*at).clone(),
                ColumnSource::Place(value) => Arc::new(UInt32Array::from(vec![*value; chunk.num_rows()])),
            }
        };
        let columns = self.sources.iter().map(column).collect();
        let batch = RecordBatch::try_new(self.schema.clone(), columns);
        Some(batch.map_err(|e| damaged(&self.path, e)))
    }
}
