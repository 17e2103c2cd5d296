//! Traces one prompt through a run: its origin, its answers, their judgements, the resulting pair or the
//! reason for its absence, and the training that used it. The trace uses only the ids in the datasets, and
//! reads one file at a time.

mod ids;
mod uses;

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use serde_json::{Map, Value, json};

use ids::{IdKind, id_columns, named, not_one};
use uses::StepsByPair;
pub(crate) use uses::uses;

use super::show::{fitted, objects, printable};
use crate::data::{Columns, Epoch, counted, hash_hex, is_hash, quoted};
use crate::dataflow::Operator;
use crate::error::{Error, Result};
use crate::pipeline::Plan;
use crate::report::owner;
use crate::store::{FileEntry, Run};

/// An event of the prompt: a row of a step, or an error row of a step.
#[derive(Debug)]
struct TraceEvent {
    step: String,
    epoch: Epoch,
    /// One of `prompt`, `response`, `score`, `pair`, `comparison`, `training`, `left_out`, `row`.
    what: &'static str,
    row: Map<String, Value>,
    /// For a training whose metrics list the pairs of every step: the optimizer steps that used the pair.
    /// If the row is not a pair, these are the steps that used any pair of the prompt.
    steps: Option<Vec<u32>>,
}

/// The history of a prompt in a run.
#[derive(Debug)]
pub struct Trace {
    kind: IdKind,
    id: String,
    prompt_id: String,
    events: Vec<TraceEvent>,
    /// The model produced by each training, by step and iteration.
    made: BTreeMap<(String, u32), String>,
    /// Number of optimizer steps of each training, by step and iteration.
    lengths: BTreeMap<(String, u32), u64>,
}

/// Maximum display width of an id that is not a hash.
const LONGEST_ID: usize = 40;

impl Trace {
    /// Traces the object that `id`, which may be a unique prefix, names: a prompt, a response, or a
    /// judgement (by its id from `meta-judge`, or as RESPONSE/N, counted from 0). The trace covers its
    /// prompt and everything derived from it. With a plan, it includes trainings that store no reference
    /// rows.
    ///
    /// # Errors
    /// No object or several objects match the id, or a file is damaged.
    pub fn of(run: &Run, plan: Option<&Plan<dyn Operator>>, id: &str) -> Result<Self> {
        let (given, number, known) = named(run, id)?;
        let ids: BTreeSet<&String> = known.keys().map(|(id, _)| id).collect();
        let Some(found) = ids.first().filter(|_| ids.len() == 1).map(|id| (*id).clone()) else {
            return Err(not_one(run, given, &known));
        };
        // One id may have several kinds: pairs of judgements store judgement ids in the columns of response
        // ids.
        let ((_, kind), prompts) =
            known.into_iter().next().ok_or_else(|| Error::bug("a matched id is missing from the candidates"))?;
        let mut prompt_id = prompts.into_iter().next().unwrap_or_default();
        if number.is_some() && kind == IdKind::Prompt {
            let place = quoted(&run.dir().to_string_lossy());
            return Err(Error::user(format!("`{found}` is a prompt, and only responses have judgements")).help(
                format!(
                    "leave out the `/` and what follows, or give a response's id: `reflux trace {place} {}` lists them",
                    quoted(&found)
                ),
            ));
        }
        let mut kind = if number.is_some() { IdKind::Judgement } else { kind };
        let mut trace = Self::gather(run, &prompt_id)?;
        // The id may name the judge's own prompt, whose answers are judgements. Trace the answer that was
        // judged instead.
        let known = trace.iter().any(|e| matches!(e.what, "prompt" | "response"));
        if let Some(judged) = if known { None } else { judged(run, &prompt_id)? } {
            kind = IdKind::Judgement;
            prompt_id = judged;
            trace = Self::gather(run, &prompt_id)?;
        }
        if let Some(n) = number {
            let said = trace.iter().filter(|e| e.row.get("response_id").is_some_and(|r| *r == found.as_str()));
            let most = said.filter_map(|e| e.row.get("judgements")?.as_array().map(Vec::len)).max().unwrap_or(0);
            if n.parse::<usize>().map_or(true, |n| n >= most) {
                return Err(Error::user(format!("the response `{found}` has no judgement `{n}`"))
                    .help(format!("it has {most}, counted from 0")));
            }
        }
        let id = number.map_or(found.clone(), |n| format!("{found}/{n}"));
        let made = run.models().into_iter().map(|m| ((m.step, m.iteration), m.name)).collect();
        let lengths = run.metrics().into_iter().map(|m| ((m.step, m.iteration), m.rows)).collect();
        let mut all = Self { kind, id, prompt_id, events: trace, made, lengths };
        all.trainings(plan);
        all.steps(run)?;
        Ok(all)
    }

