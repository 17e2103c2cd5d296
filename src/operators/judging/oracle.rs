//! `oracle`: scores answers by the rules of the list world. This is an evaluation: its scores never feed
//! the loop.

use super::scored::{ScoredResponse, scored};
use crate::data::Judgement;
use crate::dataflow::Map;
use crate::eval::listworld::{Instruction, Verdicts};
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "oracle",
    about: "scores answers by the list world's rules, for evaluation",
    shape: Shape::Map,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.truth]\nop = \"oracle\"\nfrom = \"answers\"\n",
    parse: |_| Box::new(Oracle),
};

struct Oracle;

impl StepSpec for Oracle {
    fn explain(&self) -> String {
        "one point each for kind, count, no repeats, order and closing".into()
    }
    fn scale(&self) -> Option<(f32, f32)> {
        Some((0., 5.))
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(inputs, &["prompt_id", "prompt", "response_id", "response"], "responses to score")?;
        Ok(&named::SCORES)
    }
}
impl Operator for Oracle {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}

impl Map for Oracle {
    fn map(&self, _: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let columns = Columns(input);
        let (prompts, responses, ids) =
            (columns.text("prompt")?, columns.text("response")?, columns.text("response_id")?);
        let mut ledger = Ledger::new(input);
        ledger.all_kept();
        let mut judge = |i: usize| -> Vec<Judgement> {
            let Some(request) = Instruction::parse(prompts.value(i)) else {
                let message = format!("`{}` is not a request of the list world", prompts.value(i));
                ledger.note(RowError::failed(ids.value(i), "no_request", &message));
                return vec![(message, "error".to_owned(), None).into()];
            };
            let verdicts = Verdicts::of(&request, responses.value(i));
            let words = Verdicts::ASPECTS
                .iter()
                .zip(verdicts.points())
                .map(|(aspect, yes)| format!("{aspect} {}", if yes { "yes" } else { "no" }));
            vec![(words.collect::<Vec<_>>().join(", "), "score".to_owned(), Some(f32::from(verdicts.score()))).into()]
        };
        let judged: Vec<ScoredResponse> = (0..input.num_rows()).map(|i| ScoredResponse::mean(judge(i))).collect();
        ledger.close(scored(input, &judged, "oracle", None)?)
    }
}
