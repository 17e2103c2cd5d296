//! A run's pairs under corrected scores: the microbatches that hold a corrected answer go through the step's groups again, in
//! differential; all others stay the files they are.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};
use serde_json::{Value, json};

use super::groups::{Correction, revise};
use super::operator::{Context, Operator, Output, Services, Shared, Stage, Stop};
use super::progress::Silent;
use crate::data::{Columns, Epoch, Schema, named};
use crate::error::{Error, Result};
use crate::pipeline::{Plan, Step};
use crate::store::{Corrections, FileEntry, ParquetFile, Run, link, make_folder, write_bytes, write_parquet};

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
    let fits = |s: &&Step<dyn Operator>| matches!(s.op.stage(), Stage::Keyed(_)) && s.schema.name == named::PAIRS.name;
    let all: Vec<&Step<dyn Operator>> = plan.steps.iter().filter(fits).collect();
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

/// Writes into the new folder `into` what becomes of the step's pairs: `data/STEP` with all pairs as they are now, the very
/// files that a run over corrected scores has; `changes.parquet` with what was withdrawn and added; and `revision.json` with the
/// lineage, by hash. The run itself stays as it is.
///
/// # Errors
/// The run is not finished, or did not keep the step or its scores; a correction is of an answer that is not there; a file is
/// damaged; the disk is full. Nothing is left behind.
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
    let mut parts = Vec::new();
    for pairs in run.files(&step.name) {
        // A dataset of before the loop enters it in every iteration.
        let at = [pairs.epoch(), Epoch::new(0, pairs.microbatch)];
        let scores = at.iter().find_map(|&e| run.committed(input, e));
        let scores =
            scores.ok_or_else(|| Error::user(format!("`{place}`: there are no scores for `{}`", pairs.path)))?;
        parts.push(Part { pairs, scores });
    }
    if parts.is_empty() {
        return Err(Error::user(format!("`{place}` has no rows of the step `{}`", step.name))
            .help("a step with `keep = false` cannot be revised"));
    }
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
        let schema = change_schema(step.schema);
        let mut changes = ParquetFile::create(&dir.join("changes.parquet"), &schema)?;
        let mut files: Vec<Value> = Vec::new();
        for (i, Part { pairs, scores }) in parts.iter().enumerate() {
            if !touched.contains(&i) {
                link(&run.dir().join(&pairs.path), &dir.join(&pairs.path))?;
                revision.pairs += pairs.rows;
                continue;
            }
            let epoch = pairs.epoch();
            let cx = Context { shared: &shared, step, epoch, model: None };
            let before = run.load_entry(pairs)?;
            let output = again(&cx, &run.load_entry(scores)?, corrections)?;
            let written = write_parquet(&dir.join(&pairs.path), &output.rows)?;
            let rows = change_rows(&schema, epoch, &before, &output)?;
            revision.withdrawn += rows.0;
            revision.added += rows.1;
            revision.pairs += written.rows;
            changes.write(&rows.2)?;
            files.push(json!({"path": pairs.path, "rows": written.rows, "hash": written.hash, "was": pairs.hash, "scores": scores.hash}));
        }
        changes.finish()?;
        let lineage = json!({
            "reflux": env!("CARGO_PKG_VERSION"),
            "run": run.name(),
            "pipeline": blake3::hash(run.pipeline_text()?.as_bytes()).to_hex().to_string(),
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
            "revised": files,
        });
        let text = serde_json::to_string_pretty(&lineage).map_err(|e| Error::bug(format!("revision.json: {e}")))?;
        write_bytes(&dir.join("revision.json"), format!("{text}\n").as_bytes())?;
        Ok(revision)
    })
}

/// The parts that hold a corrected answer.
fn touched(run: &Run, parts: &[Part], corrections: &Corrections) -> Result<HashSet<usize>> {
    let (mut touched, mut known) = (HashSet::new(), HashSet::new());
    for (i, part) in parts.iter().enumerate() {
        let ids = run.load_columns(&part.scores, &["response_id"])?;
        for id in Columns(&ids).text("response_id")?.iter().flatten() {
            if corrections.get(id).is_some() {
                touched.insert(i);
                known.insert(id.to_owned());
            }
        }
    }
    match corrections.unknown(|id| known.contains(id)) {
        Some(error) => {
            Err(error.help(format!("`{}` holds the scores of the run `{}`", parts[0].scores.step, run.name())))
        }
        None => Ok(touched),
    }
}

/// The step's output of a microbatch under the corrections.
fn again(cx: &Context<'_>, scores: &RecordBatch, corrections: &Corrections) -> Result<Output> {
    let Stage::Keyed(keyed) = cx.step.op.stage() else { return Err(Error::bug("a revised step is keyed")) };
    let corrected = corrected(scores, corrections)?;
    let (was, is) = (keyed.items(cx.epoch, scores)?, keyed.items(cx.epoch, &corrected)?);
    let differs = was.iter().zip(&is).filter(|(was, is)| was != is);
    let differs = differs.map(|((key, was), (_, is))| Correction { key: *key, was: *was, is: *is }).collect();
    let revised = revise(&cx.shared.plan, &cx.step.name, vec![was], differs)?;
    keyed.finish(cx, &corrected, &revised.kept)
}

/// The rows with the new scores.
fn corrected(rows: &RecordBatch, corrections: &Corrections) -> Result<RecordBatch> {
    let (ids, scores) = (Columns(rows).text("response_id")?, Columns(rows).float("score")?);
    let new = Float32Array::from_iter(
        ids.iter().zip(scores).map(|(id, score)| id.and_then(|id| corrections.get(id)).map_or(score, |c| c.score)),
    );
    let new: ArrayRef = Arc::new(new);
    let columns = rows.schema_ref().fields().iter().zip(rows.columns());
    let columns = columns.map(|(f, c)| if f.name() == "score" { Arc::clone(&new) } else { Arc::clone(c) }).collect();
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
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

/// How many pairs of a microbatch are withdrawn and added, and these pairs; a pair of which any column differs is both.
fn change_rows(
    schema: &SchemaRef,
    epoch: Epoch,
    before: &RecordBatch,
    after: &Output,
) -> Result<(usize, usize, RecordBatch)> {
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
    Ok((withdrawn.len(), added.len(), concat_batches(schema, &both)?))
}

/// Rows of `before` that `after` lacks, and the other way round.
fn differences(before: &RecordBatch, after: &RecordBatch) -> Result<(Vec<u32>, Vec<u32>)> {
    let ids = |rows: &RecordBatch| {
        let columns = Columns(rows);
        let [prompt, chosen, rejected] =
            [columns.text("prompt_id")?, columns.text("chosen_id")?, columns.text("rejected_id")?];
        let key = |i| [prompt, chosen, rejected].map(|c| c.value(i).to_owned());
        Ok::<_, Error>((0..rows.num_rows()).map(key).collect::<Vec<_>>())
    };
    let mut old: HashMap<[String; 3], Vec<u32>> = HashMap::new();
    for (i, key) in ids(before)?.into_iter().enumerate() {
        old.entry(key).or_default().push(i as u32);
    }
    let same = |i: u32, j: usize| {
        let columns = before.columns().iter().zip(after.columns());
        columns.into_iter().all(|(a, b)| a.slice(i as usize, 1).to_data() == b.slice(j, 1).to_data())
    };
    let mut added = Vec::new();
    for (j, key) in ids(after)?.into_iter().enumerate() {
        let found = old.get_mut(&key).and_then(|all| {
            let at = all.iter().position(|&i| same(i, j))?;
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
