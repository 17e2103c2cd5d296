//! The reading room: sampled prompts with their ranked answers, judgements, pairs, and the training that used them.

mod related;
mod sample;

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use serde_json::{Map, Value, json};

use related::{Related, pair_id, pair_ids};
use sample::{SampledPrompts, sample};

use crate::data::Columns;
use crate::error::Result;
use crate::pipeline::Placement;
use crate::report::inspect::show::objects;
use crate::report::inspect::trace::uses;
use crate::report::owner;
use crate::report::page::limits::{BYTES, PROMPTS, PROMPTS_OF_ITERATION, TEXT, cut, share};
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;
use crate::report::page::texts::conversation;
use crate::store::FileEntry;

pub(super) static READING: Section =
    Section { name: "reading", title: "Reading room", script: include_str!("reading.js"), read };

fn read(source: &PageSource<'_>) -> Result<Content> {
    let scored = source.steps_with("scores");
    let mut steps = if scored.is_empty() { source.steps_with("responses") } else { scored };
    // Steps that only look on come last.
    steps.sort_by_key(|name| source.plan.step(name).is_some_and(|s| s.placement == Placement::Observer));
    if steps.is_empty() {
        return Ok(Content::Absent("No answers are committed yet, or their steps have `keep = false`."));
    }
    let groups: usize = steps.iter().map(|step| source.by_iteration(step).len()).sum();
    let most = share(PROMPTS, groups, PROMPTS_OF_ITERATION);
    let related = Related::of(source.run);
    let (mut shown, mut bytes, mut left_out, mut all) = (Vec::new(), 0, 0_u64, BTreeMap::<&str, u64>::new());
    for step in steps {
        for (iteration, files) in source.by_iteration(step) {
            *all.entry(step).or_default() += files.iter().map(|f| f.rows).sum::<u64>();
            let sampled = sample(source, &files, most)?;
            for mut prompt in read_prompts(source, step, iteration, &files, &sampled, &related)? {
                bytes += prompt.to_string().len();
                if bytes > BYTES {
                    left_out += 1;
                    continue;
                }
                prompt["place"] = json!(shown.len());
                shown.push(prompt);
            }
        }
    }
    add_training_steps(source, &mut shown)?;
    Ok(Content::Shown(json!({ "prompts": shown, "answers": all, "most": most, "without_room": left_out })))
}

/// Collects everything about the sampled prompts of a step in an iteration.
fn read_prompts(
    source: &PageSource<'_>,
    step: &str,
    iteration: u32,
    files: &[FileEntry],
    sampled: &SampledPrompts,
    related: &Related,
) -> Result<Vec<Value>> {
    let mut prompts = BTreeMap::<String, Value>::new();
    for (file, ids) in sampled {
        let answers = rows_about(source, &files[*file], ids)?;
        for row in answers {
            let Some(id) = row.get("prompt_id").and_then(Value::as_str).map(str::to_owned) else { continue };
            let prompt = prompts.entry(id.clone()).or_insert_with(|| {
                json!({
                    "prompt_id": id, "step": step, "iteration": iteration, "microbatch": files[*file].microbatch,
                    "prompt": text(&row, "prompt"), "answers": [], "pairs": [], "references": [], "left_out": [],
                })
            });
            push(prompt, "answers", answer(&row));
        }
        for made in related.from(&files[*file]) {
            let plan_step = source.plan.step(owner(&made.step));
            let schema = plan_step.map_or("", |s| s.schema.name);
            if source.run.dropped(&made.step) {
                continue;
            }
            let list = match (schema, made.step.ends_with(".reference")) {
                (_, true) => "references",
                ("pairs", false) if made.step == owner(&made.step) => "pairs",
                _ => continue,
            };
            for row in rows_about(source, &made, ids)? {
                let id = row.get("prompt_id").and_then(Value::as_str).unwrap_or_default();
                if let Some(prompt) = prompts.get_mut(id) {
                    push(prompt, list, pair(&made.step, &row));
                }
            }
            left_out(source, &made, &mut prompts)?;
        }
        left_out(source, &files[*file], &mut prompts)?;
    }
    let mut prompts: Vec<Value> = prompts.into_values().collect();
    prompts.iter_mut().for_each(rank);
    Ok(prompts)
}

fn push(prompt: &mut Value, list: &str, item: Value) {
    if let Some(items) = prompt[list].as_array_mut() {
        items.push(item);
    }
}

/// The rows of a file about these prompts, read a thousand at a time.
fn rows_about(
    source: &PageSource<'_>,
    file: &FileEntry,
    prompts: &BTreeSet<String>,
) -> Result<Vec<Map<String, Value>>> {
    let part = source.run.part(file);
    let schema = part.schema()?;
    let mut all = Vec::new();
    if schema.index_of("prompt_id").is_err() {
        return Ok(all);
    }
    for rows in part.read(&schema)? {
        let rows: RecordBatch = rows?;
        let ids = Columns(&rows).text("prompt_id")?;
        let wanted: BooleanArray = ids.iter().map(|id| Some(id.is_some_and(|id| prompts.contains(id)))).collect();
        all.extend(objects(&filter_record_batch(&rows, &wanted)?)?);
    }
    Ok(all)
}

