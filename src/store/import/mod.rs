//! Imports: conversion of public formats and of users' files to Parquet of a named schema. Imports are
//! streaming: one row, or one chunk of Parquet, is in memory at a time.

mod chats;
mod context;
mod converter;
mod formats;
mod options;
mod own;
mod public;
mod record;
mod sink;
mod turns;

pub use chats::Turns;
pub use formats::{FORMATS, FormatDef};
pub use options::{ImportOptions, Imported};
pub use own::import_jsonl;
pub use public::{format_of, import};
