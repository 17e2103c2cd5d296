//! Parquet datasets and the run directory.
//!
//! * [`Dataset`] reads a user's files (Parquet, JSON lines, CSV, plain text, or a directory of the first two)
//!   as batches of a named schema.
//! * [`Run`] is the run directory. Every microbatch is written whole or not at all, and then listed in an
//!   append-only manifest, so that an interrupted run continues where it stopped.
//! * [`import`] converts public formats to Parquet, and a JSONL file to the Parquet file of the same rows.
//! * [`PromptReader`] and [`ComparisonReader`] read conversations to answer or to compare, one row at a time.
//!
//! The layout of a run (`I` counts iterations from 1, 0 is before the loop; `M` counts microbatches from 0):
//!
//! ```text
//! runs/NAME/
//!   pipeline.toml  manifest.jsonl  summary.json  report.html  lock
//!   data/STEP/iteration=I/microbatch=M.parquet            one Hive-style table per step; STEP.reference and
//!                                                         STEP.candidates are tables beside one
//!   data/errors/STEP/iteration-I/microbatch-M.parquet     rows that failed; plain names, as the rows carry these columns
//!   metrics/STEP/iteration=I/metrics.parquet              one Hive-style table per training step; while it trains,
//!                                                         metrics.running.parquet is there instead
//!   models/NAME/                                          an HF directory
//!   checkpoints/STEP/iteration=I/step=S/                  a training under way, until it is done
//!   scratch/STEP/iteration=I/                             what a training by a program outside is given and
//!                                                         leaves, until it is done
//!   logs/STEP/iteration=I.log                             what that program printed; logs/server.MODEL has what a
//!                                                         server printed that the run started, and scratch/server.MODEL
//!                                                         its model, if that has no directory
//!   replies/STEP/iteration=I/microbatch=M.jsonl           replies of servers, until the microbatch is committed;
//!                                                         replies/usage.jsonl has what they cost
//!   manifest.before-repair-N.jsonl                        what the manifest was before a repair
//!   revised/STEP-HASH/                                    pairs under corrected scores; each says itself what it is
//! ```
//!
//! This module depends on [`crate::data`] and on nothing above it. Inside it, `files` is the lowest layer;
//! `datasets` and `journal` depend on it and not on each other; `import` is above `datasets`, and `tables`
//! above both.

pub mod datasets;
pub mod files;
pub mod journal;
pub mod tables;

mod import;

pub use datasets::columns::guess;
pub use datasets::comparisons::{ComparisonReader, PromptCompletions};
pub use datasets::corrections::{Corrected, Corrections};
pub use datasets::dataset::{BadRow, Dataset, DatasetBatches, OnBadRow};
pub use datasets::prompts::{Prompt, PromptForm, PromptReader};
pub use datasets::rename::Rename;
pub use datasets::turn::Turn;
pub use files::atomic::{Written, fill_output, output_target, write_bytes, write_output};
pub use files::integrity::hash_file;
pub use files::lines::Lines;
pub use files::listing::is_data_file;
pub use files::printable::printable_with_bytes;
pub use files::reader::{read_parquet, row_bytes};
pub use files::writer::{ParquetFile, write_parquet};
pub use import::{FORMATS, FormatDef, ImportOptions, Imported, Turns, format_of, import, import_jsonl};
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
pub use journal::reply_files::ReplyUsage;
pub use journal::run::{PriorState, Run, RunState};
pub use journal::stored_replies::Replies;
pub use journal::verify::inspect;
pub use tables::loaded::{Loaded, LoadedAnswer, LoadedPrompt, load_answers, load_prompts};
pub use tables::part::{Part, PartRows};
pub use tables::scan::Scan;
