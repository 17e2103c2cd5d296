//! Imports: conversion of public formats and of users' files to Parquet of a named schema. Imports are
//! streaming: one row, or one chunk of Parquet, is in memory at a time.

mod benchmarks;
mod chats;
mod context;
mod formats;
mod instructions;
mod oasst;
mod options;
mod own;
mod preferences;
mod public;
mod record;
mod sink;
mod turns;

pub use chats::Turns;
pub use formats::ImportFormat;
pub use options::{ImportOptions, Imported};
pub use own::import_jsonl;
pub use public::import;
