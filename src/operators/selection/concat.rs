//! `concat`: joins the rows of two steps into one dataset, such as pairs of answers and judge pairs for one
//! training.
//!
//! Every row of both steps is in the output, or is a row of `errors` if `max_share` leaves it out. A
//! microbatch has the rows of both steps' microbatches with its number. If one step has more microbatches
//! than the other, the remaining ones have its rows alone.

use crate::dataflow::{Join, Map};
use crate::operators::shared::prelude::*;
use arrow::compute::concat_batches;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "concat",
    about: "puts the rows of another step after those of the first, microbatch by microbatch; no row of either is lost",
    shape: Shape::Map,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.both]\nop = \"concat\"\nfrom = \"pairs\"\nwith = \"judge_pairs\"\nmax_share = 0.15\n",
    parse: |f| {
        let with =
            f.step_joined("with", "the step whose rows follow; it may have more microbatches than the first, or fewer");
        if with.is_none() {
            f.problem(
                "with",
                "there is nothing to put the rows together with",
                "name the other step: with = \"judge_pairs\"",
            );
        }
        let about = "largest share of a microbatch's rows that may be the other step's; those beyond are left out, the last ones first";
        Box::new(Concat { with: with.unwrap_or_default(), max_share: f.float("max_share", about, Some(1.), 0.0..=1.0) })
    },
};

struct Concat {
    with: String,
    max_share: f64,
}

impl StepSpec for Concat {
    fn explain(&self) -> String {
        let share = if self.max_share < 1. {
            format!(", at most {} % of the rows", 100. * self.max_share)
        } else {
            String::new()
        };
        format!("then the rows of {}{share}", self.with)
    }
    fn work(&self, _: u32, inputs: &[InputStats], _: &CostAssumptions) -> CostEstimate {
        let mut all = inputs.first().map(|i| i.amount).unwrap_or_default();
        // At most `max_share` of all rows, so at most `max_share / (1 - max_share)` for each row of the
        // first step.
        let room = if self.max_share < 1. { all.rows * self.max_share / (1. - self.max_share) } else { f64::INFINITY };
        if let Some(with) = inputs.iter().find(|i| i.key == "with").map(|i| i.amount) {
            let (first, more) = (all.rows, with.rows.min(room));
            let mean = |a: f64, b: f64| if first + more > 0. { (first * a + more * b) / (first + more) } else { 0. };
            all = RowStats {
                rows: first + more,
                prompt: mean(all.prompt, with.prompt),
                answer: mean(all.answer, with.answer),
                ..all
            };
        }
        CostEstimate::rows(all)
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        let Some(first) = inputs.first() else { return Ok(&named::PAIRS) };
        let other = inputs.iter().filter(|p| p.key == "with").filter(|p| p.schema.name != first.schema.name);
        let problem = |p: &Port<'_>| {
            format!(
                "`{}` gives `{}` rows, `{}` gives `{}`: only rows of one kind go together",
                first.step, first.schema.name, p.step, p.schema.name
            )
        };
        let problems: Vec<String> = other.map(problem).collect();
        if problems.is_empty() { Ok(first.schema) } else { Err(problems) }
    }
    fn leaves_null(&self, inputs: &[Port<'_>]) -> Vec<&'static str> {
        let Some((first, others)) = inputs.split_first() else { return Vec::new() };
        let everywhere = |column: &&&str| others.iter().all(|other| other.lacks.contains(column));
        first.lacks.iter().filter(everywhere).copied().collect()
    }
}
impl Operator for Concat {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
    fn join(&self) -> Option<Join> {
        Some(Join::Append)
    }
}

/// Returns how many rows may join `own` rows.
fn room(own: usize, max_share: f64) -> usize {
    if max_share >= 1. {
        return usize::MAX;
    }
    // A float sum just short of a whole row counts as that row.
    (own as f64 * max_share / (1. - max_share) + 1e-9).floor() as usize
}

impl Map for Concat {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let other = &cx.joined()?.unmatched;
        let taken = other.num_rows().min(room(input.num_rows(), self.max_share));
        let mut ledger = Ledger::of_join(input, cx.joined()?);
        ledger.all_kept();
        (0..taken).for_each(|i| ledger.unmatched_kept(i));
        for i in taken..other.num_rows() {
            let name = other.column_by_name("prompt_id").map(|_| Columns(other).text("prompt_id")).transpose()?;
            let row = name.map_or_else(|| format!("{}.{i}", cx.epoch.microbatch), |ids| ids.value(i).to_owned());
            let message = format!("`{}` may be at most {} of the rows", self.with, self.max_share);
            ledger.unmatched_left_out(i, RowError::dropped(row, "over_share", message));
        }
        let schema = cx.step.schema;
        let (own, others) = (schema.conform(input)?, schema.conform(&other.slice(0, taken))?);
        let rows = concat_batches(&schema.arrow(), [&own, &others])?;
        ledger.close(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::room;

    #[test]
    fn shares() {
        assert_eq!((room(17, 0.15), room(16, 0.15), room(10, 0.5), room(10, 0.), room(0, 0.5)), (3, 2, 10, 0, 0));
        assert_eq!(room(0, 1.), usize::MAX);
    }
}
