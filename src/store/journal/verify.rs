//! Inspection of a run's directory against its manifest: every file's hash, size, rows and schema, models and
//! checkpoints, and stray files. It changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use arrow::datatypes::DataType;
use rayon::prelude::*;

use super::checkpoint_files;
use super::entry::{Entry, FileEntry, MetricsEntry, ModelEntry, ModelFile, NEWER};
use super::findings::{Artifact, Finding, Inspected};
use super::gc::is_run_file;
use super::lock::writer;
use super::manifest::{self, Line};
use super::owned::is_link;
use super::paths::{LOGS, SCRATCH, data_path, errors_path, metrics_path};
use super::pipeline_file::{self, pipeline_hash, steps_of};
use super::reply_files;
use super::run::Run;
use crate::data::{Schema, counted, named, read_text};
use crate::error::{Error, ErrorKind, Result};
use crate::store::files::integrity::{FileProblem, check_file};
use crate::store::files::io_error::io_error;
use crate::store::files::reader::ParquetReader;

/// Inspects everything in the run's directory. `schema` returns the schema of a step's rows, if known;
/// `weights` computes the hash of a model's weights, for manifests that do not list the files of models.
///
/// # Errors
/// No run found; the directory cannot be listed.
pub fn inspect(
    dir: &Path,
    schema: &(dyn Fn(&str) -> Option<&'static Schema> + Sync),
    weights: &dyn Fn(&Path) -> Result<String>,
) -> Result<Inspected> {
    let mut found = inspect_once(dir, schema, weights)?;
    // A run in progress may have dropped rows after its manifest was read.
    for _ in 0..MAX_RETRIES {
        if found.findings.is_empty() || writer(dir).is_none() {
            break;
        }
        found = inspect_once(dir, schema, weights)?;
    }
    if writer(dir).is_some() {
        // Apparent leftovers of a run in progress are files that it is writing.
        let leftover: Vec<bool> = found.strays.iter().map(|stray| found.is_leftover(stray)).collect();
        let mut leftover = leftover.into_iter();
        found.strays.retain(|_| !leftover.next().unwrap_or(false));
    }
    Ok(found)
}

/// Fault of a link in place of one of the run's own files.
const A_LINK: &str = "it is a link, and not the run's own file";

/// Maximum number of repeated inspections of a run in progress that appears to be damaged.
const MAX_RETRIES: u32 = 3;

fn inspect_once(
    dir: &Path,
    schema: &(dyn Fn(&str) -> Option<&'static Schema> + Sync),
    weights: &dyn Fn(&Path) -> Result<String>,
) -> Result<Inspected> {
    let mut all = read_lines(dir)?;
    let duplicates = duplicate_lines(&all.lines);
    all.findings = invalid_lines(&all.lines, &duplicates);
    all.findings.extend(pipeline(dir, &all));
    inspect_summary(dir, &mut all);
    if fs::symlink_metadata(dir.join("lock")).is_ok_and(|there| !there.is_file()) {
        all.findings.push(Finding::new(Artifact::Lock, "lock", "it is not a regular file of the run"));
    }
    let dropped: BTreeSet<String> = all.dropped().into_iter().map(str::to_owned).collect();
    let rows: Vec<(usize, FileEntry)> = all.numbered().map(|(n, f)| (n, f.clone())).collect();
    let metrics: Vec<(usize, MetricsEntry)> = last_metrics(&all);
    let models: Vec<ModelEntry> = all.models().cloned().collect();
    let of_rows = rows.par_iter().flat_map_iter(|(n, f)| check_rows(dir, *n, f, dropped.contains(&f.step), schema));
    // `par_iter` keeps the order of the manifest, so reports are deterministic.
    let mut found: Vec<Finding> = of_rows.collect();
    found.extend(duplicates);
    found.extend(metrics.par_iter().filter_map(|(line, m)| check_metrics(dir, *line, m)).collect::<Vec<_>>());
    for model in &models {
        let artifact = || Artifact::Model(model.step.clone(), model.iteration);
        let problems = check_model(dir, model, weights).into_iter();
        found.extend(problems.map(|(path, problem)| Finding::from_problem(artifact(), path, &problem)));
    }
    found.extend(damaged_checkpoints(dir));
    found.extend(damaged_replies(dir));
    all.findings.extend(found);
    let kept = rows.iter().map(|(_, f)| f).filter(|f| !dropped.contains(&f.step)).map(|f| f.bytes);
    let errors = rows.iter().filter_map(|(_, f)| Some(f.errors.as_ref()?.bytes));
    let of_metrics = metrics.iter().map(|(_, m)| m.bytes);
    let of_models = models.iter().flat_map(|m| m.files.values()).map(|f| f.bytes);
    for bytes in kept.chain(errors).chain(of_metrics).chain(of_models) {
        all.files += 1;
        all.bytes += bytes;
    }
    all.strays = strays(dir, &all)?;
    Ok(all)
}

/// Reads the manifest, and the names of the steps.
fn read_lines(dir: &Path) -> Result<Inspected> {
    let path = dir.join("manifest.jsonl");
    let (lines, cut) = manifest::lines(&path)?;
    if lines.is_empty() {
        // Returns the error for a missing run.
        Run::open(dir)?;
    }
    // A newer format is not damage.
    if let Some(Err(why)) = lines.first().map(|l| &l.entry)
        && why.contains(NEWER)
    {
        return Err(Error::user(format!("`{}` line 1 {why}", path.display())).help("use a newer reflux"));
    }
    let mut steps = steps_of(&read_text(&dir.join("pipeline.toml")).unwrap_or_default());
    for line in &lines {
        if let Ok(Entry::File(FileEntry { step, .. }) | Entry::Metrics(MetricsEntry { step, .. })) = &line.entry {
            steps.insert(step.clone());
        }
    }
    Ok(Inspected {
        lines,
        findings: Vec::new(),
        strays: Vec::new(),
        cut,
        no_summary: false,
        dir: dir.to_owned(),
        steps,
        files: 0,
        bytes: 0,
    })
}

/// Lines that cannot be parsed or have a wrong bit. A duplicate of one is reported as a duplicate only.
fn invalid_lines(lines: &[Line], duplicates: &[Finding]) -> Vec<Finding> {
    let repeated: BTreeSet<&Artifact> = duplicates.iter().map(|f| &f.artifact).collect();
    let mut found = Vec::new();
    for line in lines {
        let number = line.number;
        if line.restored {
            let why = format!("line {number} has one wrong bit, which its checksum corrects");
            found.push(Finding::new(Artifact::WrongBit(number), "manifest.jsonl", why));
        }
        if let Err(why) = &line.entry
            && !repeated.contains(&Artifact::DuplicateLine(number))
        {
            found.push(Finding::new(Artifact::Line(number), "manifest.jsonl", format!("line {number} {why}")));
        }
    }
    found
}

/// Checks `summary.json`, or records that a finished run has none.
fn inspect_summary(dir: &Path, all: &mut Inspected) {
    let checked = match is_link(&dir.join("summary.json")) {
        true => Err(Some(FileProblem::Damaged(A_LINK.to_owned()))),
        false => super::summary::check(dir),
    };
    match checked {
        Err(Some(problem)) => {
            all.findings.push(Finding::from_problem(Artifact::Summary, "summary.json", &problem));
        }
        Err(None) => all.no_summary = all.finished(),
        Ok(()) => {}
    }
}

/// Compares a training's metrics with their manifest entry.
fn check_metrics(dir: &Path, line: usize, metrics: &MetricsEntry) -> Option<Finding> {
    let MetricsEntry { step, iteration, path, rows, bytes, hash } = metrics;
    let want = metrics_path(step, *iteration);
    if *path != want {
        return Some(Finding::new(Artifact::Line(line), path, unexpected_place(&want)));
    }
    let file = Committed { path, rows: *rows, bytes: *bytes, hash };
    let problem = file.check(dir, Some(&named::METRICS)).err()?;
    Some(Finding::from_problem(Artifact::Metrics(step.clone(), *iteration), path, &problem))
}

/// Checks every checkpoint against its list of files.
fn damaged_checkpoints(dir: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    for (_, _, _, path) in checkpoint_files::all(dir) {
        // A run in progress removes a checkpoint when it has a later one; the check then fails on a
        // checkpoint that is gone, not damaged.
        if let Err((file, problem)) = checkpoint_files::check(&path)
            && checkpoint_files::is_checkpoint(&path)
        {
            let artifact = Artifact::Checkpoint(relative(dir, &path));
            found.push(Finding::from_problem(artifact, relative(dir, &file), &problem));
        }
    }
    found
}

fn damaged_replies(dir: &Path) -> Vec<Finding> {
    let finding = |(path, damaged, whole): (String, usize, usize)| {
        let what = match path.ends_with(reply_files::USAGE) {
            true => "what they count is not in the cost of the run",
            false => "their requests are sent again",
        };
        let why = format!("{damaged} of {} are damaged: {what}", counted(whole + damaged, "line"));
        Finding::new(Artifact::Replies(path.clone()), path, why)
    };
    reply_files::damaged_files(dir).into_iter().map(finding).collect()
}

/// The valid metrics with their line numbers: the last ones of each training.
fn last_metrics(all: &Inspected) -> Vec<(usize, MetricsEntry)> {
    let mut last = std::collections::BTreeMap::new();
    for (number, entry) in all.entries() {
        if let Entry::Metrics(m) = entry {
            last.insert((m.step.clone(), m.iteration), (number, m.clone()));
        }
    }
    last.into_values().collect()
}

/// Compares `pipeline.toml` with the manifest's first line, or with its own hash if that line is damaged.
fn pipeline(dir: &Path, all: &Inspected) -> Option<Finding> {
    let header = match all.entries().next() {
        Some((1, Entry::Run { pipeline, format, .. })) => Some((pipeline, *format)),
        _ => None,
    };
    let artifact = || Artifact::Pipeline;
    if is_link(&dir.join("pipeline.toml")) {
        return Some(Finding::new(artifact(), "pipeline.toml", A_LINK));
    }
    let why = match read_text(&dir.join("pipeline.toml")) {
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        Err(e) => return Some(Finding::from_problem(artifact(), "pipeline.toml", &FileProblem::from_io(&e))),
        Ok(text) => match header {
            None => pipeline_file::check_alone(&text).err()?,
            Some((hash, format)) if pipeline_hash(&text, format) != *hash => match pipeline_file::check_alone(&text) {
                // Nothing decides between the two, and a wrong guess would attach another run's file to this
                // run.
                Ok(()) => {
                    "it is whole, and not the file that the run was begun with: it is another run's, or line 1 of \
                           manifest.jsonl is damaged"
                        .to_owned()
                }
                Err(_) => "it is not the file that the run was begun with".to_owned(),
            },
            Some((_, format)) => {
                let why = pipeline_file::check(&text, format).err()?;
                format!("{why}; what decides rows is whole, its other settings are not")
            }
        },
    };
    Some(Finding::new(artifact(), "pipeline.toml", why))
}

/// Repeated lines, and microbatches with two different lines.
fn duplicate_lines(lines: &[Line]) -> Vec<Finding> {
    let (mut seen, mut microbatches) = (BTreeSet::new(), BTreeSet::new());
    let mut found = Vec::new();
    for line in lines {
        let number = line.number;
        if seen.contains(&line.bytes) {
            let why = format!("line {number} is there twice");
            found.push(Finding::new(Artifact::DuplicateLine(number), "manifest.jsonl", why));
            continue;
        }
        let Ok(entry) = &line.entry else { continue };
        seen.insert(&line.bytes);
        if let Entry::File(f) = entry
            && !microbatches.insert((&f.step, f.epoch()))
        {
            found.push(Finding::new(Artifact::Line(number), &f.path, "the manifest has two lines for it"));
        }
    }
    found
}

/// Fault of a manifest line with an unexpected path.
fn unexpected_place(want: &str) -> String {
    format!("the manifest has it at this place, and not at `{want}`")
}

/// A file as listed in the manifest.
struct Committed<'a> {
    path: &'a str,
    rows: u64,
    bytes: u64,
    hash: &'a str,
}

impl Committed<'_> {
    /// Compares the file with its manifest entry and its schema.
    fn check(&self, dir: &Path, schema: Option<&Schema>) -> Result<(), FileProblem> {
        let path = dir.join(self.path);
        check_file(&path, self.bytes, self.hash)?;
        let file = fs::File::open(&path).map_err(|e| FileProblem::from_io(&e))?;
        let parquet = ParquetReader::new(&path, file).map_err(|e| match e.kind() {
            ErrorKind::System => FileProblem::Unreadable(e.to_string()),
            _ => FileProblem::Damaged(e.to_string()),
        })?;
        // The bytes are as committed, so a mismatch from here on is a fault of the manifest line.
        self.check_content(&parquet, schema).map_err(FileProblem::Damaged)
    }

    fn check_content(&self, parquet: &ParquetReader, schema: Option<&Schema>) -> Result<(), String> {
        if parquet.rows() != self.rows {
            return Err(format!("it has {} rows, the manifest says {}", parquet.rows(), self.rows));
        }
        let Some(schema) = schema else { return Ok(()) };
        let have = parquet.schema();
        for column in schema.columns {
            let there = have.field_with_name(column.name).ok().map(|f| f.data_type());
            match there {
                Some(kind) if same_type(kind, &column.kind.arrow()) => {}
                None if column.nullable => {}
                Some(kind) => {
                    return Err(format!("its column `{}` is {kind}, not as `{}` has it", column.name, schema.name));
                }
                None => return Err(format!("it has no column `{}`, which `{}` has", column.name, schema.name)),
            }
        }
        match have.fields().iter().find(|f| schema.columns.iter().all(|c| c.name != f.name())) {
            Some(other) => Err(format!("it has a column `{}`, which is not in `{}`", other.name(), schema.name)),
            None => Ok(()),
        }
    }
}

