//! Log-probabilities of given completions, as training computes them, for the reference of DPO and `reflux logprobs`.

use super::pack::{ForwardLimits, Pack, runs};
use super::progress::{Progress, Quiet};
use super::rows::sum;
use super::usable::{longest, unknown_token};
use crate::error::{Error, Result};
use crate::model::backprop::{self, Pool};
use crate::model::{Config, Llama, Message, Tokenizer, Unwritten};

/// A prompt and its completions, as token ids. None may be empty.
pub(super) struct Branches<'a> {
    pub prompt: &'a [u32],
    pub completions: Vec<&'a [u32]>,
}

/// The log-probability under `llama` of every token of every completion, row by row. A prompt is computed once for
/// all its completions.
pub(super) fn branch_logprobs(
    llama: &Llama,
    rows: &[Branches<'_>],
    limits: ForwardLimits,
    progress: &mut dyn Progress,
) -> Result<Vec<Vec<f32>>> {
    let counts: Vec<usize> =
        rows.iter().map(|b| count(b.prompt.len(), b.completions.iter().map(|c| c.len()))).collect();
    let mut all = Vec::with_capacity(2 * rows.len());
    let mut pool = Pool::default();
    for run in runs(&counts, limits.max_rows, limits.max_items) {
        let mut pack = Pack::default();
        rows[run].iter().for_each(|b| pack.branches(b.prompt, &b.completions));
        progress.forward(pack.rows())?;
        let log_probs = backprop::log_probs(llama, &pack.packed, &mut pool)?;
        all.extend(pack.completions.iter().map(|c| log_probs[c.clone()].to_vec()));
    }
    Ok(all)
}

/// Number of rows of a forward. The last token of a completion predicts nothing and has no row.
fn count(prompt: usize, completions: impl Iterator<Item = usize>) -> usize {
    prompt + completions.map(|n| n.saturating_sub(1)).sum::<usize>()
}

/// A prompt with completions of it that are scored together: chosen and rejected, or a single one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Token ids of each completion, including the end of the answer.
    pub completions: Vec<Vec<u32>>,
}

impl Scored {
    /// Tokenises conversations: the prompt as it is rendered for sampling, and completions with the token that ends
    /// the turn, as in training. See [`Tokenizer::encode_completion`].
    ///
    /// # Errors
    /// The chat template refuses them, or renders the whole conversation differently from prompt and completion.
    pub fn encode(tokenizer: &Tokenizer, prompt: &[Message], completions: &[Vec<Message>]) -> Result<Self> {
        Ok(Self::encode_with(tokenizer, prompt, completions, Unwritten::Refuse)?.0)
    }

    /// As [`Scored::encode`]. `unwritten` decides about completions that the template does not write as they were
    /// given. Also returns the notes on such completions.
    ///
    /// # Errors
    /// As [`Scored::encode`].
    pub fn encode_with(
        tokenizer: &Tokenizer,
        prompt: &[Message],
        completions: &[Vec<Message>],
        unwritten: Unwritten,
    ) -> Result<(Self, Vec<String>)> {
        let mut scored = Self { prompt: Vec::new(), completions: Vec::new() };
        let mut notes = Vec::new();
        for turns in completions {
            let encoded = tokenizer.encode_completion(prompt, turns, unwritten)?;
            scored.prompt = encoded.prompt;
            scored.completions.push(encoded.answer);
            notes.extend(encoded.note.filter(|note| !notes.contains(note)));
        }
        Ok((scored, notes))
    }

    fn branches(&self) -> Branches<'_> {
        Branches { prompt: &self.prompt, completions: self.completions.iter().map(Vec::as_slice).collect() }
    }

    /// Rows that a forward needs for it.
    pub fn rows(&self) -> usize {
        count(self.prompt.len(), self.completions.iter().map(Vec::len))
    }

    /// What keeps it from being scored, if something does: the problems of [`usable_pairs`](super::usable_pairs), but
    /// that equal completions do no harm here.
    pub fn problem(&self, model: &Config, max_length: Option<usize>) -> Option<String> {
        let limit = longest(model, max_length);
        let longest = self.prompt.len() + self.completions.iter().map(Vec::len).max().unwrap_or(0);
        if self.prompt.is_empty() {
            Some("the prompt has no token".into())
        } else if self.completions.iter().any(Vec::is_empty) {
            Some("a completion has no token".into())
        } else if longest > limit {
            Some(format!("prompt and completion have {longest} tokens, at most {limit} fit"))
        } else {
            let all: Vec<&[u32]> = std::iter::once(&self.prompt).chain(&self.completions).map(Vec::as_slice).collect();
            unknown_token(model, &all).map(|(_, message)| message)
        }
    }
}

