//! `judge`: a model scores every answer by a rubric (LLM-as-a-Judge), several times, and the readable
//! scores are averaged.
//!
//! If `max_samples` exceeds `samples`, the budget is adaptive. All answers of a prompt are judged once more
//! while the highest and the lowest mean score are less than `z` standard errors of their difference apart,
//! `s sqrt(1/n_high + 1/n_low)`, where s is the standard deviation of a judgement, pooled over the prompt's
//! answers. A judge that always repeats itself (s = 0) is not asked again. The decision depends on the
//! prompt's own judgements alone. This is an option because it changes the estimator: stopping at a large
//! difference overestimates the difference on average.

use std::collections::BTreeMap;

use super::client::{JudgeClient, JudgeReply, JudgeRequest};
use super::expected::Expected;
use super::pairwise::Pairwise;
use super::score::Reader;
use super::scored::{ScoredResponse, scored};
use super::structured;
use super::tournament;
use crate::data::{Judgement, counted};
use crate::dataflow::{Map, MeasureRows};
use crate::engine::Engine;
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
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
            ("expected", "the mean of the scores by the probability that the judge gives each; see `reasons`"),
            (
                "pairwise",
                "the judge compares the prompt's answers two by two, in both orders; a score is the share of wins, a tie half of one",
            ),
        ];
        let mode = f.choice("mode", "how answers are scored", &modes, Some("sampled"));
        let pairwise = mode == "pairwise";
        let about = "judge prompt: a built-in template or a file with {{ prompt }} and {{ response }}; in pairwise mode with {{ prompt }}, \
                     {{ first }} and {{ second }}, and then \"pairwise\" unless given";
        let (default, variables) =
            if pairwise { ("pairwise", Variables::COMPARE) } else { ("additive-5", Variables::JUDGE) };
        let rubric = PromptTemplate::field(f, "rubric", about, default, variables);
        let reader = Reader::fields(f, if pairwise { "verdict" } else { "score" });
        let expected = Expected::fields(f, mode == "expected", &reader);
        let silent = expected.as_ref().is_some_and(Expected::scores_only);
        let about = "judgements per answer; in pairwise mode, per pair and order";
        let samples = f.int("samples", about, Some(if pairwise || silent { 1 } else { 3 }), 1..=1024) as u32;
        let about = "maximum judgements per answer while the prompt's best and worst answers are undecided; defaults to `samples`";
        let max_samples = f.optional_int("max_samples", about, 1..=1024).map(|n| n as u32);
        let z = f.float(
            "z",
            "number of standard errors by which the best and worst mean must differ to be decided",
            Some(1.96),
            0.0..=100.0,
        );
        let about = "pairwise mode: most pairs of a prompt, each answer as often as another where it can be; 0 for all";
        let max_pairs = f.count("max_pairs", about, Some(0), 0..=1_000_000);
        let about = "keeps the token ids and log-probabilities of judgements, and the judge's prompt: what training on them needs";
        let keep_tokens = f.bool("keep_tokens", about, Some(false));
        let form = structured::field(f);
        let mut asking = JudgeClient::fields(f, samples);
        if form.is_some() && (expected.is_some() || keep_tokens) {
            let message = "a judgement that is held to a form has other probabilities than the judge's own";
            let help = if keep_tokens {
                "take `keep_tokens` out, or let the judge write freely"
            } else {
                "set mode = \"sampled\""
            };
            f.problem("structured", message, help);
        } else if let Some(form) = form.filter(|_| !pairwise) {
            asking.sampling.constraint = structured::of_scores(f, form, &reader, asking.sampling.max_tokens);
        }
        if silent {
            let setting = "where the judge writes nothing: expected scores without reasons are read from probabilities";
            f.without_effect(&["pattern", "several", "sampling", "retries"], setting, "set reasons = true");
        }
        if pairwise {
            f.without_effect(&["several"], "in pairwise mode, where a verdict is read", "");
        }
        if !pairwise && f.given("max_pairs") {
            f.problem("max_pairs", "only pairwise mode has pairs", "set mode = \"pairwise\", or take the key out");
        }
        for key in ["max_samples", "z", "keep_tokens"] {
            if (pairwise || silent) && f.given(key) {
                f.problem(key, format!("{mode} mode has no samples of a score"), "take the key out");
            }
        }
        if silent && f.given("samples") && samples > 1 {
            f.problem(
                "samples",
                "an expected score without reasons is always the same",
                "take the key out, or set reasons = true",
            );
        }
        if max_samples.is_some_and(|most| most < samples) {
            f.problem(
                "max_samples",
                "fewer than `samples`",
                "it is the most judgements of an answer, and `samples` the fewest",
            );
        }
        if f.given("z") && max_samples.is_none() {
            f.problem("z", "nothing is decided without `max_samples`", "give `max_samples`, or take the key out");
        }
        let scale = (reader.min, reader.max);
        let way = if pairwise {
            let mut by = Pairwise { template: rubric, pattern: reader.into_pattern(), samples, asking };
            form.into_iter().for_each(|form| by.constrain(f, form));
            ScoringMode::Pairwise { by, most: if max_pairs == 0 { usize::MAX } else { max_pairs } }
        } else {
            let max_samples = max_samples.unwrap_or(samples).max(samples);
            ScoringMode::Rubric(Rubric { rubric, reader, samples, max_samples, z, asking, expected, keep_tokens })
        };
        Box::new(Judge { way, scale })
    },
};

