//! Self-Instruct's seed tasks.

use super::format::{Convert, FormatDef, RowOptions};
use crate::data::named;
use crate::store::datasets::turn::with_input;
use crate::store::import::context::QuestionContext;
use crate::store::import::record::Record;
use crate::store::import::sink::{REPEATED, RowSink, is_too_repetitive, turn_bytes};

pub(super) static DEF: FormatDef = FormatDef {
    name: "self-instruct",
    about: "seed_tasks.jsonl",
    recognised_by: "`instruction` and `instances`",
    reads: "`instruction`; of each instance `input` and `output`",
    keys: &["instances", "instruction"],
    targets: &[&named::IFT],
    extra: &[],
    recognises: |row| row.contains("instruction") && row.contains("instances"),
    convert: Convert::Row(seed_task),
};

fn seed_task(record: &mut Record, context: &QuestionContext, _: &RowOptions, sink: &mut RowSink) -> Result<(), String> {
    let instruction = record.text("instruction")?;
    let instances = record.records("instances", |instance| {
        Ok((instance.optional_text("input")?.unwrap_or_default(), instance.text("output")?))
    })?;
    if instances.is_empty() {
        sink.leave_out("no instance");
    }
    let earlier: usize = context.turns().map(|turn| turn_bytes(&turn.role, &turn.content)).sum();
    if is_too_repetitive(instances.iter().map(|_| earlier + turn_bytes("user", &instruction))) {
        sink.leave_out(REPEATED);
        return Ok(());
    }
    for (input, output) in instances {
        sink.answer(&context.question(&with_input(&instruction, &input)), &output);
    }
    Ok(())
}
