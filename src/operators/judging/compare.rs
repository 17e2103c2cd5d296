//! `compare`: compares the answers of two steps to the same prompts, by a judge that reads them in both
//! orders or by their scores. This is the paper's head-to-head evaluation (section 3.1.2: 256 prompts, and
//! a tie if the orders disagree).
//!
//! Answers of two steps match by prompt and sample number, across microbatches. An answer without a partner
//! is a row of `errors`; one of the first step is also a comparison without an outcome.
//!
//! With one step, the answers to each prompt are compared with each other. If they have ranks (`ranked`
//! rows, LLMBar), the outcome expected from the ranks is stored next to the judge's.

use std::collections::{BTreeMap, HashMap};

use super::pairwise::{AnswerPair, Pairwise, Verdict};
use crate::data::{Id, Judgement};
use crate::dataflow::{Join, Joined, Map};
use crate::eval::win_rate::ComparisonOutcome;
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
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
            f.problem(
                "by",
                "a judge is needed to compare answers",
                "name one: model = \"NAME\"; or write by = \"score\"",
            );
        }
        let margin = f.float("margin", "by score: scores no further apart than this tie", Some(0.), 0.0..=1e6);
        let pairwise = Pairwise::fields(f);
        if by_score {
            f.without_effect(&Pairwise::KEYS, "with by = \"score\", where no model is asked", "write by = \"judge\"");
        } else {
            f.without_effect(&["margin"], "with by = \"judge\"", "write by = \"score\"");
        }
        Box::new(Compare { by_score, margin, pairwise })
    },
};

struct Compare {
    by_score: bool,
    margin: f64,
    pairwise: Pairwise,
}

impl StepSpec for Compare {
    fn explain(&self) -> String {
        if self.by_score { format!("by score, a tie within {}", self.margin) } else { self.pairwise.describe() }
    }
    fn asks(&self) -> Option<Asks> {
        if self.by_score { None } else { self.pairwise.asks() }
    }
    fn constrains(&self) -> Option<&'static str> {
        self.pairwise.asking.constrains().filter(|_| !self.by_score)
    }
    fn work(&self, _: u32, inputs: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let from = inputs.first().map(|i| i.amount).unwrap_or_default();
        if self.by_score {
            return CostEstimate::rows(from);
        }
        let by = &self.pairwise;
        let others =
            if inputs.iter().filter(|i| i.key == "from").count() > 1 { 1. } else { (from.per_prompt - 1.) / 2. };
        let (asked, read) = (2. * from.rows * others, from.prompt + 2. * from.answer);
        let most = by.asking.sampling.max_tokens as f64;
        CostEstimate::of_judging(from, asked, f64::from(by.samples), read, most, assume)
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
    fn join(&self) -> Option<Join> {
        Some(Join::ByKey(prompt_and_sample))
    }
}

/// The key that matches answers of two steps: prompt id and sample number.
fn prompt_and_sample(rows: &RecordBatch) -> Result<Vec<u128>> {
    let prompt_ids = Columns(rows).text("prompt_id")?;
    let key = |(i, sample): (usize, u32)| Id::from_parts([prompt_ids.value(i).as_bytes(), &sample.to_le_bytes()]).0;
    Ok(samples(rows)?.into_iter().enumerate().map(key).collect())
}

/// Returns the sample number of each row: the stored one, or else its position among the rows of its
/// prompt.
fn samples(rows: &RecordBatch) -> Result<Vec<u32>> {
    let columns = Columns(rows);
    if rows.column_by_name("sample").is_some() {
        return Ok(columns.uint("sample")?.values().to_vec());
    }
    let prompt_ids = columns.text("prompt_id")?;
    let mut places: HashMap<&str, u32> = HashMap::new();
    let mut place = |i: usize| {
        let next = places.entry(prompt_ids.value(i)).or_default();
        *next += 1;
        *next - 1
    };
    Ok((0..rows.num_rows()).map(&mut place).collect())
}

/// An answer of either side.
#[derive(Clone)]
struct SideAnswer {
    prompt_id: String,
    prompt: String,
    id: String,
    text: String,
    /// The stored sample number, or its position among the prompt's rows.
    sample: u32,
    score: Option<f32>,
    rank: Option<u32>,
}

