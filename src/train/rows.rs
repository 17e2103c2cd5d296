//! Rows to train on: examples and pairs, and the problems of those that are left out.

use super::losses::PairColumns;
use crate::error::{Error, Result};
use crate::model::{Message, TokenizedCompletion, Tokenizer, Unwritten};

/// A sequence to learn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Token ids, including the end token if the model should learn to end.
    pub tokens: Vec<u32>,
    /// Number of leading tokens without loss. The first token never has a loss, because nothing predicts it.
    pub context: usize,
}

impl Example {
    /// An answer to learn after a prompt. The loss is on the answer's tokens and on the token that ends an
    /// assistant's turn, see [`Tokenizer::encode_completion`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode_completion`].
    pub fn answer(tokenizer: &Tokenizer, prompt: &[Message], answer: &str) -> Result<Self> {
        let turn = [Message::new("assistant", answer)];
        let TokenizedCompletion { prompt: mut tokens, answer, .. } =
            tokenizer.encode_completion(prompt, &turn, Unwritten::Refuse)?;
        let context = tokens.len();
        tokens.extend(answer);
        Ok(Self { tokens, context })
    }

    /// Plain text to learn after a context, which has no loss and may be empty. The token that ends an assistant's
    /// turn ends the text too.
    ///
    /// # Errors
    /// Whatever the tokenizer reports.
    pub fn text(tokenizer: &Tokenizer, context: &str, text: &str) -> Result<Self> {
        let mut tokens: Vec<u32> = tokenizer.bos_id().into_iter().collect();
        tokens.extend(tokenizer.encode_text(context)?);
        let before = tokens.len();
        let follows = if context.is_empty() { tokenizer.encode_text(text)? } else { tokenizer.encode_later(text)? };
        tokens.extend(follows);
        tokens.extend(tokenizer.end_of_turn());
        Ok(Self { tokens, context: before })
    }
}

/// A preference: a prompt with a better and a worse completion, as sampled (token ids, including the end token).
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Name of the pair in problems and errors.
    pub id: String,
    /// Token ids of the rendered prompt.
    pub prompt: Vec<u32>,
    /// Token ids of the preferred completion.
    pub chosen: Vec<u32>,
    /// Token ids of the other completion.
    pub rejected: Vec<u32>,
    /// Log-probabilities of the completions' tokens under the frozen reference, which [`reference`](super::reference())
    /// computes.
    pub reference: Option<Reference>,
    /// Columns for the losses that read them, such as the judge's margin.
    pub columns: PairColumns,
}

/// A row that was left out of training, with the reason. It is written to the `errors` dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The pair's id, or the example's index, counted from 0.
    pub id: String,
    /// `empty_prompt`, `empty_completion`, `equal_completions`, `too_long`, `unknown_token`, `bad_reference`, or the
    /// code of a column that a loss reads, such as `bad_margin`.
    pub code: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// Natural log-probability of every token of a pair's completions under the frozen reference, at temperature 1 over the
/// full vocabulary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reference {
    /// Of the preferred completion, token by token.
    pub chosen: Vec<f32>,
    /// Of the other completion.
    pub rejected: Vec<f32>,
}

impl Reference {
    /// The sums over each completion, `(log ref(y_w|x), log ref(y_l|x))`, in f64 and in the same order as the
    /// policy's sums: the log-ratio of a policy that equals its reference is exactly 0.
    pub fn sums(&self) -> (f64, f64) {
        (sum(&self.chosen), sum(&self.rejected))
    }

    /// The same sums with a weight of `alpha` on tokens beyond the length of the shorter completion, as in LD-DPO.
    pub(super) fn weighted_sums(&self, alpha: Option<f64>) -> (f64, f64) {
        let Some(alpha) = alpha else { return self.sums() };
        let shared = self.chosen.len().min(self.rejected.len());
        let weight = |i: usize| if i < shared { 1. } else { alpha };
        let of = |all: &[f32]| all.iter().enumerate().map(|(i, &l)| f64::from(l) * weight(i)).sum();
        (of(&self.chosen), of(&self.rejected))
    }
}

/// Sum of log-probabilities, first to last, in f64.
pub(super) fn sum(logprobs: &[f32]) -> f64 {
    logprobs.iter().map(|&l| f64::from(l)).sum()
}

/// The pair's reference.
///
/// # Errors
/// The pair has no reference.
pub(super) fn check_reference(pair: &Pair) -> Result<&Reference> {
    pair.reference.as_ref().ok_or_else(|| {
        Error::user(format!("pair `{}` has no log-probabilities under the reference", pair.id))
            .help("compute them before training, with the model that is the reference")
    })
}
