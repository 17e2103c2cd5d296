//! Training: against TRL, torch and PEFT, against itself in other cuts and after interruptions, and in pipelines.

#[path = "../common/mod.rs"]
mod common;

mod deviations;
mod equivalence;
mod goldens;
mod half_precision;
mod limits;
mod lora;
mod other_tokenizer;
mod pipelines;
mod preferences;
mod references;
mod refusals;
mod resume;
mod smollm2;
mod support;
mod validation;
