//! Reads a score from a judge's own words. The judged answer is never read, so it cannot vote for itself.
//!
//! By default a small grammar reads the text: `tokens` splits it, `mentions` finds where a score is
//! mentioned and what it means, `value` reads the number with its scale, and `grammar` decides. A user's
//! regular expression replaces the grammar.
//!
//! The key `several` says what counts if a text has several scores. By default they must be equal, else the
//! judgement is ambiguous: a judge that rambles on after its verdict, or weighs two scores, has not stated
//! which it means.

mod grammar;
mod key;
mod mentions;
mod outcome;
mod pattern;
mod reader;
mod strip;
mod tokens;
mod value;
mod words;

pub use key::{GRAMMAR, VERDICT, pattern};
pub use outcome::{Outcome, Several};
pub use pattern::PATTERN;
pub use reader::Reader;
pub use strip::Strip;

#[cfg(test)]
mod tests;
