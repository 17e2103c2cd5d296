//! `meta-judge`: a model judges judgements (Meta-Rewarding, arXiv 2407.19594), so that judging can be
//! trained too.
//!
//! For each prompt the answer is taken whose judgements' scores vary most. Its readable judgements are
//! compared two by two in both orders and rated by Bradley-Terry (`eval::ratings`). An output row is one
//! judgement as an answer to the judge's prompt, with the tokens that the judge sampled and its rating as
//! the score; `select` makes judge pairs from them as from any scored answers.
//!
//! To offset a preference for the position, a win in the first place counts `w1` and one in the second
//! place `w2`. By default `w1 = wins in second place / all wins` and `w2 = wins in first place / all wins`,
//! over the microbatch.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::client::JudgeClient;
use super::pairwise::{self, AnswerPair, PairReplies, Pairwise, Verdict};
use super::score::{self, Strip};
use crate::data::{Id, Judgement, Type, counted};
use crate::dataflow::Map;
use crate::eval::ratings::{Battle, RatingScale, ratings};
use crate::operators::shared::prelude::*;
use arrow::array::new_null_array;
use arrow::compute::take_record_batch;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "meta-judge",
    about: "rates the judgements of the answer that a prompt's judge is least sure of, for judge pairs",
    shape: Shape::Map,
    model: NeedsModel::Yes,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.scores]\nop = \"judge\"\nfrom = \"responses\"\nmodel = \"policy\"\nsamples = 11\nkeep_tokens = true\n\n[step.judgements]\nop = \"meta-judge\"\nfrom = \"scores\"\nmodel = \"policy\"\n\n[step.judge_pairs]\nop = \"select\"\nfrom = \"judgements\"\n",
    parse: |f| {
        let about = "the meta-judge's prompt: a built-in template or a file with {{ prompt }} (the judge's), {{ first }} and {{ second }} (judgements)";
        let template = PromptTemplate::field(f, "template", about, "meta-judge", Variables::COMPARE);
        let pattern = score::pattern(f, "pattern", pairwise::ABOUT, "verdict");
        let samples = f.int("samples", "comparisons per pair of judgements and order", Some(1), 1..=1024) as u32;
        let strip = f.bool(
            "strip_score",
            "takes the scores out of the judgements before they are compared, so that they are judged by their reasons",
            Some(true),
        );
        let scores = Strip::field(f, "score_pattern");
        if !strip {
            f.without_effect(&["score_pattern"], "with strip_score = false", "");
        }
        let most = f.count("judgements", "most judgements of an answer that are compared, the first ones; the comparisons are its square less itself", Some(11), 2..=1024);
        let rounds = f.int(
            "iterations",
            "iterations of the loop in which judgements are compared; later ones give no rows. 0 is all",
            Some(2),
            0..=1_000_000,
        ) as u32;
        f.only_in_loop("iterations");
        let weights = f.floats("order_weights", "what a win counts of the judgement shown first, and of the one shown second; measured in the microbatch unless given", Some(&[]), 0.0..=1e6);
        let weights = match weights[..] {
            [] => None,
            [first, second] if first + second > 0. => Some([first, second]),
            _ => {
                f.problem(
                    "order_weights",
                    "two numbers are needed, not both 0",
                    "for example order_weights = [0.4, 0.6]",
                );
                None
            }
        };
        let scale = RatingScale {
            scale: f.float("elo_scale", "points of rating that make odds of ten to one", Some(400.), 1e-6..=1e6),
            base: f.float("elo_base", "rating of a judgement as good as the mean", Some(1000.), -1e6..=1e6),
            l2: f.float(
                "elo_l2",
                "weight of the penalty on squared ratings, in units of elo_scale; C of scikit-learn is its inverse",
                Some(1.),
                1e-9..=1e9,
            ),
        };
        let asking = JudgeClient::fields(f, samples);
        let by = Pairwise { template, pattern, samples, asking };
        Box::new(MetaJudge { by, strip: strip.then_some(scores), most, rounds, weights, scale })
    },
};

struct MetaJudge {
    by: Pairwise,
    strip: Option<Strip>,
    most: usize,
    rounds: u32,
    weights: Option<[f64; 2]>,
    scale: RatingScale,
}

