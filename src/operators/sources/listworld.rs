//! `listworld`: seeded data of the embedded list world, for the quickstart and its studies.

use crate::data::counted;
use crate::dataflow::{Batches, Source};
use crate::eval::listworld::Data;
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "listworld",
    about: "makes data of the embedded small world",
    shape: Shape::Source,
    model: NeedsModel::No,
    min_inputs: 0,
    max_inputs: 0,
    example: "[step.ift]\nop = \"listworld\"\ndata = \"ift\"\nrows = 400\n",
    parse: |f| {
        let kinds = [
            ("pretrain", "plain text that M0 is trained on"),
            ("ift", "requests with responses of an imperfect writer"),
            ("eft", "requests with responses of varied quality, judged"),
            ("instruct", "lists of requests with one more request"),
            ("ranked", "requests with three responses each, ranked by the oracle; a row per response"),
            ("ranked-heldout", "the same of held-out requests, for evaluation"),
            ("requests", "held-out requests, for evaluation"),
        ];
        let data: Data = f.choice("data", "the dataset to make", &kinds, None).parse().unwrap_or(Data::Ift);
        let rows = f.count("rows", "number of rows", None, 1..=1_000_000_000);
        if let Some(limit) = data.limit()
            && rows > limit
        {
            f.problem("rows", format!("there are only {limit} rows of `{}`", data.name()), "ask for fewer");
        }
        let shots = f.count("shots", "example requests per row of `instruct`", Some(3), 1..=64);
        if data.name() != "instruct" {
            f.without_effect(&["shots"], "on these rows: only `instruct` shows examples", "");
        }
        let seed = f.optional_int("seed", "seed of the rows; defaults to the pipeline's seed", 0..=i64::MAX);
        Box::new(ListWorld { data, rows, shots, seed: seed.map(|s| s as u64) })
    },
};

struct ListWorld {
    data: Data,
    rows: usize,
    shots: usize,
    seed: Option<u64>,
}

impl StepSpec for ListWorld {
    fn explain(&self) -> String {
        format!("{} of {}", counted(self.rows, "row"), self.data.name())
    }
    fn work(&self, _: u32, _: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        CostEstimate::rows(RowStats {
            rows: self.rows as f64,
            prompt: assume.prompt,
            answer: assume.answer,
            per_prompt: 1.,
        })
    }
    fn output(&self, _: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        Ok(self.data.schema())
    }
}
impl Operator for ListWorld {
    fn stage(&self) -> Stage<'_> {
        Stage::Source(self)
    }
}
impl Source for ListWorld {
    fn open(&self, cx: &Context<'_>) -> Result<Batches> {
        let (data, rows, shots, step) = (self.data, self.rows, self.shots, cx.shared.plan.microbatch);
        let seed = self.seed.unwrap_or(cx.shared.plan.seed);
        let batch = move |start: usize| Ok(data.rows(seed, start..(start + step).min(rows), shots)?.into());
        Ok(Box::new((0..rows).step_by(step).map(batch)))
    }
}
