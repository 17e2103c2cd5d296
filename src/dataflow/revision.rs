//! A run's pairs under corrected scores: the microbatches that hold a corrected answer go through the step's groups again, in
//! differential; all others stay the files they are.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array, make_comparator, new_null_array,
};
use arrow::compute::{SortOptions, cast, concat_batches, take};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::groups::{Correction, corrected};
use super::jobs::error_rows;
use super::operator::{Context, Operator, Output, Services, Shared, Stage, Stop};
use super::progress::Silent;
use crate::data::{Columns, Epoch, Schema, named};
use crate::error::{Error, Result};
use crate::pipeline::{Plan, Step};
use crate::store::{Corrections, FileEntry, ParquetFile, Run, link, make_folder, put_microbatch, write_bytes};

/// What corrections came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// Microbatches of the step.
    pub microbatches: usize,
    /// Those that hold a corrected answer.
    pub touched: usize,
    /// Pairs that are no more, or are not as they were.
    pub withdrawn: usize,
    /// Pairs that were not there, or not so.
    pub added: usize,
    /// Pairs there are now.
    pub pairs: u64,
}

/// The step that makes pairs of scores: the one of this name, or the only one there is.
///
/// # Errors
/// There is none, or several and none is named.
pub fn revisable<'a>(plan: &'a Plan<dyn Operator>, name: Option<&str>) -> Result<&'a Step<dyn Operator>> {
    // Groups that go beyond a microbatch cannot be made again from the microbatches concerned.
    let whole = |s: &Step<dyn Operator>| matches!(s.op.stage(), Stage::Keyed(keyed) if keyed.complete());
    let all: Vec<_> = plan.steps.iter().filter(|s| whole(s) && s.schema.name == named::PAIRS.name).collect();
    let names: Vec<String> = all.iter().map(|s| format!("`{}`", s.name)).collect();
    match (name, &all[..]) {
        (None, [one]) => Ok(one),
        (None, []) => Err(Error::user("no step of the run makes pairs of scores, as `select` does")),
        (None, _) => {
            Err(Error::user(format!("several steps make pairs: {}", names.join(", "))).help("name one with --step"))
        }
        (Some(name), _) => all.iter().copied().find(|s| s.name == name).ok_or_else(|| {
            let error = Error::user(format!("`{name}` is not a step of the run that makes pairs of scores"));
            if names.is_empty() { error } else { error.help(format!("there are: {}", names.join(", "))) }
        }),
    }
}

/// A microbatch of pairs with the file of scores that it was made of.
struct Part {
    pairs: FileEntry,
    scores: FileEntry,
}

/// A microbatch made again.
struct Made {
    /// For the lineage.
    line: Value,
    /// Rows of `changes.parquet`, and how many of them are withdrawn.
    changes: RecordBatch,
    withdrawn: usize,
    pairs: u64,
}

/// Writes into the new folder `into` what becomes of the step's pairs: `data/STEP` with all pairs as they are now and
/// `data/errors/STEP` with the prompts that give none, the very files that a run over corrected scores has; `changes.parquet` with
/// what was withdrawn and added; and `revision.json` with the lineage, by hash. The run itself stays as it is.
///
/// # Errors
/// The run is not finished, or did not keep the step or its scores; a correction is of an answer that is not there, or off the
/// judge's scale; a file is damaged; the disk is full. Nothing is left behind.
pub fn revise_run(
    plan: &Arc<Plan<dyn Operator>>,
    run: &Arc<Run>,
    step: &str,
    corrections: &Corrections,
    into: &Path,
) -> Result<Revision> {
    let place = run.dir().display().to_string();
    if !run.finished() {
        return Err(Error::user(format!("the run `{place}` is not finished"))
            .help("`reflux run` with its pipeline file goes on with it"));
    }
    let step = revisable(plan, Some(step))?;
    let input = step.inputs.iter().find(|i| i.key == "from" && !i.whole);
    let input = &input.ok_or_else(|| Error::bug("a keyed step has an input that streams"))?.step;
    if let Some((least, most)) = plan.step(input).and_then(|s| s.op.scale())
        && let Some(error) = corrections.outside(least, most)
    {
        return Err(error.help(format!("the scores of `{input}` go from {least} to {most}")));
    }
    let parts = parts(run, &step.name, input)?;
    let touched = touched(run, &parts, corrections)?;
    let shared = Shared {
        plan: Arc::clone(plan),
        run: Arc::clone(run),
        services: Services::new(()),
        observer: Arc::new(Silent),
        stop: Stop::default(),
    };
    make_folder(into, |dir| {
        let mut revision = Revision { microbatches: parts.len(), touched: touched.len(), ..Revision::default() };
        for (_, part) in parts.iter().enumerate().filter(|(i, _)| touched.binary_search(i).is_err()) {
            let errors = part.pairs.errors.iter().map(|e| &e.path);
            for path in std::iter::once(&part.pairs.path).chain(errors) {
                link(&run.dir().join(path), &dir.join(path))?;
            }
            revision.pairs += part.pairs.rows;
        }
        let schema = change_schema(step.schema);
        let mut changes = ParquetFile::create(&dir.join("changes.parquet"), &schema)?;
        let mut lines: Vec<Value> = Vec::new();
        // So many microbatches are in memory at once.
        for some in touched.chunks(2 * rayon::current_num_threads()) {
            let again = |&i: &usize| again(&shared, step, &parts[i], corrections, dir, &schema);
            for made in some.par_iter().map(again).collect::<Vec<_>>() {
                let made = made?;
                changes.write(&made.changes)?;
                revision.withdrawn += made.withdrawn;
                revision.added += made.changes.num_rows() - made.withdrawn;
                revision.pairs += made.pairs;
                lines.push(made.line);
            }
        }
        changes.finish()?;
        let lineage = json!({
            "reflux": env!("CARGO_PKG_VERSION"),
            "run": run.name(),
            "pipeline": run.pipeline(),
            "step": step.name,
            "from": input,
            "corrections": {
                "file": corrections.path().file_name().map(|n| n.to_string_lossy().into_owned()),
                "hash": corrections.hash(),
                "rows": corrections.len(),
                "scores_withdrawn": corrections.withdrawn(),
            },
            "microbatches": revision.microbatches,
            "pairs": revision.pairs,
            "withdrawn": revision.withdrawn,
            "added": revision.added,
            "revised": lines,
        });
        let text = serde_json::to_string_pretty(&lineage).map_err(|e| Error::bug(format!("revision.json: {e}")))?;
        write_bytes(&dir.join("revision.json"), format!("{text}\n").as_bytes())?;
        Ok(revision)
    })
}