/// The natural log-probability under `llama` of every completion of every row: f64 sums over its tokens, including
/// the end of the answer. No gradient is kept. Rows share a forward as far as `limits` allow, which does not change
/// their bits on a CPU.
///
/// # Errors
/// A row has a [`Scored::problem`], or an error of candle.
pub fn logprobs(llama: &Llama, rows: &[Scored], limits: ForwardLimits) -> Result<Vec<Vec<f64>>> {
    let view = frozen(llama)?;
    let llama = view.as_ref().unwrap_or(llama);
    if let Some(problem) = rows.iter().find_map(|r| r.problem(llama.config(), None)) {
        return Err(Error::user(problem));
    }
    let branches: Vec<Branches<'_>> = rows.iter().map(Scored::branches).collect();
    let tokens = branch_logprobs(llama, &branches, limits, &mut Quiet)?;
    let mut sums = tokens.iter().map(|logprobs| sum(logprobs));
    Ok(rows.iter().map(|r| sums.by_ref().take(r.completions.len()).collect()).collect())
}

/// Scores a stream of rows, as many at a time as a forward holds.
pub struct Scoring<'a, T> {
    llama: &'a Llama,
    limits: ForwardLimits,
    /// The caller's tags and the rows. A tag without a row only keeps its place.
    waiting: Vec<(T, Option<Scored>)>,
    rows: usize,
}

impl<'a, T> Scoring<'a, T> {
    /// Scores at most this many rows (tokens) in a forward. A row that alone has more still gets its own forward.
    pub fn new(llama: &'a Llama, max_rows: usize) -> Self {
        Self { llama, limits: ForwardLimits { max_rows, ..ForwardLimits::default() }, waiting: Vec::new(), rows: 0 }
    }

    /// Adds a row. If the rows before it fill a forward, they are scored first and passed to `each` in order. `each`
    /// and this function return whether to continue.
    ///
    /// # Errors
    /// As [`logprobs`], and what `each` returns.
    pub fn push(
        &mut self,
        tag: T,
        row: Option<Scored>,
        each: impl FnMut(T, Option<(Scored, Vec<f64>)>) -> Result<bool>,
    ) -> Result<bool> {
        let more = row.as_ref().map_or(0, Scored::rows);
        // Tags without rows compute nothing, but must not accumulate either.
        let full = self.rows + more > self.limits.max_rows || self.waiting.len() >= 1024;
        let going_on = !full || self.finish(each)?;
        self.rows += more;
        self.waiting.push((tag, row));
        Ok(going_on)
    }

    /// Scores the waiting rows.
    ///
    /// # Errors
    /// As [`Scoring::push`].
    pub fn finish(&mut self, mut each: impl FnMut(T, Option<(Scored, Vec<f64>)>) -> Result<bool>) -> Result<bool> {
        self.rows = 0;
        let (tags, rows): (Vec<T>, Vec<Option<Scored>>) = std::mem::take(&mut self.waiting).into_iter().unzip();
        let places: Vec<bool> = rows.iter().map(Option::is_some).collect();
        let rows: Vec<Scored> = rows.into_iter().flatten().collect();
        let sums = logprobs(self.llama, &rows, self.limits)?;
        let mut scored = rows.into_iter().zip(sums);
        for (tag, there) in tags.into_iter().zip(places) {
            if !each(tag, if there { scored.next() } else { None })? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A view of the same weights that keeps no graph, or nothing if the model keeps none anyway.
pub(super) fn frozen(llama: &Llama) -> Result<Option<Llama>> {
    if llama.variables().is_empty() {
        return Ok(None);
    }
    Ok(Some(llama.view()?))
}
