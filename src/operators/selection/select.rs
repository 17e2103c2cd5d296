//! `select`: turns each prompt's scored answers into preference pairs, by one of several strategies. A
//! prompt without a pair is a dropped row with its reason.
//!
//! The scores meet in a reduce as (prompt id, score in thousandths, response id), with the answer's length
//! and the variance of its judgements if a rule needs them. The pairs of a prompt depend on these alone
//! ([`strategies`](super::strategies)), so a corrected score changes the pairs of its own prompt and no
//! other. A microbatch is reduced by itself, because it has all answers to its prompts.
//!
//! With `consistency`, scores of the same answers by another judge, joined by prompt id and response id,
//! each pair also records how far the two judges rank the prompt's answers alike: `C = (tau + 1) / 2` of
//! CREAM (arXiv 2410.12735), where tau is Kendall's tau-b over the answers that both have scored. If tau is
//! undefined (fewer than two such answers, or a judge that gives all the same score), C is 1/2.

use std::cmp::Reverse;
use std::collections::HashMap;

use arrow::array::FixedSizeBinaryArray;

use super::consistency::{consistencies, valid, without_partner};
use super::pair_rows;
use super::strategies::{self, Reason, Rules, Strategy, Tie, UNSCORED, thousandths};
use crate::data::{Id, Judgements, counted};
use crate::dataflow::{
    Candidate, Decision, DecisionInputs, GroupResult, Item, Join, Key, Keyed, MeasureRows, RngSource,
};
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
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
        let other = f.step_joined("consistency", "step with another judge's scores of the same answers; the pairs then know how far the two agree, for the cream loss");
        let spans =
            [("row", "each prompt's own"), ("microbatch", "the mean over the microbatch's pairs, for all of them")];
        let span = f.choice("consistency_of", "whose agreement a pair has", &spans, Some("row"));
        let min_margin = f.float("min_margin", "minimum difference of scores", Some(0.001), 0.0..=1e6);
        let chosen_min = f.optional_float("chosen_min", "minimum score of a chosen answer", -1e6..=1e6);
        let rejected_max = f.optional_float("rejected_max", "maximum score of a rejected answer", -1e6..=1e6);
        let length_control = f.floats("length_control", "rho of Meta-Rewarding (arXiv 2407.19594), for best-worst: chosen is the shortest answer whose score is within this share of the prompt's range from the highest, rejected the longest one within it from the lowest; a list has a value for each iteration, the last for all further ones; 0 is off", Some(&[0.]), 0.0..=1.0);
        let length_penalty = f.float("length_penalty", "points taken off a score for each token (or character) of the answer; the chosen answer and the margin depend on the result, the thresholds on the score", Some(0.), 0.0..=1e6);
        let units = [("tokens", "tokens, as sampled"), ("characters", "characters of the text")];
        let characters = f.choice("length_unit", "unit of lengths", &units, Some("tokens")) == "characters";
        let max_chosen_length = f.ints("max_chosen_length", "pairs whose chosen answer is longer are dropped; a list has a value for each iteration, the last for all further ones; 0 is no limit", Some(&[0]), 0..=1 << 30);
        let max_pairs = f.count(
            "max_pairs",
            "most pairs of a prompt, those with the greatest margin first; best-worst gives one",
            Some(if strategy == Strategy::AllPairs { 64 } else { 1 }),
            1..=1 << 16,
        );
        let controlled = length_control.iter().any(|&rho| rho > 0.);
        let ties = [
            ("id", "the answer's id: arbitrary, but always the same"),
            ("variance", "the least variance of the judge's scores, then the id; the default with length_control"),
            ("length", "the shortest is chosen, the longest rejected, then the id"),
        ];
        let tie = match f.choice(
            "tie_break",
            "how ties between equal scores are broken",
            &ties,
            Some(if controlled { "variance" } else { "id" }),
        ) {
            "variance" => Tie::Variance,
            "length" => Tie::Length,
            _ => Tie::Id,
        };
        if other.is_none() {
            f.without_effect(
                &["consistency_of"],
                "without `consistency`",
                "name the other judge's scores: consistency = \"STEP\"",
            );
        }
        let by_length =
            controlled || length_penalty > 0. || tie == Tie::Length || max_chosen_length.iter().any(|&n| n > 0);
        if !by_length {
            f.without_effect(
                &["length_unit"],
                "where no rule uses lengths",
                "set length_control, length_penalty, max_chosen_length or tie_break = \"length\"",
            );
        }
        if strategy == Strategy::BestWorst && max_pairs > 1 {
            f.problem(
                "max_pairs",
                "best-worst gives one pair of a prompt",
                "write strategy = \"best-random\" or \"all-pairs\" for more",
            );
        }
        if strategy != Strategy::BestWorst && controlled {
            f.problem(
                "length_control",
                "it chooses the chosen and the rejected answer itself",
                "leave it out, or write strategy = \"best-worst\"",
            );
        }
        f.list_by_iteration("length_control", length_control.len());
        f.list_by_iteration("max_chosen_length", max_chosen_length.len());
        Box::new(Select {
            rules: Rules {
                strategy,
                // The margin is rounded to thousandths, like the scores.
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
    /// Whether lengths are counted in characters instead of tokens.
    characters: bool,
    /// The step with the other judge's scores.
    other: Option<String>,
    mean: bool,
}

impl StepSpec for Select {
    fn without_token_ids(&self) -> Option<&'static str> {
        (self.measures() && !self.characters).then_some("set length_unit = \"characters\"")
    }
    fn explain(&self) -> String {
        let (r, unit) = (&self.rules, if self.characters { "characters" } else { "tokens" });
        let mut words = format!("{}, margin at least {}", self.strategy_name, self.min_margin);
        if r.strategy != Strategy::BestWorst {
            words += &format!(", at most {} a prompt", counted(r.max_pairs, "pair"));
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
    fn min_margin(&self) -> Option<f64> {
        Some(self.min_margin)
    }
    fn work(&self, _: u32, inputs: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let from = inputs.first().map(|i| i.amount).unwrap_or_default();
        // Pairs of a prompt that has at least one.
        let pairs = match self.rules.strategy {
            Strategy::BestWorst => 1.,
            Strategy::BestRandom => from.per_prompt - 1.,
            Strategy::AllPairs => from.per_prompt * (from.per_prompt - 1.) / 2.,
        };
        let pairs = pairs.clamp(1., self.rules.max_pairs as f64);
        CostEstimate::rows(RowStats { rows: from.prompts() * assume.pair_yield * pairs, per_prompt: pairs, ..from })
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(
            inputs,
            &["prompt_id", "response_id", "response", "score", "response_tokens", "logprobs"],
            "scored answers",
        )?;
        if self.rules.tie == Tie::Variance {
            settings::needs(inputs, &["judgements"], "the judgements of answers, whose variance breaks ties,")?;
        }
        let wrong = |p: &Port<'_>| {
            settings::needs(std::slice::from_ref(p), &["prompt_id", "response_id", "score"], "another judge's scores")
                .err()
        };
        match inputs.iter().filter(|p| p.key == "consistency").find_map(wrong) {
            Some(problems) => Err(problems),
            None => Ok(&named::PAIRS),
        }
    }
    fn leaves_null(&self, _: &[Port<'_>]) -> Vec<&'static str> {
        if self.other.is_none() { vec!["consistency"] } else { Vec::new() }
    }
}
impl Operator for Select {
    fn stage(&self) -> Stage<'_> {
        Stage::Keyed(self)
    }
    fn measure(&self) -> Option<MeasureRows> {
        Some(crate::operators::shared::health::measure_judged)
    }
    fn join(&self) -> Option<Join> {
        Some(Join::ByKey(prompt_and_response))
    }
}

/// The key that matches the scores of two judges: prompt id and response id.
fn prompt_and_response(rows: &RecordBatch) -> Result<Vec<u128>> {
    let (prompts, responses) = (Columns(rows).text("prompt_id")?, Columns(rows).text("response_id")?);
    Ok((0..rows.num_rows()).map(|i| Id::from_parts([prompts.value(i), responses.value(i)]).0).collect())
}

/// Returns the population variance of an answer's readable scores, in millionths of a squared point.
fn variance(scores: impl Iterator<Item = f32>) -> u32 {
    let scores: Vec<f64> = scores.map(f64::from).filter(|s| s.is_finite()).collect();
    let n = scores.len().max(1) as f64;
    let mean = scores.iter().sum::<f64>() / n;
    // The cast saturates: a larger float becomes the greatest integer.
    (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / n * 1e6).round() as u32
}

impl Select {
    /// Whether a rule needs lengths.
    fn measures(&self) -> bool {
        let r = &self.rules;
        r.length_penalty > 0.
            || r.tie == Tie::Length
            || r.length_control.iter().any(|&rho| rho > 0.)
            || r.max_chosen_length.iter().any(|&n| n > 0)
    }
}

/// Returns the iteration of a group's scope.
fn iteration_of(scope: u64) -> u32 {
    (scope >> 32) as u32
}

/// The values beside a score that rules may need; 0 if none does.
struct Measures<'a> {
    tokens: Option<List<'a, UInt32Array>>,
    texts: Option<&'a StringArray>,
    judgements: Option<Judgements<'a>>,
}

impl<'a> Measures<'a> {
    fn new(select: &Select, columns: Columns<'a>) -> Result<Self> {
        Ok(Self {
            tokens: (select.measures() && !select.characters).then(|| columns.tokens("response_tokens")).transpose()?,
            texts: (select.measures() && select.characters).then(|| columns.text("response")).transpose()?,
            judgements: (select.rules.tie == Tie::Variance).then(|| columns.judgements("judgements")).transpose()?,
        })
    }
    fn length(&self, row: usize) -> Option<u32> {
        let tokens = self.tokens.as_ref().map(|t| t.row(row).len());
        tokens
            .or_else(|| self.texts.map(|t| t.value(row).chars().count()))
            .map(|n| u32::try_from(n).unwrap_or(u32::MAX))
    }
    fn variance(&self, row: usize) -> Option<u32> {
        self.judgements.as_ref().map(|j| variance(j.row(row).filter_map(|(_, score)| score)))
    }
}

/// Groups row numbers by prompt, prompts in the order of their first rows.
fn by_prompt(prompts: &StringArray) -> Vec<(u128, Vec<usize>)> {
    let mut all: Vec<(u128, Vec<usize>)> = Vec::new();
    let mut places: HashMap<u128, usize> = HashMap::new();
    let mut place = 0;
    for row in 0..prompts.len() {
        // The rows of a prompt are usually contiguous.
        if row == 0 || prompts.value(row) != prompts.value(row - 1) {
            let prompt = Id::from_text(prompts.value(row)).0;
            place = *places.entry(prompt).or_insert(all.len());
            if place == all.len() {
                all.push((prompt, Vec::new()));
            }
        }
        all[place].1.push(row);
    }
    all
}

/// Numbers the distinct answers of a prompt: rows with equal tokens get the same number. Answers that no
/// model of the run sampled have no tokens and are compared by their text.
fn answers(tokens: &List<'_, UInt32Array>, texts: &StringArray, rows: &[usize]) -> Vec<u32> {
    let same = |a: usize, b: usize| {
        let (of_a, of_b) = (tokens.row(a), tokens.row(b));
        if of_a.is_empty() || of_b.is_empty() { texts.value(a) == texts.value(b) } else { of_a == of_b }
    };
    let first = |&row: &usize| rows.iter().position(|&other| same(other, row)).unwrap_or(0);
    rows.iter().map(|row| first(row) as u32).collect()
}

/// Returns the item of a score for the reduce.
fn order(score: Option<f32>) -> i64 {
    score.map(f64::from).filter(|s| s.is_finite()).map_or(UNSCORED, thousandths)
}

impl Keyed for Select {
    fn items(&self, epoch: Epoch, rows: &RecordBatch) -> Result<Vec<(Key, Item)>> {
        let columns = Columns(rows);
        let (prompts, responses, scores) =
            (columns.text("prompt_id")?, columns.text("response_id")?, columns.float("score")?);
        let measures = Measures::new(self, columns)?;
        let item = |i: usize| {
            let (length, variance) = (measures.length(i).unwrap_or(0), measures.variance(i).unwrap_or(0));
            self.scored(Item { order: 0, id: Id::from_text(responses.value(i)).0, length, variance }, valid(scores, i))
        };
        Ok((0..rows.num_rows()).map(|i| (self.key(epoch, Id::from_text(prompts.value(i)).0), item(i))).collect())
    }

    fn complete(&self) -> bool {
        true
    }

    /// With another judge's scores a pair depends on more than its group.
    fn candidates(&self) -> Option<&dyn DecisionInputs> {
        self.other.is_none().then_some(self)
    }

    fn reduce(&self, rng_source: &RngSource<'_>, &(scope, prompt): &Key, group: &[Item], kept: &mut Vec<GroupResult>) {
        let iteration = iteration_of(scope);
        let rng = || rng_source.key(iteration, &Id(prompt).to_string(), 0).rng();
        match strategies::select(&self.rules, iteration, group, rng) {
            Ok(pairs) => kept.extend(pairs.into_iter().map(|p| {
                let (high, low) = (p.chosen.order, p.rejected.order);
                GroupResult::Pair { id: p.chosen.id, against: p.rejected.id, high, low, margin: p.margin }
            })),
            Err(reason) => kept.push(GroupResult::Nothing(reason.number())),
        }
    }

    fn finish(&self, cx: &Context<'_>, rows: &RecordBatch, kept: &[(Key, GroupResult)]) -> Result<Output> {
        let columns = Columns(rows);
        let (prompts, responses, scores) =
            (columns.text("prompt_id")?, columns.text("response_id")?, columns.float("score")?);
        let (tokens, texts) = (columns.tokens("response_tokens")?, columns.text("response")?);
        let mut of_group: HashMap<u128, &[(Key, GroupResult)]> = HashMap::new();
        for same in kept.chunk_by(|a, b| a.0 == b.0) {
            of_group.insert(same[0].0.1, same);
        }
        let mut ledger = if self.other.is_some() { Ledger::of_join(rows, cx.joined()?) } else { Ledger::new(rows) };
        let mut pairs: Vec<Decision> = Vec::new();
        for (prompt, rows) in by_prompt(prompts) {
            let kept: Vec<GroupResult> =
                of_group.get(&prompt).into_iter().flat_map(|same| same.iter().map(|(_, kept)| *kept)).collect();
            let candidate = |(&row, answer)| Candidate {
                id: Id::from_text(responses.value(row)).0,
                score: valid(scores, row),
                answer,
            };
            let group: Vec<Candidate> = rows.iter().zip(answers(&tokens, texts, &rows)).map(candidate).collect();
            match decided(&group, &kept)? {
                Ok(decisions) => {
                    for d in decisions {
                        let pair = Decision { chosen: rows[d.chosen], rejected: rows[d.rejected], ..d };
                        ledger.kept(pair.chosen);
                        ledger.kept(pair.rejected);
                        pairs.push(pair);
                    }
                    rows.iter().for_each(|&row| ledger.unused(row, "in_no_pair"));
                }
                Err(reason) => {
                    let error = RowError::dropped(prompts.value(rows[0]), reason.code(), reason.message());
                    ledger.left_out(rows, error);
                }
            }
        }
        let consistency = self.consistency(cx, rows, &pairs, &mut ledger)?;
        ledger.close(pair_rows::batch(columns, &pairs, consistency)?)
    }
}

impl DecisionInputs for Select {
    fn candidates(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = Columns(rows);
        let (prompts, responses) = (columns.text("prompt_id")?, columns.text("response_id")?);
        let (tokens, texts) = (columns.tokens("response_tokens")?, columns.text("response")?);
        let measures = Measures::new(self, columns)?;
        let mut numbers = vec![0; rows.num_rows()];
        for (_, rows) in by_prompt(prompts) {
            for (&row, answer) in rows.iter().zip(answers(&tokens, texts, &rows)) {
                numbers[row] = answer;
            }
        }
        let hashes = |ids: &StringArray| -> Result<ArrayRef> {
            let bytes = ids.iter().map(|id| Id::from_text(id.unwrap_or_default()).0.to_be_bytes());
            Ok(Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes.map(Some), size_of::<Id>() as i32)?))
        };
        let otherwise = |ids: &StringArray| -> ArrayRef {
            Arc::new(StringArray::from_iter(ids.iter().map(|id| id.filter(|id| !Id::is_canonical(id)))))
        };
        let all = 0..rows.num_rows();
        named::CANDIDATES.batch(vec![
            hashes(responses)?,
            hashes(prompts)?,
            Arc::new(columns.float("score")?.clone()),
            Arc::new(UInt32Array::from(numbers)),
            Arc::new(UInt32Array::from_iter(all.clone().map(|row| measures.length(row)))),
            Arc::new(UInt32Array::from_iter(all.map(|row| measures.variance(row)))),
            otherwise(responses),
            otherwise(prompts),
        ])
    }

    fn key(&self, epoch: Epoch, prompt: u128) -> Key {
        // All answers to a prompt are in one microbatch.
        (u64::from(epoch.iteration) << 32 | u64::from(epoch.microbatch), prompt)
    }

    fn scored(&self, item: Item, score: Option<f32>) -> Item {
        Item { order: order(score), ..item }
    }

    fn decide(&self, group: &[Candidate], kept: &[GroupResult]) -> Result<Result<Vec<Decision>, &'static str>> {
        Ok(decided(group, kept)?.map_err(Reason::code))
    }
}