fn parts(run: &Run, step: &str, input: &str) -> Result<Vec<Part>> {
    let place = run.dir().display();
    let mut parts = Vec::new();
    for pairs in run.files(step) {
        // A dataset of before the loop enters it in every iteration.
        let at = [pairs.epoch(), Epoch::new(0, pairs.microbatch)];
        let scores = at.iter().find_map(|&e| run.committed(input, e));
        let scores =
            scores.ok_or_else(|| Error::user(format!("`{place}`: there are no scores for `{}`", pairs.path)))?;
        parts.push(Part { pairs, scores });
    }
    if parts.is_empty() {
        return Err(Error::user(format!("`{place}` has no rows of the step `{step}`"))
            .help("a step with `keep = false` cannot be revised"));
    }
    Ok(parts)
}

/// The parts that hold a corrected answer, in order.
fn touched(run: &Run, parts: &[Part], corrections: &Corrections) -> Result<Vec<usize>> {
    let hits = |part: &Part| run.texts(&part.scores, "response_id", &|id| corrections.has(id));
    let hits: Vec<Vec<String>> = parts.par_iter().map(hits).collect::<Result<_>>()?;
    let known: HashSet<&str> = hits.iter().flatten().map(String::as_str).collect();
    match corrections.unknown(|id| known.contains(id)) {
        Some(error) => {
            Err(error.help(format!("`{}` holds the scores of the run `{}`", parts[0].scores.step, run.name())))
        }
        None => Ok((0..parts.len()).filter(|&i| !hits[i].is_empty()).collect()),
    }
}

/// Makes a microbatch again under the corrections, and writes it below `dir`.
fn again(
    shared: &Shared,
    step: &Step<dyn Operator>,
    Part { pairs, scores }: &Part,
    corrections: &Corrections,
    dir: &Path,
    schema: &SchemaRef,
) -> Result<Made> {
    let (run, epoch) = (&shared.run, pairs.epoch());
    for file in [pairs, scores] {
        run.verify(file)?;
    }
    let Stage::Keyed(keyed) = step.op.stage() else { return Err(Error::bug("a revised step is keyed")) };
    let before = run.load_entry(pairs)?;
    let rows = run.load_entry(scores)?;
    let new = with_scores(&rows, corrections)?;
    let (was, is) = (keyed.items(epoch, &rows)?, keyed.items(epoch, &new)?);
    let differs = was.iter().zip(&is).filter(|(was, is)| was != is);
    let differs = differs.map(|((key, was), (_, is))| Correction { key: *key, was: *was, is: *is }).collect();
    let kept = corrected(&shared.plan, &step.name, was, differs)?;
    let cx = Context { shared, step, epoch, model: None };
    let output = keyed.finish(&cx, &new, &kept)?;
    let errors = error_rows(&step.name, epoch, &output.errors)?;
    let written = put_microbatch(dir, &step.name, epoch, &output.rows, &errors)?;
    let (withdrawn, changes) = change_rows(schema, epoch, &before, &output)?;
    let line = json!({"path": written.path, "rows": written.rows, "hash": written.hash, "was": pairs.hash, "scores": scores.hash});
    Ok(Made { line, changes, withdrawn, pairs: written.rows })
}

