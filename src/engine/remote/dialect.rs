//! [`Dialect`]: how servers of different makers spell the fields that the OpenAI API lacks.

use serde_json::{Map, Value, json};

use crate::engine::sampling::Sampling;

/// Maximum number of stop strings of a request. vLLM refuses more. The answer is cut at all of them here.
const MAX_STOPS: usize = 4;
/// Tokens that a repetition penalty looks at in llama.cpp, which takes no "all". It keeps that many numbers in memory.
const PENALTY_WINDOW: u32 = 1 << 17;

/// The maker of a server, as far as requests depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dialect {
    /// `reflux serve`.
    Reflux,
    /// vLLM, and SGLang, which spells the fields alike.
    Vllm,
    /// llama.cpp's server.
    LlamaCpp,
    /// Any other: it gets the fields of the OpenAI API, and others only if they are not at their defaults.
    Other,
}

impl Dialect {
    /// Finds the dialect from `owned_by` of the server's list of models.
    pub fn of(owned_by: &str) -> Self {
        match owned_by {
            "reflux" => Self::Reflux,
            "vllm" | "sglang" => Self::Vllm,
            "llamacpp" => Self::LlamaCpp,
            _ => Self::Other,
        }
    }

    /// The name in ids and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reflux => "reflux serve",
            Self::Vllm => "vLLM",
            Self::LlamaCpp => "llama.cpp",
            Self::Other => "server",
        }
    }

    /// The fields of a request that say how tokens are drawn. Every field that the server knows is sent, even at its
    /// default: a server's own defaults come from the model's files and differ.
    pub fn sampling(self, sampling: &Sampling, max_tokens: usize, seed: u32) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut set = |key: &str, value: Value| _ = fields.insert(key.to_owned(), value);
        set("n", json!(1));
        set("seed", json!(seed));
        set("max_tokens", json!(max_tokens));
        set("temperature", number(sampling.temperature));
        set("top_p", number(sampling.top_p));
        if !sampling.stop.is_empty() {
            set("stop", json!(&sampling.stop[..sampling.stop.len().min(MAX_STOPS)]));
        }
        let known = self != Self::Other;
        if known || sampling.top_k != 0 {
            set("top_k", json!(sampling.top_k));
        }
        if known || sampling.min_p != 0. {
            set("min_p", number(sampling.min_p));
        }
        if self == Self::LlamaCpp {
            set("repeat_penalty", number(sampling.repetition_penalty));
            if sampling.repetition_penalty != 1. {
                // Its penalty looks at the last 64 tokens unless it is told to look at more.
                set("repeat_last_n", json!(PENALTY_WINDOW));
            }
        } else if known || sampling.repetition_penalty != 1. {
            set("repetition_penalty", number(sampling.repetition_penalty));
        }
        let takes_min = matches!(self, Self::Reflux | Self::Vllm);
        if takes_min || (self == Self::Other && sampling.min_tokens != 0) {
            set("min_tokens", json!(sampling.min_tokens));
        }
        fields
    }

    /// The options that this server would ignore, of those that a step has set.
    pub fn ignores(self, sampling: &Sampling) -> Vec<&'static str> {
        let mut ignored = Vec::new();
        if self == Self::LlamaCpp && sampling.min_tokens > 0 {
            ignored.push("min_tokens");
        }
        ignored
    }
}

/// A number as JSON, written as the shortest text that is read back as the same `f32`.
fn number(x: f32) -> Value {
    // Through its text: a plain conversion makes 0.699999988079071 of 0.7.
    serde_json::from_str(&x.to_string()).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_sent_where_it_is_known() {
        let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
        let text = |dialect: Dialect| serde_json::to_string(&dialect.sampling(&sampling, 5, 9)).unwrap();
        assert_eq!(
            text(Dialect::Vllm),
            r#"{"n":1,"seed":9,"max_tokens":5,"temperature":0.7,"top_p":1,"top_k":0,"min_p":0,"repetition_penalty":1,"min_tokens":0}"#
        );
        assert_eq!(text(Dialect::Other), r#"{"n":1,"seed":9,"max_tokens":5,"temperature":0.7,"top_p":1}"#);
        assert!(text(Dialect::LlamaCpp).contains("repeat_penalty") && !text(Dialect::LlamaCpp).contains("min_tokens"));
        let sampling = Sampling { min_tokens: 2, ..sampling };
        assert_eq!(Dialect::LlamaCpp.ignores(&sampling), ["min_tokens"]);
        assert!(Dialect::Vllm.ignores(&sampling).is_empty());
    }

    #[test]
    fn at_most_four_stop_strings_are_sent() {
        let stop: Vec<String> = ["a", "b", "c", "d", "e"].map(String::from).into();
        let sampling = Sampling { stop, ..Sampling::default() };
        assert_eq!(Dialect::Vllm.sampling(&sampling, 1, 0)["stop"], json!(["a", "b", "c", "d"]));
    }
}
