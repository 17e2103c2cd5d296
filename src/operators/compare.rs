//! `compare`: answers of two steps to the same prompts against each other, by a judge that reads them in both orders or by the
//! scores that they have: the paper's head-to-head evaluation (section 3.1.2; 256 prompts, a disagreement of the orders is a tie).
//!
//! With one step, the answers of each prompt are compared with each other; where they have ranks (`ranked` rows, LLMBar), the
//! outcome that the ranks ask for stands beside the judge's.

use std::collections::{BTreeMap, HashMap};

use super::pairwise::{Order, Pair, Pairwise, Verdict};
use super::prelude::*;
use crate::dataflow::Map;
use crate::eval::win_rate::Outcome;

pub static KIND: Kind<dyn Operator> = Kind {
    name: "compare",
    about: "compares the answers of two steps, or of one step's prompts with each other, by a judge in both orders or by score",
    shape: Shape::Map,
    model: NeedsModel::Optional,
    min_inputs: 1,
    max_inputs: 2,
    example: "[step.against_m1]\nop = \"compare\"\nfrom = [\"answers\", \"answers_m1\"]\nmodel = \"judge\"\n",
    parse: |f| {
        let ways = [
            ("judge", "a model reads both answers, in both orders; where the orders disagree it is a tie"),
            ("score", "the answer with the higher `score` wins; no model is asked"),
        ];
        let by_score = f.choice("by", "how the better answer is found", &ways, Some("judge")) == "score";
        if by_score && f.given("model") {
            f.problem("by", "scores are compared without a model", "take `model` out, or write by = \"judge\"");
        } else if !by_score && !f.given("model") {
            f.problem("by", "a judge is needed to compare answers", "name one: model = \"NAME\"; or write by = \"score\"");
        }
        let margin = f.float("margin", "by score: scores no further apart than this tie", Some(0.), 0.0..=1e6);
        Box::new(Compare { by_score, margin, pairwise: Pairwise::fields(f) })
    },
};

struct Compare {
    by_score: bool,
    margin: f64,
    pairwise: Pairwise,
}

impl Configured for Compare {
    fn explain(&self) -> String {
        if self.by_score { format!("by score, a tie within {}", self.margin) } else { self.pairwise.describe() }
    }
    fn work(&self, _: u32, inputs: &[Load], assume: &Assume) -> Work {
        let from = inputs.first().map(|i| i.amount).unwrap_or_default();
        if self.by_score {
            return Work::rows(from);
        }
        let by = &self.pairwise;
        let others = if inputs.iter().filter(|i| i.key == "from").count() > 1 { 1. } else { (from.per_prompt - 1.) / 2. };
        let (asked, read) = (2. * from.rows * others, from.prompt + 2. * from.answer);
        let most = by.asking.sampling.max_tokens as f64;
        Work {
            out: from,
            read: Pass::of(1., 0., assume.rubric).and(Pass::of(asked, assume.rubric, read)),
            sampled: Pass::of(asked * f64::from(by.samples), assume.rubric + read, assume.fill * most),
            longest: assume.rubric + read + most,
            ..Work::default()
        }
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        let mut columns = vec!["prompt_id", "prompt", "response_id", "response"];
        columns.extend(self.by_score.then_some("score"));
        let wrong = |port: &Port<'_>| settings::needs(std::slice::from_ref(port), &columns, "answers to compare").err();
        let problems: Vec<String> = inputs.iter().filter_map(wrong).flatten().collect();
        if problems.is_empty() { Ok(&named::COMPARISONS) } else { Err(problems) }
    }
}
impl Operator for Compare {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}

/// An answer of either side.
#[derive(Clone)]
struct Answer {
    prompt_id: String,
    prompt: String,
    id: String,
    text: String,
    /// Its own, or its place among the prompt's rows.
    sample: u32,
    score: Option<f32>,
    rank: Option<u32>,
}

/// The answers of a batch that `wanted` takes.
fn answers(rows: &RecordBatch, wanted: impl Fn(&str) -> bool) -> Result<Vec<Answer>> {
    let columns = Columns(rows);
    let has = |name: &str| rows.column_by_name(name).is_some();
    let (prompt_ids, prompts) = (columns.text("prompt_id")?, columns.text("prompt")?);
    let (ids, texts) = (columns.text("response_id")?, columns.text("response")?);
    let scores = has("score").then(|| columns.float("score")).transpose()?;
    let samples = has("sample").then(|| columns.uint("sample")).transpose()?;
    let ranks = has("rank").then(|| columns.uint("rank")).transpose()?;
    let mut places: HashMap<&str, u32> = HashMap::new();
    let mut all = Vec::new();
    for i in 0..rows.num_rows() {
        let place = places.entry(prompt_ids.value(i)).or_default();
        let sample = samples.map_or(*place, |s| s.value(i));
        *place += 1;
        if wanted(prompt_ids.value(i)) {
            all.push(Answer {
                prompt_id: prompt_ids.value(i).into(),
                prompt: prompts.value(i).into(),
                id: ids.value(i).into(),
                text: texts.value(i).into(),
                sample,
                score: scores.filter(|s| s.is_valid(i)).map(|s| s.value(i)),
                rank: ranks.map(|r| r.value(i)),
            });
        }
    }
    Ok(all)
}

