//! Whole runs: ready pipelines, and the same bytes whatever the workers, kills and damages; verifying, replaying and
//! revising.

#[path = "../common/mod.rs"]
mod common;

mod case;
mod damage;
mod inputs;
mod kill;
mod pipelines;
mod quickstart;
mod replay;
mod revise;
mod run_directory;
mod smollm2;
mod verify;
mod whole_runs;
