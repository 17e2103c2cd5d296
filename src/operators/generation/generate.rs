//! `generate`: several sampled answers to every prompt.

use crate::data::{Id, conversations, counted};
use crate::dataflow::Map;
use crate::engine::{Request, Sampling};
use crate::model::Message;
use crate::operators::shared::models::cancel;
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "generate",
    about: "answers every prompt several times",
    shape: Shape::Map,
    model: NeedsModel::Yes,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.responses]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"policy\"\nsamples = 4\nsampling = { temperature = 0.7, top_p = 0.9, max_tokens = 256 }\n",
    parse: |f| {
        let default = Sampling { temperature: 0.7, top_p: 0.9, max_tokens: 256, ..Sampling::default() };
        let samples = f.int("samples", "number of answers per prompt", Some(4), 1..=4096) as u32;
        let system = f.optional_text("system", "system message for prompts without one");
        let sampling = settings::sampling(f, &default);
        if f.given("samples") && samples > 1 && sampling.temperature == 0. {
            f.problem(
                "samples",
                "at temperature 0 every answer to a prompt is the same",
                "raise the temperature, or set samples = 1",
            );
        }
        Box::new(Generate { samples, system, sampling })
    },
};

struct Generate {
    samples: u32,
    system: Option<String>,
    sampling: Sampling,
}

impl StepSpec for Generate {
    fn explain(&self) -> String {
        format!("{} a prompt, {}", counted(self.samples, "answer"), settings::describe(&self.sampling))
    }
    fn asks(&self) -> Option<Asks> {
        // Some chat templates refuse an empty turn.
        let system = self.system.iter().map(|text| ("system", text.clone()));
        let turns = system.chain([("user", "x".to_owned())]).collect();
        Some(Asks { template: None, turns, max_tokens: self.sampling.max_tokens })
    }
    fn work(&self, _: u32, inputs: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let from = inputs.first().map(|i| i.amount).unwrap_or_default();
        let (rows, most) = (from.rows * f64::from(self.samples), self.sampling.max_tokens as f64);
        let answer = assume.fill * most;
        CostEstimate {
            out: RowStats {
                rows,
                prompt: from.prompt,
                answer,
                per_prompt: f64::from(self.samples) * from.per_prompt.max(1.),
            },
            read: TokenCount::of_sequences(from.rows, 0., from.prompt),
            sampled: TokenCount::of_sequences(rows, from.prompt, answer),
            longest: from.prompt + most,
            ..CostEstimate::default()
        }
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(inputs, &["prompt"], "prompts to answer")?;
        Ok(&named::RESPONSES)
    }
}
impl Operator for Generate {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}

/// Returns the id of a prompt: the one in its row, or the hash of its text if the dataset has no ids.
pub(crate) fn prompt_ids(rows: &RecordBatch) -> Result<Vec<String>> {
    let prompts = Prompts::new(rows)?;
    let given = rows.column_by_name("prompt_id").map(|_| Columns(rows).text("prompt_id")).transpose()?;
    Ok((0..rows.num_rows()).map(|i| given.map_or_else(|| prompts.id(i), |ids| ids.value(i).into())).collect())
}

impl Generate {
    /// Returns the messages of a prompt, after the step's system message if they have none.
    fn messages(&self, prompts: &Prompts<'_>, row: usize) -> Vec<Message> {
        let turns = prompts.turns(row);
        let begins = turns.first().is_some_and(|turn| turn.0 == "system");
        let system = self.system.iter().filter(|_| !begins).map(|text| Message::new("system", text));
        system.chain(turns.into_iter().map(|(role, content)| Message::new(role, content))).collect()
    }
}

impl Map for Generate {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let prompts = Prompts::new(input)?;
        let ids = prompt_ids(input)?;
        let engine = cx.env::<Models>()?.engine(cx)?;
        let mut ledger = Ledger::new(input);
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for (i, id) in ids.iter().enumerate() {
            if prompts.is_blank(i) {
                ledger.left_out(
                    [i],
                    RowError::failed(id, "empty_prompt", "the prompt is empty; drop the row or fill it in"),
                );
                continue;
            }
            let messages = self.messages(&prompts, i);
            for sample in 0..self.samples {
                let messages = messages.clone();
                asked.push((i, sample));
                requests.push(Request { messages, sampling: self.sampling.clone(), key: cx.key(id, sample) });
            }
        }
        let answers = engine.generate(requests, &cancel(cx))?;
        let mut kept = Vec::new();
        for ((i, sample), answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    ledger.kept(i);
                    kept.push((i, sample, answer));
                }
                Err(e) => ledger.left_out([i], RowError::failed(format!("{}/{sample}", ids[i]), e.code, e.message)),
            }
        }
        let text = |of: &dyn Fn(&(usize, u32, crate::engine::Completion)) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(kept.iter().map(of)))
        };
        let response_id = |(i, sample, answer): &(usize, u32, crate::engine::Completion)| {
            let mut said: Vec<u8> = answer.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
            if said.is_empty() {
                // A server that sends text sends no ids.
                said.extend(answer.text.as_bytes());
            }
            Id::from_parts([ids[*i].as_bytes(), engine.id().as_bytes(), &sample.to_le_bytes(), &said]).to_string()
        };
        let rows = named::RESPONSES.batch(vec![
            text(&|k| ids[k.0].clone()),
            text(&|k| prompts.text(k.0).into()),
            text(&response_id),
            Arc::new(UInt32Array::from_iter_values(kept.iter().map(|k| k.1))),
            text(&|k| k.2.text.clone()),
            text(&|k| k.2.finish.as_str().into()),
            List::of_tokens(&kept.iter().map(|k| k.2.prompt_tokens.to_vec()).collect::<Vec<_>>()),
            List::of_tokens(&kept.iter().map(|k| k.2.tokens.clone()).collect::<Vec<_>>()),
            List::of_floats(&kept.iter().map(|k| k.2.logprobs.clone()).collect::<Vec<_>>()),
            text(&|_| engine.id().into()),
            Arc::new(StringArray::from(vec![engine.tokenizer(); kept.len()])),
            conversations(&kept.iter().map(|k| prompts.conversation(k.0)).collect::<Vec<_>>())?,
        ])?;
        ledger.close(rows)
    }
}
