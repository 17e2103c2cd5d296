//! Models as files: Hugging Face directories, safetensors, GGUF, PEFT adapters.

pub mod export;
pub(crate) mod hf;
pub mod peft;
pub(crate) mod save;
pub(crate) mod weights;
