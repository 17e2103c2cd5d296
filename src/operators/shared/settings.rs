//! Keys that several operators share.

use crate::data::counted;
use crate::engine::Sampling;
use crate::model::LoraConfig;
use crate::model::nn::lora::TARGETS;
use crate::pipeline::{Fields, Port};

/// Reads `sampling = { ... }`.
pub fn sampling(fields: &mut Fields<'_>, default: &Sampling) -> Sampling {
    let about = "how tokens are drawn";
    fields.table("sampling", about, |f| {
        let sampling = sampling_keys(f, default);
        if sampling.min_tokens > sampling.max_tokens {
            let message = format!(
                "`min_tokens` is {}, more than `max_tokens`, which is {}",
                sampling.min_tokens, sampling.max_tokens
            );
            f.problem("min_tokens", message, "lower it, or raise `max_tokens`");
        }
        // A value that switches an option off is harmless and not reported.
        let drawing = [("top_p", sampling.top_p < 1.), ("top_k", sampling.top_k > 0), ("min_p", sampling.min_p > 0.)];
        for (key, _) in drawing.into_iter().filter(|(_, narrows)| *narrows && sampling.temperature == 0.) {
            f.without_effect(&[key], "with temperature = 0, which takes the likeliest token", "raise the temperature");
        }
        sampling
    })
}

/// Reads the keys of `sampling`.
fn sampling_keys(f: &mut Fields<'_>, default: &Sampling) -> Sampling {
    Sampling {
        temperature: f.float(
            "temperature",
            "divides the logits; 0 means greedy decoding",
            Some(shortest(default.temperature)),
            0.0..=100.0,
        ) as f32,
        top_p: f.float(
            "top_p",
            "samples from the smallest set of tokens with at least this probability",
            Some(shortest(default.top_p)),
            0.0..=1.0,
        ) as f32,
        top_k: f.int(
            "top_k",
            "samples from at most this many tokens; 0 means no limit",
            Some(default.top_k as i64),
            0..=1_000_000,
        ) as usize,
        min_p: f.float(
            "min_p",
            "drops tokens less likely than this share of the likeliest one",
            Some(shortest(default.min_p)),
            0.0..=1.0,
        ) as f32,
        repetition_penalty: f.float(
            "repetition_penalty",
            "divides the logits of tokens that occurred before; 1 turns it off",
            Some(shortest(default.repetition_penalty)),
            0.1..=10.0,
        ) as f32,
        max_tokens: f.int("max_tokens", "maximum number of new tokens", Some(default.max_tokens as i64), 1..=1_000_000)
            as usize,
        min_tokens: f.int("min_tokens", "minimum number of new tokens", Some(default.min_tokens as i64), 0..=1_000_000)
            as usize,
        stop: f.texts("stop", "texts that end an answer; the answer is cut before them", Some(&[])),
        stop_ids: f
            .ints(
                "stop_ids",
                "token ids that end an answer, in addition to the model's own",
                Some(&[]),
                0..=u32::MAX.into(),
            )
            .into_iter()
            .map(|id| id as u32)
            .collect(),
        constraint: None,
    }
}

/// Converts a 32-bit number to the shortest decimal that stands for it: 0.7, not its nearest 64-bit value.
fn shortest(n: f32) -> f64 {
    n.to_string().parse().unwrap_or(n.into())
}

/// Reads `lora = { ... }`; `None` if it is not given, and then all weights are trained.
pub fn lora(fields: &mut Fields<'_>) -> Option<LoraConfig> {
    let about = "trains a LoRA adapter (arXiv 2106.09685) instead of the weights; the model is saved with the adapter merged, \
                 and the adapter next to it in PEFT's layout";
    fields.optional_table("lora", about, |f| {
        let default = LoraConfig::default();
        let rank = f.count("rank", "rows of A, columns of B", Some(default.rank), 1..=1 << 14);
        let alpha = f.float("alpha", "the adapter's output is scaled by alpha / rank", Some(default.alpha), 1e-6..=1e6);
        let about = "dropout of the adapter's input in training; above 0, a step needs more time and memory";
        let dropout = f.float("dropout", about, Some(0.), 0.0..=0.9);
        let about = "matrices with an adapter: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or \
                     \"all-linear\"";
        let given = f.texts("targets", about, Some(&["all-linear"]));
        let all = given.iter().any(|t| t == "all-linear");
        let targets: Vec<&str> = TARGETS.into_iter().filter(|t| all || given.iter().any(|g| g == t)).collect();
        if let Some(unknown) = given.iter().find(|g| *g != "all-linear" && !TARGETS.contains(&g.as_str())) {
            let known = format!("they are {}, and all-linear for all of them", TARGETS.join(", "));
            f.problem("targets", format!("a Llama has no matrix `{unknown}`"), known);
        } else if targets.is_empty() {
            f.problem("targets", "at least one matrix is needed", "leave the key out for all of them");
        }
        LoraConfig { rank, alpha, dropout, targets }
    })
}

/// Describes `lora` for `explain`; empty if it is off.
pub fn describe_lora(lora: Option<&LoraConfig>) -> String {
    let Some(l) = lora else { return String::new() };
    let targets = if l.targets.len() == TARGETS.len() { "all-linear".into() } else { l.targets.join(", ") };
    let dropout = if l.dropout > 0. { format!(", dropout {}", l.dropout) } else { String::new() };
    format!(", LoRA of rank {} and alpha {} on {targets}{dropout}", l.rank, l.alpha)
}

/// Describes the sampling settings for `explain`.
pub fn describe(s: &Sampling) -> String {
    let mut words =
        format!("temperature {}, top_p {}, at most {}", s.temperature, s.top_p, counted(s.max_tokens, "token"));
    if s.top_k > 0 {
        words += &format!(", top_k {}", s.top_k);
    }
    words
}

/// Checks that the first input has these text columns.
pub fn needs(inputs: &[Port<'_>], columns: &[&str], what: &str) -> Result<(), Vec<String>> {
    let Some(input) = inputs.first() else { return Ok(()) };
    let has = |name: &&&str| input.schema.columns.iter().any(|c| c.name == **name);
    let missing: Vec<&str> = columns.iter().filter(|name| !has(name)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let have: Vec<&str> = input.schema.columns.iter().map(|c| c.name).collect();
    Err(vec![format!(
        "`{}` gives `{}` rows ({}), but {what} are needed; missing: {}",
        input.step,
        input.schema.name,
        have.join(", "),
        missing.join(", ")
    )])
}
