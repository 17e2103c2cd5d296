//! The network: its configuration, the Llama forward pass over packed rows, LoRA, random and invalid weights.

pub mod config;
pub(crate) mod finite;
pub(crate) mod init;
pub mod llama;
pub mod lora;
