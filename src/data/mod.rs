//! Arrow batches, the named schemas they follow, typed access to their columns, and content-hash ids.
//!
//! This module depends on Arrow and on no other module of reflux except the error type.

mod address;
mod batch;
mod columns;
mod counted;
mod ids;
mod json;
mod judgements;
mod nearest;
mod prompts;
mod regular;
mod schema;
mod shell;
mod visible;

pub use address::address_problem;
pub use batch::{Batch, Epoch, Rows};
pub use columns::{Columns, List, Messages};
pub use counted::{counted, plural, unread_key};
pub use ids::{Id, RngKey, hash_hex, is_hash};
#[cfg(test)]
pub(crate) use json::MAX_VALUES;
pub(crate) use json::{JsonFault, parse_json, parse_json_up_to};
pub use judgements::{Judgement, Judgements};
pub use nearest::{did_you_mean, join_some, nearest, nearest_path};
pub use prompts::{PROMPT_MESSAGES, Prompts, conversations, prompt_id, transcript};
pub use regular::{open_regular, read_regular, read_text};
pub use schema::{ALL as SCHEMAS, Column, Schema, Type, named};
pub use shell::quoted;
pub use visible::{is_terminal_control, one_line, visible, visible_json};
