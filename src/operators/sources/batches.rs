//! How `read` cuts batches: into microbatches of whole prompts, up to a limit of rows.

use std::collections::{HashMap, HashSet};

use arrow::compute::{concat_batches, take_record_batch};

use crate::data::Id;
use crate::operators::shared::prelude::*;
use crate::store::row_bytes;

/// Returns how many of the first rows of a batch fit into a number of rows.
pub(super) type RowsThatFit = fn(&RecordBatch, usize) -> Result<usize>;

/// Batches up to a limit of rows.
pub(super) struct Whole<I> {
    batches: I,
    /// Remaining rows up to the limit; `None` without a limit.
    left: Option<usize>,
    within: RowsThatFit,
    /// Whether any row was read.
    taken: bool,
}

impl<I: Iterator<Item = Result<RecordBatch>>> Whole<I> {
    pub(super) fn new(batches: I, limit: Option<usize>, within: RowsThatFit) -> Self {
        Self { batches, left: limit, within, taken: false }
    }

    fn take(&mut self, rows: RecordBatch) -> Result<Option<RecordBatch>> {
        let Some(left) = self.left else { return Ok(Some(rows)) };
        let count = if rows.num_rows() <= left { rows.num_rows() } else { (self.within)(&rows, left)? };
        // A prompt that does not fit ends the reading, even if a later one would fit.
        self.left = Some(if count < rows.num_rows() { 0 } else { left - count });
        self.taken |= count > 0;
        if count == 0 && !self.taken {
            return Err(Error::user(format!("the first prompt has more than the {left} rows that `limit` allows"))
                .help("raise `limit`: the answers to a prompt are read together, or not at all"));
        }
        Ok((count > 0).then(|| rows.slice(0, count)))
    }
}

impl<I: Iterator<Item = Result<RecordBatch>>> Iterator for Whole<I> {
    type Item = Result<RecordBatch>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == Some(0) {
            return None;
        }
        match self.batches.next()? {
            Ok(rows) => self.take(rows).transpose(),
            Err(error) => Some(Err(error)),
        }
    }
}

/// Returns the number of rows of the first prompts that together have at most `most` rows. The batch has
/// more rows than that.
pub(super) fn prompts_within(rows: &RecordBatch, most: usize) -> Result<usize> {
    let ids = Columns(rows).text("prompt_id")?;
    let begins = |i: &usize| *i == 0 || ids.value(*i) != ids.value(*i - 1);
    Ok((0..=most).rev().find(begins).unwrap_or(0))
}

/// Finds the first prompt whose rows are not contiguous.
pub(super) fn torn_prompt(batches: impl Iterator<Item = Result<RecordBatch>>) -> Result<Option<String>> {
    let (mut seen, mut last) = (HashSet::new(), None);
    for batch in batches {
        let batch = batch?;
        for id in Columns(&batch).text("prompt_id")?.iter().flatten() {
            let hash = Id::from_parts([id]);
            if last == Some(hash) {
                continue;
            }
            if !seen.insert(hash) {
                return Ok(Some(id.to_owned()));
            }
            last = Some(hash);
        }
    }
    Ok(None)
}

/// Groups the rows by prompt: prompts in the order of their first rows, and the rows of each in their
/// order.
pub(super) fn by_prompt(rows: &RecordBatch) -> Result<RecordBatch> {
    let ids = Columns(rows).text("prompt_id")?;
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for (row, id) in (0..).zip(ids) {
        let place = *places.entry(id.unwrap_or_default()).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Vec::new());
        }
        groups[place].push(row);
    }
    Ok(take_record_batch(rows, &UInt32Array::from(groups.concat()))?)
}

/// Returns where to cut a batch to a number of rows; `None` if it depends on later rows.
type CutAt = fn(&RecordBatch, usize) -> Result<Option<usize>>;

/// Batches of about `size` rows each, and fewer if they exceed `budget` bytes.
pub(super) struct Cut<I> {
    batches: I,
    /// Rows not yet returned; `None` at the end.
    rest: Option<RecordBatch>,
    size: usize,
    budget: u64,
    at: CutAt,
}

/// Returns the start of the last prompt that begins within `size` rows. A prompt with more rows is not cut;
/// its microbatch grows.
pub(super) fn between_prompts(rows: &RecordBatch, size: usize) -> Result<Option<usize>> {
    let ids = Columns(rows).text("prompt_id")?;
    let begins = |i: &usize| ids.value(*i) != ids.value(*i - 1);
    Ok((1..=size).rev().find(begins).or_else(|| (size + 1..ids.len()).find(begins)))
}

impl<I: Iterator<Item = Result<RecordBatch>>> Cut<I> {
    pub(super) fn new(batches: I, size: usize, budget: u64, at: CutAt) -> Self {
        Self { batches, rest: None, size, budget, at }
    }