    /// Collects every row about a prompt, in dataflow order.
    fn gather(run: &Run, prompt_id: &str) -> Result<Vec<TraceEvent>> {
        let mut events = Vec::new();
        let mut own: BTreeSet<String> = [prompt_id.to_owned()].into();
        let mut files: Vec<(u32, usize, FileEntry)> = Vec::new();
        for (place, step) in run.steps_in_order().into_iter().enumerate() {
            files.extend(run.entries_of(&step).into_iter().map(|f| (f.iteration, place, f)));
        }
        files.sort_by_key(|(iteration, place, f)| (*iteration, *place, f.microbatch));
        for (.., entry) in files {
            if !run.dropped(&entry.step) {
                for row in rows_of(run, &entry, &own)? {
                    if let Some(Value::String(response)) = row.get("response_id") {
                        own.insert(response.clone());
                        // `meta-judge` uses this hash as the prompt id of an answer's judgements.
                        own.insert(hash_hex(["judgements", response.as_str()]));
                    }
                    let (step, epoch) = (entry.step.clone(), entry.epoch());
                    events.push(TraceEvent { step, epoch, what: what(&row), row, steps: None });
                }
            }
            if let Some(errors) = run.left_out(&entry)? {
                let rows = Columns(&errors).text("row")?;
                // RESPONSE/N names one of a response's judgements, CHOSEN>REJECTED a pair.
                let about = |row: &str| own.contains(row.split(['/', '>']).next().unwrap_or(row));
                let here = (0..errors.num_rows()).filter(|&i| about(rows.value(i)));
                for row in objects(&taken(&errors, here)?)? {
                    let (step, epoch) = (entry.step.clone(), entry.epoch());
                    events.push(TraceEvent { step, epoch, what: "left_out", row, steps: None });
                }
            }
        }
        Ok(events)
    }

    /// Adds the trainings that read the prompt's rows but store no reference rows for them.
    fn trainings(&mut self, plan: Option<&Plan<dyn Operator>>) {
        let Some(plan) = plan else { return };
        let mut more = Vec::new();
        for event in self.events.iter().filter(|e| e.what != "training" && e.what != "left_out") {
            for (reader, input) in plan.readers(&event.step).filter(|(reader, _)| reader.is_training()) {
                let iteration =
                    if reader.iterations.contains(&event.epoch.iteration) { event.epoch.iteration } else { 0 };
                let told = |e: &TraceEvent| {
                    e.what == "training" && owner(&e.step) == reader.name && e.epoch.iteration == iteration
                };
                let known = self.events.iter().chain(&more).any(told);
                if input.key == "from" && !known && self.made.contains_key(&(reader.name.clone(), iteration)) {
                    let row = Map::from_iter([("read".to_owned(), json!(event.step))]);
                    let epoch = Epoch::new(iteration, 0);
                    more.push(TraceEvent { step: reader.name.clone(), epoch, what: "training", row, steps: None });
                }
            }
        }
        self.events.extend(more);
    }

    /// Finds the optimizer steps of the trainings.
    fn steps(&mut self, run: &Run) -> Result<()> {
        let id = |row: &Map<String, Value>| {
            let side = |name: &str| row.get(name).and_then(Value::as_str);
            Some(format!("{}>{}", side("chosen_id")?, side("rejected_id")?))
        };
        let own: BTreeSet<String> = self.events.iter().filter_map(|e| id(&e.row)).collect();
        let metrics = run.metrics();
        let mut found: BTreeMap<(String, u32), Option<StepsByPair>> = BTreeMap::new();
        for event in self.events.iter_mut().filter(|e| e.what == "training") {
            let place = (owner(&event.step).to_owned(), event.epoch.iteration);
            if !found.contains_key(&place) {
                let entry = metrics.iter().find(|m| (m.step.as_str(), m.iteration) == (place.0.as_str(), place.1));
                let uses = entry.map(|m| uses(&run.metrics_part(m), &own)).transpose()?.flatten();
                found.insert(place.clone(), uses);
            }
            let Some(Some(uses)) = found.get(&place) else { continue };
            let mut steps: Vec<u32> = match id(&event.row) {
                Some(id) => uses.get(&id).cloned().unwrap_or_default(),
                None => uses.values().flatten().copied().collect(),
            };
            steps.sort_unstable();
            steps.dedup();
            event.steps = Some(steps);
        }
        Ok(())
    }

