//! Finds steps without a result: no readable score, no pair, or no row.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;

use crate::data::{Columns, counted, named, quoted};
use crate::dataflow::Operator;
use crate::error::Result;
use crate::pipeline::{Plan, Shape, Step};
use crate::store::Run;

/// What a step lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lack {
    /// The step has no rows.
    Rows,
    /// The step selects pairs and has none.
    Pairs,
    /// No row of the step has a score or an outcome.
    Readable,
}

impl Lack {
    /// Suggests a remedy.
    fn advice(self) -> Option<&'static str> {
        match self {
            Lack::Rows => None,
            Lack::Pairs => Some("a lower min_margin, more samples or another judge may help"),
            Lack::Readable => {
                Some("more max_tokens, another pattern or rubric, more samples or another judge may help")
            }
        }
    }
}

/// A step without a result.
#[derive(Debug)]
struct Empty {
    step: String,
    lack: Lack,
    /// The problem, in words.
    words: String,
    /// The step itself, or its nearest upstream step, whose rows can be shown.
    look: Option<String>,
}

/// The steps of a run without a result.
#[derive(Debug)]
pub struct Fruitless {
    run: PathBuf,
    steps: Vec<Empty>,
    /// Whether the run has any result: a model, or a final step with a result.
    some: bool,
    /// Whether rows were left out.
    errors: bool,
}

impl Fruitless {
    /// Checks all steps with scores, and all steps that no other step reads.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn of(plan: &Plan<dyn Operator>, run: &Run) -> Result<Self> {
        let errors = run.entries().iter().any(|entry| entry.errors.as_ref().is_some_and(|e| e.rows > 0));
        let some = !run.models().is_empty();
        let mut found = Self { run: run.dir().to_owned(), steps: Vec::new(), some, errors };
        for step in plan.steps.iter().filter(|s| s.kind.shape != Shape::Train) {
            let last = plan.readers(&step.name).next().is_none();
            let judged = step.op.scale().is_some() && step.schema.name == named::SCORES.name;
            if !last && !judged {
                continue;
            }
            match nothing(run, step)? {
                Some((lack, words)) => {
                    let look = kept(plan, run, step).map(|step| step.name.clone());
                    found.steps.push(Empty { step: step.name.clone(), lack, words, look });
                }
                None => found.some |= last,
            }
        }
        Ok(found)
    }

    /// Returns one line for each step without a result.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| step.words.as_str())
    }

    /// Suggests what to inspect and what may help, for the first step without a result.
    pub fn help(&self) -> String {
        let Some(first) = self.steps.first() else { return String::new() };
        let show = |what: &str| format!("`reflux show {}`", quoted(&self.run.join(what).to_string_lossy()));
        let mut looks = Vec::new();
        if let Some(look) = &first.look {
            let what = match (first.lack, *look == first.step) {
                (Lack::Readable, true) => "what the judge wrote".to_owned(),
                _ => format!("the rows of `{look}`"),
            };
            looks.push(format!("at {what} ({})", show(look)));
        }
        if self.errors {
            looks.push(format!("at why rows were left out ({})", show("errors")));
        }
        let looks = if looks.is_empty() { String::new() } else { format!("look {}", looks.join(" and ")) };
        match (looks.as_str(), first.lack.advice()) {
            ("", None) => format!("look at the inputs of `{}`: the data or the settings give it no rows", first.step),
            ("", Some(advice)) => advice.to_owned(),
            (looks, None) => looks.to_owned(),
            (looks, Some(advice)) => format!("{looks}: {advice}"),
        }
    }

    /// Whether the whole run has no result.
    pub fn all(&self) -> bool {
        !self.steps.is_empty() && !self.some
    }
}

/// Finds the nearest step whose rows can be shown: the step itself, or one upstream of it.
fn kept<'a>(plan: &'a Plan<dyn Operator>, run: &Run, step: &'a Step<dyn Operator>) -> Option<&'a Step<dyn Operator>> {
    let (mut seen, mut next) = (BTreeSet::new(), VecDeque::from([step]));
    while let Some(step) = next.pop_front() {
        if !run.dropped(&step.name) && rows_of(run, &step.name) > 0 {
            return Some(step);
        }
        let above = step.inputs.iter().filter_map(|i| plan.step(&i.step));
        next.extend(above.filter(|s| seen.insert(s.name.as_str())));
    }
    None
}

/// Counts the rows of a step, including rows that were dropped after use.
fn rows_of(run: &Run, step: &str) -> u64 {
    run.entries_of(step).iter().map(|f| f.rows).sum()
}

/// Describes what a step lacks; returns `None` if it has a result.
fn nothing(run: &Run, step: &Step<dyn Operator>) -> Result<Option<(Lack, String)>> {
    let name = &step.name;
    let rows = rows_of(run, name);
    if rows == 0 {
        let of: u64 = step.inputs.iter().map(|i| rows_of(run, &i.step)).sum();
        let is_pairs = step.schema.name == named::PAIRS.name && !step.inputs.is_empty();
        let (lack, what) = if is_pairs { (Lack::Pairs, "pair") } else { (Lack::Rows, "row") };
        return Ok(Some((lack, format!("`{name}`: no {what} from {}", counted(of, "row")))));
    }
    let (column, what) = match step.schema.name {
        "scores" => ("score", "score: no judgement was readable"),
        "comparisons" => ("outcome", "outcome"),
        _ => return Ok(None),
    };
    // Dropped rows cannot be read any more.
    if run.dropped(name) {
        return Ok(None);
    }
    for batch in run.batches(name, None) {
        let (_, batch) = batch?;
        let some = match column {
            "score" => Columns(&batch).float(column)?.iter().flatten().any(f32::is_finite),
            _ => Columns(&batch).text(column)?.iter().flatten().any(|outcome| outcome != "null"),
        };
        if some {
            return Ok(None);
        }
    }
    Ok(Some((Lack::Readable, format!("`{name}`: none of {} has a {what}", counted(rows, "row")))))
}
