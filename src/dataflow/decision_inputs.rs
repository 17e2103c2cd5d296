//! Decision inputs of a keyed step, stored next to its rows as the dataset `STEP.candidates`. With them the
//! effect of a corrected score is computed without reading an answer.

use std::collections::HashMap;

use arrow::array::{Array, FixedSizeBinaryArray, RecordBatch, StringArray};

use super::items::{GroupResult, Item, Key};
use crate::data::{Columns, Epoch, Id};
use crate::error::Result;
use crate::store::Corrections;

/// Name of the dataset with a step's candidates.
pub fn candidates_of(step: &str) -> String {
    format!("{step}.candidates")
}

/// A keyed step that makes pairs, group by group, from ids, scores, lengths and variances alone.
pub trait DecisionInputs: Send + Sync {
    /// Converts the rows of a microbatch to rows of the schema `candidates`, in the same order.
    ///
    /// # Errors
    /// A column is missing or has another type.
    fn candidates(&self, rows: &RecordBatch) -> Result<RecordBatch>;
    /// Returns the key of a prompt's group.
    fn key(&self, epoch: Epoch, prompt: u128) -> Key;
    /// Returns the item with this score.
    fn scored(&self, item: Item, score: Option<f32>) -> Item;
    /// Returns the pairs of a group whose reduce gave `results`, in the order of the step's rows; or the code
    /// of the reason if it gives none.
    ///
    /// # Errors
    /// A bug: an answer is not in the group.
    fn decide(&self, group: &[Candidate], results: &[GroupResult]) -> Result<Result<Vec<Decision>, &'static str>>;
}

/// An answer of a group. A group lists its answers in row order.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    /// Id of the answer.
    pub id: u128,
    /// Score of the answer.
    pub score: Option<f32>,
    /// Answers to a prompt with equal numbers have equal texts.
    pub answer: u32,
}

/// A pair chosen from a group.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Decision {
    /// Index in the group of the preferred answer.
    pub chosen: usize,
    /// Index in the group of the other answer.
    pub rejected: usize,
    /// Difference of their scores, as stored with the pair.
    pub margin: f32,
}

/// A group with a corrected answer.
pub(super) struct CorrectedGroup {
    pub(super) key: Key,
    pub(super) prompt_id: String,
    pub(super) answers: Vec<CorrectedAnswer>,
}

/// An answer with its score before and after the corrections.
pub(super) struct CorrectedAnswer {
    /// Id as text, as stored in the rows.
    pub(super) response_id: String,
    /// The item without a score.
    item: Item,
    answer: u32,
    before: Option<f32>,
    after: Option<f32>,
}

impl CorrectedAnswer {
    fn score(&self, after: bool) -> Option<f32> {
        if after { self.after } else { self.before }
    }
}

impl CorrectedGroup {
    /// Returns the candidates before or after the corrections.
    pub(super) fn candidates(&self, after: bool) -> Vec<Candidate> {
        self.answers.iter().map(|a| Candidate { id: a.item.id, score: a.score(after), answer: a.answer }).collect()
    }
    /// Returns the items before or after the corrections.
    pub(super) fn items(&self, step: &dyn DecisionInputs, after: bool) -> Vec<Item> {
        self.answers.iter().map(|a| step.scored(a.item, a.score(after))).collect()
    }
}

/// A column of id hashes, with the texts of ids that differ from their hash.
struct IdColumn<'a> {
    hashes: &'a FixedSizeBinaryArray,
    texts: &'a StringArray,
}

impl<'a> IdColumn<'a> {
    fn new(rows: &'a RecordBatch, hashes: &str, texts: &str) -> Result<Self> {
        Ok(Self { hashes: Columns(rows).hashes(hashes)?, texts: Columns(rows).text(texts)? })
    }
    fn id(&self, row: usize) -> u128 {
        // Values of a hash column have 16 bytes.
        self.hashes.value(row).try_into().map_or(0, u128::from_be_bytes)
    }
    fn all(&self) -> impl Iterator<Item = Id> {
        let values = self.hashes.value_data().as_chunks::<16>().0;
        values.iter().map(|bytes| Id(u128::from_be_bytes(*bytes)))
    }
    fn text(&self, row: usize) -> String {
        if self.texts.is_valid(row) { self.texts.value(row).to_owned() } else { Id(self.id(row)).to_string() }
    }
}

/// Returns the groups of a microbatch that have a corrected answer, in the order of their first rows.
pub(super) fn groups(
    step: &dyn DecisionInputs,
    epoch: Epoch,
    rows: &RecordBatch,
    corrections: &Corrections,
) -> Result<Vec<CorrectedGroup>> {
    let columns = Columns(rows);
    let (responses, prompts) =
        (IdColumn::new(rows, "response_hash", "response_id")?, IdColumn::new(rows, "prompt_hash", "prompt_id")?);
    let hit = |&(row, id): &(usize, Id)| corrections.has_id(id) && corrections.get(&responses.text(row)).is_some();
    let mut touched: Vec<u128> = responses.all().enumerate().filter(hit).map(|(row, _)| prompts.id(row)).collect();
    if touched.is_empty() {
        return Ok(Vec::new());
    }
    touched.sort_unstable();
    // Most prompts have no correction; a small bit set finds that out quickly.
    let mut some = [0u64; 1024];
    let bit = |prompt: u128| (prompt as usize >> 6 & 1023, 1u64 << (prompt & 63));
    touched.iter().map(|&prompt| bit(prompt)).for_each(|(word, bit)| some[word] |= bit);
    let (scores, answers) = (columns.float("score")?, columns.uint("answer")?);
    let (lengths, variances) = (columns.uint("length")?, columns.uint("variance")?);
    let mut all: Vec<CorrectedGroup> = Vec::new();
    let mut places: HashMap<u128, usize> = HashMap::new();
    // The answers to a prompt usually follow each other, so the last lookup is remembered.
    let mut last = None;
    for (row, Id(prompt)) in prompts.all().enumerate() {
        let is_touched = match last {
            Some((same, is_touched)) if same == prompt => is_touched,
            _ => some[bit(prompt).0] & bit(prompt).1 != 0 && touched.binary_search(&prompt).is_ok(),
        };
        last = Some((prompt, is_touched));
        if !is_touched {
            continue;
        }
        let place = *places.entry(prompt).or_insert_with(|| {
            all.push(CorrectedGroup {
                key: step.key(epoch, prompt),
                prompt_id: prompts.text(row),
                answers: Vec::new(),
            });
            all.len() - 1
        });
        let response_id = responses.text(row);
        let before = scores.is_valid(row).then(|| scores.value(row));
        let after = corrections.get(&response_id).map_or(before, |c| c.score);
        let item = Item {
            order: 0,
            id: responses.id(row),
            length: if lengths.is_valid(row) { lengths.value(row) } else { 0 },
            variance: if variances.is_valid(row) { variances.value(row) } else { 0 },
        };
        all[place].answers.push(CorrectedAnswer { response_id, item, answer: answers.value(row), before, after });
    }
    Ok(all)
}
