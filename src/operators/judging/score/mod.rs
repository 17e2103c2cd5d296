//! Reading a score out of a judge's own words. The judged answer is never looked at, so it cannot vote for itself.
//!
//! By default a small grammar reads it: `tokens` cuts the text up, `mentions` finds where a score is spoken of and how it
//! is meant, `value` reads the number with its scale, and `grammar` decides. A user's regular expression takes its place.
//!
//! What counts, where a text has several scores, is the key `several`. By default all must be the same, else the judgement is
//! ambiguous: a judge that rambles on after its verdict, or weighs two scores in words, has not said which it means.

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
