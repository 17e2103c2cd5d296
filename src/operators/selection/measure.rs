//! `measure`: summarises an iteration's rows as figures with intervals, see [`crate::eval::figures`]. It has those of
//! comparisons, of answers and, for scored answers, of the changes since the iteration before and of ranks by people.

use arrow::array::Float64Array;

use crate::dataflow::Collect;
use crate::eval::bootstrap::{Bootstrap, Estimate};
use crate::eval::drift;
use crate::eval::figures::{self, AnswerStats, Change, ComparisonStats, Figure, FigureOptions, RankedStats};
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
            "number of bootstrap resamples of prompts; 0 turns intervals off",
            Some(default.resamples.into()),
            0..=10_000_000,
        );
        let measure = Measure {
            bootstrap: Bootstrap {
                resamples: resamples as u32,
                confidence: f.float(
                    "confidence",
                    "confidence level of the intervals",
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
            bin: f.float("bin", "bin width of score_variation, in points", Some(0.5), 1e-6..=1e6),
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
    fn options(&self) -> FigureOptions {
        FigureOptions { bootstrap: self.bootstrap, perfect: self.perfect, bin: self.bin }
    }

    fn comparisons(&self, batches: impl Iterator<Item = Result<RecordBatch>>) -> Result<Vec<Figure>> {
        let mut comparisons = ComparisonStats::default();
        for batch in batches {
            comparisons.take(&batch?)?;
        }
        Ok(figures::of_comparisons(&comparisons, &self.options()))
    }

    fn answers(&self, cx: &Context<'_>, now: &AnswerStats, before: Option<&AnswerStats>) -> Vec<Figure> {
        let mut all = figures::of_answers(now, &self.options());
        let Some(before) = before.filter(|_| now.scored()) else { return all };
        let change = Change { before, now };
        let (changes, warning) = figures::of_change(&change, cx.epoch.iteration, self.growth, &self.options());
        all.extend(changes);
        if let Some(warning) = warning {
            tracing::warn!("step `{}`: {warning}", cx.step.name);
        }
        all
    }

    /// Returns the figures of scores against ranks, and the number of scored answers without a rank.
    fn reward(&self, cx: &Context<'_>, input: &str, ranked: &str) -> Result<(Vec<Figure>, u64)> {
        let mut stats = RankedStats::default();
        for batch in cx.microbatches(input) {
            stats.take_scores(&batch?.1)?;
        }
        for batch in cx.microbatches(ranked) {
            stats.take_ranks(&batch?.1)?;
        }
        Ok((figures::of_ranks(&stats, &self.options()), stats.unranked()))
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
            let value = |(_, figure): &(&str, Figure)| figure.estimate.as_ref().map(of).filter(|v| v.is_finite());
            Arc::new(rows.iter().map(value).collect::<Float64Array>())
        };
        let rows = named::MEASURES.batch(vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.1.def.name))),
            number(&|e| e.value),
            number(&|e| e.low),
            number(&|e| e.high),
            Arc::new(UInt32Array::from_iter_values(
                rows.iter().map(|r| r.1.estimate.map_or(0, |e| e.n.min(u32::MAX.into()) as u32)),
            )),
        ])?;
        Ok(Output::of_iteration(rows, Vec::new(), accounted.get()).with_unused("no_rank", unranked))
    }
}
