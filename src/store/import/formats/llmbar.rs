//! LLMBar's pairs (arXiv 2310.07641).

use serde_json::Value;

use super::format::{Convert, FormatDef, RowOptions};
use crate::data::{hash_hex, named};
use crate::store::files::jsonl::spell;
use crate::store::import::context::QuestionContext;
use crate::store::import::record::Record;
use crate::store::import::sink::{Ranked, RowSink};

pub(super) static DEF: FormatDef = FormatDef {
    name: "llmbar",
    about: "dataset.json, to `ranked`: the output that people prefer has rank 0",
    recognised_by: "`input`, `output_1`, `output_2`, `label`",
    reads: "these four",
    keys: &["input", "label", "output_1", "output_2"],
    targets: &[&named::RANKED],
    extra: &[],
    recognises: |row| ["input", "output_1", "output_2", "label"].iter().all(|key| row.contains(key)),
    convert: Convert::Row(llmbar),
};

/// Converts a row of LLMBar's dataset.json: input, output_1, output_2 and label, 1 or 2, the output that
/// people prefer. The preferred output gets rank 0.
fn llmbar(record: &mut Record, context: &QuestionContext, _: &RowOptions, sink: &mut RowSink) -> Result<(), String> {
    let input = record.text("input")?;
    let outputs = [record.text("output_1")?, record.text("output_2")?];
    let label = record.take("label");
    let best = match label.as_ref().and_then(Value::as_f64) {
        Some(1.) => 0,
        Some(2.) => 1,
        _ => {
            let found = label.as_ref().map_or("missing".into(), spell);
            return Err(format!("`label` is {found}, expected 1 or 2"));
        }
    };
    // An instruction can occur in several pairs, so the id includes the outputs.
    let prompt_id = hash_hex([&input, &outputs[0], &outputs[1]]);
    let answer = |(i, text): (usize, &String)| Ranked {
        id: hash_hex([prompt_id.as_str(), &i.to_string(), text]),
        text: text.clone(),
        rank: u32::from(i != best),
        score: None,
    };
    sink.ranked(&prompt_id, &context.question(&input), outputs.iter().enumerate().map(answer).collect());
    Ok(())
}
