//! Whether a run's directory is what its manifest says: every file against its hash, size, rows and schema, models and
//! checkpoints against theirs, and what nobody knows of. Nothing is changed here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use arrow::datatypes::DataType;
use rayon::prelude::*;

use super::checkpoint_files;
use super::entry::{Entry, FileEntry, MetricsEntry, ModelEntry, ModelFile, NEWER};
use super::findings::{Artifact, Finding, Inspected};
use super::gc::is_ours;
use super::lock::writer;
use super::manifest::{self, Line};
use super::owned::is_link;
use super::paths::{data_path, errors_path, metrics_path};
use super::pipeline_file::{self, pipeline_hash, steps_of};
use super::run::Run;
use crate::data::{Schema, named, read_text};
use crate::error::{Error, ErrorKind, Result};
use crate::store::files::integrity::{Wrong, same_bytes};
use crate::store::files::io_error::io_error;
use crate::store::files::reader::ParquetIn;

/// Looks at everything in the run's directory. `schema` says what the rows of a step are to be, where that is known;
/// `weights` computes the hash of a model's weights, for models of before each of their files had a hash.
///
/// # Errors
/// There is no run; the directory cannot be listed.
pub fn inspect(
    dir: &Path,
    schema: &(dyn Fn(&str) -> Option<&'static Schema> + Sync),
    weights: &dyn Fn(&Path) -> Result<String>,
) -> Result<Inspected> {
    let mut found = inspect_once(dir, schema, weights)?;
    // A run that is under way may have removed rows that are not kept after its manifest was read.
    for _ in 0..LOOKS {
        if found.findings.is_empty() || writer(dir).is_none() {
            break;
        }
        found = inspect_once(dir, schema, weights)?;
    }
    if writer(dir).is_some() {
        // What looks like left over is being written.
        let leftover: Vec<bool> = found.strays.iter().map(|stray| found.is_leftover(stray)).collect();
        let mut leftover = leftover.into_iter();
        found.strays.retain(|_| !leftover.next().unwrap_or(false));
    }
    Ok(found)
}

/// What is wrong with a link where a run has files of its own.
const A_LINK: &str = "it is a link, and not the run's own file";

/// How often a run that is under way is looked at again where something seems to be damaged.
const LOOKS: u32 = 3;

fn inspect_once(
    dir: &Path,
    schema: &(dyn Fn(&str) -> Option<&'static Schema> + Sync),
    weights: &dyn Fn(&Path) -> Result<String>,
) -> Result<Inspected> {
    let path = dir.join("manifest.jsonl");
    let (lines, cut) = manifest::lines(&path)?;
    if lines.is_empty() {
        // Says that there is no run.
        Run::open(dir)?;
    }
    // What a newer reflux wrote is not damaged, whatever this one thinks of it.
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
    let mut all = Inspected {
        lines,
        findings: Vec::new(),
        strays: Vec::new(),
        cut,
        no_summary: false,
        dir: dir.to_owned(),
        steps,
        files: 0,
        bytes: 0,
    };
    let twice = twice(&all.lines);
    let again: BTreeSet<usize> =
        twice.iter().filter_map(|f| if let Artifact::Again(n) = f.thing { Some(n) } else { None }).collect();
    for line in all.lines.iter().filter(|line| !again.contains(&line.number)) {
        if let Err(why) = &line.entry {
            all.findings.push(Finding::new(
                Artifact::Line(line.number),
                "manifest.jsonl",
                format!("line {} {why}", line.number),
            ));
        }
    }
    all.findings.extend(pipeline(dir, &all));
    let is_link = |name: &str| is_link(&dir.join(name)).then(|| Wrong::Damaged(A_LINK.to_owned()));
    let summary = is_link("summary.json").map_or_else(|| super::summary::check(dir), |wrong| Err(Some(wrong)));
    match summary {
        Err(Some(wrong)) => all.findings.push(Finding::wrong(Artifact::Summary, "summary.json", &wrong)),
        Err(None) => all.no_summary = all.finished(),
        Ok(()) => {}
    }
    if fs::symlink_metadata(dir.join("lock")).is_ok_and(|there| !there.is_file()) {
        all.findings.push(Finding::new(Artifact::Lock, "lock", "it is no regular file of the run's own"));
    }
    let dropped: BTreeSet<String> = all.dropped().into_iter().map(str::to_owned).collect();
    let numbered: Vec<(usize, FileEntry)> = all.numbered().map(|(n, f)| (n, f.clone())).collect();
    let rows: Vec<&FileEntry> = numbered.iter().map(|(_, f)| f).collect();
    let metrics: Vec<(usize, MetricsEntry)> = last_metrics(&all);
    let models: Vec<ModelEntry> = all.models().cloned().collect();
    let of_rows = numbered.par_iter().flat_map_iter(|(n, f)| check_rows(dir, *n, f, dropped.contains(&f.step), schema));
    let mut found: Vec<Finding> = of_rows.collect();
    found.extend(twice);
    let of_metrics = metrics.par_iter().filter_map(|(line, m)| {
        let want = metrics_path(&m.step, m.iteration);
        let file = Committed { path: &m.path, rows: m.rows, bytes: m.bytes, hash: &m.hash };
        if m.path != want {
            return Some(Finding::new(Artifact::Line(*line), &m.path, misplaced(&want)));
        }
        let why = file.check(dir, Some(&named::METRICS)).err()?;
        Some(Finding::wrong(Artifact::Metrics(m.step.clone(), m.iteration), &m.path, &why))
    });
    found.extend(of_metrics.collect::<Vec<_>>());
    for model in &models {
        let thing = || Artifact::Model(model.step.clone(), model.iteration);
        found.extend(
            check_model(dir, model, weights).into_iter().map(|(path, why)| Finding::wrong(thing(), path, &why)),
        );
    }
    for (_, _, _, path) in checkpoint_files::all(dir) {
        // A run that is under way takes a checkpoint away when it has a later one: it is gone then, and not damaged.
        if let Err((file, why)) = checkpoint_files::check(&path)
            && checkpoint_files::is_one(&path)
        {
            let name = relative(dir, &path);
            found.push(Finding::wrong(Artifact::Checkpoint(name), relative(dir, &file), &why));
        }
    }
    all.findings.extend(found);
    let errors = rows.iter().filter_map(|f| f.errors.as_ref());
    let kept = || rows.iter().filter(|f| !dropped.contains(&f.step));
    all.files =
        kept().count() + errors.clone().count() + metrics.len() + models.iter().map(|m| m.files.len()).sum::<usize>();
    all.bytes = kept().map(|f| f.bytes).sum::<u64>()
        + errors.map(|e| e.bytes).sum::<u64>()
        + metrics.iter().map(|(_, m)| m.bytes).sum::<u64>()
        + models.iter().flat_map(|m| m.files.values()).map(|f| f.bytes).sum::<u64>();
    all.strays = strays(dir, &all)?;
    Ok(all)
}

/// The metrics that count, with their lines' numbers: of several for one training the last.
fn last_metrics(all: &Inspected) -> Vec<(usize, MetricsEntry)> {
    let mut last = std::collections::BTreeMap::new();
    for (number, entry) in all.entries() {
        if let Entry::Metrics(m) = entry {
            last.insert((m.step.clone(), m.iteration), (number, m.clone()));
        }
    }
    last.into_values().collect()
}

/// Compares `pipeline.toml` with the manifest's first line, or with its own hash where that line cannot be read.
fn pipeline(dir: &Path, all: &Inspected) -> Option<Finding> {
    let begun = match all.entries().next() {
        Some((1, Entry::Run { pipeline, format, .. })) => Some((pipeline, *format)),
        _ => None,
    };
    let thing = || Artifact::Pipeline;
    if is_link(&dir.join("pipeline.toml")) {
        return Some(Finding::new(thing(), "pipeline.toml", A_LINK));
    }
    let why = match read_text(&dir.join("pipeline.toml")) {
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => "it is no text".to_owned(),
        Err(e) => return Some(Finding::wrong(thing(), "pipeline.toml", &Wrong::from_io(&e))),
        Ok(text) => match begun {
            None => pipeline_file::check_alone(&text).err()?,
            Some((hash, format)) if pipeline_hash(&text, format) != *hash => match pipeline_file::check_alone(&text) {
                // Which of the two it is nothing says, and a guess would make another run's file this run's.
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
    Some(Finding::new(thing(), "pipeline.toml", why))
}

/// Lines that are there twice, and microbatches that two lines claim.
fn twice(lines: &[Line]) -> Vec<Finding> {
    let (mut seen, mut microbatches) = (BTreeSet::new(), BTreeSet::new());
    let mut found = Vec::new();
    for line in lines {
        let number = line.number;
        if seen.contains(&line.bytes) {
            let why = format!("line {number} is there twice");
            found.push(Finding::new(Artifact::Again(number), "manifest.jsonl", why));
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

/// Why a line cannot be right.
fn misplaced(want: &str) -> String {
    format!("the manifest has it at this place, and not at `{want}`")
}

/// A file as the manifest has it.
struct Committed<'a> {
    path: &'a str,
    rows: u64,
    bytes: u64,
    hash: &'a str,
}

impl Committed<'_> {
    /// What is wrong with the file, if something is.
    fn check(&self, dir: &Path, schema: Option<&Schema>) -> Result<(), Wrong> {
        let path = dir.join(self.path);
        same_bytes(&path, self.bytes, self.hash)?;
        let file = fs::File::open(&path).map_err(|e| Wrong::from_io(&e))?;
        let parquet = ParquetIn::of(&path, file).map_err(|e| match e.kind() {
            ErrorKind::System => Wrong::Unreadable(e.to_string()),
            _ => Wrong::Damaged(e.to_string()),
        })?;
        // Bytes that are as committed can be wrong only where the manifest's line is.
        self.check_content(&parquet, schema).map_err(Wrong::Damaged)
    }

    fn check_content(&self, parquet: &ParquetIn, schema: Option<&Schema>) -> Result<(), String> {
        if parquet.rows() != self.rows {
            return Err(format!("it has {} rows, the manifest says {}", parquet.rows(), self.rows));
        }
        let Some(schema) = schema else { return Ok(()) };
        let have = parquet.schema();
        for column in schema.columns {
            let there = have.field_with_name(column.name).ok().map(|f| f.data_type());
            match there {
                Some(kind) if alike(kind, &column.kind.arrow()) => {}
                None if column.nullable => {}
                Some(kind) => {
                    return Err(format!("its column `{}` is {kind}, not as `{}` has it", column.name, schema.name));
                }
                None => return Err(format!("it has no column `{}`, which `{}` has", column.name, schema.name)),
            }
        }
        match have.fields().iter().find(|f| schema.columns.iter().all(|c| c.name != f.name())) {
            Some(other) => Err(format!("it has a column `{}`, which `{}` has not", other.name(), schema.name)),
            None => Ok(()),
        }
    }
}

/// Whether two types are the same but for the names of list items and what may be null.
fn alike(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(a), DataType::List(b)) => alike(a.data_type(), b.data_type()),
        (DataType::Struct(a), DataType::Struct(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && alike(a.data_type(), b.data_type()))
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
        // Then the line is damaged, and nobody knows whose file it is.
        if *path != want {
            return vec![Finding::new(Artifact::Line(line), path, misplaced(&want))];
        }
    }
    let rows = Committed { path: &file.path, rows: file.rows, bytes: file.bytes, hash: &file.hash };
    if !dropped && let Err(why) = rows.check(dir, schema(step)) {
        found.push(Finding::wrong(Artifact::Rows(step.clone(), epoch), &file.path, &why));
    }
    if let Some(e) = &file.errors {
        let errors = Committed { path: &e.path, rows: e.rows, bytes: e.bytes, hash: &e.hash };
        if let Err(why) = errors.check(dir, Some(&named::ERRORS)) {
            found.push(Finding::wrong(Artifact::Errors(step.clone(), epoch), &e.path, &why));
        }
    }
    found
}

/// What is wrong with a model's files, with the path of each.
fn check_model(dir: &Path, model: &ModelEntry, weights: &dyn Fn(&Path) -> Result<String>) -> Vec<(String, Wrong)> {
    let wrong = |why: String| vec![(model.path.clone(), Wrong::Damaged(why))];
    let want = format!("models/{}", model.name);
    if model.path != want {
        return wrong(misplaced(&want));
    }
    let place = dir.join(&model.path);
    match fs::symlink_metadata(&place) {
        Err(e) => return vec![(model.path.clone(), Wrong::from_io(&e))],
        Ok(there) if there.file_type().is_symlink() => return wrong("it is a link, and not the run's own".to_owned()),
        Ok(there) if !there.is_dir() => return wrong("it is no directory".to_owned()),
        Ok(_) => {}
    }
    if model.files.is_empty() {
        return match weights(&place) {
            Ok(hash) if hash == model.hash => Vec::new(),
            Ok(_) => wrong("its weights are not those that the run made".to_owned()),
            Err(e) if e.kind() == ErrorKind::System => vec![(model.path.clone(), Wrong::Unreadable(e.to_string()))],
            Err(e) => wrong(e.to_string()),
        };
    }
    let file = |(name, file): (&String, &ModelFile)| {
        let why = same_bytes(&place.join(name), file.bytes, &file.hash).err()?;
        Some((format!("{}/{name}", model.path), why))
    };
    model.files.iter().filter_map(file).collect()
}

fn relative(dir: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(dir).unwrap_or(path).iter().map(|p| p.to_string_lossy().into_owned());
    parts.collect::<Vec<_>>().join("/")
}

/// Files below the run's directory that are neither the manifest's nor a checkpoint's.
fn strays(dir: &Path, all: &Inspected) -> Result<Vec<String>> {
    let dropped = all.dropped();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for file in all.rows() {
        known.extend((!dropped.contains(file.step.as_str())).then(|| file.path.clone()));
        known.extend(file.errors.iter().map(|e| e.path.clone()));
    }
    known.extend(last_metrics(all).into_iter().map(|(_, m)| m.path));
    // Of a model without a list everything is its own.
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
            // Each revision says itself what it is.
            if top && name == "revised" {
                continue;
            }
            if folder && (!top || is_ours(&name)) {
                open.push(path);
            } else if folder {
                strays.push(name + "/");
            } else if !(known.contains(&name) || (top && is_ours(&name)) || whole.iter().any(|w| name.starts_with(w))) {
                strays.push(name);
            }
        }
    }
    strays.sort();
    Ok(strays)
}