/// The result for a prompt: its pairs, the best first, or the reason that there is none.
fn decided(group: &[Candidate], kept: &[GroupResult]) -> Result<Result<Vec<Decision>, Reason>> {
    let lost = || Error::bug("a pair's answer is not in its microbatch");
    // A foreign dataset may contain an answer twice, with different scores.
    let place = |id: u128, at: i64| group.iter().rposition(|c| c.id == id && order(c.score) == at).ok_or_else(lost);
    let (mut pairs, mut reason) = (Vec::new(), None);
    for kept in kept {
        match *kept {
            GroupResult::Pair { id, against, high, low, margin } => {
                let (chosen, rejected) = (place(id, high)?, place(against, low)?);
                if group[chosen].answer == group[rejected].answer {
                    reason = Some(Reason::SameAnswer);
                } else {
                    pairs.push((margin, chosen, rejected));
                }
            }
            GroupResult::Nothing(number) => reason = Reason::from_number(number),
            GroupResult::One(_) => return Err(Error::bug("`select` keeps pairs")),
        }
    }
    if let Some(reason) = reason.filter(|_| pairs.is_empty()) {
        return Ok(Err(reason));
    }
    pairs.sort_unstable_by_key(|&(margin, chosen, rejected)| (Reverse(margin), chosen, rejected));
    let score = |place: usize| group[place].score.ok_or_else(lost);
    let decision = |(margin, chosen, rejected)| {
        let (high, low) = (score(chosen)?, score(rejected)?);
        // The difference is exact if no penalty applies.
        let exact = thousandths(f64::from(high)) - thousandths(f64::from(low)) == margin;
        Ok(Decision { chosen, rejected, margin: if exact { high - low } else { margin as f32 / 1000. } })
    };
    pairs.into_iter().map(decision).collect::<Result<_>>().map(Ok)
}

impl Select {
    /// Returns C of each pair; null without another judge.
    fn consistency(
        &self,
        cx: &Context<'_>,
        rows: &RecordBatch,
        pairs: &[Decision],
        ledger: &mut Ledger,
    ) -> Result<Vec<Option<f32>>> {
        let Some(other) = &self.other else { return Ok(vec![None; pairs.len()]) };
        let joined = cx.joined()?;
        without_partner(rows, joined, [&cx.step.inputs[0].step, other], ledger)?;
        let by_prompt = consistencies(rows, joined)?;
        let prompt_ids = Columns(rows).text("prompt_id")?;
        let each: Vec<f32> =
            pairs.iter().map(|p| by_prompt.get(prompt_ids.value(p.chosen)).copied().unwrap_or(0.5)).collect();
        let mean = each.iter().map(|&c| f64::from(c)).sum::<f64>() / each.len().max(1) as f64;
        Ok(each.into_iter().map(|c| Some(if self.mean { mean as f32 } else { c })).collect())
    }
}