    /// Returns one JSON object with complete rows.
    pub fn json(&self) -> Value {
        let event = |e: &TraceEvent| {
            let model = self.made.get(&(owner(&e.step).to_owned(), e.epoch.iteration)).filter(|_| e.what == "training");
            let mut event = json!({ "what": e.what, "step": e.step, "iteration": e.epoch.iteration, "microbatch": e.epoch.microbatch });
            if let Some(model) = model {
                event["made"] = json!(model);
            }
            if let Some(steps) = &e.steps {
                event["optimizer_steps"] = json!(steps);
            }
            event["row"] = Value::Object(e.row.clone());
            event
        };
        json!({
            "id": self.id, "kind": self.kind.word(), "prompt_id": self.prompt_id,
            "events": self.events.iter().map(event).collect::<Value>(),
        })
    }

    /// Formats the trace as text; lines are cut to `width` columns.
    pub fn lines(&self, width: usize) -> Vec<String> {
        let mut lines = Vec::new();
        if self.kind != IdKind::Prompt {
            lines.push(format!("{} {}", self.kind.word(), self.id));
        }
        lines.push(format!("prompt {}", self.prompt_id));
        let prompt = self.events.iter().find_map(|e| e.row.get("prompt")?.as_str());
        lines.extend(prompt.map(|p| format!("  {}", printable(p))));
        let mut before: Option<(&str, u32)> = None;
        for event in &self.events {
            let place = (event.step.as_str(), event.epoch.iteration);
            if before != Some(place) {
                let made = self.made.get(&(owner(&event.step).to_owned(), event.epoch.iteration));
                let made = made.filter(|_| event.what == "training").map(|m| format!(", made {m}")).unwrap_or_default();
                lines.push(String::new());
                lines.push(format!("{}, iteration {}{made}", owner(&event.step), event.epoch.iteration));
                before = Some(place);
            }
            let length = self.lengths.get(&(owner(&event.step).to_owned(), event.epoch.iteration));
            lines.extend(event.lines(length.copied().unwrap_or(0)).into_iter().map(|l| format!("  {l}")));
        }
        lines.into_iter().map(|l| fitted(&l, width)).collect()
    }
}

/// Formats an id for display. The first digits of a hash identify it. Other ids are shown whole, because
/// imported ids may all share a prefix.
fn short(id: &Value) -> String {
    beginning(id.as_str().unwrap_or("?"), 8)
}

/// Returns the first `digits` of a hash, or another text, cut if it is very long.
fn beginning(id: &str, digits: usize) -> String {
    if is_hash(id) { id[..digits].to_owned() } else { fitted(&printable(id), LONGEST_ID) }
}

impl TraceEvent {
    /// Formats the event; a training has `length` optimizer steps.
    fn lines(&self, length: u64) -> Vec<String> {
        let get = |name: &str| self.row.get(name).unwrap_or(&Value::Null);
        let text = |name: &str| printable(get(name).as_str().unwrap_or_default());
        let number = |name: &str| get(name).as_f64().map_or("none".to_owned(), |n| format!("{n:.3}"));
        match self.what {
            "left_out" => vec![format!("{} ({}): {}", text("code"), text("kind"), text("message"))],
            "prompt" => {
                let by = if get("model").is_null() {
                    "given".to_owned()
                } else {
                    format!("written by {}", short(get("model")))
                };
                let parents: Vec<String> = get("parents").as_array().into_iter().flatten().map(short).collect();
                let after = if parents.is_empty() { String::new() } else { format!(", after {}", parents.join(" ")) };
                vec![format!("microbatch {}, {by}{after}", self.epoch.microbatch)]
            }
            "response" => {
                let (id, by, sample) = (short(get("response_id")), short(get("model")), get("sample"));
                vec![format!("{id} sample {sample} by {by}, ended by {}: {}", text("finish"), text("response"))]
            }
            "score" => {
                let mut lines = vec![format!(
                    "{} score {} by {}: {}",
                    short(get("response_id")),
                    number("score"),
                    beginning(get("judge").as_str().unwrap_or_default(), 12),
                    text("response")
                )];
                for (n, said) in get("judgements").as_array().into_iter().flatten().enumerate() {
                    let score = said["score"].as_f64().map(|s| format!(" {s}")).unwrap_or_default();
                    let (outcome, words) =
                        (said["outcome"].as_str().unwrap_or("?"), said["text"].as_str().unwrap_or_default());
                    lines.push(format!("  /{n} {}{score}: {}", printable(outcome), printable(words)));
                }
                lines
            }
            "pair" => {
                let (chosen, rejected) = (short(get("chosen_id")), short(get("rejected_id")));
                vec![format!(
                    "{chosen} ({}) preferred to {rejected} ({}), margin {}",
                    number("chosen_score"),
                    number("rejected_score"),
                    number("margin")
                )]
            }
            "training" => match self.row.get("read") {
                Some(step) => {
                    let step = printable(step.as_str().unwrap_or_default());
                    vec![format!("trained on {step}{}", self.in_steps(length, ", on this prompt "))]
                }
                None => vec![format!(
                    "{} {} over {}{}; {} under the reference {}: {} and {} nats",
                    if self.steps.as_ref().is_some_and(Vec::is_empty) { "did not use" } else { "used" },
                    short(get("chosen_id")),
                    short(get("rejected_id")),
                    self.in_steps(length, ", "),
                    text("source"),
                    short(get("model")),
                    number("chosen_logprob"),
                    number("rejected_logprob")
                )],
            },
            "comparison" => {
                let (first, second) = (short(get("first_id")), short(get("second_id")));
                vec![format!("{first} against {second}: {} by {}", text("outcome"), short(get("judge")))]
            }
            _ => vec![printable(&Value::Object(self.row.clone()).to_string())],
        }
    }

