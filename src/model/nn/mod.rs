//! The network: the Llama forward pass over packed rows, LoRA, random weights and checks for finite
//! weights.

pub(crate) mod finite;
pub(crate) mod hash;
pub(crate) mod init;
pub mod llama;
pub mod lora;
