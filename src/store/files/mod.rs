//! File formats and file system access: atomic writes, Parquet, JSON lines, CSV, gzip, and listing of data
//! files.

pub(crate) mod atomic;
pub(crate) mod csv;
pub mod fault;
pub(crate) mod footer;
pub(crate) mod integrity;
pub(crate) mod io_error;
pub(crate) mod jsonl;
pub(crate) mod lines;
pub(crate) mod listing;
pub(crate) mod open;
pub(crate) mod output;
pub(crate) mod printable;
pub(crate) mod reader;
pub(crate) mod same_file;
pub(crate) mod unpack;
pub(crate) mod unread;
pub(crate) mod writer;