/// The rows with the new scores.
fn with_scores(rows: &RecordBatch, corrections: &Corrections) -> Result<RecordBatch> {
    let (ids, scores) = (Columns(rows).text("response_id")?, Columns(rows).float("score")?);
    let new = Float32Array::from_iter(
        ids.iter().zip(scores).map(|(id, score)| id.and_then(|id| corrections.get(id)).map_or(score, |c| c.score)),
    );
    let new: ArrayRef = Arc::new(new);
    let fields = rows.schema_ref().fields().iter().zip(rows.columns()).map(|(field, column)| {
        if field.name() == "score" {
            (Field::new("score", DataType::Float32, true), Arc::clone(&new))
        } else {
            (field.as_ref().clone(), Arc::clone(column))
        }
    });
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = fields.unzip();
    Ok(RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns)?)
}

/// `change`, when, and why, beside the columns of the pairs.
fn change_schema(pairs: &'static Schema) -> SchemaRef {
    let mut fields = vec![
        Field::new("change", DataType::Utf8, false),
        Field::new("iteration", DataType::UInt32, false),
        Field::new("microbatch", DataType::UInt32, false),
        Field::new("reason", DataType::Utf8, true),
    ];
    fields.extend(pairs.arrow().fields().iter().map(|f| f.as_ref().clone()));
    Arc::new(ArrowSchema::new(fields))
}

/// How many pairs of a microbatch are withdrawn, and these pairs, then those added; a pair of which any column differs is both.
fn change_rows(schema: &SchemaRef, epoch: Epoch, before: &RecordBatch, after: &Output) -> Result<(usize, RecordBatch)> {
    let pairs = schema.fields().iter().skip(4);
    // What an earlier version wrote may lack columns that may be null.
    let column = |field: &Arc<Field>| match before.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
        Some(column) => cast(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), before.num_rows())),
    };
    let columns = pairs.map(column).collect::<Result<_, _>>()?;
    let before = &RecordBatch::try_new(after.rows.schema(), columns)?;
    let (withdrawn, added) = differences(before, &after.rows)?;
    let reasons: HashMap<&str, &str> = after.errors.iter().map(|e| (e.row.as_str(), e.code.as_str())).collect();
    let prompts = Columns(before).text("prompt_id")?;
    let reason = withdrawn.iter().map(|&i| reasons.get(prompts.value(i as usize)).copied());
    let reason: ArrayRef = Arc::new(StringArray::from_iter(reason));
    let part = |rows: &RecordBatch, indices: &[u32], change: &str, reason: ArrayRef| {
        let n = indices.len();
        let number = |x: u32| -> ArrayRef { Arc::new(UInt32Array::from(vec![x; n])) };
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![change; n])),
            number(epoch.iteration),
            number(epoch.microbatch),
            reason,
        ];
        let indices = UInt32Array::from(indices.to_vec());
        for column in rows.columns() {
            columns.push(take(column, &indices, None)?);
        }
        Ok::<_, Error>(RecordBatch::try_new(Arc::clone(schema), columns)?)
    };
    let none = new_null_array(&DataType::Utf8, added.len());
    let both = [part(before, &withdrawn, "withdrawn", reason)?, part(&after.rows, &added, "added", none)?];
    Ok((withdrawn.len(), concat_batches(schema, &both)?))
}

/// Rows of `before` that `after` lacks, and the other way round, in order.
fn differences(before: &RecordBatch, after: &RecordBatch) -> Result<(Vec<u32>, Vec<u32>)> {
    let ids = |rows| {
        let columns = Columns(rows);
        Ok::<_, Error>([columns.text("prompt_id")?, columns.text("chosen_id")?, columns.text("rejected_id")?])
    };
    let (were, are) = (ids(before)?, ids(after)?);
    let columns = before.columns().iter().zip(after.columns());
    let compare = columns.map(|(a, b)| make_comparator(a, b, SortOptions::default())).collect::<Result<Vec<_>, _>>()?;
    let mut old: HashMap<[&str; 3], Vec<u32>> = HashMap::with_capacity(before.num_rows());
    for i in 0..before.num_rows() {
        old.entry(were.map(|c| c.value(i))).or_default().push(i as u32);
    }
    let mut added = Vec::new();
    for j in 0..after.num_rows() {
        let found = old.get_mut(&are.map(|c| c.value(j))).and_then(|all| {
            let at = all.iter().position(|&i| compare.iter().all(|c| c(i as usize, j).is_eq()))?;
            Some(all.swap_remove(at))
        });
        if found.is_none() {
            added.push(j as u32);
        }
    }
    let mut withdrawn: Vec<u32> = old.into_values().flatten().collect();
    withdrawn.sort_unstable();
    Ok((withdrawn, added))
}
