//! `judge`: a model scores every answer several times by a rubric (LLM-as-a-Judge), and the readable scores are averaged.

use std::collections::BTreeMap;

use super::asking::{self, Asking, Question, Said};
use super::pairwise::{self, Pair, Pairwise, Verdict};
use super::prelude::*;
use super::score::{self, Reader};
use crate::dataflow::Map;
use crate::engine::{Engine, Finish, Sampling};

pub static KIND: Kind<dyn Operator> = Kind {
    name: "judge",
    about: "scores every answer by a rubric, several times, and averages",
    shape: Shape::Map,
    model: NeedsModel::Yes,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.scores]\nop = \"judge\"\nfrom = \"responses\"\nmodel = \"policy\"\nrubric = \"additive-5\"\nsamples = 3\n",
    parse: |f| {
        let modes = [
            ("sampled", "the judge writes its reasons and a score; the readable scores are averaged"),
            ("pairwise", "the judge compares the prompt's answers two by two, each pair in both orders; a score is the share of wins, a tie half of one"),
        ];
        let pairwise = f.choice("mode", "how answers are scored", &modes, Some("sampled")) == "pairwise";
        let about = "judge prompt: a built-in template or a file with {{ prompt }} and {{ response }}; in pairwise mode with {{ prompt }}, \
                     {{ first }} and {{ second }}, and then \"pairwise\" unless given";
        let rubric = Template::field(f, "rubric", about, if pairwise { "pairwise" } else { "additive-5" });
        let reader = Reader::fields(f, if pairwise { pairwise::PATTERN } else { score::PATTERN });
        let about = "judgements of each answer; in pairwise mode of each pair in each order";
        let samples = f.int("samples", about, Some(if pairwise { 1 } else { 3 }), 1..=1024) as u32;
        let max_pairs = f.count("max_pairs", "pairwise mode: most pairs of a prompt, each answer as often as another where it can be; 0 for all", Some(0), 0..=1_000_000);
        if !pairwise && f.given("max_pairs") {
            f.problem("max_pairs", "only pairwise mode has pairs", "set mode = \"pairwise\", or take the key out");
        }
        let default = Sampling { temperature: 0.7, top_p: 0.9, max_tokens: 256, ..Sampling::default() };
        let asking = Asking { retries: asking::retries(f), sampling: settings::sampling(f, &default) };
        let (min, max) = (reader.min, reader.max);
        let way = if pairwise {
            let by = Pairwise { template: rubric, pattern: reader.pattern, samples, asking };
            Way::Pairwise { by, max_pairs: if max_pairs == 0 { usize::MAX } else { max_pairs }, min, max }
        } else {
            Way::Sampled { rubric, reader, samples, asking }
        };
        Box::new(Judge { way })
    },
};

struct Judge {
    way: Way,
}

/// How answers come by their scores.
enum Way {
    Sampled { rubric: Template, reader: Reader, samples: u32, asking: Asking },
    Pairwise { by: Pairwise, max_pairs: usize, min: f32, max: f32 },
}

