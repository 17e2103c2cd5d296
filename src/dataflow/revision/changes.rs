//! The rows of `changes.parquet`: pairs that a revision withdraws or adds, by id.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array, make_comparator, new_null_array};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::Field;

use crate::data::{Columns, Epoch, named};
use crate::dataflow::Output;
use crate::error::{Error, Result};

/// A pair of one microbatch.
#[derive(Clone, Debug)]
pub(super) struct PairRow {
    pub(super) prompt_id: String,
    pub(super) chosen_id: String,
    pub(super) rejected_id: String,
    pub(super) chosen_score: f32,
    pub(super) rejected_score: f32,
    pub(super) margin: f32,
    pub(super) consistency: Option<f32>,
}

impl PairRow {
    /// Whether both rows are equal, bit by bit.
    pub(super) fn same(&self, other: &Self) -> bool {
        let numbers =
            |r: &Self| [r.chosen_score, r.rejected_score, r.margin, r.consistency.unwrap_or(-1.)].map(f32::to_bits);
        (&self.prompt_id, &self.chosen_id, &self.rejected_id)
            == (&other.prompt_id, &other.chosen_id, &other.rejected_id)
            && numbers(self) == numbers(other)
    }
}

/// Changes to the pairs of a microbatch: withdrawn pairs in their old order, added pairs in the new one.
#[derive(Default)]
pub(super) struct Changes {
    /// Each with the code of the reason if its prompt yields no pair any more.
    pub(super) withdrawn: Vec<(PairRow, Option<String>)>,
    pub(super) added: Vec<PairRow>,
}

impl Changes {
    pub(super) fn len(&self) -> usize {
        self.withdrawn.len() + self.added.len()
    }

    /// Converts the changes to rows of the schema `changes`: withdrawn pairs first, then added ones.
    pub(super) fn batch(&self, epoch: Epoch) -> Result<RecordBatch> {
        let withdrawn = self.withdrawn.iter().map(|(row, reason)| ("withdrawn", row, reason.as_deref()));
        let rows: Vec<_> = withdrawn.chain(self.added.iter().map(|row| ("added", row, None))).collect();
        let text = |of: &dyn Fn(&PairRow) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, row, _)| of(row))))
        };
        let float = |of: &dyn Fn(&PairRow) -> f32| -> ArrayRef {
            Arc::new(Float32Array::from_iter_values(rows.iter().map(|(_, row, _)| of(row))))
        };
        let number = |n: u32| -> ArrayRef { Arc::new(UInt32Array::from(vec![n; rows.len()])) };
        named::CHANGES.batch(vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|(change, _, _)| change))),
            number(epoch.iteration),
            number(epoch.microbatch),
            text(&|r| &r.prompt_id),
            text(&|r| &r.chosen_id),
            text(&|r| &r.rejected_id),
            float(&|r| r.chosen_score),
            float(&|r| r.rejected_score),
            float(&|r| r.margin),
            Arc::new(StringArray::from_iter(rows.iter().map(|(_, _, reason)| *reason))),
            Arc::new(Float32Array::from_iter(rows.iter().map(|(_, row, _)| row.consistency))),
        ])
    }

    /// Compares all pairs of a microbatch before and after. A pair that differs in any column is both
    /// withdrawn and added.
    pub(super) fn between(before: &RecordBatch, after: &Output) -> Result<Self> {
        let before = &as_pairs(before)?;
        let (withdrawn, added) = differences(before, &after.rows)?;
        let reasons: HashMap<&str, &str> = after.errors.iter().map(|e| (e.row.as_str(), e.code.as_str())).collect();
        let reason = |row: PairRow| {
            let reason = reasons.get(row.prompt_id.as_str()).map(|code| (*code).to_owned());
            (row, reason)
        };
        Ok(Self {
            withdrawn: rows(before, &withdrawn)?.into_iter().map(reason).collect(),
            added: rows(&after.rows, &added)?,
        })
    }
}

/// Converts stored pairs to the current columns: files of earlier versions may lack some nullable ones.
pub(super) fn as_pairs(rows: &RecordBatch) -> Result<RecordBatch> {
    let column = |field: &Arc<Field>| match rows.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
        Some(column) => cast(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), rows.num_rows())),
    };
    let schema = named::PAIRS.arrow();
    let columns = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// Takes these rows of a batch of pairs.
fn rows(pairs: &RecordBatch, indices: &[usize]) -> Result<Vec<PairRow>> {
    let columns = Columns(pairs);
    let (prompts, chosen, rejected) =
        (columns.text("prompt_id")?, columns.text("chosen_id")?, columns.text("rejected_id")?);
    let (high, low, margins) =
        (columns.float("chosen_score")?, columns.float("rejected_score")?, columns.float("margin")?);
    let consistency: Vec<Option<f32>> = columns.float("consistency")?.iter().collect();
    let row = |&i: &usize| PairRow {
        prompt_id: prompts.value(i).to_owned(),
        chosen_id: chosen.value(i).to_owned(),
        rejected_id: rejected.value(i).to_owned(),
        chosen_score: high.value(i),
        rejected_score: low.value(i),
        margin: margins.value(i),
        consistency: consistency[i],
    };
    Ok(indices.iter().map(row).collect())
}

/// Returns the rows of `before` that `after` lacks, and the reverse, in order.
fn differences(before: &RecordBatch, after: &RecordBatch) -> Result<(Vec<usize>, Vec<usize>)> {
    let ids = |rows| {
        let columns = Columns(rows);
        Ok::<_, Error>([columns.text("prompt_id")?, columns.text("chosen_id")?, columns.text("rejected_id")?])
    };
    let (were, are) = (ids(before)?, ids(after)?);
    let columns = before.columns().iter().zip(after.columns());
    let compare = columns.map(|(a, b)| make_comparator(a, b, SortOptions::default())).collect::<Result<Vec<_>, _>>()?;
    let mut old: HashMap<[&str; 3], Vec<usize>> = HashMap::with_capacity(before.num_rows());
    for i in 0..before.num_rows() {
        old.entry(were.map(|c| c.value(i))).or_default().push(i);
    }
    let mut added = Vec::new();
    for j in 0..after.num_rows() {
        let found = old.get_mut(&are.map(|c| c.value(j))).and_then(|all| {
            let at = all.iter().position(|&i| compare.iter().all(|c| c(i, j).is_eq()))?;
            Some(all.swap_remove(at))
        });
        if found.is_none() {
            added.push(j);
        }
    }
    let mut withdrawn: Vec<usize> = old.into_values().flatten().collect();
    withdrawn.sort_unstable();
    Ok((withdrawn, added))
}
