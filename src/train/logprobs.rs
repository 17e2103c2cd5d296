//! Log-probabilities of given completions, as training computes them: the reference of DPO, and what `reflux logprobs` prints.

use super::pack::{Limits, Pack, runs};
use super::progress::{Progress, Quiet};
use super::rows::sum;
use super::usable::{longest, unknown_token};
use crate::error::{Error, Result};
use crate::model::backprop::{self, Pool};
use crate::model::{Config, Llama, Message, Tokenizer, Unwritten};

/// A prompt and completions of it, as token ids; none may be empty.
pub(super) struct Branches<'a> {
    pub prompt: &'a [u32],
    pub completions: Vec<&'a [u32]>,
}

/// The log-probability of every token of every completion of the rows in turn under `llama`. A prompt is computed once for
/// all its completions.
pub(super) fn branch_logprobs(
    llama: &Llama,
    rows: &[Branches<'_>],
    limits: Limits,
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

/// Rows of a forward: the last token of a completion predicts nothing and has none.
fn count(prompt: usize, completions: impl Iterator<Item = usize>) -> usize {
    prompt + completions.map(|n| n.saturating_sub(1)).sum::<usize>()
}

/// A prompt with completions of it that are scored together: chosen and rejected, or a single one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Token ids of each completion, what ends the answer included.
    pub completions: Vec<Vec<u32>>,
}

impl Scored {
    /// Tokenises conversations: the prompt as it is rendered for sampling, completions as the loss sees them: what was said
    /// and the token that ends the turn. See [`Tokenizer::encode_completion`].
    ///
    /// # Errors
    /// The chat template refuses them, or prompt and completion are not what it gives for the whole conversation.
    pub fn encode(tokenizer: &Tokenizer, prompt: &[Message], completions: &[Vec<Message>]) -> Result<Self> {
        Ok(Self::encode_with(tokenizer, prompt, completions, Unwritten::Refuse)?.0)
    }

    /// As [`Scored::encode`], with a completion that the template does not write as it was given taken as `unwritten` says;
    /// and the notes on such completions.
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

/// The summed natural log-probability of every completion of every row under `llama`: f64 sums of what the model gives
/// each token, of the end of the answer too. No gradient is kept. Rows go through the model together as far as `limits`
/// allow; on a CPU it makes no difference to their bits.
///
/// # Errors
/// A row that has a [`Scored::problem`], or whatever candle reports.
pub fn logprobs(llama: &Llama, rows: &[Scored], limits: Limits) -> Result<Vec<Vec<f64>>> {
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

/// A stream of rows scored together, as many at a time as a forward holds.
pub struct Scoring<'a, T> {
    llama: &'a Llama,
    limits: Limits,
    /// What its caller knows a row by, and the row; none only keeps its place.
    waiting: Vec<(T, Option<Scored>)>,
    rows: usize,
}

impl<'a, T> Scoring<'a, T> {
    /// Scores with that many rows (tokens) to a forward; a row that alone has more still gets its own.
    pub fn new(llama: &'a Llama, max_rows: usize) -> Self {
        Self { llama, limits: Limits { max_rows, ..Limits::default() }, waiting: Vec::new(), rows: 0 }
    }

    /// Adds a row. Those before it are scored first if they fill a forward, and go to `each` in order, which says whether
    /// to go on; so does this.
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
        // Rows without anything to compute must not pile up either.
        let full = self.rows + more > self.limits.max_rows || self.waiting.len() >= 1024;
        let going_on = !full || self.finish(each)?;
        self.rows += more;
        self.waiting.push((tag, row));
        Ok(going_on)
    }

    /// Scores what waits.
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
