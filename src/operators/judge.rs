//! `judge`: a model scores every answer several times by a rubric (LLM-as-a-Judge), and the readable scores are averaged.

use regex::Regex;

use super::models::cancel;
use super::prelude::*;
use super::score::{self, Outcome};
use crate::dataflow::Map;
use crate::engine::{Finish, Request, Sampling};
use crate::model::Message;

pub static KIND: Kind<dyn Operator> = Kind {
    name: "judge",
    about: "scores every answer by a rubric, several times, and averages",
    shape: Shape::Map,
    model: NeedsModel::Yes,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.scores]\nop = \"judge\"\nfrom = \"responses\"\nmodel = \"policy\"\nrubric = \"additive-5\"\nsamples = 3\n",
    parse: |f| {
        let default = Sampling { temperature: 0.7, top_p: 0.9, max_tokens: 256, ..Sampling::default() };
        let rubric = Template::field(f, "rubric", "judge prompt: a built-in template or a file with {{ prompt }} and {{ response }}", "additive-5");
        let pattern = f.text("pattern", "regular expression whose first group is the score in the judge's own text", Some(PATTERN));
        let pattern = Regex::new(&pattern).unwrap_or_else(|e| {
            f.problem("pattern", format!("not a regular expression: {e}"), "");
            Regex::new(PATTERN).expect("the default pattern is one")
        });
        if pattern.captures_len() < 2 {
            f.problem("pattern", "the pattern has no group, so there is no score to read", "put the number in parentheses: `Score: ([0-5])`");
        }
        Box::new(Judge {
            rubric,
            pattern,
            max: f.float("max", "greatest score of the rubric; the least is 0", Some(5.), 0.0..=1e6) as f32,
            samples: f.int("samples", "judgements of each answer", Some(3), 1..=1024) as u32,
            sampling: settings::sampling(f, &default),
        })
    },
};

const PATTERN: &str = r"(?i)score:\s*(\d+(?:\.\d+)?)";

struct Judge {
    rubric: Template,
    pattern: Regex,
    max: f32,
    samples: u32,
    sampling: Sampling,
}

impl Configured for Judge {
    fn explain(&self) -> String {
        format!("rubric {}, mean of {} judgements, {}", self.rubric.name(), self.samples, settings::describe(&self.sampling))
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(inputs, &["prompt_id", "prompt", "response_id", "response"], "responses to judge")?;
        Ok(&named::SCORES)
    }
}
impl Operator for Judge {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}

/// A judgement as the dataset keeps it: text, outcome, score.
pub(super) type Judgement = (String, String, Option<f32>);

/// A column that answers which no model of the run sampled (`ranked` rows) lack: they have no tokens, and end by themselves.
fn given(input: &RecordBatch, column: &str) -> Result<ArrayRef> {
    let rows = input.num_rows();
    Ok(match column {
        "sample" => Arc::new(Columns(input).uint("rank")?.clone()),
        "finish" => Arc::new(StringArray::from(vec![Finish::Stop.as_str(); rows])),
        "model" => Arc::new(StringArray::from(vec!["given"; rows])),
        "prompt_tokens" | "response_tokens" => List::of_tokens(&vec![Vec::new(); rows]),
        "logprobs" => List::of_floats(&vec![Vec::new(); rows]),
        other => return Err(Error::user(format!("column `{other}` is missing"))),
    })
}

/// The scores dataset of judged responses; shared with the operators that score by a rule.
pub(super) fn scored(input: &RecordBatch, judgements: &[Vec<Judgement>], judge: &str) -> Result<RecordBatch> {
    let mean = |row: &Vec<Judgement>| {
        let scores: Vec<f64> = row.iter().filter_map(|j| j.2).map(f64::from).collect();
        (!scores.is_empty()).then(|| (scores.iter().sum::<f64>() / scores.len() as f64) as f32)
    };
    let mut columns: Vec<ArrayRef> = Vec::new();
    for column in named::SCORES.columns {
        columns.push(match column.name {
            "score" => Arc::new(Float32Array::from_iter(judgements.iter().map(mean))),
            "judgements" => List::of_judgements(judgements),
            "judge" => Arc::new(StringArray::from(vec![judge; input.num_rows()])),
            kept => match input.column_by_name(kept) {
                Some(column) => Arc::clone(column),
                None => given(input, kept)?,
            },
        });
    }
    named::SCORES.batch(columns)
}

impl Map for Judge {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let columns = Columns(input);
        let (prompts, responses, ids) = (columns.text("prompt")?, columns.text("response")?, columns.text("response_id")?);
        let engine = cx.services::<Models>()?.engine(cx)?;
        let mut requests = Vec::new();
        for i in 0..input.num_rows() {
            let text = self.rubric.render(minijinja::context! { prompt => prompts.value(i), response => responses.value(i) })?;
            for sample in 0..self.samples {
                let messages = vec![Message::new("user", &text)];
                requests.push(Request { messages, sampling: self.sampling.clone(), key: cx.key(ids.value(i), sample) });
            }
        }
        let answers = engine.generate(requests, &cancel(cx))?;
        let read = |answer: Result<crate::engine::Completion, crate::engine::RowError>| -> Judgement {
            match answer {
                Ok(a) => {
                    let outcome = score::read(&self.pattern, self.max, &a.text, a.finish == Finish::Length);
                    (a.text, outcome.name().into(), Outcome::score(outcome))
                }
                Err(e) if e.code == "prompt_too_long" => (e.message, "too_long".into(), None),
                Err(e) => (e.message, "error".into(), None),
            }
        };
        let mut answers = answers.into_iter().map(read);
        let judgements: Vec<Vec<Judgement>> =
            (0..input.num_rows()).map(|_| answers.by_ref().take(self.samples as usize).collect()).collect();
        let mut errors = Vec::new();
        for (i, row) in judgements.iter().enumerate() {
            if row.iter().all(|j| j.2.is_none()) {
                let outcomes: Vec<&str> = row.iter().map(|j| j.1.as_str()).collect();
                let code = if row.iter().all(|j| j.1 == row[0].1) { row[0].1.clone() } else { "no_match".into() };
                let message = format!("none of the {} judgements was readable ({}); the answer has no score", row.len(), outcomes.join(", "));
                errors.push(RowError::failed(ids.value(i), code, message));
            }
        }
        Ok(Output { rows: scored(input, &judgements, engine.id())?, errors })
    }
}
