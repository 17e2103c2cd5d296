//! Converted rows that wait to be written, and counts of what was left out.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::record::Object;
use super::turns::{TOOL_CALL, is_tool_call};
use crate::data::{PROMPT_MESSAGES, transcript};
use crate::store::datasets::turn::{Turn, role_content};
use crate::store::files::reader::CHUNK;
use crate::store::files::unread::count_unread;

/// Maximum size of a chunk in bytes, whatever its number of rows.
const CHUNK_BYTES: usize = 64 << 20;

/// Maximum size in bytes of text that one input row may repeat. Every answer of a conversation includes all
/// previous turns, so the output can be far larger than the input.
const MAX_REPEATED: usize = 64 << 20;

/// Reason for leaving out rows that would exceed [`MAX_REPEATED`].
pub(super) const REPEATED: &str = "answers that would repeat more than 64 MiB of what was said before them";

/// Memory of a message in bytes, without its texts.
const MESSAGE_BYTES: usize = 128;

/// Approximate size of a turn in each row that contains it.
pub(super) fn turn_bytes(role: &str, content: &str) -> usize {
    role.len() + content.len() + MESSAGE_BYTES
}

/// Whether prompts of these sizes repeat too much text. The largest prompt is not repetition, because it
/// contains the others.
pub(super) fn is_too_repetitive(sizes: impl Iterator<Item = usize>) -> bool {
    let (mut sum, mut largest) = (0usize, 0);
    for size in sizes {
        sum = sum.saturating_add(size);
        largest = largest.max(size);
    }
    sum - largest > MAX_REPEATED
}

/// One of several ranked answers.
pub(super) struct Ranked {
    pub id: String,
    pub text: String,
    pub rank: u32,
    pub score: Option<f64>,
}

/// Buffer of converted rows, with counts.
#[derive(Default)]
pub(super) struct RowSink {
    /// Rows of the target schema, each with its approximate size in bytes.
    pub rows: VecDeque<(Object, usize)>,
    /// Total size of the rows in bytes.
    bytes: usize,
    /// Number of rows that the format's filter left out, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Unread keys, with the number of rows that have a value there.
    pub unread: BTreeMap<String, u64>,
}

impl RowSink {
    pub fn leave_out(&mut self, why: &'static str) {
        self.leave_out_all(why, 1);
    }
    /// Counts several rows that were left out for the same reason.
    pub fn leave_out_all(&mut self, why: &'static str, rows: u64) {
        if rows > 0 {
            *self.left_out.entry(why).or_default() += rows;
        }
    }
    /// Counts an unread key for `rows` rows.
    pub fn count_unread(&mut self, key: &str, rows: u64) {
        count_unread(&mut self.unread, key, rows);
    }
    pub fn push(&mut self, row: Value) {
        if let Value::Object(row) = row {
            let bytes = row.values().map(value_bytes).sum();
            self.bytes += bytes;
            self.rows.push_back((row, bytes));
        }
    }
    /// The next chunk of rows to write: a full one, or at the end the remaining rows. A chunk of large rows
    /// has few of them.
    pub fn chunk(&mut self, at_end: bool) -> Option<Vec<Object>> {
        let full = self.rows.len() >= CHUNK || self.bytes >= CHUNK_BYTES;
        if self.rows.is_empty() || !(full || at_end) {
            return None;
        }
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK && bytes < CHUNK_BYTES {
            let Some((row, size)) = self.rows.pop_front() else { break };
            bytes += size;
            chunk.push(row);
        }
        self.bytes -= bytes;
        Some(chunk)
    }
    /// Adds a conversation and its answer.
    pub fn answer(&mut self, before: &[Turn], response: &str) {
        match (is_blank(before), response.trim().is_empty()) {
            (true, _) => self.leave_out("an empty prompt"),
            (_, true) => self.leave_out("an empty answer"),
            _ if is_tool_call(response) => self.leave_out(TOOL_CALL),
            _ => {
                let mut row = json!({ "response": response.trim() });
                put_prompt(&mut row, before);
                self.push(row);
            }
        }
    }
    /// Adds a conversation's ranked answers in order of rank; rank 0 is the best.
    pub fn ranked(&mut self, prompt_id: &str, before: &[Turn], mut answers: Vec<Ranked>) {
        answers.retain(|a| !a.text.trim().is_empty());
        if is_blank(before) {
            return self.leave_out("an empty prompt");
        }
        if answers.len() < 2 {
            return self.leave_out("fewer than two ranked answers");
        }
        let size = before.iter().map(|turn| turn_bytes(&turn.role, &turn.content)).sum();
        if is_too_repetitive(answers.iter().map(|_| size)) {
            return self.leave_out(REPEATED);
        }
        answers.sort_by_key(|a| a.rank);
        for a in answers {
            let mut row = json!({
                "prompt_id": prompt_id, "response_id": a.id, "response": a.text.trim(), "rank": a.rank, "score": a.score,
            });
            put_prompt(&mut row, before);
            self.push(row);
        }
    }
}

fn is_blank(before: &[Turn]) -> bool {
    before.last().is_none_or(|last| last.content.trim().is_empty())
}

/// Stores a prompt in a row: its text, and its messages unless it is a single user message.
pub(super) fn put_prompt(row: &mut Value, before: &[Turn]) {
    row["prompt"] = transcript(&role_content(before)).into();
    if !matches!(before, [one] if one.role == "user") {
        row[PROMPT_MESSAGES] = before.iter().map(Turn::to_json).collect();
    }
}

/// Approximate size in bytes of a value.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 24,
        Value::Array(items) => items.iter().map(value_bytes).sum(),
        Value::Object(values) => MESSAGE_BYTES + values.values().map(value_bytes).sum::<usize>(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chunk ends at its bytes, so that a column never has more text than it can hold.
    #[test]
    fn a_chunk_of_large_rows_has_few() {
        let mut sink = RowSink::default();
        let chunks = |sink: &mut RowSink, at_end| -> Vec<usize> {
            std::iter::from_fn(|| sink.chunk(at_end)).map(|chunk| chunk.len()).collect()
        };
        (0..CHUNK + 3).for_each(|_| sink.push(json!({"response": "r"})));
        assert_eq!(chunks(&mut sink, false), [CHUNK]);
        let large = "x".repeat(CHUNK_BYTES / 4);
        (0..10).for_each(|_| sink.push(json!({ "response": large })));
        assert_eq!(chunks(&mut sink, false), [7, 4]);
        assert_eq!(chunks(&mut sink, true), [2]);
        assert_eq!(sink.bytes, 0);
    }
}