    /// Lists the optimizer steps that used the pair; `before` introduces the text if none did.
    fn in_steps(&self, length: u64, before: &str) -> String {
        /// Maximum number of steps listed; a training may have many epochs.
        const MAX_COUNT: usize = 8;
        let Some(steps) = &self.steps else { return String::new() };
        let told: Vec<String> = steps.iter().take(MAX_COUNT).map(u32::to_string).collect();
        let more =
            if steps.len() > MAX_COUNT { format!(" and {} more", steps.len() - MAX_COUNT) } else { String::new() };
        match steps.len() {
            0 => format!("{before}in none of its {}", counted(length, "step")),
            1 => format!(" in step {} of {length}", told.join("")),
            _ => format!(" in steps {}{more} of {length}", told.join(", ")),
        }
    }
}

/// Determines the kind of a row from its columns.
fn what(row: &Map<String, Value>) -> &'static str {
    let has = |name: &str| row.contains_key(name);
    match () {
        () if has("chosen_logprob") && has("source") => "training",
        () if has("chosen_id") => "pair",
        () if has("first_id") => "comparison",
        () if has("judgements") => "score",
        () if has("response_id") => "response",
        () if has("prompt") && has("origin") => "prompt",
        () => "row",
    }
}

/// Returns the prompt of the answer whose judgements have this prompt id, if there is one.
fn judged(run: &Run, prompt_id: &str) -> Result<Option<String>> {
    for step in run.steps_in_order() {
        for entry in run.files(&step) {
            let part = run.part(&entry);
            let schema = part.schema()?;
            let at =
                |name: &str| schema.index_of(name).ok().filter(|&i| *schema.field(i).data_type() == DataType::Utf8);
            let (Some(prompt), Some(response)) = (at("prompt_id"), at("response_id")) else { continue };
            for rows in part.read(&schema.project(&[prompt, response])?.into())? {
                let rows = rows?;
                let (prompts, responses) = (rows.column(0).as_string::<i32>(), rows.column(1).as_string::<i32>());
                let of = |i: &usize| hash_hex(["judgements", responses.value(*i)]) == prompt_id;
                if let Some(i) = (0..rows.num_rows()).find(of) {
                    return Ok(Some(prompts.value(i).to_owned()));
                }
            }
        }
    }
    Ok(None)
}

/// Returns the rows of a file that belong to one of the prompts or answers in `own`.
fn rows_of(run: &Run, entry: &FileEntry, own: &BTreeSet<String>) -> Result<Vec<Map<String, Value>>> {
    let part = run.part(entry);
    let schema = part.schema()?;
    let columns = id_columns(&schema);
    let Some((prompt, _)) = columns.iter().find(|(_, kind)| *kind == IdKind::Prompt) else { return Ok(Vec::new()) };
    let mut here = Vec::new();
    let mut before = 0;
    for rows in part.read(&schema.project(&[*prompt])?.into())? {
        let rows = rows?;
        let ids = rows.column(0).as_string::<i32>();
        here.extend(
            (0..rows.num_rows()).filter(|&i| ids.is_valid(i) && own.contains(ids.value(i))).map(|i| before + i),
        );
        before += rows.num_rows();
    }
    if here.is_empty() {
        return Ok(Vec::new());
    }
    objects(&taken(&run.load_entry(entry)?, here.into_iter())?)
}

fn taken(rows: &RecordBatch, which: impl Iterator<Item = usize>) -> Result<RecordBatch> {
    Ok(take_record_batch(rows, &UInt32Array::from_iter_values(which.map(|i| i as u32)))?)
}