struct Judge {
    way: ScoringMode,
    /// The lowest and the highest score.
    scale: (f32, f32),
}

/// How answers are scored.
enum ScoringMode {
    Rubric(Rubric),
    Pairwise { by: Pairwise, most: usize },
}

/// The judgements of one request, and the judge's prompt if it is kept.
type Asked = (Vec<Judgement>, Option<(String, Arc<[u32]>)>);

struct Rubric {
    rubric: PromptTemplate,
    reader: Reader,
    samples: u32,
    max_samples: u32,
    z: f64,
    asking: JudgeClient,
    expected: Option<Expected>,
    keep_tokens: bool,
}

impl StepSpec for Judge {
    fn explain(&self) -> String {
        let rubric = match &self.way {
            ScoringMode::Pairwise { by, .. } => return format!("share of wins, {}", by.describe()),
            ScoringMode::Rubric(rubric) => rubric,
        };
        let name = rubric.rubric.name();
        let samples = match (rubric.samples, rubric.max_samples) {
            (n, most) if n == most => counted(n, "judgement"),
            (n, most) => format!("{n} to {}", counted(most, "judgement")),
        };
        let drawn = rubric.asking.describe();
        match &rubric.expected {
            Some(e) if e.scores_only() => format!("rubric {name}, {}", e.describe()),
            Some(e) => format!("rubric {name}, {}, mean of {samples}, {drawn}", e.describe()),
            None => format!("rubric {name}, mean of {samples}, {drawn}"),
        }
    }
    fn scale(&self) -> Option<(f32, f32)> {
        Some(self.scale)
    }
    fn needs_choices(&self) -> bool {
        matches!(&self.way, ScoringMode::Rubric(rubric) if rubric.expected.is_some())
    }
    fn constrains(&self) -> Option<&'static str> {
        match &self.way {
            ScoringMode::Rubric(rubric) => rubric.asking.constrains(),
            ScoringMode::Pairwise { by, .. } => by.asking.constrains(),
        }
    }
    fn asks(&self) -> Option<Asks> {
        match &self.way {
            ScoringMode::Pairwise { by, .. } => by.asks(),
            ScoringMode::Rubric(r) => {
                let silent = r.expected.as_ref().is_some_and(Expected::scores_only);
                let max_tokens = if silent { 1 } else { r.asking.sampling.max_tokens };
                r.rubric.asks(&[("prompt", "".into()), ("response", "".into())], max_tokens)
            }
        }
    }
    fn work(&self, _: u32, inputs: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let from = inputs.first().map(|i| i.amount).unwrap_or_default();
        let (silent, sampling) = match &self.way {
            ScoringMode::Rubric(r) => (r.expected.as_ref().is_some_and(Expected::scores_only), &r.asking.sampling),
            ScoringMode::Pairwise { by, .. } => (false, &by.asking.sampling),
        };
        let most = if silent { 0. } else { sampling.max_tokens as f64 };
        // Number of requests, judgements per request, and tokens read after the rubric. Under an adaptive
        // budget the estimate assumes the most judgements for every answer.
        let (asked, judgements, read) = match &self.way {
            ScoringMode::Rubric(r) => (from.rows, f64::from(r.max_samples), from.prompt + from.answer),
            ScoringMode::Pairwise { by, most, .. } => {
                let pairs = (from.per_prompt * (from.per_prompt - 1.) / 2.).min(*most as f64);
                (2. * pairs * from.prompts(), f64::from(by.samples), from.prompt + 2. * from.answer)
            }
        };
        CostEstimate::of_judging(from, asked, judgements, read, most, assume)
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
    fn measure(&self) -> Option<MeasureRows> {
        Some(crate::operators::shared::health::measure_judged)
    }
}

