//! Llama-family models: weights, tokenizer, chat template, and one network definition for training and
//! inference. Other families ([`families`]) support generation only. This folder uses candle and does not
//! depend on dataflow, engine or training.

pub mod backprop;
pub mod config;
mod device;
pub mod families;
pub mod family;
pub mod formats;
mod loaded;
pub mod nn;
pub mod ops;
mod outline;
pub mod text;

pub use config::Config;
pub use device::device;
pub use formats::gguf_model::gguf_config;
pub use formats::load::is_gguf;
pub use formats::safetensors::read_all as read_tensors;
pub use formats::save::{safetensors as write_tensors, saved_dtype};
pub use loaded::Model;
pub use nn::hash::hash;
pub use nn::llama::Llama;
pub use nn::lora::LoraConfig;
pub use ops::Attention;
pub use outline::ModelOutline;
pub use text::completion::{TokenizedCompletion, Unwritten};
pub use text::message::Message;
pub use text::tokenizer::Tokenizer;