impl StepSpec for MetaJudge {
    fn explain(&self) -> String {
        let rounds =
            if self.rounds == 0 { "all iterations".into() } else { format!("iterations 1 to {}", self.rounds) };
        format!(
            "up to {} of each prompt's most varied answer, rated by Bradley-Terry, in {rounds}; {}",
            counted(self.most, "judgement"),
            self.by.describe()
        )
    }
    fn rates_judgements(&self) -> bool {
        true
    }
    fn asks(&self) -> Option<Asks> {
        self.by.asks()
    }
    fn work(&self, iteration: u32, inputs: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let from = inputs.first().map(|i| i.amount).unwrap_or_default();
        if self.rounds > 0 && iteration > self.rounds {
            return CostEstimate::default();
        }
        let judgements = self.most as f64;
        // Every two judgements of a prompt's most varied answer are compared, in both orders.
        let asked = from.prompts() * judgements * (judgements - 1.) * f64::from(self.by.samples);
        let judged = assume.rubric + from.prompt + from.answer;
        let (read, most) = (judged + 2. * assume.judgement, self.by.asking.sampling.max_tokens as f64);
        CostEstimate {
            out: RowStats {
                rows: from.prompts() * judgements,
                prompt: judged,
                answer: assume.judgement,
                per_prompt: judgements,
            },
            read: TokenCount::of_sequences(asked, 0., read),
            sampled: TokenCount::of_sequences(asked, read, assume.fill * most),
            longest: read + most,
            ..CostEstimate::default()
        }
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        let needed = ["prompt_id", "response_id", "judgements", "judge", "judge_prompt", "judge_prompt_tokens"];
        settings::needs(inputs, &needed, "scores whose judgements keep their tokens")?;
        Ok(&named::SCORES)
    }
}
impl Operator for MetaJudge {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}

/// An answer whose judgements are compared.
struct ComparedAnswer {
    row: usize,
    id: String,
    judgements: Vec<Judgement>,
    /// The judgements as the meta-judge reads them.
    shown: Vec<String>,
}

/// Population variance of the scores.
fn variance(scores: &[f64]) -> f64 {
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / scores.len() as f64
}

impl MetaJudge {
    /// Returns the answer of each prompt whose judgements are compared, in row order.
    fn candidates(&self, input: &RecordBatch, ledger: &mut Ledger) -> Result<Vec<ComparedAnswer>> {
        let columns = Columns(input);
        let (prompts, ids, said) =
            (columns.text("prompt_id")?, columns.text("response_id")?, columns.judgements("judgements")?);
        let judge_prompts = columns.text("judge_prompt")?;
        let mut best: BTreeMap<&str, (f64, usize, Vec<Judgement>)> = BTreeMap::new();
        let mut seen: Vec<&str> = Vec::new();
        let mut rows_of: HashMap<&str, Vec<usize>> = HashMap::new();
        for i in 0..input.num_rows() {
            let prompt = prompts.value(i);
            let rows = rows_of.entry(prompt).or_default();
            if rows.is_empty() {
                seen.push(prompt);
            }
            rows.push(i);
            let readable: Vec<Judgement> = said.whole(i).into_iter().filter(|j| j.score.is_some()).collect();
            let scores: Vec<f64> = readable.iter().filter_map(|j| j.score).map(f64::from).collect();
            let varies = if scores.is_empty() { 0. } else { variance(&scores) };
            // The first one is taken among equals.
            if best.get(prompt).is_none_or(|b| varies > b.0) {
                best.insert(prompt, (varies, i, readable));
            }
        }
        let mut taken = Vec::new();
        for prompt in seen {
            let Some((varies, row, readable)) = best.remove(prompt) else { continue };
            let others = rows_of.remove(prompt).unwrap_or_default();
            if varies == 0. {
                ledger.left_out(
                    others,
                    RowError::dropped(
                        prompt,
                        "no_variance",
                        "no answer of the prompt has judgements that differ, so there is nothing to compare",
                    ),
                );
                continue;
            }
            if judge_prompts.is_null(row) || readable.iter().any(|j| j.tokens.is_none()) {
                let message = "the judgements have no tokens, which training on them needs; set keep_tokens = true on the step that judged";
                ledger.left_out(others, RowError::failed(ids.value(row), "no_tokens", message));
                continue;
            }
            let mut distinct = BTreeSet::new();
            let judgements: Vec<Judgement> = readable
                .into_iter()
                .filter(|j| distinct.insert(j.tokens.as_ref().map(|t| t.0.clone())))
                .take(self.most)
                .collect();
            if judgements.len() < 2 {
                ledger
                    .left_out(others, RowError::dropped(prompt, "no_variance", "fewer than two different judgements"));
                continue;
            }
            let shown = |j: &Judgement| match &self.strip {
                Some(scores) => scores.strip(&j.text),
                None => j.text.clone(),
            };
            let shown = judgements.iter().map(shown).collect();
            others.into_iter().filter(|&other| other != row).for_each(|other| ledger.unused(other, "less_varied"));
            taken.push(ComparedAnswer { row, id: ids.value(row).to_owned(), judgements, shown });
        }
        Ok(taken)
    }

