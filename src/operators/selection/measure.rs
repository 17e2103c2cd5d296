//! `measure`: summarises an iteration's rows as figures with intervals.
//!
//! For `comparisons`: `win_rate` (ties count half), `wins`, `ties`, `losses` (shares), `nulls` (a count),
//! and `order_agreement`, the share in which both orders agree. If expected outcomes exist (ranks, LLMBar):
//! `agreement` with them, and `agreement_first` and `agreement_second` for either order alone; expected
//! ties do not count.
//!
//! For answers: `tokens`, `characters` and `words` (means), `cut` (the share ended by max_tokens),
//! `distinct_1` and `distinct_2`. For scored ones also `score` (mean), `unscored` (a count) and, compared
//! with the iteration before, `score_shift` (Wasserstein distance), `score_variation` (total variation),
//! `length_growth` and `score_growth` (shares), with a warning if length outgrows the score.
//!
//! For scored answers with ranks by people (`ranked`): Table 4 of the paper, see [`crate::eval::reward`];
//! if the ranks come from scores, also `score_spearman`, between those and the judge's over all answers of
//! all prompts.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::array::Float64Array;

use crate::dataflow::Collect;
use crate::eval::answers::{AnswerStats, Figure, add, count};
use crate::eval::bootstrap::{Bootstrap, ClusterSum, Estimate};
use crate::eval::drift;
use crate::eval::reward::{self, RankedAnswer, RewardModelTable};
use crate::eval::win_rate::{ComparisonOutcome, WinRecord};
use crate::operators::shared::prelude::*;
use crate::pipeline::Placement;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "measure",
    about: "figures of an iteration's comparisons, answers or scores: win rates, reward modelling, lengths, distinct-n, drift",
    shape: Shape::Collect,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: usize::MAX,
    example: "[step.measures]\nop = \"measure\"\nfrom = [\"against_m1\", \"scores\"]\n",
    parse: |f| {
        let default = Bootstrap::default();
        let resamples = f.int(
            "resamples",
            "bootstrap resamples of prompts; 0 for no intervals",
            Some(default.resamples.into()),
            0..=10_000_000,
        );
        let measure = Measure {
            bootstrap: Bootstrap {
                resamples: resamples as u32,
                confidence: f.float(
                    "confidence",
                    "share of the resamples that an interval holds",
                    Some(default.confidence),
                    0.01..=0.9999,
                ),
                seed: 0,
            },
            ranked: f.step(
                "ranked",
                "step with the ranks of the same answers, as people gave them: reward modelling is measured",
            ),
            perfect: f.float("perfect", "the score that counts for 5-best", Some(5.), -1e6..=1e6),
            bin: f.float("bin", "width of the bins of score_variation, in points", Some(0.5), 1e-6..=1e6),
            distinct_of: f.count(
                "distinct_of",
                "distinct-n is of this many answers, the first: it falls with their number",
                Some(1000),
                1..=1 << 24,
            ),
            given: Vec::new(),
            growth: f.float(
                "growth",
                "least growth of the length, as a share, that is warned of when the score has grown less",
                Some(drift::LEAST_GROWTH),
                0.0..=1e6,
            ),
        };
        if resamples == 0 {
            f.without_effect(&["confidence"], "with resamples = 0", "");
        }
        if measure.ranked.is_none() {
            f.without_effect(&["perfect"], "without `ranked`", "name the ranked rows: ranked = \"STEP\"");
        }
        let given = ["distinct_of", "bin", "growth"].into_iter().filter(|key| f.given(key)).collect();
        Box::new(Measure { given, ..measure })
    },
};

struct Measure {
    bootstrap: Bootstrap,
    ranked: Option<String>,
    perfect: f64,
    bin: f64,
    distinct_of: usize,
    growth: f64,
    /// Returns the given keys that concern answers.
    given: Vec<&'static str>,
}

impl StepSpec for Measure {
    fn explain(&self) -> String {
        let ranked = self.ranked.as_ref().map(|r| format!(", against the ranks of {r}")).unwrap_or_default();
        format!("{} % intervals of {} resamples{ranked}", 100. * self.bootstrap.confidence, self.bootstrap.resamples)
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        let mut problems = Vec::new();
        for port in inputs {
            let port = std::slice::from_ref(port);
            let needs = |columns: &[&str], what| settings::needs(port, columns, what).err().unwrap_or_default();
            if port[0].key == "ranked" {
                problems.extend(needs(&["prompt_id", "response_id", "rank"], "ranked answers"));
            } else if port[0].schema.name != named::COMPARISONS.name {
                problems.extend(needs(&["prompt_id", "response"], "comparisons or answers"));
            }
        }
        if problems.is_empty() {
            problems = self.unused(inputs);
        }
        if problems.is_empty() { Ok(&named::MEASURES) } else { Err(problems) }
    }
}
impl Operator for Measure {
    fn stage(&self) -> Stage<'_> {
        Stage::Collect(self)
    }
}