    /// Reads until more than `rows` rows or `bytes` bytes are in memory. Returns whether more rows may
    /// follow, and whether the byte limit was reached.
    fn fill(&mut self, rows: usize, bytes: u64) -> Result<(bool, bool)> {
        let mut parts: Vec<RecordBatch> = self.rest.take().into_iter().collect();
        let mut held: usize = parts.iter().map(RecordBatch::num_rows).sum();
        let mut size: u64 = parts.iter().map(row_bytes).sum();
        let mut more = true;
        while held <= rows && size < bytes {
            let Some(next) = self.batches.next().transpose()? else {
                more = false;
                break;
            };
            held += next.num_rows();
            size = size.saturating_add(row_bytes(&next));
            parts.push(next);
        }
        self.rest = match &parts[..] {
            [] => None,
            [one] => Some(one.clone()),
            [first, ..] => Some(concat_batches(&first.schema(), &parts).map_err(|e| {
                Error::user(format!("the rows of one prompt have more text than a microbatch can hold: {e}"))
                    .help("leave out answers, or shorten them: those of a prompt are compared in one microbatch")
            })?),
        };
        Ok((more, size >= bytes))
    }

    fn cut(&mut self) -> Result<Option<RecordBatch>> {
        let (mut rows, mut bytes) = (self.size, self.budget);
        loop {
            let (more, full) = self.fill(rows, bytes)?;
            let Some(rest) = self.rest.take().filter(|rest| rest.num_rows() > 0) else { return Ok(None) };
            let most = self.size.min(rest.num_rows() - 1);
            let large = rest.num_rows() > self.size || full;
            let at = if large && most > 0 { (self.at)(&rest, most)? } else { None };
            if let Some(at) = at {
                self.rest = Some(rest.slice(at, rest.num_rows() - at));
                return Ok(Some(rest.slice(0, at)));
            }
            if !more {
                return Ok(Some(rest));
            }
            // The amount doubles each time, so a long prompt is not copied for each of its batches.
            (rows, bytes) = (2 * rest.num_rows(), row_bytes(&rest).saturating_mul(2));
            self.rest = Some(rest);
        }
    }
}

impl<I: Iterator<Item = Result<RecordBatch>>> Iterator for Cut<I> {
    type Item = Result<RecordBatch>;
    fn next(&mut self) -> Option<Self::Item> {
        self.cut().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows whose prompt ids are these letters.
    fn batch(ids: &str) -> RecordBatch {
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(ids.chars().map(String::from)));
        RecordBatch::try_from_iter([("prompt_id", ids)]).unwrap()
    }

    #[test]
    fn rows_of_a_prompt_are_brought_together() {
        let torn = |batches: &[&str]| {
            let batches: Vec<_> = batches.iter().map(|b| Ok(batch(b))).collect();
            torn_prompt(batches.into_iter()).unwrap()
        };
        assert_eq!(torn(&["aab", "bcc", "d"]), None);
        assert_eq!(torn(&["aab", "bca"]).as_deref(), Some("a"));
        let grouped = by_prompt(&batch("abacb")).unwrap();
        let ids: String = Columns(&grouped).text("prompt_id").unwrap().iter().flatten().collect();
        assert_eq!(ids, "aabbc");
    }

    #[test]
    fn prompts_stay_whole() {
        let within = |batches: &[&str], size, budget| -> Vec<String> {
            let batches: Vec<_> = batches.iter().map(|b| Ok(batch(b))).collect();
            let whole = Cut::new(batches.into_iter(), size, budget, between_prompts);
            whole.map(|b| Columns(&b.unwrap()).text("prompt_id").unwrap().iter().flatten().collect()).collect()
        };
        let cut = |batches: &[&str], size| within(batches, size, u64::MAX);
        assert_eq!(cut(&["aab", "bcc", "d"], 3), ["aa", "bb", "ccd"]);
        assert_eq!(cut(&["aaaaaaa", "b"], 3), ["aaaaaaa", "b"]);
        assert_eq!(cut(&["aaa", "aab", "cc"], 2), ["aaaaa", "b", "cc"]);
        assert_eq!(cut(&["aaa", "aaa"], 2), ["aaaaaa"]);
        assert_eq!(cut(&["abcdef"], 3), ["abc", "def"]);
        assert_eq!(cut(&["ab", "c"], 3), ["abc"]);
        assert_eq!(cut(&[], 3), [""; 0]);
        // A limit takes whole prompts, or says that it cannot.
        let limited = |batches: &[&str], limit| -> Result<String> {
            let batches: Vec<_> = batches.iter().map(|b| Ok(batch(b))).collect();
            let rows =
                Whole::new(Cut::new(batches.into_iter(), 3, u64::MAX, between_prompts), Some(limit), prompts_within);
            rows.map(|b| Ok(Columns(&b?).text("prompt_id")?.iter().flatten().collect::<String>())).collect()
        };
        for (limit, taken) in
            [(2, "aa"), (3, "aa"), (4, "aabb"), (5, "aabb"), (6, "aabb"), (7, "aabbccc"), (99, "aabbcccd")]
        {
            assert_eq!(limited(&["aab", "bcc", "cd"], limit).unwrap(), taken, "{limit}");
        }
        assert!(limited(&["aab"], 1).unwrap_err().to_string().contains("more than the 1 rows that `limit` allows"));
        // So many bytes as three rows of a batch each have.
        let three = 3 * row_bytes(&batch("a"));
        assert_eq!(within(&["a", "b", "c", "d", "e"], 9, three), ["ab", "cd", "e"]);
        assert_eq!(within(&["a", "b", "b", "c"], 9, three), ["a", "bbc"]);
        assert_eq!(within(&["a", "a", "a", "a", "a", "b"], 9, three), ["aaaaa", "b"]);
        assert_eq!(within(&["aaaaaaaaaaaa"], 3, three), ["aaaaaaaaaaaa"]);
    }
}