    /// Weights of a win in the first and in the second place.
    fn weights(&self, comparisons: &[PairReplies]) -> [f64; 2] {
        let said = comparisons.iter().flat_map(|c| &c.orders).flat_map(|o| &o.said).filter_map(|s| s.value);
        let (first, second) = said.fold((0f64, 0f64), |(a, b), v| match v {
            Verdict::First => (a + 1., b),
            Verdict::Second => (a, b + 1.),
            Verdict::Tie => (a, b),
        });
        let measured =
            if first + second > 0. { [second / (first + second), first / (first + second)] } else { [0.5, 0.5] };
        self.weights.unwrap_or(measured)
    }
}

/// Returns the battles of two judgements: one for each order with a verdict.
fn battles(one: usize, other: usize, comparison: &PairReplies, weights: [f64; 2]) -> Vec<Battle> {
    let battle = |(order, swapped): (&pairwise::OrderReplies, bool)| {
        let verdict = order.verdict?;
        // The verdict is about the pair; the weight depends on the place of the winner.
        let first_won = (verdict == Verdict::First) != swapped;
        let weight = match verdict {
            Verdict::Tie => (weights[0] + weights[1]) / 2.,
            _ => weights[usize::from(!first_won)],
        };
        Some(Battle { one, other, share: verdict.share(), weight })
    };
    comparison.orders.iter().zip([false, true]).filter_map(battle).collect()
}

impl Map for MetaJudge {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let mut ledger = Ledger::new(input);
        if self.rounds > 0 && cx.epoch.iteration > self.rounds {
            (0..input.num_rows()).for_each(|row| ledger.unused(row, "later_iteration"));
            return ledger.close(named::SCORES.empty());
        }
        let engine = cx.env::<Models>()?.engine(cx)?;
        let candidates = self.candidates(input, &mut ledger)?;
        let columns = Columns(input);
        let judge_prompts = columns.text("judge_prompt")?;
        let mut met: Vec<(usize, usize, usize, String)> = Vec::new();
        for (c, candidate) in candidates.iter().enumerate() {
            let n = candidate.shown.len();
            met.extend(
                (0..n)
                    .flat_map(|j| (0..j).map(move |i| (i, j)))
                    .map(|(i, j)| (c, i, j, format!("{} {i} {j}", candidate.id))),
            );
        }
        let pairs: Vec<AnswerPair<'_>> = met
            .iter()
            .map(|(c, i, j, row)| {
                let ComparedAnswer { row: at, shown, .. } = &candidates[*c];
                AnswerPair { row, prompt: judge_prompts.value(*at), a: &shown[*i], b: &shown[*j] }
            })
            .collect();
        let comparisons = self.by.compare(cx, &*engine, &pairs)?;
        let weights = self.weights(&comparisons);
        let mut rated = Rated::default();
        for (c, candidate) in candidates.iter().enumerate() {
            let own = || std::iter::zip(&met, &comparisons).filter(|((of, ..), _)| *of == c);
            let fought: Vec<Battle> = own().flat_map(|((_, i, j, _), said)| battles(*i, *j, said, weights)).collect();
            if fought.is_empty() {
                let message = "no comparison of the answer's judgements was readable";
                ledger.left_out([candidate.row], RowError::failed(&candidate.id, "no_match", message));
                continue;
            }
            ledger.kept(candidate.row);
            let scores = ratings(candidate.judgements.len(), &fought, self.scale);
            for (n, (judgement, rating)) in std::iter::zip(&candidate.judgements, scores).enumerate() {
                let said = own()
                    .filter(|((_, i, j, _), _)| *i == n || *j == n)
                    .flat_map(|((_, i, ..), said)| said.judgements(*i == n));
                rated.push(candidate, n, judgement, rating as f32, said.collect());
            }
        }
        let rows = rated.rows(input, engine.id(), engine.tokenizer())?;
        ledger.close(rows)
    }
}