impl Map for Judge {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let engine = cx.env::<Models>()?.engine(cx)?;
        match &self.way {
            ScoringMode::Rubric(rubric) => rubric.judge(cx, &*engine, input),
            ScoringMode::Pairwise { by, most } => {
                tournament::round_robin(cx, &*engine, input, by, *most, self.scale.0..=self.scale.1)
            }
        }
    }
}

impl Rubric {
    fn judge(&self, cx: &Context<'_>, engine: &dyn Engine, input: &RecordBatch) -> Result<Output> {
        let columns = Columns(input);
        let (prompts, responses, ids) =
            (columns.text("prompt")?, columns.text("response")?, columns.text("response_id")?);
        let prompt_ids = columns.text("prompt_id")?;
        let render =
            |i| self.rubric.render(&[("prompt", prompts.value(i).into()), ("response", responses.value(i).into())]);
        let texts: Vec<String> = (0..input.num_rows()).map(render).collect::<Result<_>>()?;
        let judged: Vec<ScoredResponse> = match &self.expected {
            Some(expected) if expected.scores_only() => {
                expected.silent(cx, engine, &texts)?.into_iter().map(|j| ScoredResponse::mean(vec![j])).collect()
            }
            _ => {
                let mut judged = vec![ScoredResponse::default(); texts.len()];
                // All answers to a prompt are in one microbatch.
                let mut answers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
                (0..texts.len()).for_each(|i| answers.entry(prompt_ids.value(i)).or_default().push(i));
                let mut open: Vec<Vec<usize>> = answers.into_values().collect();
                let (mut from, mut to) = (0, self.samples);
                loop {
                    let mut rows: Vec<usize> = open.iter().flatten().copied().collect();
                    rows.sort_unstable();
                    let question = |&i: &usize| JudgeRequest { row: ids.value(i), samples: from..to, text: &texts[i] };
                    let questions: Vec<JudgeRequest<'_>> = rows.iter().map(question).collect();
                    let said = self.ask(cx, engine, &questions)?;
                    for (i, (judgements, prompt)) in rows.into_iter().zip(said) {
                        judged[i].judgements.extend(judgements);
                        judged[i].prompt = judged[i].prompt.take().or(prompt);
                    }
                    (from, to) = (to, to + 1);
                    let scores =
                        |i: &usize| judged[*i].judgements.iter().filter_map(|j| j.score).map(f64::from).collect();
                    open.retain(|rows| {
                        to <= self.max_samples && !decided(&rows.iter().map(scores).collect::<Vec<_>>(), self.z)
                    });
                    if open.is_empty() {
                        break;
                    }
                }
                judged
                    .into_iter()
                    .map(|j| ScoredResponse { prompt: j.prompt, ..ScoredResponse::mean(j.judgements) })
                    .collect()
            }
        };
        let unscored = judged.iter().enumerate().filter(|(_, j)| j.score.is_none());
        let errors = unscored.map(|(i, j)| j.unreadable(ids.value(i)));
        let mut ledger = Ledger::new(input);
        ledger.all_kept();
        errors.for_each(|error| ledger.note(error));
        ledger.close(scored(input, &judged, engine.id(), engine.tokenizer())?)
    }

