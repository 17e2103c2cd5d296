//! Steps of which nothing came: scores that nobody could read, no pair, no row.

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
    /// It has no row.
    Rows,
    /// It selects, and has no pair.
    Pairs,
    /// None of its rows has a score, or an outcome.
    Readable,
}

impl Lack {
    /// What may help.
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

/// A step of which nothing came.
#[derive(Debug)]
struct Empty {
    step: String,
    lack: Lack,
    /// What is wrong, in words.
    words: String,
    /// The nearest step above it, or it itself, whose rows can be looked at.
    look: Option<String>,
}

/// What of a run's results is empty.
#[derive(Debug)]
pub struct Fruitless {
    run: PathBuf,
    steps: Vec<Empty>,
    /// Whether there is any result: a model, or a last step with something in it.
    some: bool,
    /// Whether rows were left out.
    errors: bool,
}

impl Fruitless {
    /// Looks at the scores, and at the steps that no other step reads.
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

    /// A line for each step of which nothing came.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| step.words.as_str())
    }

    /// What to look at, and what may help, where nothing came of the first step of which nothing came.
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
            ("", None) => format!("look at what `{}` reads: the data or the settings give it no row", first.step),
            ("", Some(advice)) => advice.to_owned(),
            (looks, None) => looks.to_owned(),
            (looks, Some(advice)) => format!("{looks}: {advice}"),
        }
    }

    /// Whether nothing came of the whole run.
    pub fn all(&self) -> bool {
        !self.steps.is_empty() && !self.some
    }
}

/// The nearest step with rows that can be looked at: the step itself, or one above it.
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

/// How many rows a step has made, kept or not.
fn rows_of(run: &Run, step: &str) -> u64 {
    run.entries_of(step).iter().map(|f| f.rows).sum()
}

/// What a step lacks, in words; nothing where it has a result.
fn nothing(run: &Run, step: &Step<dyn Operator>) -> Result<Option<(Lack, String)>> {
    let name = &step.name;
    let rows = rows_of(run, name);
    if rows == 0 {
        let of: u64 = step.inputs.iter().map(|i| rows_of(run, &i.step)).sum();
        let is_pairs = step.schema.name == named::PAIRS.name && !step.inputs.is_empty();
        let (lack, what) = if is_pairs { (Lack::Pairs, "pair") } else { (Lack::Rows, "row") };
        return Ok(Some((lack, format!("`{name}`: no {what} came of {}", counted(of, "row")))));
    }
    let (column, what) = match step.schema.name {
        "scores" => ("score", "score: no judgement was readable"),
        "comparisons" => ("outcome", "outcome"),
        _ => return Ok(None),
    };
    // Rows that are not kept cannot be looked at any more.
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
