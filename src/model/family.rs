//! Families of models other than Llama.

/// A family of models that supports generation but not training.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115).
    Qwen2,
    /// Dense models of Qwen 3 (arXiv 2505.09388).
    Qwen3,
    /// Text models of Gemma 3 (arXiv 2503.19786).
    Gemma3,
}

impl Family {
    /// Returns the family that config.json names in `model_type`.
    pub fn named(model_type: &str) -> Option<Self> {
        match model_type {
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            "gemma3_text" => Some(Self::Gemma3),
            _ => None,
        }
    }

    /// The family's name in `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3_text",
        }
    }
}