    /// Returns the judgements of each request, and the judge's prompt if it is kept.
    fn ask(&self, cx: &Context<'_>, engine: &dyn Engine, questions: &[JudgeRequest<'_>]) -> Result<Vec<Asked>> {
        let said = self.asking.ask(cx, engine, questions, |text, cut| self.reader.read(text, cut))?;
        let judgement = |s: &JudgeReply| {
            let answer = s.answer.as_ref().ok().filter(|_| self.keep_tokens);
            let tokens = answer.map(|a| (a.tokens.clone(), a.logprobs.clone()));
            Judgement { text: s.text().into(), outcome: s.outcome.into(), score: s.value, mass: None, tokens }
        };
        let pairs = std::iter::zip(questions, &said);
        let mut flat: Vec<(&str, Judgement, &JudgeReply)> =
            pairs.flat_map(|(q, said)| said.iter().map(|s| (q.text, judgement(s), s))).collect();
        if let Some(expected) = &self.expected {
            expected.after(cx, engine, &self.reader, &mut flat)?;
        }
        let mut flat = flat.into_iter();
        let row = |(question, said): (&JudgeRequest<'_>, &Vec<JudgeReply>)| {
            let answer = said.iter().find_map(|s| s.answer.as_ref().ok()).filter(|_| self.keep_tokens);
            let prompt = answer.map(|a| (question.text.to_owned(), a.prompt_tokens.clone()));
            (flat.by_ref().take(said.len()).map(|(_, j, _)| j).collect(), prompt)
        };
        Ok(std::iter::zip(questions, &said).map(row).collect())
    }
}

/// Whether the best and the worst answer of a prompt are `z` standard errors apart; see the top of the
/// file.
fn decided(scores: &[Vec<f64>], z: f64) -> bool {
    let mean = |s: &Vec<f64>| s.iter().sum::<f64>() / s.len() as f64;
    let readable: Vec<(f64, &Vec<f64>)> = scores.iter().filter(|s| !s.is_empty()).map(|s| (mean(s), s)).collect();
    // A single answer makes no pair, however often it is judged.
    if scores.len() < 2 {
        return true;
    }
    let degrees: usize = readable.iter().map(|(_, s)| s.len() - 1).sum();
    let squares: f64 = readable.iter().flat_map(|(m, s)| s.iter().map(move |x| (x - m).powi(2))).sum();
    let by_mean = |a: &&(f64, &Vec<f64>), b: &&(f64, &Vec<f64>)| a.0.total_cmp(&b.0);
    let (Some(low), Some(high)) = (readable.iter().min_by(by_mean), readable.iter().max_by(by_mean)) else {
        return false;
    };
    if readable.len() < 2 || degrees == 0 {
        return false;
    }
    let error = (squares / degrees as f64 * (1. / low.1.len() as f64 + 1. / high.1.len() as f64)).sqrt();
    error == 0. || high.0 - low.0 > z * error
}

#[cfg(test)]
mod tests {
    use super::decided;

    #[test]
    fn best_and_worst_are_decided_by_standard_errors() {
        // s^2 = (0.5 + 0.5) / 2 = 0.5, error = sqrt(0.5 (1/2 + 1/2)) = 0.7071, difference 2.
        let scores = [vec![4., 5.], vec![2., 3.]];
        assert!(decided(&scores, 2.8) && !decided(&scores, 2.9));
        // An answer in between contributes its variance: s^2 = (0.5 + 0.5 + 8) / 3 = 3, error = sqrt(3).
        let scores = [vec![4., 5.], vec![1.5, 5.5], vec![2., 3.]];
        assert!(decided(&scores, 1.15) && !decided(&scores, 1.16));
        assert!(decided(&[vec![3., 3.], vec![3., 3.]], 1.96), "a judge that repeats itself");
        assert!(!decided(&[vec![3.], vec![5.]], 1.96), "nothing is known of the spread");
        assert!(!decided(&[vec![], vec![5., 4.]], 1.96), "one is not readable yet");
        assert!(decided(&[vec![5., 1.]], 1.96), "there is no other");
    }
}