/// A pair with its sample number; without a second where there is none.
type Met = (u32, Answer, Option<Answer>);

/// Every answer of `ours` with the other step's to the same prompt and sample.
fn partners(cx: &Context<'_>, ours: Vec<Answer>, other: &str) -> Result<Vec<Met>> {
    let mut theirs: HashMap<(String, u32), Answer> = HashMap::new();
    let wanted: std::collections::HashSet<String> = ours.iter().map(|a| a.prompt_id.clone()).collect();
    let take = |theirs: &mut HashMap<(String, u32), Answer>, rows: &RecordBatch| -> Result<()> {
        for answer in answers(rows, |id| wanted.contains(id))? {
            theirs.entry((answer.prompt_id.clone(), answer.sample)).or_insert(answer);
        }
        Ok(())
    };
    // The other's answers to a microbatch's prompts are in the microbatch of the same number, if both answer the same step.
    if let Some(rows) = cx.beside(other)? {
        take(&mut theirs, &rows)?;
    }
    if !ours.iter().all(|a| theirs.contains_key(&(a.prompt_id.clone(), a.sample))) {
        for microbatch in cx.microbatches(other) {
            take(&mut theirs, &microbatch?.1)?;
        }
    }
    Ok(ours.into_iter().map(|a| {
        let partner = theirs.remove(&(a.prompt_id.clone(), a.sample));
        (a.sample, a, partner)
    }).collect())
}

/// Every two answers of a prompt.
fn among(ours: Vec<Answer>) -> Vec<Met> {
    let mut order: Vec<String> = Vec::new();
    let mut prompts: BTreeMap<String, Vec<Answer>> = BTreeMap::new();
    for answer in ours {
        let of_prompt = prompts.entry(answer.prompt_id.clone()).or_default();
        if of_prompt.is_empty() {
            order.push(answer.prompt_id.clone());
        }
        of_prompt.push(answer);
    }
    let mut met = Vec::new();
    for answers in order.iter().filter_map(|id| prompts.get(id)) {
        let pairs = answers.iter().enumerate().flat_map(|(i, a)| answers[i + 1..].iter().map(move |b| (a, b)));
        met.extend(pairs.zip(0..).map(|((a, b), n)| (n, a.clone(), Some(b.clone()))));
    }
    met
}

/// The first answer's outcome.
fn outcome(verdict: Option<Verdict>) -> Outcome {
    match verdict {
        Some(Verdict::First) => Outcome::Win,
        Some(Verdict::Tie) => Outcome::Tie,
        Some(Verdict::Second) => Outcome::Loss,
        None => Outcome::Null,
    }
}

type Judgement = (String, String, Option<f32>);

/// What was said in an order, with the first answer's share.
fn judgements(order: &Order, swapped: bool) -> Vec<Judgement> {
    let share = |v: Verdict| if swapped { v.swapped() } else { v }.share() as f32;
    order.said.iter().map(|s| (s.text().into(), s.outcome.into(), s.value.map(share))).collect()
}

/// What became of a pair.
#[derive(Clone)]
struct Compared {
    orders: [Option<Outcome>; 2],
    outcome: Outcome,
    judgements: [Vec<Judgement>; 2],
}

impl Compared {
    /// Why there is no outcome: as a code, what most of the judge's words in an order of which nothing was readable came to.
    fn unread(&self) -> (&str, String) {
        let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
        let silent = self.orders.iter().zip(&self.judgements).filter(|(order, _)| order.is_none());
        for (_, outcome, _) in silent.flat_map(|(_, said)| said) {
            *outcomes.entry(outcome).or_default() += 1;
        }
        let Some((code, _)) = outcomes.iter().max_by_key(|(_, n)| **n) else {
            return ("no_outcome", "the comparison has no outcome: an answer has no score".into());
        };
        let told: Vec<String> = outcomes.iter().map(|(outcome, n)| format!("{outcome} {n}")).collect();
        (code, format!("nothing that the judge said in one of the orders was readable ({}); the comparison has no outcome", told.join(", ")))
    }
}

