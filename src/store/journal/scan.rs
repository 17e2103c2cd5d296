//! Rows as they lie on the disk, to be looked at: those of a run's step, its errors or metrics, or of any Parquet files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::index::{damaged, wrong};
use super::manifest::{FileEntry, MetricsEntry};
use super::run::Run;
use crate::data::{Epoch, nearest, nearest_path};
use crate::error::{Error, Result};
use crate::store::files::atomic::Wrong;
use crate::store::files::listing::{files, is};
use crate::store::files::reader::ParquetIn;

/// Which rows of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Of {
    /// What a step made.
    Step(String),
    /// What a step, or every step, left out.
    Errors(Option<String>),
    /// The metrics of a training step.
    Metrics(String),
}

/// A table that is spread over files.
#[derive(Debug)]
pub struct Scan {
    given: PathBuf,
    run: Option<(Run, Of)>,
    /// Where it is not a run's.
    parts: Vec<Part>,
    manifest_bytes: u64,
}

/// One file of a [`Scan`].
#[derive(Clone, Debug)]
pub struct Part {
    /// The file.
    pub path: PathBuf,
    /// Columns that its place stands for, as a Hive-style reader adds them: `iteration`, `microbatch`.
    place: Vec<(&'static str, u32)>,
    /// Rows and bytes, where a manifest says so.
    committed: Option<(u64, u64)>,
    /// What makes its rows, where the file is still to be made.
    make: Option<Make>,
}

/// Makes the rows of a [`Part`] that is no file.
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

/// The run at `given`, or called so in the folder `runs`.
pub fn find_run(given: &Path) -> PathBuf {
    let named = Path::new("runs").join(given);
    let is_run = |dir: &Path| dir.join("manifest.jsonl").is_file();
    if !is_run(given) && given.is_relative() && is_run(&named) { named } else { given.to_owned() }
}

/// The name of the run that was probably meant by one that is not there.
pub(crate) fn near_run(given: &Path) -> Option<String> {
    let bases = if given.is_relative() { &["", "runs"][..] } else { &[""] };
    bases.iter().find_map(|base| {
        let near = nearest_path(&Path::new(base).join(given)).filter(|near| near.join("manifest.jsonl").is_file())?;
        Some(near.strip_prefix(base).unwrap_or(&near).to_string_lossy().into_owned())
    })
}

/// Help for something that is not there: the run that was meant, if one is near.
fn nothing_at(given: &Path) -> String {
    let usual = "give RUN/STEP, as runs/quickstart/pairs, a Parquet file, or a directory of them";
    for run in given.ancestors().skip(1).filter(|run| !run.as_os_str().is_empty()) {
        let rest = given.strip_prefix(run).unwrap_or(Path::new(""));
        if let Some(near) = near_run(run) {
            return format!("did you mean `{}`? {usual}", Path::new(&near).join(rest).display());
        }
    }
    match nearest_path(given) {
        Some(near) => format!("did you mean `{}`? {usual}", near.display()),
        None => usual.to_owned(),
    }
}

impl Scan {
    /// Finds what `given` names: `RUN/STEP`, `RUN/errors`, `RUN/errors/STEP`, `RUN/metrics/STEP` (with `data/` before it or
    /// not; RUN is a directory or a name in `runs`), or else a Parquet file or a directory of them.
    ///
    /// # Errors
    /// There is nothing of that name; what there is is told.
    pub fn open(given: &Path) -> Result<Self> {
        for base in [PathBuf::new(), PathBuf::from("runs")] {
            let path = base.join(given);
            if path.join("manifest.jsonl").is_file() {
                let run = Run::open(&path)?;
                return Err(Error::user(format!("`{}` is a run: say what of it", path.display())).help(there_is(&run)));
            }
            for dir in path.ancestors().skip(1).take(4).filter(|dir| dir.join("manifest.jsonl").is_file()) {
                let rest = path.strip_prefix(dir).unwrap_or(Path::new(""));
                let words: Vec<_> = rest.iter().map(|w| w.to_string_lossy().into_owned()).collect();
                let of = match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["errors"] | ["data", "errors"] => Of::Errors(None),
                    ["errors", step] | ["data", "errors", step] => Of::Errors(Some((*step).to_owned())),
                    ["metrics", step] => Of::Metrics((*step).to_owned()),
                    [step] | ["data", step] if !matches!(*step, "data" | "metrics" | "models" | "checkpoints") => {
                        Of::Step((*step).to_owned())
                    }
                    _ => continue,
                };
                let scan =
                    Self { given: path.clone(), run: Some((Run::open(dir)?, of)), parts: vec![], manifest_bytes: 0 };
                scan.check()?;
                return Ok(scan);
            }
            if path.exists() {
                let mut found = files(&path)?;
                found.retain(|f| is(f, "parquet"));
                if found.is_empty() {
                    return Err(Error::user(format!("`{}` holds no Parquet file", path.display()))
                        .help("`reflux import` turns JSON lines and other formats into Parquet"));
                }
                return Ok(Self::of(&path, found.into_iter().map(Part::file).collect()));
            }
        }
        Err(Error::user(format!("there is nothing at `{}`", given.display())).help(nothing_at(given)))
    }

