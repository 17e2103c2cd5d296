//! Packing: sequences and pairs laid end to end as rows, without padding, and the log-probabilities of their
//! completion tokens.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::model::backprop::PackedRows;
use crate::model::ops::Segment;

/// The rows of a forward. The last token of a sequence predicts nothing, so it has no row.
#[derive(Default)]
pub(super) struct Pack {
    /// The rows and their targets.
    pub packed: PackedRows,
    /// The targets of each completion, in the order they were put in.
    pub completions: Vec<Range<usize>>,
    /// Key of the dropout of the next sequence or pair, if there is dropout.
    key: Option<u64>,
}

impl Pack {
    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.packed.ids.len()
    }
    /// Completion tokens so far.
    pub fn targets(&self) -> usize {
        self.packed.targets.len()
    }

    /// Sets the dropout keys of the rows that follow: `key`, the next number, and so on.
    pub fn draw_by(&mut self, key: Option<u64>) {
        self.key = key;
    }

    /// Appends rows that attend to `prefix` and, causally, to each other.
    fn segment(&mut self, tokens: &[u32], prefix: Range<usize>) -> Range<usize> {
        let rows = self.rows()..self.rows() + tokens.len();
        self.packed.ids.extend(tokens);
        self.packed.positions.extend((0..tokens.len()).map(|i| (prefix.len() + i) as u32));
        if let Some(key) = &mut self.key {
            self.packed.keys.extend((0..tokens.len() as u64).map(|i| key.wrapping_add(i)));
            *key = key.wrapping_add(tokens.len() as u64);
        }
        if !tokens.is_empty() {
            self.packed.segments.push(Segment { prefix, rows: rows.clone() });
        }
        rows
    }

    /// Appends a completion whose first token is predicted by row `first` and the others by the rows `rest`.
    fn completion(&mut self, tokens: &[u32], first: usize, rest: Range<usize>) {
        let start = self.targets();
        self.packed.targets.extend(tokens);
        self.packed.from.extend(std::iter::once(first).chain(rest).map(|row| row as u32));
        self.completions.push(start..self.targets());
    }

    /// Adds a sequence whose first `context` tokens carry no loss. Needs `context < tokens.len()` and two tokens.
    pub fn example(&mut self, tokens: &[u32], context: usize) {
        let rows = self.segment(&tokens[..tokens.len() - 1], 0..0);
        let first = context.max(1);
        self.completion(&tokens[first..], rows.start + first - 1, rows.start + first..rows.end);
    }

    /// Adds a prompt once, with its completions as branches. Neither may be empty.
    pub fn branches(&mut self, prompt: &[u32], completions: &[&[u32]]) {
        let prompt = self.segment(prompt, 0..0);
        for completion in completions {
            let rows = self.segment(&completion[..completion.len() - 1], prompt.clone());
            self.completion(completion, prompt.end - 1, rows);
        }
    }

    /// Sums of the targets' log-probabilities by completion, `[completions]`.
    pub fn sums(&self, log_probs: &Tensor) -> Result<Tensor> {
        let sums: Vec<Tensor> =
            self.completions.iter().map(|c| log_probs.narrow(0, c.start, c.len())?.sum_all()).collect::<Result<_>>()?;
        Tensor::stack(&sums, 0)
    }
}

/// The size of a forward. Activation memory grows with it. Results depend on it only through the order of float sums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForwardLimits {
    /// Maximum rows (tokens) of a forward. A sequence or pair that alone has more still gets its own forward.
    pub max_rows: usize,
    /// Maximum sequences or pairs of a forward.
    pub max_items: usize,
}

impl Default for ForwardLimits {
    fn default() -> Self {
        Self { max_rows: 2048, max_items: usize::MAX }
    }
}

/// Cuts items of the given row counts into runs that fit `max_rows` (an item that alone does not fit is a run of its
/// own) and hold at most `max_items`.
pub(super) fn runs(rows: &[usize], max_rows: usize, max_items: usize) -> Vec<Range<usize>> {
    let (mut runs, mut start, mut filled) = (Vec::new(), 0, 0);
    for (i, &n) in rows.iter().enumerate() {
        if i > start && (filled + n > max_rows || i - start >= max_items) {
            runs.push(start..i);
            (start, filled) = (i, 0);
        }
        filled += n;
    }
    if start < rows.len() {
        runs.push(start..rows.len());
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_its_prompt_once_and_no_row_for_last_tokens() {
        let mut pack = Pack::default();
        pack.example(&[1, 2, 3, 4], 0);
        pack.branches(&[5, 6, 7], &[&[8, 9], &[10]]);
        assert_eq!(pack.packed.ids, [1, 2, 3, 5, 6, 7, 8]);
        assert_eq!(pack.packed.positions, [0, 1, 2, 0, 1, 2, 3]);
        let segment = |prefix, rows| Segment { prefix, rows };
        assert_eq!(pack.packed.segments, [segment(0..0, 0..3), segment(0..0, 3..6), segment(3..6, 6..7)]);
        assert_eq!(pack.packed.targets, [2, 3, 4, 8, 9, 10]);
        assert_eq!(pack.packed.from, [0, 1, 2, 5, 6, 5]);
        assert_eq!(pack.completions, [0..3, 3..5, 5..6]);
    }

    #[test]
    fn runs_keep_order_and_budget() {
        assert_eq!(runs(&[3, 3, 3, 9, 1], 6, 10), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(runs(&[1, 1, 1], 6, 2), [0..2, 2..3]);
        assert_eq!(runs(&[], 6, 2), Vec::<Range<usize>>::new());
    }
}
