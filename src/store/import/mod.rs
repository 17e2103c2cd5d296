//! Files of others as Parquet of a named schema, read as a stream: a row, or a chunk of Parquet, is held at a time.

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
pub use formats::Format;
pub use options::{ImportOptions, Imported};
pub use own::import_jsonl;
pub use public::import;
