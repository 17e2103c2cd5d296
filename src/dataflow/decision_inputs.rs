//! What a keyed step went by, kept beside its rows as the dataset `STEP.candidates`: with it a correction is followed up without
//! reading an answer.

use std::collections::HashMap;

use arrow::array::{Array, FixedSizeBinaryArray, RecordBatch, StringArray};

use super::items::{GroupResult, Item, Key};
use crate::data::{Columns, Epoch, Id};
use crate::error::Result;
use crate::store::Corrections;

/// Where the candidates of a step are.
pub fn candidates_of(step: &str) -> String {
    format!("{step}.candidates")
}

/// A keyed step that makes pairs, and makes them of ids, scores, lengths and variances alone, group by group.
pub trait DecisionInputs: Send + Sync {
    /// The rows of a microbatch as rows of the schema `candidates`, in the same order.
    ///
    /// # Errors
    /// A column is missing or of another type.
    fn candidates(&self, rows: &RecordBatch) -> Result<RecordBatch>;
    /// The key of a prompt's group.
    fn key(&self, epoch: Epoch, prompt: u128) -> Key;
    /// An item as it is under a score.
    fn scored(&self, item: Item, score: Option<f32>) -> Item;
    /// What becomes of a group that has come to `kept`: pairs in the order of the step's rows, or the code of the reason why there
    /// is none.
    ///
    /// # Errors
    /// A bug: an answer is not in the group.
    fn decide(&self, group: &[Candidate], kept: &[GroupResult]) -> Result<Result<Vec<Decision>, &'static str>>;
}

/// An answer of a group; a group has them in the order of its rows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    /// Its id.
    pub id: u128,
    /// Its score.
    pub score: Option<f32>,
    /// Answers of a prompt with the same number are the same.
    pub answer: u32,
}

/// A pair of a group.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Decision {
    /// The place in the group of the answer preferred.
    pub chosen: usize,
    /// That of the other.
    pub rejected: usize,
    /// The difference of their scores, as the pair has it.
    pub margin: f32,
}

/// A group with a corrected answer.
pub(super) struct Group {
    pub(super) key: Key,
    pub(super) prompt_id: String,
    pub(super) answers: Vec<Answer>,
}

/// An answer before and after.
pub(super) struct Answer {
    /// As the rows have it.
    pub(super) response_id: String,
    /// Without a score.
    item: Item,
    answer: u32,
    was: Option<f32>,
    is: Option<f32>,
}

impl Group {
    /// The group as it was, or as it is to be.
    pub(super) fn candidates(&self, after: bool) -> Vec<Candidate> {
        let score = |a: &Answer| if after { a.is } else { a.was };
        self.answers.iter().map(|a| Candidate { id: a.item.id, score: score(a), answer: a.answer }).collect()
    }
    /// The items as they were, with those that they are to be.
    pub(super) fn items(&self, step: &dyn DecisionInputs) -> Vec<(Item, Item)> {
        let both = |a: &Answer| (step.scored(a.item, a.was), step.scored(a.item, a.is));
        self.answers.iter().map(both).collect()
    }
}

/// The ids of a column of hashes, and as they are spelt where that is otherwise.
struct Ids<'a> {
    hashes: &'a FixedSizeBinaryArray,
    texts: &'a StringArray,
}

impl<'a> Ids<'a> {
    fn of(rows: &'a RecordBatch, hashes: &str, texts: &str) -> Result<Self> {
        Ok(Self { hashes: Columns(rows).hashes(hashes)?, texts: Columns(rows).text(texts)? })
    }
    fn id(&self, row: usize) -> u128 {
        // A column of hashes has values of 16 bytes.
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

/// The groups of a microbatch that have a corrected answer, in the order of their first rows.
pub(super) fn groups(
    step: &dyn DecisionInputs,
    epoch: Epoch,
    rows: &RecordBatch,
    corrections: &Corrections,
) -> Result<Vec<Group>> {
    let columns = Columns(rows);
    let (responses, prompts) =
        (Ids::of(rows, "response_hash", "response_id")?, Ids::of(rows, "prompt_hash", "prompt_id")?);
    let hit = |&(row, id): &(usize, Id)| corrections.has_id(id) && corrections.get(&responses.text(row)).is_some();
    let mut touched: Vec<u128> = responses.all().enumerate().filter(hit).map(|(row, _)| prompts.id(row)).collect();
    if touched.is_empty() {
        return Ok(Vec::new());
    }
    touched.sort_unstable();
    // Most prompts have none, and this says so at once.
    let mut some = [0u64; 1024];
    let bit = |prompt: u128| (prompt as usize >> 6 & 1023, 1u64 << (prompt & 63));
    touched.iter().map(|&prompt| bit(prompt)).for_each(|(word, bit)| some[word] |= bit);
    let (scores, answers) = (columns.float("score")?, columns.uint("answer")?);
    let (lengths, variances) = (columns.uint("length")?, columns.uint("variance")?);
    let mut all: Vec<Group> = Vec::new();
    let mut places: HashMap<u128, usize> = HashMap::new();
    // The answers to a prompt stand together, as a rule.
    let mut last = None;
    for (row, Id(prompt)) in prompts.all().enumerate() {
        let known = match last {
            Some((same, known)) if same == prompt => known,
            _ => some[bit(prompt).0] & bit(prompt).1 != 0 && touched.binary_search(&prompt).is_ok(),
        };
        last = Some((prompt, known));
        if !known {
            continue;
        }
        let place = *places.entry(prompt).or_insert_with(|| {
            all.push(Group { key: step.key(epoch, prompt), prompt_id: prompts.text(row), answers: Vec::new() });
            all.len() - 1
        });
        let response_id = responses.text(row);
        let was = scores.is_valid(row).then(|| scores.value(row));
        let is = corrections.get(&response_id).map_or(was, |c| c.score);
        let item = Item {
            order: 0,
            id: responses.id(row),
            length: if lengths.is_valid(row) { lengths.value(row) } else { 0 },
            variance: if variances.is_valid(row) { variances.value(row) } else { 0 },
        };
        all[place].answers.push(Answer { response_id, item, answer: answers.value(row), was, is });
    }
    Ok(all)
}
