//! List world: a small closed world in which the self-rewarding loop can be checked by an oracle.
//!
//! A request asks for some words of a category, perhaps in an order, perhaps politely; a right response is those
//! words, distinct, in that order, and `thanks` where politeness was asked for. [`oracle`] gives one point for each of
//! five aspects. Everything is text of single-space-separated words (the tokenizer's tokens), and everything is a chat:
//! the loop runs on it with the same operators that run a real model. Only the seed data ([`data`]) and the oracle know
//! the world; the oracle labels the EFT seed rows and evaluates, and never feeds the loop.
//!
//! - [`world`]: categories, words, requests, and the vocabulary of the tokenizer.
//! - [`oracle`]: the five verdicts and the score of any response text.
//! - [`writer`]: the imperfect writer of the seed responses.
//! - [`corpus`]: the text that M0 is pretrained on.
//! - [`data`]: seeded datasets as record batches of the named schemas.

pub mod corpus;
pub mod data;
mod draw;
pub mod oracle;
pub mod world;
pub mod writer;

pub use data::Data;
pub use oracle::{Verdicts, score};
pub use world::Instruction;
