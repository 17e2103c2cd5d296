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

pub mod datasets;
pub mod files;
pub mod journal;
pub mod tables;

mod import;

pub use datasets::columns::guess;
pub use datasets::comparisons::{Comparison, Comparisons};
pub use datasets::corrections::{Corrected, Corrections};
pub use datasets::dataset::{BadRow, Batches, Dataset, OnBadRow};
pub use datasets::prompts::{Prompt, PromptForm, Prompts};
pub use datasets::rename::Rename;
pub use datasets::turn::Turn;
pub use files::atomic::{Written, fill_output, output_target, write_bytes, write_output};
pub use files::integrity::hash_file;
pub use files::lines::Lines;
pub use files::listing::is_data_file;
pub use files::printable::printable_with_bytes;
pub use files::reader::{decoding, read_parquet, row_bytes};
pub use files::writer::{ParquetFile, write_parquet};
pub use import::{Format, ImportOptions, Imported, Turns, import, import_jsonl};
pub use journal::checkpoints::CheckpointFiles;
pub use journal::diff::lines as changed_lines;
pub use journal::entry::{
    FileEntry, FileTimes, InputEntry, InputFile, InputForm, MetricsEntry, ModelEntry, Stored, Taken,
};
pub use journal::find::find_run;
pub use journal::findings::{Artifact, Finding, Inspected};
pub use journal::folder::{make_folder, put_microbatch};
pub use journal::fork::{RunFork, link};
pub use journal::inputs::{ChangedInput, InputPlace, changed_error};
pub use journal::lock::Writer;
pub use journal::repair::{Repair, Repaired};
pub use journal::run::{Run, RunState, RunStatus};
pub use journal::verify::inspect;
pub use tables::loaded::{Loaded, LoadedAnswer, LoadedPrompt, given_answers, given_prompts};
pub use tables::part::{Part, PartRows};
pub use tables::scan::Scan;
