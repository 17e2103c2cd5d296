//! `select`: each prompt's scored answers become preference pairs, by one of a few strategies; a prompt that gives none is a
//! dropped row with its reason.
//!
//! The scores meet in a reduce as (prompt id, score in thousandths, response id), with the answer's length and the variance of
//! its judgements where a rule asks for them: what becomes of a prompt is a function of that alone
//! ([`strategies`](super::strategies)), so that a corrected score changes the pairs of its own prompt and no other. A
//! microbatch is reduced by itself, as it has all answers to its prompts.
//!
//! With `consistency`, scores of the same answers by another judge, a pair also learns how far the two judges rank the
//! prompt's answers alike: `C = (tau + 1) / 2` of CREAM (arXiv 2410.12735), tau being Kendall's tau-b over the answers that
//! both have scored. Where tau is not defined (fewer than two such answers, or a judge that scores them all the same) nothing
//! speaks for or against, and C is 1/2.

use std::collections::{HashMap, HashSet};

use super::prelude::*;
use super::strategies::{self, Reason, Rules, Strategy, Tie, UNSCORED, thousandths};
use crate::data::Id;
use crate::dataflow::{Draws, Item, Kept, Key, Keyed};
use crate::eval::statistics::kendall_tau;

pub static KIND: Kind<dyn Operator> = Kind {
    name: "select",
    about: "turns the scores of a prompt's answers into preference pairs",
    shape: Shape::Keyed,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.pairs]\nop = \"select\"\nfrom = \"scores\"\nstrategy = \"best-worst\"\n",
    parse: |f| {
        let strategies = [
            ("best-worst", "the highest against the lowest score"),
            ("best-random", "the highest against lower ones drawn at random"),
            ("all-pairs", "every answer against every lower one"),
        ];
        let strategy = match f.choice("strategy", "which answers become pairs", &strategies, Some("best-worst")) {
            "best-random" => Strategy::BestRandom,
            "all-pairs" => Strategy::AllPairs,
            _ => Strategy::BestWorst,
        };
        let other = f.step_beside("consistency", "step with another judge's scores of the same answers; the pairs then know how far the two agree, for the cream loss");
        let spans = [("row", "each prompt's own"), ("microbatch", "the mean over the microbatch's pairs, for all of them")];
        let span = f.choice("consistency_of", "whose agreement a pair has", &spans, Some("row"));
        let min_margin = f.float("min_margin", "least difference of scores", Some(0.001), 0.0..=1e6);
        let chosen_min = f.optional_float("chosen_min", "least score of a chosen answer", -1e6..=1e6);
        let rejected_max = f.optional_float("rejected_max", "greatest score of a rejected answer", -1e6..=1e6);
        let length_control = f.floats("length_control", "rho of Meta-Rewarding (arXiv 2407.19594), for best-worst: chosen is the shortest answer whose score is within this share of the prompt's range from the highest, rejected the longest one within it from the lowest; a list has a value for each iteration, the last for all further ones; 0 is off", Some(&[0.]), 0.0..=1.0);
        let length_penalty = f.float("length_penalty", "points taken off a score for each token (or character) of the answer; who is chosen and the margin go by what is left, the thresholds by the score", Some(0.), 0.0..=1e6);
        let units = [("tokens", "tokens, as sampled"), ("characters", "characters of the text")];
        let characters = f.choice("length_unit", "what lengths are counted in", &units, Some("tokens")) == "characters";
        let max_chosen_length = f.ints("max_chosen_length", "pairs whose chosen answer is longer are dropped; a list has a value for each iteration, the last for all further ones; 0 is no limit", Some(&[0]), 0..=1 << 30);
        let max_pairs = f.count("max_pairs", "most pairs of a prompt, those with the greatest margin first; best-worst gives one", Some(if strategy == Strategy::AllPairs { 64 } else { 1 }), 1..=1 << 16);
        let controlled = length_control.iter().any(|&rho| rho > 0.);
        let ties = [
            ("id", "the answer's id: arbitrary, but always the same"),
            ("variance", "the least variance of the judge's scores, then the id; the default with length_control"),
            ("length", "the shortest is chosen, the longest rejected, then the id"),
        ];
        let tie = match f.choice("tie_break", "what decides among answers of the same score", &ties, Some(if controlled { "variance" } else { "id" })) {
            "variance" => Tie::Variance,
            "length" => Tie::Length,
            _ => Tie::Id,
        };
        if strategy == Strategy::BestWorst && max_pairs > 1 {
            f.problem("max_pairs", "best-worst gives one pair of a prompt", "write strategy = \"best-random\" or \"all-pairs\" for more");
        }
        if strategy != Strategy::BestWorst && controlled {
            f.problem("length_control", "it chooses the chosen and the rejected answer itself", "leave it out, or write strategy = \"best-worst\"");
        }
        for (key, empty) in [("length_control", length_control.is_empty()), ("max_chosen_length", max_chosen_length.is_empty())] {
            if empty {
                f.problem(key, "the list is empty", "leave the key out, or give a value");
            }
        }
        Box::new(Select {
            rules: Rules {
                strategy,
                // What is a hair above a thousandth is that thousandth.
                least_margin: ((min_margin * 1000. - 1e-6).ceil() as i64).max(1),
                chosen_min: chosen_min.map(thousandths),
                rejected_max: rejected_max.map(thousandths),
                length_control,
                length_penalty,
                max_chosen_length: max_chosen_length.into_iter().map(|n| n as u32).collect(),
                max_pairs,
                tie,
            },
            strategy_name: match strategy {
                Strategy::BestWorst => "best against worst",
                Strategy::BestRandom => "best against others at random",
                Strategy::AllPairs => "all pairs",
            },
            min_margin,
            characters,
            other,
            mean: span == "microbatch",
        })
    },
};