    /// A table of these parts, that is called so.
    pub fn of(given: &Path, parts: Vec<Part>) -> Self {
        Self { given: given.to_owned(), run: None, parts, manifest_bytes: 0 }
    }

    /// Whether the step is one of the run.
    fn check(&self) -> Result<()> {
        let Some((run, of)) = &self.run else { return Ok(()) };
        let (what, name, known) = match of {
            Of::Step(step) => ("step", step, steps(run)),
            Of::Errors(None) => return Ok(()),
            Of::Errors(Some(step)) => ("step", step, steps(run)),
            Of::Metrics(step) => {
                let mut known: Vec<String> = run.metrics().into_iter().map(|m| m.step).collect();
                known.dedup();
                // A training that is still to end has no metrics yet.
                if !run.finished() {
                    known.extend(steps(run));
                }
                ("metrics of", step, known)
            }
        };
        if known.contains(name) {
            return Ok(());
        }
        if run.dropped(name) {
            return Err(not_kept(name));
        }
        let words: Vec<&str> = known.iter().map(String::as_str).collect();
        let near = nearest(name, words).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
        Err(Error::user(format!("the run `{}` has no {what} `{name}`", run.dir().display()))
            .help(near + &there_is(run)))
    }

    /// What it was opened as.
    pub fn given(&self) -> &Path {
        &self.given
    }

    /// Whether more may come: it is a run's, and the run is not finished.
    pub fn live(&self) -> bool {
        self.run.as_ref().is_some_and(|(run, _)| !run.finished())
    }

    /// Reads the manifest again if it has grown.
    ///
    /// # Errors
    /// The manifest is damaged.
    pub fn refresh(&mut self) -> Result<()> {
        let Some((run, _)) = &self.run else { return Ok(()) };
        let now = std::fs::metadata(run.dir().join("manifest.jsonl")).map_or(0, |m| m.len());
        if now != self.manifest_bytes {
            run.refresh()?;
            self.manifest_bytes = now;
        }
        Ok(())
    }