/// Reads the answers of a batch.
fn answers(rows: &RecordBatch) -> Result<Vec<SideAnswer>> {
    let columns = Columns(rows);
    let has = |name: &str| rows.column_by_name(name).is_some();
    let (prompt_ids, prompts) = (columns.text("prompt_id")?, columns.text("prompt")?);
    let (ids, texts) = (columns.text("response_id")?, columns.text("response")?);
    let scores = has("score").then(|| columns.float("score")).transpose()?;
    let ranks = has("rank").then(|| columns.uint("rank")).transpose()?;
    let answer = |(i, sample): (usize, u32)| SideAnswer {
        prompt_id: prompt_ids.value(i).into(),
        prompt: prompts.value(i).into(),
        id: ids.value(i).into(),
        text: texts.value(i).into(),
        sample,
        score: scores.filter(|s| s.is_valid(i)).map(|s| s.value(i)),
        rank: ranks.map(|r| r.value(i)),
    };
    Ok(samples(rows)?.into_iter().enumerate().map(answer).collect())
}

/// A pair with its sample number; the second answer may be missing.
type Met = (u32, SideAnswer, Option<SideAnswer>);

/// Pairs every answer of `ours` with the other step's answer to the same prompt and sample.
fn partners(ours: Vec<SideAnswer>, joined: &Joined) -> Result<Vec<Met>> {
    let theirs = answers(&joined.partners)?;
    let met = |(a, partner): (SideAnswer, &Option<usize>)| (a.sample, a, partner.map(|at| theirs[at].clone()));
    Ok(ours.into_iter().zip(&joined.partner_of).map(met).collect())
}

/// Leaves out answers of the other step without a partner.
fn leave_out_strangers(first: &str, joined: &Joined, ledger: &mut Ledger) -> Result<()> {
    let message = format!(
        "`{first}` has no answer to this prompt and sample, so this one is compared with none. Both steps are to answer the \
         same prompts, with the same prompt_id"
    );
    for (i, a) in answers(&joined.unmatched)?.into_iter().enumerate() {
        let row = format!("{}/{}", a.prompt_id, a.sample);
        ledger.unmatched_left_out(i, RowError::failed(row, "no_partner", message.clone()));
    }
    Ok(())
}

/// Leaves out answers to prompts with only one answer.
fn leave_out_lone(ours: &[SideAnswer], ledger: &mut Ledger) {
    let mut of_prompt: HashMap<&str, usize> = HashMap::new();
    ours.iter().for_each(|a| *of_prompt.entry(&a.prompt_id).or_default() += 1);
    for (i, a) in ours.iter().enumerate() {
        if of_prompt[a.prompt_id.as_str()] == 1 {
            let message = "the prompt has one answer only, and there is none to compare it with";
            ledger.left_out([i], RowError::dropped(&a.prompt_id, "one_answer", message));
        } else {
            ledger.kept(i);
        }
    }
}

