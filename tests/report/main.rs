//! What reflux says of runs and models: `ls`, `show`, `trace`, `diff`, `cost`, `eval`, and the progress of a run.

#[path = "../common/mod.rs"]
mod common;

mod cost;
mod evaluation;
mod inspect;
mod page;
mod progress;
mod trace;
