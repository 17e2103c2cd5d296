//! `rescore`: reads the scores of stored judgements again, with another pattern or scale. No model is
//! asked.
//!
//! The outcome of a judgement follows from its text; a judgement without a text (too_long, error) keeps its
//! outcome. Differences are in the column `changes` and are counted in summary.json and at the end of a
//! run; `score_before` holds the old score.

use super::score::{Outcome, Reader};
use super::scored::ScoredResponse;
use crate::data::Judgement;
use crate::dataflow::{Map, MeasureRows};
use crate::operators::shared::prelude::*;
use arrow::array::{StringBuilder, new_null_array};
use arrow::datatypes::{DataType, Field};

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "rescore",
    about: "reads the scores out of earlier judgements again, by another pattern or scale, without judging",
    shape: Shape::Map,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.old]\nop = \"read\"\ndataset = \"runs/first/data/scores\"\n\n[step.scores]\nop = \"rescore\"\nfrom = \"old\"\npattern = \"points: ([0-5])\"\n",
    parse: |f| Box::new(Rescore { reader: Reader::fields(f, "score") }),
};

struct Rescore {
    reader: Reader,
}

impl StepSpec for Rescore {
    fn explain(&self) -> String {
        format!(
            "judgements read again on a scale from {} to {}; `changes` says what came out otherwise",
            self.reader.min, self.reader.max
        )
    }
    fn scale(&self) -> Option<(f32, f32)> {
        Some((self.reader.min, self.reader.max))
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(
            inputs,
            &["response_id", "response_tokens", "score", "judgements", "judge"],
            "scores with their judgements",
        )?;
        Ok(&named::SCORES)
    }
}
impl Operator for Rescore {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
    fn measure(&self) -> Option<MeasureRows> {
        Some(crate::operators::shared::health::measure_judged)
    }
}

impl Rescore {
    /// Reads a judgement again; returns it and what changed.
    fn read(&self, old: &Judgement) -> (Judgement, Option<String>) {
        if matches!(old.outcome.as_str(), "too_long" | "error") {
            return (old.clone(), None);
        }
        let outcome = self.reader.read(&old.text, old.outcome == Outcome::<f32>::Truncated.name());
        let new = Judgement { outcome: outcome.name().into(), score: outcome.score(), mass: None, ..old.clone() };
        let change = if new.outcome != old.outcome {
            Some(format!("{} -> {}", old.outcome, new.outcome))
        } else {
            (new.score != old.score).then(|| "score -> another score".to_owned())
        };
        (new, change)
    }
}

impl Map for Rescore {
    fn map(&self, _: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let columns = Columns(input);
        let (ids, before, said) =
            (columns.text("response_id")?, columns.float("score")?, columns.judgements("judgements")?);
        let field = Field::new_list_field(DataType::Utf8, false);
        let mut changes = arrow::array::ListBuilder::new(StringBuilder::new()).with_field(field);
        let (mut judged, mut ledger) = (Vec::new(), Ledger::new(input));
        ledger.all_kept();
        for i in 0..input.num_rows() {
            let mut judgements = Vec::new();
            for old in said.whole(i) {
                let (new, change) = self.read(&old);
                judgements.push(new);
                if let Some(change) = change {
                    changes.values().append_value(change);
                }
            }
            changes.append(true);
            let row = ScoredResponse::mean(judgements);
            if row.score.is_none() {
                ledger.note(row.unreadable(ids.value(i)));
            }
            judged.push(row);
        }
        let mut out: Vec<ArrayRef> = Vec::new();
        for column in named::SCORES.columns {
            out.push(match column.name {
                "score" => Arc::new(Float32Array::from_iter(judged.iter().map(|r| r.score))),
                "judgements" => List::of_judgements(&judged.iter().map(|r| r.judgements.clone()).collect::<Vec<_>>()),
                "score_before" => Arc::new(before.clone()),
                "changes" => Arc::new(changes.finish()),
                kept => match input.column_by_name(kept) {
                    Some(column) => Arc::clone(column),
                    None if column.nullable => new_null_array(&column.kind.arrow(), input.num_rows()),
                    None => return Err(Error::user(format!("column `{kept}` is missing"))),
                },
            });
        }
        ledger.close(named::SCORES.batch(out)?)
    }
}