struct Select {
    rules: Rules,
    strategy_name: &'static str,
    min_margin: f64,
    /// Lengths are counted in characters, not in tokens.
    characters: bool,
    /// The step whose scores say how consistent ours are.
    other: Option<String>,
    mean: bool,
}

impl Configured for Select {
    fn explain(&self) -> String {
        let (r, unit) = (&self.rules, if self.characters { "characters" } else { "tokens" });
        let mut words = format!("{}, margin at least {}", self.strategy_name, self.min_margin);
        if r.strategy != Strategy::BestWorst {
            words += &format!(", at most {} pairs a prompt", r.max_pairs);
        }
        let points = |thousandths: i64| thousandths as f64 / 1000.;
        words += &r.chosen_min.map(|n| format!(", chosen from {} points", points(n))).unwrap_or_default();
        words += &r.rejected_max.map(|n| format!(", rejected up to {} points", points(n))).unwrap_or_default();
        if r.length_control.iter().any(|&rho| rho > 0.) {
            words += &format!(", length control {:?}", r.length_control);
        }
        if r.length_penalty > 0. {
            words += &format!(", {} points off for each of the {unit}", r.length_penalty);
        }
        if r.max_chosen_length.iter().any(|&n| n > 0) {
            words += &format!(", chosen of at most {:?} {unit}", r.max_chosen_length);
        }
        words += match r.tie {
            Tie::Id => "",
            Tie::Variance => ", ties by the judge's variance",
            Tie::Length => ", ties by length",
        };
        if let Some(other) = &self.other {
            words += &format!(", consistency with {other}{}", if self.mean { " by microbatch" } else { "" });
        }
        words
    }
    fn work(&self, _: u32, inputs: &[Load], assume: &Assume) -> Work {
        let from = inputs.first().map(|i| i.amount).unwrap_or_default();
        // Pairs of a prompt that gives any.
        let pairs = match self.rules.strategy {
            Strategy::BestWorst => 1.,
            Strategy::BestRandom => from.per_prompt - 1.,
            Strategy::AllPairs => from.per_prompt * (from.per_prompt - 1.) / 2.,
        };
        let pairs = pairs.clamp(1., self.rules.max_pairs as f64);
        Work::rows(Amount { rows: from.prompts() * assume.pair_yield * pairs, per_prompt: pairs, ..from })
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(inputs, &["prompt_id", "response_id", "score", "response_tokens", "logprobs"], "scored answers")?;
        if self.rules.tie == Tie::Variance {
            settings::needs(inputs, &["judgements"], "the judgements of answers, whose variance breaks ties,")?;
        }
        let wrong = |p: &Port<'_>| settings::needs(std::slice::from_ref(p), &["prompt_id", "response_id", "score"], "another judge's scores").err();
        match inputs.iter().filter(|p| p.key == "consistency").find_map(wrong) {
            Some(problems) => Err(problems),
            None => Ok(&named::PAIRS),
        }
    }
}
impl Operator for Select {
    fn stage(&self) -> Stage<'_> {
        Stage::Keyed(self)
    }
}

