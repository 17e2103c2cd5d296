//! Models as files: Hugging Face directories, safetensors, GGUF, PEFT adapters.

pub mod export;
mod gguf;
pub(crate) mod gguf_model;
pub(crate) mod gguf_tokenizer;
pub(crate) mod hf;
pub(crate) mod load;
pub mod peft;
pub mod peft_sum;
pub(crate) mod safetensors;
pub(crate) mod save;
mod tensor_size;
