//! Options by which tokens are drawn.

use std::sync::Arc;

use crate::engine::constraint::Constraint;

/// Repetition penalties. Beyond them, penalised logits leave the range of numbers.
const PENALTIES: std::ops::RangeInclusive<f32> = 0.1..=10.;

/// How tokens are drawn. Applied in this order: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token (the lowest id among equals).
    pub temperature: f32,
    /// Nucleus sampling (arXiv 1904.09751): the smallest set of likeliest tokens whose mass is at least this; 1 is off.
    pub top_p: f32,
    /// Only this many likeliest tokens; 0 is off.
    pub top_k: usize,
    /// Only tokens at least this times as likely as the likeliest (arXiv 2407.01082); 0 is off.
    pub min_p: f32,
    /// Tokens that have occurred, in the prompt too, have positive logits divided and negative ones multiplied by it
    /// (arXiv 1909.05858); 1 is off.
    pub repetition_penalty: f32,
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// No end token or stop id before this many new tokens, and no stop string that is complete before.
    pub min_tokens: usize,
    /// Texts that end the answer and are cut from it.
    pub stop: Vec<String>,
    /// Tokens that end the answer, beside the model's own.
    pub stop_ids: Vec<u32>,
    /// The form to which a server holds the answer, see [`Capabilities::constraints`](crate::engine::Capabilities).
    pub constraint: Option<Arc<Constraint>>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.,
            top_p: 1.,
            top_k: 0,
            min_p: 0.,
            repetition_penalty: 1.,
            max_tokens: 256,
            min_tokens: 0,
            stop: Vec::new(),
            stop_ids: Vec::new(),
            constraint: None,
        }
    }
}

impl Sampling {
    /// Says which option has a value that means nothing, if one does.
    pub fn problem(&self) -> Option<String> {
        let unit = |x: f32| (0. ..=1.).contains(&x);
        if !(self.temperature.is_finite() && self.temperature >= 0.) {
            Some(format!("temperature is {}, it must be 0 or more", self.temperature))
        } else if !unit(self.top_p) {
            Some(format!("top_p is {}, it must be between 0 and 1", self.top_p))
        } else if !unit(self.min_p) {
            Some(format!("min_p is {}, it must be between 0 and 1", self.min_p))
        } else if !PENALTIES.contains(&self.repetition_penalty) {
            let (low, high) = PENALTIES.into_inner();
            Some(format!(
                "repetition_penalty is {}, it must be between {low} and {high}; 1 turns it off",
                self.repetition_penalty
            ))
        } else if self.stop.iter().any(String::is_empty) {
            Some("a stop string is empty".into())
        } else {
            None
        }
    }
}
