//! UltraFeedback: an instruction with rated completions.

use super::format::{Convert, FormatDef, RowOptions};
use crate::data::{hash_hex, named, prompt_id};
use crate::store::datasets::turn::role_content;
use crate::store::import::context::QuestionContext;
use crate::store::import::record::Record;
use crate::store::import::sink::{Ranked, RowSink};

pub(super) static DEF: FormatDef = FormatDef {
    name: "ultrafeedback",
    about: "an instruction with rated completions, to `ranked`",
    recognised_by: "`instruction` and `completions`",
    reads: "`instruction`; of each completion `response` and `overall_score`, `score` or `fine-grained_score`",
    keys: &["completions", "instruction"],
    targets: &[&named::RANKED],
    extra: &[],
    recognises: |row| row.contains("instruction") && row.contains("completions"),
    convert: Convert::Row(ultrafeedback),
};

fn ultrafeedback(
    record: &mut Record,
    context: &QuestionContext,
    _: &RowOptions,
    sink: &mut RowSink,
) -> Result<(), String> {
    let prompt = record.text("instruction")?;
    let completions = record.records("completions", |completion| {
        const SCORES: [&str; 3] = ["overall_score", "score", "fine-grained_score"];
        let key = SCORES.into_iter().find(|key| completion.has(key));
        if let Some(score) = key.and_then(|key| completion.peek(key)?.as_f64())
            && !(score as f32).is_finite()
        {
            return Err(format!("has the score {score:e}, which does not fit in 32 bits"));
        }
        let score = key.and_then(|key| completion.number(key));
        Ok((completion.text("response")?, score))
    })?;
    let before = context.question(&prompt);
    let prompt_id = if before.len() > 1 { prompt_id(&role_content(&before)) } else { hash_hex([&prompt]) };
    let unscored = completions.iter().filter(|(_, score)| score.is_none()).count();
    if unscored > 0 {
        record.report("completions without a score".to_owned());
    }
    let scored: Vec<(usize, String, f64)> =
        completions.into_iter().enumerate().filter_map(|(i, (text, score))| Some((i, text, score?))).collect();
    let mut distinct: Vec<f64> = scored.iter().map(|s| s.2).collect();
    distinct.sort_unstable_by(|a, b| b.total_cmp(a));
    distinct.dedup();
    let rank = |score: f64| distinct.partition_point(|s| *s > score) as u32;
    let answers = scored.iter().map(|(i, text, score)| Ranked {
        id: hash_hex([prompt_id.as_str(), &i.to_string(), text]),
        text: text.clone(),
        rank: rank(*score),
        score: Some(*score),
    });
    sink.ranked(&prompt_id, &before, answers.collect());
    Ok(())
}
