//! `positives`: turns answers with a high score into instruction-response rows, to fine-tune on them
//! instead of on pairs. This is a variant of the paper, which adds answers with a perfect score to the seed
//! data.

use std::collections::HashMap;

use crate::data::conversations;
use crate::dataflow::Map;
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "positives",
    about: "turns answers with a high score into instruction-response rows for `sft`",
    shape: Shape::Map,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.positives]\nop = \"positives\"\nfrom = \"scores\"\nscore_min = 5.0\n",
    parse: |f| {
        Box::new(Positives {
            score_min: f.float("score_min", "minimum mean score of an answer", Some(5.), -1e6..=1e6) as f32,
            per_prompt: f.count(
                "per_prompt",
                "most answers of a prompt, the best first and the earlier of equals; 0 is no limit",
                Some(0),
                0..=1 << 16,
            ),
        })
    },
};

struct Positives {
    score_min: f32,
    per_prompt: usize,
}

impl StepSpec for Positives {
    fn explain(&self) -> String {
        let limit = if self.per_prompt > 0 { format!(", at most {} a prompt", self.per_prompt) } else { String::new() };
        format!("answers from {} points{limit}", self.score_min)
    }
    fn work(&self, _: u32, inputs: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let from = inputs.first().map(|i| i.amount).unwrap_or_default();
        let most = if self.per_prompt > 0 { self.per_prompt as f64 * from.prompts() } else { from.rows };
        CostEstimate::rows(RowStats { rows: (from.rows * assume.positives).min(most), per_prompt: 1., ..from })
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(
            inputs,
            &["prompt_id", "prompt", "response_id", "response", "finish", "score"],
            "scored answers",
        )?;
        Ok(&named::IFT)
    }
}
impl Operator for Positives {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}

impl Map for Positives {
    fn map(&self, _: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let columns = Columns(input);
        let (prompt_ids, ids, scores) =
            (columns.text("prompt_id")?, columns.text("response_id")?, columns.float("score")?);
        let (prompts, responses, finish) = (Prompts::new(input)?, columns.text("response")?, columns.text("finish")?);
        let mut dropped: Vec<(usize, &str, &str)> = Vec::new();
        let mut kept: Vec<usize> = Vec::new();
        for i in 0..input.num_rows() {
            if !scores.is_valid(i) || !scores.value(i).is_finite() {
                dropped.push((i, "no_score", "the answer has no score: no judgement of it was readable"));
            } else if scores.value(i) < self.score_min {
                dropped.push((i, "low_score", "the answer's score is below score_min"));
            } else if finish.value(i) == "length" {
                dropped.push((i, "cut", "the answer was cut by max_tokens, and its end would be learnt as one"));
            } else {
                kept.push(i);
            }
        }
        if self.per_prompt > 0 {
            let mut ranked = kept.clone();
            ranked.sort_by(|&a, &b| scores.value(b).total_cmp(&scores.value(a)).then(a.cmp(&b)));
            let mut seen: HashMap<&str, usize> = HashMap::new();
            let mut beyond: Vec<usize> = ranked
                .into_iter()
                .filter(|&i| {
                    let n = seen.entry(prompt_ids.value(i)).or_default();
                    *n += 1;
                    *n > self.per_prompt
                })
                .collect();
            beyond.sort_unstable();
            kept.retain(|i| beyond.binary_search(i).is_err());
            dropped.extend(
                beyond.into_iter().map(|i| (i, "per_prompt", "the prompt has better answers, as many as per_prompt")),
            );
        }
        dropped.sort_unstable();
        let mut ledger = Ledger::new(input);
        kept.iter().for_each(|&i| ledger.kept(i));
        for (i, code, message) in dropped {
            ledger.left_out([i], RowError::dropped(ids.value(i), code, message));
        }
        let asked: ArrayRef = Arc::new(StringArray::from_iter_values(kept.iter().map(|&i| prompts.text(i))));
        let answered: ArrayRef = Arc::new(StringArray::from_iter_values(kept.iter().map(|&i| responses.value(i))));
        let messages = conversations(&kept.iter().map(|&i| prompts.conversation(i)).collect::<Vec<_>>())?;
        ledger.close(named::IFT.batch(vec![asked, answered, messages])?)
    }
}