    /// The files there are now, in order; of one iteration or all.
    ///
    /// # Errors
    /// The step was not kept.
    pub fn parts(&self, iteration: Option<u32>) -> Result<Vec<Part>> {
        let Some((run, of)) = &self.run else {
            let of = |part: &Part| part.place.iter().find(|(name, _)| *name == "iteration").map(|(_, i)| *i);
            if iteration.is_some() && self.parts.iter().any(|part| of(part).is_none()) {
                return Err(Error::user(format!(
                    "`{}` is not a run's step: it has no iterations",
                    self.given.display()
                ))
                .help("`--where COLUMN=VALUE` chooses rows by a column"));
            }
            let wanted = |part: &&Part| iteration.is_none() || of(part) == iteration;
            return Ok(self.parts.iter().filter(wanted).cloned().collect());
        };
        let file = |path: &str| run.dir().join(path);
        let mut parts: Vec<(u32, Part)> = match of {
            Of::Step(step) => {
                if run.dropped(step) {
                    return Err(not_kept(step));
                }
                run.files(step).iter().map(|f| (f.iteration, run.part(f))).collect()
            }
            Of::Errors(of) => {
                let entries = run.entries().into_iter().filter(|f| of.as_ref().is_none_or(|step| f.step == *step));
                let errors = entries.filter_map(|f| f.errors.map(|e| (f.iteration, e)));
                let part = |e: super::manifest::Stored| Part {
                    committed: Some((e.rows, e.bytes)),
                    ..Part::file(file(&e.path))
                };
                errors.map(|(iteration, e)| (iteration, part(e))).collect()
            }
            Of::Metrics(step) => {
                let metrics = run.metrics().into_iter().filter(|m| m.step == *step);
                let mut parts: Vec<(u32, Part)> = metrics.map(|m| (m.iteration, run.metrics_part(&m))).collect();
                let running = run.running_metrics(step)?.into_iter();
                parts.extend(running.map(|(iteration, rows)| (iteration, Part::running(run, step, iteration, rows))));
                parts
            }
        };
        parts.retain(|(i, _)| iteration.is_none_or(|wanted| *i == wanted));
        Ok(parts.into_iter().map(|(_, part)| part).collect())
    }
}

/// The steps of a run: those with rows, and those that its pipeline file names.
fn steps(run: &Run) -> Vec<String> {
    let mut steps = run.steps();
    let text = run.pipeline_text().unwrap_or_default();
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let named = table.get("step").and_then(toml::Value::as_table).into_iter().flat_map(|t| t.keys().cloned());
    let more: Vec<String> = named.filter(|name| !steps.contains(name) && !run.dropped(name)).collect();
    steps.extend(more);
    steps
}

fn there_is(run: &Run) -> String {
    let mut words = steps(run);
    words.push("errors".to_owned());
    let mut trained: Vec<String> = run.metrics().into_iter().map(|m| format!("metrics/{}", m.step)).collect();
    trained.dedup();
    words.extend(trained);
    format!("there are: {}", words.join(", "))
}

fn not_kept(step: &str) -> Error {
    Error::user(format!("the rows of the step `{step}` were not kept"))
        .help("remove its `keep = false` and run again under another name")
}

impl Run {
    /// A committed file, to be read by columns.
    pub fn part(&self, file: &FileEntry) -> Part {
        Part {
            path: self.dir().join(&file.path),
            place: vec![("iteration", file.iteration), ("microbatch", file.microbatch)],
            committed: Some((file.rows, file.bytes)),
            make: None,
        }
    }
    /// A training's committed metrics.
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
    fn file(path: PathBuf) -> Self {
        Self { path, place: vec![], committed: None, make: None }
    }

    /// The metrics of a training that is under way, read already: the file may be written anew at any time. They are called
    /// as the file that the training will leave, of which they are the first rows.
    fn running(run: &Run, step: &str, iteration: u32, rows: RecordBatch) -> Self {
        let path = run.dir().join(format!("metrics/{step}/iteration={iteration}/metrics.parquet"));
        let (schema, count) = (rows.schema(), rows.num_rows() as u64);
        let make = Make { schema, rows: Arc::new(move || Ok(rows.clone())) };
        Self { path, place: vec![("iteration", iteration)], committed: Some((count, 0)), make: Some(make) }
    }

    /// The microbatch that a file will have or would have, its rows made by `make` when they are asked for.
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

    /// Its columns: those that its place stands for, then the file's own.
    ///
    /// # Errors
    /// The file is damaged or gone.
    pub fn schema(&self) -> Result<SchemaRef> {
        match &self.make {
            Some(make) => Ok(self.placed(&make.schema)),
            None => Ok(self.placed(self.open()?.schema())),
        }
    }

