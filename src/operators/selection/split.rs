//! `split`: keeps one part of a dataset's prompts, for training or held out, so that no prompt is in both.

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use rand_chacha::rand_core::Rng as _;

use crate::data::{RngKey, transcript};
use crate::dataflow::Map;
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "split",
    about: "keeps the prompts of one part, train or held-out, with all their rows",
    shape: Shape::Map,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.heldout]\nop = \"split\"\nfrom = \"ranked\"\npart = \"held-out\"\n",
    parse: |f| {
        let parts = [("train", "those that are not held out"), ("held-out", "those held out")];
        Box::new(Split {
            held_out: f.choice("part", "the part to keep", &parts, None) == "held-out",
            share: f.float(
                "held_out",
                "share of prompts that are held out; use the same value for both parts",
                Some(0.25),
                0.0..=1.0,
            ),
        })
    },
};

struct Split {
    held_out: bool,
    share: f64,
}

impl StepSpec for Split {
    fn explain(&self) -> String {
        let part = if self.held_out { "held-out" } else { "train" };
        format!("{part} part, {} % of the prompts held out", self.share * 100.)
    }
    fn work(&self, _: u32, inputs: &[InputStats], _: &CostAssumptions) -> CostEstimate {
        let from = inputs.first().map(|i| i.amount).unwrap_or_default();
        let share = if self.held_out { self.share } else { 1. - self.share };
        CostEstimate::rows(RowStats { rows: from.rows * share, ..from })
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(inputs, &["prompt"], "rows with prompts")?;
        Ok(inputs.first().map_or(&named::RANKED, |i| i.schema))
    }
    fn leaves_null(&self, inputs: &[Port<'_>]) -> Vec<&'static str> {
        inputs.first().map_or_else(Vec::new, |i| i.lacks.to_vec())
    }
}
impl Operator for Split {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}

impl Map for Split {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let columns = Columns(input);
        // A prompt is in the same part whether a dataset stores it as text or as messages.
        let conversation =
            |i| -> Result<String> { Ok(transcript(&columns.messages("prompt")?.row(i).collect::<Vec<_>>())) };
        let mut ledger = Ledger::new(input);
        let mut keep = Vec::with_capacity(input.num_rows());
        for i in 0..input.num_rows() {
            let prompt = columns.text("prompt").map(|p| p.value(i).to_owned()).or_else(|_| conversation(i))?;
            // The draw depends on the prompt's text and the pipeline's seed but not on the step's name,
            // because both parts need the same draw.
            let draw = RngKey::new(cx.shared.plan.seed, "split", 0, &prompt, 0).rng().next_u64();
            let held_out = (draw as f64) < self.share * 2f64.powi(64);
            if held_out == self.held_out {
                ledger.kept(i);
            } else {
                ledger.unused(i, "other_part");
            }
            keep.push(held_out == self.held_out);
        }
        ledger.close(filter_record_batch(input, &BooleanArray::from(keep))?)
    }
}
