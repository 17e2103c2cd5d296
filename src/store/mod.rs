//! Parquet datasets and the run directory.
//!
//! * [`Dataset`] reads what a user gives: Parquet, JSON lines, CSV, plain text, or a directory of the first two, as batches
//!   of a named schema.
//! * [`Run`] is the run directory: every microbatch is written whole or not at all and named in an append-only
//!   [`manifest`], so that a run that was cut off goes on where it stopped.
//! * [`import`] makes Parquet of public formats, and the Parquet twin of a JSONL file.
//! * [`Prompts`] and [`Comparisons`] read conversations to answer or to compare, a row at a time.
//!
//! The layout of a run (`I` counts iterations from 1, 0 is before the loop; `M` counts microbatches from 0):
//!
//! ```text
//! runs/NAME/
//!   pipeline.toml  manifest.jsonl  summary.json  lock
//!   data/STEP/iteration=I/microbatch=M.parquet            one Hive-style table per step; STEP.reference and
//!                                                         STEP.candidates are tables beside one
//!   data/errors/STEP/iteration-I/microbatch-M.parquet     rows that failed; plain names, as the rows carry these columns
//!   metrics/STEP/iteration=I/metrics.parquet              one Hive-style table per training step; while it trains,
//!                                                         metrics.running.parquet is there instead
//!   models/NAME/                                          an HF directory
//!   checkpoints/STEP/iteration=I/step=S/                  a training under way, until it is done
//!   manifest.before-repair-N.jsonl                        what the manifest was before a repair
//!   revised/STEP-HASH/                                    pairs under corrected scores; each says itself what it is
//! ```
//!
//! This folder knows [`crate::data`] and nothing of reflux above it.

mod asked;
mod atomic;
mod checkpoints;
mod columns;
mod commit;
mod context;
mod conversations;
mod corrections;
mod csv;
mod dataset;
mod diff;
pub mod fault;
mod fit;
mod folder;
mod footer;
mod import;
mod index;
mod inputs;
mod json;
mod json_rows;
mod jsonl;
mod kept;
mod lines;
mod listing;
mod load;
mod lock;
pub mod manifest;
mod output;
mod owned;
mod pipeline_file;
mod printable;
mod reader;
mod rename;
mod repair;
mod rows;
mod run;
mod running;
mod scan;
mod suggest;
mod summary;
mod sweep;
mod take;
mod text_rows;
mod unpack;
mod verify;
mod writer;

pub use atomic::{Written, fill_output, hash_file, output_target, write_bytes, write_output};
pub use checkpoints::CheckpointFiles;
pub use columns::guess;
pub use conversations::{Comparison, Comparisons, Prompt, PromptForm, Prompts, Turn};
pub use corrections::{Corrected, Corrections};
pub use dataset::{BadRow, Batches, Dataset, OnBadRow};
pub use diff::lines as changed_lines;
pub use folder::{make_folder, put_microbatch};
pub use import::{
    Format, Given, GivenAnswer, GivenPrompt, How, Imported, Turns, given_answers, given_prompts, import, import_jsonl,
};
pub use inputs::{ChangedInput, FileTimes, InputEntry, InputFile, InputForm, InputPlace, changed_error};
pub use lines::Lines;
pub use listing::is_data_file;
pub use lock::Writer;
pub use manifest::{FileEntry, MetricsEntry, ModelEntry, Stored, Taken};
pub use printable::printable_with_bytes;
pub use reader::{decoding, read_parquet, row_bytes};
pub use rename::Rename;
pub use repair::{Repair, Repaired};
pub use run::{Opened, Run, RunState};
pub use scan::{Part, PartRows, Scan, find_run};
pub use take::{Take, link};
pub use verify::{Finding, Inspected, Thing, inspect};
pub use writer::{ParquetFile, write_parquet};