impl Measure {
    /// Warns about keys for answers if no input has any, and keys for scores if none is scored.
    fn unused(&self, inputs: &[Port<'_>]) -> Vec<String> {
        let from = || inputs.iter().filter(|p| p.key == "from" && p.schema.name != named::COMPARISONS.name);
        let scored = from().any(|p| p.schema.columns.iter().any(|c| c.name == "score"));
        let unused = self.given.iter().filter_map(|key| match *key {
            "distinct_of" if from().next().is_none() => Some((key, "answers")),
            "bin" | "growth" if !scored => Some((key, "scored answers")),
            _ => None,
        });
        let names: Vec<String> = inputs.iter().map(|p| format!("`{}`", p.step)).collect();
        unused
            .map(|(key, what)| format!("`{key}` has no effect: {} has no {what}; take the key out", names.join(", ")))
            .collect()
    }
    fn comparisons(&self, batches: impl Iterator<Item = Result<RecordBatch>>) -> Result<Vec<Figure>> {
        let mut outcomes: Vec<(String, ComparisonOutcome)> = Vec::new();
        // Correct ones out of all, by prompt: for the outcome, for either order, and for the orders with
        // each other.
        let mut shares: [BTreeMap<String, ClusterSum>; 4] = Default::default();
        for batch in batches {
            let batch = batch?;
            let columns = Columns(&batch);
            let (prompts, outcome, expected) =
                (columns.text("prompt_id")?, columns.text("outcome")?, columns.text("expected")?);
            let orders = [columns.text("first_shown_first")?, columns.text("second_shown_first")?];
            for i in 0..batch.num_rows() {
                let said = ComparisonOutcome::from_name(outcome.value(i)).ok_or_else(|| {
                    Error::user(format!(
                        "`{}` is not an outcome; outcomes are win, tie, loss and null",
                        outcome.value(i)
                    ))
                })?;
                let prompt = prompts.value(i);
                outcomes.push((prompt.into(), said));
                let order = orders.map(|o| o.is_valid(i).then(|| o.value(i)));
                if let [Some(first), Some(second)] = order {
                    add(&mut shares[3], prompt, f64::from(u8::from(first == second)));
                }
                if expected.is_valid(i) && expected.value(i) != ComparisonOutcome::Tie.name() {
                    let all = [(said != ComparisonOutcome::Null).then(|| said.name()), order[0], order[1]];
                    for (share, said) in shares.iter_mut().zip(all) {
                        if let Some(said) = said {
                            add(share, prompt, f64::from(u8::from(said == expected.value(i))));
                        }
                    }
                }
            }
        }
        let record = WinRecord::from_comparisons(outcomes.iter().map(|(p, o)| (p.as_str(), *o)), &self.bootstrap);
        let mut figures = vec![
            ("win_rate", record.win_rate),
            ("wins", record.win_share),
            ("ties", record.tie_share),
            ("losses", record.loss_share),
            ("nulls", count(record.nulls, outcomes.len() as u64)),
        ];
        for (name, share) in
            ["agreement", "agreement_first", "agreement_second", "order_agreement"].into_iter().zip(&shares)
        {
            if !share.is_empty() {
                figures.push((name, self.ratio(share)));
            }
        }
        Ok(figures)
    }

    fn ratio(&self, parts: &BTreeMap<String, ClusterSum>) -> Option<Estimate> {
        self.bootstrap.ratio(&parts.values().copied().collect::<Vec<_>>())
    }

    fn answers(&self, cx: &Context<'_>, now: &AnswerStats, before: Option<&AnswerStats>) -> Vec<Figure> {
        let mut figures = now.figures(&self.bootstrap);
        let Some(before) = before.filter(|_| now.scored()) else { return figures };
        let (changes, warning) = now.changes(before, cx.epoch.iteration, self.bin, self.growth);
        figures.extend(changes);
        if let Some(warning) = warning {
            tracing::warn!("step `{}`: {warning}", cx.step.name);
        }
        figures
    }

    /// Returns the figures of scores against ranks, and the number of scored answers without a rank.
    fn reward(&self, cx: &Context<'_>, input: &str, ranked: &str) -> Result<(Vec<Figure>, u64)> {
        let mut scores: HashMap<String, f64> = HashMap::new();
        for batch in cx.microbatches(input) {
            let (_, batch) = batch?;
            let columns = Columns(&batch);
            let (ids, score) = (columns.text("response_id")?, columns.float("score")?);
            let known = (0..batch.num_rows()).filter(|&i| score.is_valid(i));
            scores.extend(known.map(|i| (ids.value(i).to_owned(), f64::from(score.value(i)))));
        }
        let mut prompts: BTreeMap<String, Vec<RankedAnswer>> = BTreeMap::new();
        let mut given: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
        let mut seen: HashSet<String> = HashSet::new();
        for batch in cx.microbatches(ranked) {
            let (_, batch) = batch?;
            let columns = Columns(&batch);
            let (prompt, ids, rank) = (columns.text("prompt_id")?, columns.text("response_id")?, columns.uint("rank")?);
            let known = batch.column_by_name("score").map(|_| columns.float("score")).transpose()?;
            for i in 0..batch.num_rows() {
                if let (Some(known), Some(&said)) = (known.filter(|k| k.is_valid(i)), scores.get(ids.value(i))) {
                    given.entry(prompt.value(i).into()).or_default().push((known.value(i).into(), said));
                }
                seen.insert(ids.value(i).to_owned());
                let judged = RankedAnswer { rank: f64::from(rank.value(i)), score: scores.get(ids.value(i)).copied() };
                prompts.entry(prompt.value(i).into()).or_default().push(judged);
            }
        }
        let unranked = scores.keys().filter(|id| !seen.contains(*id)).count() as u64;
        let table =
            RewardModelTable::from_prompts(&prompts.into_values().collect::<Vec<_>>(), self.perfect, &self.bootstrap);
        let mut figures = vec![
            ("pairwise_accuracy", table.pairwise_accuracy),
            ("pairwise_tied", table.pairwise_tied),
            ("five_best", table.five_best),
            ("exact_match", table.exact_match),
            ("spearman", table.spearman),
            ("kendall", table.kendall),
            ("reward_nulls", count(table.nulls, table.answers)),
        ];
        if !given.is_empty() {
            let agreement = reward::agreement(&given.into_values().collect::<Vec<_>>(), &self.bootstrap);
            figures.push(("score_spearman", agreement));
        }
        Ok((figures, unranked))
    }
}

impl Collect for Measure {
    fn whole(&self, cx: &Context<'_>) -> Result<Output> {
        let mut rows: Vec<(&str, Figure)> = Vec::new();
        // Every row is part of a figure, or of the counts `nulls`, `unscored` and `reward_nulls`.
        let accounted = std::cell::Cell::new(0);
        let mut unranked = 0;
        for input in cx.step.inputs.iter().filter(|i| i.key == "from") {
            let step = cx.shared.plan.step(&input.step).ok_or_else(|| Error::bug("an input is not in the plan"))?;
            let schema = step.schema;
            let mut figures = Vec::new();
            let counted = |batch: Result<(u32, RecordBatch)>| {
                let (_, rows) = batch?;
                accounted.set(accounted.get() + rows.num_rows() as u64);
                Ok(rows)
            };
            if schema.name == named::COMPARISONS.name {
                figures.extend(self.comparisons(cx.microbatches(&input.step).map(counted))?);
            } else {
                let read = |batches: &mut dyn Iterator<Item = Result<RecordBatch>>| -> Result<AnswerStats> {
                    let mut answers = AnswerStats::default();
                    for batch in batches {
                        answers.take(&batch?, self.distinct_of)?;
                    }
                    Ok(answers)
                };
                let now = read(&mut cx.microbatches(&input.step).map(counted))?;
                let changes = step.placement != Placement::Once && cx.epoch.iteration > 1;
                let before = (changes && now.scored())
                    .then(|| read(&mut cx.run().batches(&input.step, Some(cx.epoch.iteration - 1)).map(|b| Ok(b?.1))))
                    .transpose()?;
                figures.extend(self.answers(cx, &now, before.as_ref()));
                if let Some(ranked) = self.ranked.as_ref().filter(|_| now.scored()) {
                    let (more, without) = self.reward(cx, &input.step, ranked)?;
                    figures.extend(more);
                    unranked += without;
                }
            }
            rows.extend(figures.into_iter().map(|f| (input.step.as_str(), f)));
        }
        let number = |of: &dyn Fn(&Estimate) -> f64| -> ArrayRef {
            let value = |(_, (_, e)): &(&str, Figure)| e.as_ref().map(of).filter(|v| v.is_finite());
            Arc::new(rows.iter().map(value).collect::<Float64Array>())
        };
        let rows = named::MEASURES.batch(vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1.0))),
            number(&|e| e.value),
            number(&|e| e.low),
            number(&|e| e.high),
            Arc::new(UInt32Array::from_iter_values(
                rows.iter().map(|r| r.1.1.map_or(0, |e| e.n.min(u32::MAX.into()) as u32)),
            )),
        ])?;
        Ok(Output::of_iteration(rows, Vec::new(), accounted.get()).with_unused("no_rank", unranked))
    }
}