/// Pairs every two answers of a prompt.
fn among(ours: Vec<SideAnswer>) -> Vec<Met> {
    let mut order: Vec<String> = Vec::new();
    let mut prompts: BTreeMap<String, Vec<SideAnswer>> = BTreeMap::new();
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

/// Returns the outcome of the first answer.
fn outcome(verdict: Option<Verdict>) -> ComparisonOutcome {
    match verdict {
        Some(Verdict::First) => ComparisonOutcome::Win,
        Some(Verdict::Tie) => ComparisonOutcome::Tie,
        Some(Verdict::Second) => ComparisonOutcome::Loss,
        None => ComparisonOutcome::Null,
    }
}

/// The result for a pair.
#[derive(Clone)]
struct Compared {
    orders: [Option<ComparisonOutcome>; 2],
    outcome: ComparisonOutcome,
    judgements: [Vec<Judgement>; 2],
}

impl Compared {
    /// Explains a missing outcome, as a code: the most frequent outcome of the replies in an order without
    /// a readable one.
    fn unread(&self) -> (&str, String) {
        let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
        let silent = self.orders.iter().zip(&self.judgements).filter(|(order, _)| order.is_none());
        for judgement in silent.flat_map(|(_, said)| said) {
            *outcomes.entry(&judgement.outcome).or_default() += 1;
        }
        let Some((code, _)) = outcomes.iter().max_by_key(|(_, n)| **n) else {
            return ("no_outcome", "the comparison has no outcome: an answer has no score".into());
        };
        let told: Vec<String> = outcomes.iter().map(|(outcome, n)| format!("{outcome} {n}")).collect();
        (
            code,
            format!(
                "nothing that the judge said in one of the orders was readable ({}); the comparison has no outcome",
                told.join(", ")
            ),
        )
    }
}

impl Map for Compare {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let ours = answers(input)?;
        let (met, mut ledger) = if cx.step.inputs.iter().any(|i| i.joined) {
            let joined = cx.joined()?;
            let mut ledger = Ledger::of_join(input, joined);
            ledger.all_kept();
            leave_out_strangers(&cx.step.inputs[0].step, joined, &mut ledger)?;
            (partners(ours, joined)?, ledger)
        } else {
            let mut ledger = Ledger::new(input);
            leave_out_lone(&ours, &mut ledger);
            (among(ours), ledger)
        };
        let mut results =
            vec![
                Compared { orders: [None; 2], outcome: ComparisonOutcome::Null, judgements: Default::default() };
                met.len()
            ];
        let mut judge = "score".to_owned();
        if self.by_score {
            let score = |a: &SideAnswer| a.score.map(f64::from);
            for (result, (_, a, b)) in results.iter_mut().zip(&met) {
                result.outcome = ComparisonOutcome::from_scores(score(a), b.as_ref().and_then(score), self.margin);
            }
        } else {
            let engine = cx.env::<Models>()?.engine(cx)?;
            judge = engine.id().to_owned();
            let rows: Vec<String> =
                met.iter().map(|(_, a, b)| format!("{} {}", a.id, b.as_ref().map_or("", |b| &b.id))).collect();
            let mut asked: Vec<usize> = Vec::new();
            let mut pairs: Vec<AnswerPair<'_>> = Vec::new();
            for (i, (_, a, b)) in met.iter().enumerate() {
                if let Some(b) = b {
                    asked.push(i);
                    pairs.push(AnswerPair { row: &rows[i], prompt: &a.prompt, a: &a.text, b: &b.text });
                }
            }
            for (i, said) in asked.into_iter().zip(self.pairwise.compare(cx, &*engine, &pairs)?) {
                let [first, second] = &said.orders;
                results[i] = Compared {
                    orders: [first, second].map(|o| o.verdict.map(|v| outcome(Some(v)))),
                    outcome: outcome(said.verdict),
                    judgements: [first.judgements(false), second.judgements(true)],
                };
            }
        }
        for ((sample, a, b), result) in met.iter().zip(&results) {
            if b.is_none() {
                let message = "the other step has no answer to this prompt and sample: a comparison without an outcome. Both are to answer the same prompts, with the same prompt_id";
                ledger.note(RowError::failed(format!("{}/{sample}", a.prompt_id), "no_partner", message));
            } else if result.outcome == ComparisonOutcome::Null {
                let (code, message) = result.unread();
                ledger.note(RowError::failed(format!("{}/{sample}", a.prompt_id), code, message));
            }
        }
        let expected = |(_, a, b): &Met| {
            let (ours, theirs) = (a.rank?, b.as_ref()?.rank?);
            Some(
                match ours.cmp(&theirs) {
                    std::cmp::Ordering::Less => ComparisonOutcome::Win,
                    std::cmp::Ordering::Equal => ComparisonOutcome::Tie,
                    std::cmp::Ordering::Greater => ComparisonOutcome::Loss,
                }
                .name(),
            )
        };
        let text =
            |of: &dyn Fn(&Met) -> Option<String>| -> ArrayRef { Arc::new(met.iter().map(of).collect::<StringArray>()) };
        let second = |of: fn(&SideAnswer) -> String| -> ArrayRef { text(&|m| m.2.as_ref().map(of)) };
        let score =
            |of: &dyn Fn(&Met) -> Option<f32>| -> ArrayRef { Arc::new(met.iter().map(of).collect::<Float32Array>()) };
        let order = |n: usize| -> ArrayRef {
            Arc::new(results.iter().map(|r| r.orders[n].map(ComparisonOutcome::name)).collect::<StringArray>())
        };
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
        ledger.close(rows)
    }
}