/// C of CREAM by prompt id: of two judges' scores of the same answers.
fn consistencies(ours: &RecordBatch, theirs: &RecordBatch) -> Result<HashMap<String, f32>> {
    let scores = |rows: &RecordBatch| -> Result<Vec<(String, String, f64)>> {
        let columns = Columns(rows);
        let (prompts, answers, scores) = (columns.text("prompt_id")?, columns.text("response_id")?, columns.float("score")?);
        let scored = (0..rows.num_rows()).filter(|&i| scores.is_valid(i) && scores.value(i).is_finite());
        Ok(scored.map(|i| (prompts.value(i).to_owned(), answers.value(i).to_owned(), f64::from(scores.value(i)))).collect())
    };
    let theirs: HashMap<(String, String), f64> = scores(theirs)?.into_iter().map(|(p, a, s)| ((p, a), s)).collect();
    let mut rankings: HashMap<String, (Vec<f64>, Vec<f64>)> = HashMap::new();
    for (prompt, answer, score) in scores(ours)? {
        let both = rankings.entry(prompt.clone()).or_default();
        if let Some(other) = theirs.get(&(prompt, answer)) {
            both.0.push(score);
            both.1.push(*other);
        }
    }
    let c = |(x, y): (Vec<f64>, Vec<f64>)| ((kendall_tau(&x, &y).unwrap_or(0.) + 1.) / 2.) as f32;
    Ok(rankings.into_iter().map(|(prompt, both)| (prompt, c(both))).collect())
}

fn parse_id(hex: &str) -> u128 {
    // A stranger's dataset may have ids of its own making.
    Id::parse(hex).unwrap_or_else(|| Id::of([hex])).0
}

/// The population variance of an answer's readable scores, in millionths of a squared point.
fn variance(scores: impl Iterator<Item = f32>) -> u32 {
    let scores: Vec<f64> = scores.map(f64::from).filter(|s| s.is_finite()).collect();
    let n = scores.len().max(1) as f64;
    let mean = scores.iter().sum::<f64>() / n;
    // A float that is too large becomes the greatest integer.
    (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n * 1e6).round() as u32
}

impl Select {
    /// Whether a rule asks for lengths.
    fn measures(&self) -> bool {
        let r = &self.rules;
        r.length_penalty > 0. || r.tie == Tie::Length || r.length_control.iter().any(|&rho| rho > 0.) || r.max_chosen_length.iter().any(|&n| n > 0)
    }
}

/// The iteration that a group's scope is of.
fn iteration_of(scope: u64) -> u32 {
    (scope >> 32) as u32
}