    /// Rows, as the file or the manifest says.
    ///
    /// # Errors
    /// As [`Part::schema`].
    pub fn rows(&self) -> Result<u64> {
        Ok(match self.committed {
            Some((rows, _)) => rows,
            None => ParquetIn::open(&self.path)?.rows(),
        })
    }

    fn open(&self) -> Result<ParquetIn> {
        if let Some((_, bytes)) = self.committed {
            let size = std::fs::metadata(&self.path).map_err(|e| wrong(&self.path, &Wrong::from_io(&e)))?.len();
            if size != bytes {
                return Err(damaged(&self.path, format!("it has {size} bytes, the manifest says {bytes}")));
            }
        }
        let parquet = ParquetIn::open(&self.path)?;
        if let Some((rows, _)) = self.committed.filter(|(rows, _)| *rows != parquet.rows()) {
            let has = parquet.rows();
            return Err(damaged(&self.path, format!("it has {has} rows, the manifest says {rows}")));
        }
        Ok(parquet)
    }

    /// These columns, after those that its place stands for.
    fn placed(&self, own: &SchemaRef) -> SchemaRef {
        let place = self.place.iter().filter(|(name, _)| own.index_of(name).is_err());
        let mut fields: Vec<Arc<Field>> =
            place.map(|(name, _)| Arc::new(Field::new(*name, DataType::UInt32, false))).collect();
        fields.extend(own.fields().iter().cloned());
        Arc::new(Schema::new(fields))
    }

    /// Its rows with the columns of `schema`, in that order, in batches of a thousand or so.
    ///
    /// # Errors
    /// The file is damaged or gone, or lacks one of the columns.
    pub fn read(&self, schema: &SchemaRef) -> Result<PartRows> {
        let table = match &self.make {
            Some(make) => Table::Made((make.rows)()?),
            None => Table::File(self.open()?),
        };
        let own = table.schema();
        // By name, the first of each: a stranger's file may have a hundred thousand columns.
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
                Some(at) => Source::Column(at),
                None => Source::Place(placed.unwrap_or(0)),
            });
        }
        let column = |s: &Source| if let Source::Column(at) = s { Some(*at) } else { None };
        let mut wanted: Vec<usize> = sources.iter().filter_map(column).collect();
        wanted.sort_unstable();
        wanted.dedup();
        // A table of places only is as long as the file.
        if wanted.is_empty() && !own.fields().is_empty() {
            wanted.push(0);
        }
        for source in &mut sources {
            if let Source::Column(at) = source {
                *at = wanted.partition_point(|w| w < at);
            }
        }
        Ok(PartRows { path: self.path.clone(), chunks: table.read(&wanted)?, sources, schema: schema.clone() })
    }
}

/// Rows to be read by columns.
enum Table {
    File(ParquetIn),
    Made(RecordBatch),
}

impl Table {
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

enum Source {
    /// Position among the columns that are read.
    Column(usize),
    Place(u32),
}

/// The rows of a [`Part`].
pub struct PartRows {
    path: PathBuf,
    chunks: Box<dyn Iterator<Item = Result<RecordBatch>>>,
    sources: Vec<Source>,
    schema: SchemaRef,
}

impl Iterator for PartRows {
    type Item = Result<RecordBatch>;
    fn next(&mut self) -> Option<Self::Item> {
        let chunk = match self.chunks.next()? {
            Ok(chunk) => chunk,
            Err(e) => return Some(Err(e)),
        };
        let column = |source: &Source| -> ArrayRef {
            match source {
                Source::Column(at) => chunk.column(*at).clone(),
                Source::Place(value) => Arc::new(UInt32Array::from(vec![*value; chunk.num_rows()])),
            }
        };
        let columns = self.sources.iter().map(column).collect();
        let batch = RecordBatch::try_new(self.schema.clone(), columns);
        Some(batch.map_err(|e| damaged(&self.path, e)))
    }
}