/// Rated judgements on their way to rows.
#[derive(Default)]
struct Rated {
    /// Row of the answer in the input.
    source: Vec<u32>,
    sample: Vec<u32>,
    ids: Vec<String>,
    prompt_ids: Vec<String>,
    texts: Vec<String>,
    tokens: Vec<Vec<u32>>,
    logprobs: Vec<Vec<f32>>,
    ratings: Vec<f32>,
    said: Vec<Vec<Judgement>>,
}

impl Rated {
    fn push(&mut self, of: &ComparedAnswer, n: usize, judgement: &Judgement, rating: f32, said: Vec<Judgement>) {
        let (tokens, logprobs) = judgement.tokens.clone().unwrap_or_default();
        let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        self.source.push(of.row as u32);
        self.sample.push(n as u32);
        // The judge's prompt has its own id, other than the answer's prompt.
        self.prompt_ids.push(hash_hex(["judgements", &of.id]));
        self.ids.push(Id::from_parts([of.id.as_bytes(), &(n as u32).to_le_bytes(), &bytes]).to_string());
        self.texts.push(judgement.text.clone());
        self.tokens.push(tokens);
        self.logprobs.push(logprobs);
        self.ratings.push(rating);
        self.said.push(said);
    }

    fn rows(self, input: &RecordBatch, judge: &str, judge_tokenizer: Option<&str>) -> Result<RecordBatch> {
        let from = take_record_batch(input, &UInt32Array::from(self.source.clone()))?;
        let of = Columns(&from);
        let text = |values: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(values)) };
        let (prompts, prompt_tokens) = (of.text("judge_prompt")?, of.tokens("judge_prompt_tokens")?);
        let rows = 0..from.num_rows();
        let nothing = |name: &str| -> ArrayRef {
            let kind = named::SCORES.columns.iter().find(|c| c.name == name).map_or(Type::Text, |c| c.kind);
            new_null_array(&kind.arrow(), from.num_rows())
        };
        named::SCORES.batch(vec![
            text(self.prompt_ids),
            Arc::new(prompts.clone()),
            text(self.ids),
            Arc::new(UInt32Array::from(self.sample)),
            text(self.texts),
            // A readable judgement is used, even if it was cut.
            text(rows.clone().map(|_| "stop".into()).collect()),
            List::of_tokens(&rows.clone().map(|i| prompt_tokens.row(i).to_vec()).collect::<Vec<_>>()),
            List::of_tokens(&self.tokens),
            List::of_floats(&self.logprobs),
            Arc::new(of.text("judge")?.clone()),
            Arc::new(Float32Array::from(self.ratings)),
            List::of_judgements(&self.said),
            text(rows.clone().map(|_| judge.into()).collect()),
            nothing("judge_prompt"),
            nothing("score_before"),
            nothing("changes"),
            nothing("judge_prompt_tokens"),
            // The rated texts are the judge's answers.
            from.column_by_name("judge_tokenizer").map_or_else(|| nothing("tokenizer"), Arc::clone),
            Arc::new(StringArray::from(vec![judge_tokenizer; from.num_rows()])),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::judging::pairwise::OrderReplies;

    #[test]
    fn a_win_counts_by_the_place_it_was_won_in() {
        let order = |verdict| OrderReplies { said: Vec::new(), verdict };
        let comparison = |ab, ba| PairReplies { orders: [order(ab), order(ba)], verdict: None };
        let weights = [0.25, 0.75];
        let got = |ab, ba| {
            battles(0, 1, &comparison(ab, ba), weights).iter().map(|b| (b.share, b.weight)).collect::<Vec<_>>()
        };
        // a wins both battles: once in the first place, once in the second.
        assert_eq!(got(Some(Verdict::First), Some(Verdict::First)), [(1., 0.25), (1., 0.75)]);
        assert_eq!(got(Some(Verdict::Second), Some(Verdict::Second)), [(0., 0.75), (0., 0.25)]);
        assert_eq!(got(Some(Verdict::Tie), None), [(0.5, 0.5)]);
    }
}