impl Keyed for Select {
    fn items(&self, epoch: Epoch, rows: &RecordBatch) -> Result<Vec<(Key, Item)>> {
        let columns = Columns(rows);
        let (prompts, responses, scores) = (columns.text("prompt_id")?, columns.text("response_id")?, columns.float("score")?);
        let tokens = (self.measures() && !self.characters).then(|| columns.tokens("response_tokens")).transpose()?;
        let texts = (self.measures() && self.characters).then(|| columns.text("response")).transpose()?;
        let judgements = (self.rules.tie == Tie::Variance).then(|| columns.judgements("judgements")).transpose()?;
        // All answers to a prompt are in one microbatch.
        let scope = u64::from(epoch.iteration) << 32 | u64::from(epoch.microbatch);
        let item = |i: usize| {
            let score = Some(f64::from(scores.value(i))).filter(|s| scores.is_valid(i) && s.is_finite());
            let length = tokens.as_ref().map(|t| t.row(i).len()).or_else(|| texts.map(|t| t.value(i).chars().count()));
            let variance = judgements.as_ref().map(|j| variance(j.row(i).filter_map(|(_, score)| score)));
            Item {
                order: score.map_or(UNSCORED, thousandths),
                id: parse_id(responses.value(i)),
                length: length.map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
                variance: variance.unwrap_or(0),
            }
        };
        Ok((0..rows.num_rows()).map(|i| ((scope, parse_id(prompts.value(i))), item(i))).collect())
    }

    fn complete(&self) -> bool {
        true
    }

    fn reduce(&self, draws: &Draws<'_>, &(scope, prompt): &Key, group: &[Item], kept: &mut Vec<Kept>) {
        let iteration = iteration_of(scope);
        let rng = || draws.key(iteration, &Id(prompt).to_string(), 0).rng();
        match strategies::select(&self.rules, iteration, group, rng) {
            Ok(pairs) => kept.extend(pairs.into_iter().map(|p| {
                let (high, low) = (p.chosen.order, p.rejected.order);
                Kept::Pair { id: p.chosen.id, against: p.rejected.id, high, low, margin: p.margin }
            })),
            Err(reason) => kept.push(Kept::Nothing(reason.number())),
        }
    }

    fn finish(&self, cx: &Context<'_>, rows: &RecordBatch, kept: &[(Key, Kept)]) -> Result<Output> {
        let columns = Columns(rows);
        let (prompt_ids, response_ids) = (columns.text("prompt_id")?, columns.text("response_id")?);
        let tokens = columns.tokens("response_tokens")?;
        let row_of: HashMap<u128, usize> = (0..rows.num_rows()).map(|i| (parse_id(response_ids.value(i)), i)).collect();
        let first_row: HashMap<u128, usize> = (0..rows.num_rows()).rev().map(|i| (parse_id(prompt_ids.value(i)), i)).collect();
        let place = |what: &HashMap<u128, usize>, id: u128| what.get(&id).copied().ok_or_else(|| Error::bug("a pair's answer is not in its microbatch"));
        let (mut pairs, mut same): (Vec<Pair>, Vec<Pair>) = (Vec::new(), Vec::new());
        let mut dropped: Vec<(usize, Reason)> = Vec::new();
        for ((_, prompt), kept) in kept {
            let first = place(&first_row, *prompt)?;
            match *kept {
                Kept::Pair { id, against, margin, .. } => {
                    let pair = Pair { first, margin, chosen: place(&row_of, id)?, rejected: place(&row_of, against)? };
                    let alike = tokens.row(pair.chosen) == tokens.row(pair.rejected);
                    (if alike { &mut same } else { &mut pairs }).push(pair);
                }
                Kept::Nothing(number) => dropped.extend(Reason::from_number(number).map(|reason| (first, reason))),
                Kept::One(_) => return Err(Error::bug("`select` keeps pairs")),
            }
        }
        // In the order of the prompts' rows, and a prompt's best pair first.
        pairs.sort_unstable_by_key(|p| (p.first, std::cmp::Reverse(p.margin), p.chosen, p.rejected));
        let paired: HashSet<usize> = pairs.iter().map(|p| p.first).collect();
        let nothing_else: HashSet<usize> = same.iter().map(|p| p.first).filter(|first| !paired.contains(first)).collect();
        dropped.extend(nothing_else.into_iter().map(|first| (first, Reason::SameAnswer)));
        dropped.sort_unstable_by_key(|&(first, _)| first);
        let error = |(first, reason): (usize, Reason)| RowError::dropped(prompt_ids.value(first), reason.code(), reason.message());
        let errors = dropped.into_iter().map(error).collect();
        let consistency = self.consistency(cx, rows, &pairs)?;
        Ok(Output { rows: batch(columns, &pairs, consistency)?, errors })
    }
}