impl Configured for Judge {
    fn explain(&self) -> String {
        match &self.way {
            Way::Sampled { rubric, samples, asking, .. } => {
                format!("rubric {}, mean of {samples} judgements, {}", rubric.name(), settings::describe(&asking.sampling))
            }
            Way::Pairwise { by, .. } => format!("share of wins, {}", by.describe()),
        }
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

/// The mean of a row's readable judgements.
pub(super) fn mean(row: &[Judgement]) -> Option<f32> {
    let scores: Vec<f64> = row.iter().filter_map(|j| j.2).map(f64::from).collect();
    (!scores.is_empty()).then(|| (scores.iter().sum::<f64>() / scores.len() as f64) as f32)
}

/// The scores dataset of judged responses; shared with the operators that score by a rule.
pub(super) fn scored(input: &RecordBatch, scores: Vec<Option<f32>>, judgements: &[Vec<Judgement>], judge: &str) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::new();
    for column in named::SCORES.columns {
        columns.push(match column.name {
            "score" => Arc::new(Float32Array::from(scores.clone())),
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

/// Why an answer has no score, in a word and in words.
pub(super) fn unreadable(id: &str, row: &[Judgement]) -> RowError {
    let outcomes: Vec<&str> = row.iter().map(|j| j.1.as_str()).collect();
    let code = if row.iter().all(|j| j.1 == row[0].1) { outcomes[0] } else { "no_match" };
    let message = format!("none of the {} judgements was readable ({}); the answer has no score", row.len(), outcomes.join(", "));
    RowError::failed(id, code, message)
}

impl Map for Judge {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let engine = cx.services::<Models>()?.engine(cx)?;
        match &self.way {
            Way::Sampled { rubric, reader, samples, asking } => sampled(cx, &*engine, input, rubric, reader, *samples, asking),
            Way::Pairwise { by, max_pairs, min, max } => compared(cx, &*engine, input, by, *max_pairs, *min..=*max),
        }
    }
}

fn sampled(
    cx: &Context<'_>,
    engine: &dyn Engine,
    input: &RecordBatch,
    rubric: &Template,
    reader: &Reader,
    samples: u32,
    asking: &Asking,
) -> Result<Output> {
    let columns = Columns(input);
    let (prompts, responses, ids) = (columns.text("prompt")?, columns.text("response")?, columns.text("response_id")?);
    let render = |i| rubric.render(minijinja::context! { prompt => prompts.value(i), response => responses.value(i) });
    let texts: Vec<String> = (0..input.num_rows()).map(render).collect::<Result<_>>()?;
    let question = |i: usize| Question { row: ids.value(i), samples: 0..samples, text: &texts[i] };
    let questions: Vec<Question<'_>> = (0..input.num_rows()).map(question).collect();
    let said = asking.ask(cx, engine, &questions, |text, cut| reader.read(text, cut))?;
    let judgement = |s: &Said| -> Judgement { (s.text().into(), s.outcome.into(), s.value) };
    let judgements: Vec<Vec<Judgement>> = said.iter().map(|row| row.iter().map(judgement).collect()).collect();
    let scores: Vec<Option<f32>> = judgements.iter().map(|row| mean(row)).collect();
    let unscored = (0..scores.len()).filter(|&i| scores[i].is_none());
    let errors = unscored.map(|i| unreadable(ids.value(i), &judgements[i])).collect();
    Ok(Output { rows: scored(input, scores, &judgements, engine.id())?, errors })
}

/// Pairs of `n` answers, by their distance in a circle: the first n have each answer twice, the next n twice more.
fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let half = move |d: usize| if 2 * d == n { n / 2 } else { n };
    (1..=n / 2).flat_map(move |d| (0..half(d)).map(move |i| (i.min((i + d) % n), i.max((i + d) % n))))
}

fn compared(
    cx: &Context<'_>,
    engine: &dyn Engine,
    input: &RecordBatch,
    by: &Pairwise,
    max_pairs: usize,
    scale: std::ops::RangeInclusive<f32>,
) -> Result<Output> {
    let columns = Columns(input);
    let (prompts, responses, ids) = (columns.text("prompt")?, columns.text("response")?, columns.text("response_id")?);
    let prompt_ids = columns.text("prompt_id")?;
    // All answers to a prompt are in one microbatch.
    let mut answers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    (0..input.num_rows()).for_each(|i| answers.entry(prompt_ids.value(i)).or_default().push(i));
    let of_prompt = |rows: &Vec<usize>| {
        let rows = rows.clone();
        pairs(rows.len()).take(max_pairs).map(move |(a, b)| (rows[a], rows[b])).collect::<Vec<_>>()
    };
    let met: Vec<(usize, usize)> = answers.values().flat_map(of_prompt).collect();
    let names: Vec<String> = met.iter().map(|&(a, b)| format!("{} {}", ids.value(a), ids.value(b))).collect();
    let asked: Vec<Pair<'_>> = std::iter::zip(&names, &met)
        .map(|(row, &(a, b))| Pair { row, prompt: prompts.value(a), a: responses.value(a), b: responses.value(b) })
        .collect();
    let mut judgements: Vec<Vec<Judgement>> = vec![Vec::new(); input.num_rows()];
    let mut wins: Vec<Vec<f64>> = vec![Vec::new(); input.num_rows()];
    let span = f64::from(scale.end() - scale.start());
    let scaled = |share: f64| (f64::from(*scale.start()) + share * span) as f32;
    for (&(a, b), comparison) in met.iter().zip(by.compare(cx, engine, &asked)?) {
        for (i, swap) in [(a, false), (b, true)] {
            let turned = |v: Verdict, swap: bool| if swap { v.swapped() } else { v };
            wins[i].extend(comparison.verdict.map(|v| turned(v, swap).share()));
            for (order, shown_second) in comparison.orders.iter().zip([swap, !swap]) {
                let said = order.said.iter();
                judgements[i].extend(said.map(|s| (s.text().into(), s.outcome.into(), s.value.map(|v| scaled(turned(v, shown_second).share())))));
            }
        }
    }
    let score = |wins: &Vec<f64>| (!wins.is_empty()).then(|| scaled(wins.iter().sum::<f64>() / wins.len() as f64));
    let scores: Vec<Option<f32>> = wins.iter().map(score).collect();
    let error = |i: usize| {
        let row = &judgements[i];
        let message = match row.iter().filter(|j| j.2.is_some()).count() {
            _ if row.is_empty() => return RowError::failed(ids.value(i), "one_answer", "the prompt has one answer, which there is nothing to compare with; ask for more samples"),
            0 => return unreadable(ids.value(i), row),
            n => format!("{n} of {} comparisons were readable, but no pair in both orders; the answer has no score", row.len()),
        };
        RowError::failed(ids.value(i), "no_match", message)
    };
    let errors = (0..scores.len()).filter(|&i| scores[i].is_none()).map(error).collect();
    Ok(Output { rows: scored(input, scores, &judgements, engine.id())?, errors })
}

#[cfg(test)]
mod tests {
    #[test]
    fn pairs_meet_once_and_evenly() {
        for n in 0..9usize {
            let all: Vec<_> = super::pairs(n).collect();
            let distinct: std::collections::BTreeSet<_> = all.iter().collect();
            assert_eq!((all.len(), distinct.len()), (n * n.saturating_sub(1) / 2, n * n.saturating_sub(1) / 2));
            assert!(all.iter().all(|(a, b)| a < b && *b < n));
            let mut met = vec![0; n];
            all.iter().take(n).for_each(|&(a, b)| [a, b].iter().for_each(|&i| met[i] += 1));
            assert!(n < 3 || met.iter().all(|&m| m == 2), "{n}: {met:?}");
        }
    }
}