/// A text or a conversation, cut.
fn text(row: &Map<String, Value>, name: &str) -> Value {
    let value = row.get(name).unwrap_or(&Value::Null);
    let text = value.as_str().map(str::to_owned).or_else(|| conversation(value));
    json!(text.map(|text| cut(&text, TEXT)))
}

fn number(row: &Map<String, Value>, name: &str) -> Value {
    row.get(name).and_then(Value::as_f64).map_or(Value::Null, |n| json!(n))
}

/// The sum of a list of log-probabilities.
fn total(row: &Map<String, Value>, name: &str) -> Option<f64> {
    Some(row.get(name)?.as_array()?.iter().filter_map(Value::as_f64).sum())
}

fn answer(row: &Map<String, Value>) -> Value {
    let judgement = |j: &Value| {
        let text = j["text"].as_str().map(|t| cut(t, TEXT));
        json!({ "text": text, "outcome": j["outcome"], "score": j["score"] })
    };
    let judgements: Vec<Value> =
        row.get("judgements").and_then(Value::as_array).into_iter().flatten().map(judgement).collect();
    json!({
        "id": row.get("response_id"), "text": text(row, "response"), "score": number(row, "score"),
        "finish": row.get("finish"), "judge": row.get("judge"), "model": row.get("model"), "judgements": judgements,
        "tokens": row.get("response_tokens").and_then(Value::as_array).map(Vec::len),
        "logprob": total(row, "logprobs"),
    })
}

/// A pair, or the reference log-probabilities of one.
fn pair(step: &str, row: &Map<String, Value>) -> Value {
    json!({
        "step": step, "chosen_id": row.get("chosen_id"), "rejected_id": row.get("rejected_id"),
        "margin": number(row, "margin"), "chosen_score": number(row, "chosen_score"),
        "rejected_score": number(row, "rejected_score"), "source": row.get("source"),
        "chosen_logprob": number(row, "chosen_logprob"), "rejected_logprob": number(row, "rejected_logprob"),
    })
}

/// Adds why a prompt, or one of its answers, was left out.
fn left_out(source: &PageSource<'_>, file: &FileEntry, prompts: &mut BTreeMap<String, Value>) -> Result<()> {
    let Some(rows) = source.run.left_out(file)? else { return Ok(()) };
    for row in objects(&rows)? {
        let about = row.get("row").and_then(Value::as_str).unwrap_or_default();
        // RESPONSE/N names one of a response's judgements, CHOSEN>REJECTED a pair.
        let about = about.split(['/', '>']).next().unwrap_or(about);
        let of = |p: &&mut Value| p["prompt_id"] == about || answers(p).any(|answer| answer["id"] == about);
        if let Some(prompt) = prompts.values_mut().find(of) {
            let message = row.get("message").and_then(Value::as_str).map(|m| cut(m, TEXT));
            let what =
                json!({ "step": file.step, "kind": row.get("kind"), "code": row.get("code"), "message": message });
            push(prompt, "left_out", what);
        }
    }
    Ok(())
}

fn answers(prompt: &Value) -> impl Iterator<Item = &Value> {
    prompt["answers"].as_array().into_iter().flatten()
}

/// Orders answers by score, best first, and measures how far the scores of the prompt are apart.
fn rank(prompt: &mut Value) {
    let score = |answer: &Value| answer["score"].as_f64();
    let scores: Vec<f64> = answers(prompt).filter_map(score).collect();
    let most = scores.iter().copied().reduce(f64::max);
    let least = scores.iter().copied().reduce(f64::min);
    prompt["spread"] = json!(most.zip(least).map(|(most, least)| most - least));
    if let Some(list) = prompt["answers"].as_array_mut() {
        list.sort_by(|a, b| score(b).unwrap_or(f64::MIN).total_cmp(&score(a).unwrap_or(f64::MIN)));
    }
}

/// Adds the optimizer steps that used each pair, and the number of steps of the training.
fn add_training_steps(source: &PageSource<'_>, prompts: &mut [Value]) -> Result<()> {
    for entry in source.run.metrics() {
        let reads = |step: &str| {
            source.plan.step(&entry.step).is_some_and(|s| s.inputs.iter().any(|i| i.key == "from" && i.step == step))
        };
        let own: BTreeSet<String> = prompts.iter().flat_map(pair_ids).collect();
        let Some(uses) = uses(&source.run.metrics_part(&entry), &own)? else { continue };
        for prompt in prompts.iter_mut().filter(|p| p["iteration"] == entry.iteration) {
            for pair in prompt["pairs"].as_array_mut().into_iter().flatten() {
                let id = pair_id(pair);
                if !pair["step"].as_str().is_some_and(reads) {
                    continue;
                }
                let steps = id.and_then(|id| uses.get(&id)).cloned().unwrap_or_default();
                pair["training"] = json!({ "step": entry.step, "optimizer_steps": steps, "of": entry.rows });
            }
        }
    }
    Ok(())
}
