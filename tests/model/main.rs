//! Networks, tokenizers, chat templates and model files, against transformers and llama.cpp.

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod completion;
mod conversations;
mod export;
mod families;
mod files;
mod folders;
mod golden_folders;
mod goldens;
mod hub;
mod llamas;
mod ops;
mod templates;