/// A pair by its rows.
struct Pair {
    /// The first row of its prompt.
    first: usize,
    chosen: usize,
    rejected: usize,
    /// In thousandths.
    margin: i64,
}

impl Select {
    /// C of each pair; null without another judge.
    fn consistency(&self, cx: &Context<'_>, rows: &RecordBatch, pairs: &[Pair]) -> Result<Vec<Option<f32>>> {
        let Some(other) = &self.other else { return Ok(vec![None; pairs.len()]) };
        // A microbatch that the other judge lacks agrees with nothing and contradicts nothing.
        let theirs = cx.beside(other)?.unwrap_or_else(|| named::SCORES.empty());
        let by_prompt = consistencies(rows, &theirs)?;
        let prompt_ids = Columns(rows).text("prompt_id")?;
        let each: Vec<f32> = pairs.iter().map(|p| by_prompt.get(prompt_ids.value(p.chosen)).copied().unwrap_or(0.5)).collect();
        let mean = each.iter().map(|&c| f64::from(c)).sum::<f64>() / each.len().max(1) as f64;
        Ok(each.into_iter().map(|c| Some(if self.mean { mean as f32 } else { c })).collect())
    }
}

/// The pairs' rows.
fn batch(columns: Columns<'_>, pairs: &[Pair], consistency: Vec<Option<f32>>) -> Result<RecordBatch> {
    let (prompts, responses, scores) = (columns.text("prompt")?, columns.text("response")?, columns.float("score")?);
    let (prompt_ids, response_ids, models) = (columns.text("prompt_id")?, columns.text("response_id")?, columns.text("model")?);
    let (prompt_tokens, tokens, logprobs) = (columns.tokens("prompt_tokens")?, columns.tokens("response_tokens")?, columns.floats("logprobs")?);
    let text = |of: &dyn Fn(&Pair) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(pairs.iter().map(of))) };
    let number = |of: &dyn Fn(&Pair) -> f32| -> ArrayRef { Arc::new(Float32Array::from_iter_values(pairs.iter().map(of))) };
    let message = |role: &str, of: &dyn Fn(&Pair) -> String| {
        List::of_messages(&pairs.iter().map(|p| vec![(role.to_string(), of(p))]).collect::<Vec<_>>())
    };
    let ids = |of: &dyn Fn(&Pair) -> Vec<u32>| List::of_tokens(&pairs.iter().map(of).collect::<Vec<_>>());
    let floats = |of: &dyn Fn(&Pair) -> Vec<f32>| List::of_floats(&pairs.iter().map(of).collect::<Vec<_>>());
    let penalised = |p: &Pair| {
        let difference = scores.value(p.chosen) - scores.value(p.rejected);
        // Exact where there is no penalty.
        if thousandths(f64::from(scores.value(p.chosen))) - thousandths(f64::from(scores.value(p.rejected))) == p.margin { difference } else { p.margin as f32 / 1000. }
    };
    named::PAIRS.batch(vec![
        text(&|p| prompt_ids.value(p.chosen).into()),
        message("user", &|p| prompts.value(p.chosen).into()),
        message("assistant", &|p| responses.value(p.chosen).into()),
        message("assistant", &|p| responses.value(p.rejected).into()),
        text(&|p| response_ids.value(p.chosen).into()),
        text(&|p| response_ids.value(p.rejected).into()),
        number(&|p| scores.value(p.chosen)),
        number(&|p| scores.value(p.rejected)),
        number(&penalised),
        ids(&|p| prompt_tokens.row(p.chosen).to_vec()),
        ids(&|p| tokens.row(p.chosen).to_vec()),
        ids(&|p| tokens.row(p.rejected).to_vec()),
        floats(&|p| logprobs.row(p.chosen).to_vec()),
        floats(&|p| logprobs.row(p.rejected).to_vec()),
        text(&|p| models.value(p.chosen).into()),
        Arc::new(Float32Array::from_iter(consistency)),
    ])
}
