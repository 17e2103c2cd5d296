//! Drawing tokens: the options, a draw from logits, and stop strings.

mod draw;
pub(super) mod numeric;
mod options;
pub(super) mod stop;

pub(super) use draw::{Scratch, TokenDraw, likeliest, logprobs, unit};
pub use options::Sampling;
