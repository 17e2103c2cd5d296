//! The closing lines of a run, built from its summary alone; `reflux summary` prints them again.

use serde_json::Value;

use super::run_summary::Summary;
use crate::data::{counted, one_line, quoted};
use crate::store::{Run, RunState};

/// The page of a run, in its directory.
pub(crate) const REPORT: &str = "report.html";

impl Summary {
    /// Returns the table of the loop, what engines and trainings did, where the models are, what was left
    /// out, and where the run and its report are. `references` describes the reference model of each training. The table is
    /// at most `room` columns wide.
    pub fn closing(&self, run: &Run, references: &[String], room: usize) -> Vec<String> {
        let (place, json) = (run.dir().display().to_string(), self.json());
        let list = |key: &str| json[key].as_array().into_iter().flatten();
        let mut lines = Vec::new();
        let table = self.tables(room);
        if !table.is_empty() {
            lines.push(String::new());
            lines.extend(table.lines().map(str::to_owned));
            lines.push(String::new());
        }
        lines.extend(list("models").filter_map(|model| model_line(&place, model)));
        for engine in list("engines") {
            lines.extend(engine_line(engine));
            lines.extend(server_lines(engine));
        }
        let served: Vec<&str> = list("from_servers").filter_map(Value::as_str).collect();
        if !served.is_empty() {
            let served = served.join(", ");
            let steps = one_line(&served);
            lines.push(format!("rows from servers: {steps}. They are stored; a second run may get others"));
        }
        lines.extend_from_slice(references);
        lines.extend(self.rescored().lines());
        lines.extend(self.health().lines());
        lines.extend(self.left_out().lines());
        lines.extend(self.left_out().unused_lines());
        if self.left_out().rows() > 0 {
            let rows = self.left_out().rows();
            let were = if rows == 1 { "was" } else { "were" };
            let errors = quoted(&run.dir().join("errors").to_string_lossy());
            lines.push(format!("{} {were} left out; `reflux show {errors}` shows why", counted(rows, "row")));
        }
        lines.push(match (run.run_state(), json["seconds"].as_f64().filter(|s| *s > 0.)) {
            (RunState::Unfinished, _) => {
                format!("unfinished: {place}; `reflux run` of the same pipeline file continues it")
            }
            (state @ RunState::Running(_), _) => format!("{state}: {place}"),
            (RunState::Finished, Some(seconds)) => format!("done in {seconds:.1} s: {place}"),
            (RunState::Finished, None) => format!("done: {place}"),
        });
        if run.dir().join(REPORT).is_file() {
            lines.push(format!("report: {place}/{REPORT}"));
        }
        lines
    }
}

/// `M2: runs/r/models/M2 (dpo 1: 17 steps, loss 2.9012 at first, 2.1034 at last, accuracy 0.812)`.
fn model_line(place: &str, model: &Value) -> Option<String> {
    let (name, path, step) = (model["name"].as_str()?, model["path"].as_str()?, model["step"].as_str()?);
    let course = &model["course"];
    let of = match model["iteration"].as_u64() {
        None | Some(0) => step.to_owned(),
        Some(iteration) => format!("{step} {iteration}"),
    };
    let mut words = Vec::new();
    if let Some(steps) = course["steps"].as_u64() {
        words.push(counted(steps, "step"));
    }
    if let (Some(first), Some(last)) = (course["loss_first"].as_f64(), course["loss_last"].as_f64()) {
        words.push(format!("loss {first:.4} at first, {last:.4} at last"));
    }
    words.extend(course["accuracy_mean"].as_f64().map(|accuracy| format!("accuracy {accuracy:.3}")));
    let made = &model["training"];
    if let (Some(measure), Some(at)) = (made["measure"].as_str(), made["chosen_step"].as_u64()) {
        let value = made[measure].as_f64().map(|value| format!(", {measure} {value:.4}")).unwrap_or_default();
        words.push(format!("weights of step {at}{value}"));
    }
    let words = if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) };
    Some(format!("{name}: {place}/{path} ({of}{words})"))
}

/// What the servers of a model did, a line for each address, and what they cost; nothing for other models.
fn server_lines(used: &Value) -> Vec<String> {
    let endpoints = used["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |endpoint: &Value| {
        let count = |key: &str| endpoint[key].as_u64().unwrap_or_default();
        let mut words = vec![counted(count("requests"), "request")];
        let faults = [("retries", "sent again"), ("refused", "refused"), ("deaths", "times found dead")];
        words.extend(
            faults.into_iter().filter(|(key, _)| count(key) > 0).map(|(key, word)| format!("{} {word}", count(key))),
        );
        if let Some(tokens) = endpoint["prompt_tokens"].as_u64().filter(|tokens| *tokens > 0) {
            let share = |cached: u64| format!(" ({:.0}% cached)", 100. * cached as f64 / tokens as f64);
            let cached = endpoint["cached_prompt_tokens"].as_u64().map(share).unwrap_or_default();
            words.push(format!("{tokens} tokens in{cached}"));
            words.push(format!("{} out", count("generated_tokens")));
        }
        let seconds = |key: &str| endpoint[key].as_f64().unwrap_or_default();
        words.push(format!("{:.1} s each", seconds("seconds") / count("requests").max(1) as f64));
        if seconds("waiting_seconds") >= 0.1 {
            words.push(format!("{:.1} s of waiting for a place", seconds("waiting_seconds")));
        }
        Some(format!("  {}: {}", one_line(endpoint["url"].as_str()?), words.join(", ")))
    };
    let mut lines: Vec<String> = endpoints.iter().filter_map(line).collect();
    if let (Some(cost), [_, ..]) = (used["cost"].as_f64(), endpoints) {
        lines.push(format!("  cost so far: {cost:.4}"));
    }
    lines
}

/// `M1: 1084 answers, 20960 tokens at 5310 a second; 71% of the prompts' tokens came from the prefix cache`. The lines
/// of servers say the latter, because not every server counts it.
fn engine_line(used: &Value) -> Option<String> {
    let number = |key: &str| used[key].as_f64().unwrap_or_default();
    if number("prompt_tokens") == 0. {
        return None;
    }
    let cache = match used["endpoints"].is_array() {
        true => String::new(),
        false => {
            let share = 100. * number("prefix_hit_rate");
            format!("; {share:.0}% of the prompts' tokens came from the prefix cache")
        }
    };
    Some(format!(
        "{}: {}, {} at {:.0} a second{cache}",
        used["model"].as_str()?,
        counted(number("requests") as u64, "answer"),
        counted(number("generated_tokens") as u64, "token"),
        number("generated_tokens") / number("busy_seconds").max(1e-9),
    ))
}