/// Whether two types are equal, ignoring names of list items and nullability.
fn same_type(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(a), DataType::List(b)) => same_type(a.data_type(), b.data_type()),
        (DataType::Struct(a), DataType::Struct(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && same_type(a.data_type(), b.data_type()))
        }
        (a, b) => a == b,
    }
}

fn check_rows(
    dir: &Path,
    line: usize,
    file: &FileEntry,
    dropped: bool,
    schema: &(dyn Fn(&str) -> Option<&'static Schema> + Sync),
) -> Vec<Finding> {
    let (step, epoch) = (&file.step, file.epoch());
    let mut found = Vec::new();
    let errors = file.errors.as_ref().map(|e| (&e.path, errors_path(step, epoch)));
    for (path, want) in [Some((&file.path, data_path(step, epoch))), errors].into_iter().flatten() {
        // With an unexpected path the line itself is damaged, and the file's owner is unknown.
        if *path != want {
            return vec![Finding::new(Artifact::Line(line), path, unexpected_place(&want))];
        }
    }
    let rows = Committed { path: &file.path, rows: file.rows, bytes: file.bytes, hash: &file.hash };
    if !dropped && let Err(why) = rows.check(dir, schema(step)) {
        found.push(Finding::from_problem(Artifact::Rows(step.clone(), epoch), &file.path, &why));
    }
    if let Some(e) = &file.errors {
        let errors = Committed { path: &e.path, rows: e.rows, bytes: e.bytes, hash: &e.hash };
        if let Err(why) = errors.check(dir, Some(&named::ERRORS)) {
            found.push(Finding::from_problem(Artifact::Errors(step.clone(), epoch), &e.path, &why));
        }
    }
    found
}

/// Paths and faults of a model's damaged files.
fn check_model(
    dir: &Path,
    model: &ModelEntry,
    weights: &dyn Fn(&Path) -> Result<String>,
) -> Vec<(String, FileProblem)> {
    let wrong = |why: String| vec![(model.path.clone(), FileProblem::Damaged(why))];
    let want = format!("models/{}", model.name);
    if model.path != want {
        return wrong(unexpected_place(&want));
    }
    let place = dir.join(&model.path);
    match fs::symlink_metadata(&place) {
        Err(e) => return vec![(model.path.clone(), FileProblem::from_io(&e))],
        Ok(there) if there.file_type().is_symlink() => return wrong("it is a link, and not the run's own".to_owned()),
        Ok(there) if !there.is_dir() => return wrong("it is not a directory".to_owned()),
        Ok(_) => {}
    }
    if model.files.is_empty() {
        return match weights(&place) {
            Ok(hash) if hash == model.hash => Vec::new(),
            Ok(_) => wrong("its weights are not those that the run made".to_owned()),
            Err(e) if e.kind() == ErrorKind::System => {
                vec![(model.path.clone(), FileProblem::Unreadable(e.to_string()))]
            }
            Err(e) => wrong(e.to_string()),
        };
    }
    let file = |(name, file): (&String, &ModelFile)| {
        let why = check_file(&place.join(name), file.bytes, &file.hash).err()?;
        Some((format!("{}/{name}", model.path), why))
    };
    model.files.iter().filter_map(file).collect()
}

fn relative(dir: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(dir).unwrap_or(path).iter().map(|p| p.to_string_lossy().into_owned());
    parts.collect::<Vec<_>>().join("/")
}

/// Files below the run's directory that are neither listed in the manifest nor part of a checkpoint.
fn strays(dir: &Path, all: &Inspected) -> Result<Vec<String>> {
    let dropped = all.dropped();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for file in all.rows() {
        known.extend((!dropped.contains(file.step.as_str())).then(|| file.path.clone()));
        known.extend(file.errors.iter().map(|e| e.path.clone()));
    }
    known.extend(last_metrics(all).into_iter().map(|(_, m)| m.path));
    // If the manifest does not list a model's files, all files in its directory are its own.
    let mut whole: Vec<String> = Vec::new();
    for model in all.models() {
        known.extend(model.files.keys().map(|name| format!("{}/{name}", model.path)));
        whole.extend(model.files.is_empty().then(|| format!("{}/", model.path)));
    }
    whole.extend(checkpoint_files::all(dir).into_iter().map(|(.., path)| relative(dir, &path) + "/"));
    let mut strays = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        let fail = |e: std::io::Error| io_error("listing", &at, &e);
        for entry in fs::read_dir(&at).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let (path, name) = (entry.path(), relative(dir, &entry.path()));
            let folder = entry.file_type().map_err(fail)?.is_dir();
            let top = at == dir;
            // Revisions are not in the manifest; each describes itself. Scratch folders and logs belong to
            // programs outside.
            if top && ["revised", SCRATCH, LOGS].contains(&name.as_str()) {
                continue;
            }
            if folder && (!top || is_run_file(&name)) {
                open.push(path);
            } else if folder {
                strays.push(name + "/");
            } else if !(known.contains(&name)
                || reply_files::is_ours(&name)
                || (top && is_run_file(&name))
                || whole.iter().any(|w| name.starts_with(w)))
            {
                strays.push(name);
            }
        }
    }
    strays.sort();
    Ok(strays)
}
