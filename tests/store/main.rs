//! Files, datasets, imports and run directories, through the library.

#[path = "../common/mod.rs"]
mod common;

mod basics;
mod datasets;
mod faults;
mod import;
mod import_keys;
mod import_rows;
mod plain_prompts;
mod readers;
mod row_context;