impl Map for Compare {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let ours = answers(input, |_| true)?;
        let mut from = cx.step.inputs.iter().filter(|i| i.key == "from").skip(1);
        let met = match from.next() {
            Some(other) => partners(cx, ours, &other.step)?,
            None => among(ours),
        };
        let mut results = vec![Compared { orders: [None; 2], outcome: Outcome::Null, judgements: Default::default() }; met.len()];
        let mut judge = "score".to_owned();
        if self.by_score {
            let score = |a: &Answer| a.score.map(f64::from);
            for (result, (_, a, b)) in results.iter_mut().zip(&met) {
                result.outcome = Outcome::of_scores(score(a), b.as_ref().and_then(score), self.margin);
            }
        } else {
            let engine = cx.services::<Models>()?.engine(cx)?;
            judge = engine.id().to_owned();
            let rows: Vec<String> = met.iter().map(|(_, a, b)| format!("{} {}", a.id, b.as_ref().map_or("", |b| &b.id))).collect();
            let mut asked: Vec<usize> = Vec::new();
            let mut pairs: Vec<Pair<'_>> = Vec::new();
            for (i, (_, a, b)) in met.iter().enumerate() {
                if let Some(b) = b {
                    asked.push(i);
                    pairs.push(Pair { row: &rows[i], prompt: &a.prompt, a: &a.text, b: &b.text });
                }
            }
            for (i, said) in asked.into_iter().zip(self.pairwise.compare(cx, &*engine, &pairs)?) {
                let [first, second] = &said.orders;
                results[i] = Compared {
                    orders: [first, second].map(|o| o.verdict.map(|v| outcome(Some(v)))),
                    outcome: outcome(said.verdict),
                    judgements: [judgements(first, false), judgements(second, true)],
                };
            }
        }
        let mut errors = Vec::new();
        for ((sample, a, b), result) in met.iter().zip(&results) {
            if b.is_none() {
                let message = "the other step has no answer to this prompt and sample: a comparison without an outcome. Both are to answer the same prompts, with the same prompt_id";
                errors.push(RowError::failed(format!("{}/{sample}", a.prompt_id), "no_partner", message));
            } else if result.outcome == Outcome::Null {
                let (code, message) = result.unread();
                errors.push(RowError::failed(format!("{}/{sample}", a.prompt_id), code, message));
            }
        }
        let expected = |(_, a, b): &Met| {
            let (ours, theirs) = (a.rank?, b.as_ref()?.rank?);
            Some(match ours.cmp(&theirs) {
                std::cmp::Ordering::Less => Outcome::Win,
                std::cmp::Ordering::Equal => Outcome::Tie,
                std::cmp::Ordering::Greater => Outcome::Loss,
            }.name())
        };
        let text = |of: &dyn Fn(&Met) -> Option<String>| -> ArrayRef { Arc::new(met.iter().map(of).collect::<StringArray>()) };
        let second = |of: fn(&Answer) -> String| -> ArrayRef { text(&|m| m.2.as_ref().map(of)) };
        let score = |of: &dyn Fn(&Met) -> Option<f32>| -> ArrayRef { Arc::new(met.iter().map(of).collect::<Float32Array>()) };
        let order = |n: usize| -> ArrayRef { Arc::new(results.iter().map(|r| r.orders[n].map(Outcome::name)).collect::<StringArray>()) };
        let said = |n: usize| List::of_judgements(&results.iter().map(|r| r.judgements[n].clone()).collect::<Vec<_>>());
        let rows = named::COMPARISONS.batch(vec![
            text(&|m| Some(m.1.prompt_id.clone())),
            text(&|m| Some(m.1.prompt.clone())),
            Arc::new(UInt32Array::from_iter_values(met.iter().map(|m| m.0))),
            text(&|m| Some(m.1.id.clone())),
            second(|b| b.id.clone()),
            text(&|m| Some(m.1.text.clone())),
            second(|b| b.text.clone()),
            score(&|m| m.1.score.filter(|_| self.by_score)),
            score(&|m| m.2.as_ref()?.score.filter(|_| self.by_score)),
            order(0),
            order(1),
            Arc::new(StringArray::from_iter_values(results.iter().map(|r| r.outcome.name()))),
            Arc::new(met.iter().map(expected).collect::<StringArray>()),
            said(0),
            said(1),
            Arc::new(StringArray::from(vec![judge.as_str(); met.len()])),
        ])?;
        Ok(Output { rows, errors })
    }
}
