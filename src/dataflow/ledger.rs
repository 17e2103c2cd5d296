//! Accounts for each row that an operator is given.
//!
//! An operator cannot return rows alone. An [`Output`] is made by closing a [`Ledger`], which was opened
//! for the input, or by one of the few other constructors below, each of which states how many rows it
//! accounts for. The dataflow compares that number with the rows it handed over, at the single place where
//! outputs are committed. So a row that is neither kept, nor left out with an error, nor counted as unused
//! stops the run as a bug and is never lost in silence.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;

use super::joined::Joined;
use crate::error::{Error, Result};

/// Why a row was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectKind {
    /// The step could not process it.
    Failed,
    /// It was dropped on purpose, for example by a filter or because of a tie.
    Dropped,
}

impl RejectKind {
    /// Returns the name used in the `errors` dataset.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectKind::Failed => "failed",
            RejectKind::Dropped => "dropped",
        }
    }
}

/// A row that a step left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// The kind of reason.
    pub kind: RejectKind,
    /// Id of the row, or its place.
    pub row: String,
    /// A short code, such as `empty_prompt`.
    pub code: String,
    /// The problem, and what to do about it.
    pub message: String,
}

impl RowError {
    /// A row that the step could not process.
    pub fn failed(row: impl Into<String>, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: RejectKind::Failed, row: row.into(), code: code.into(), message: message.into() }
    }
    /// A row that the step left out on purpose.
    pub fn dropped(row: impl Into<String>, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: RejectKind::Dropped, ..Self::failed(row, code, message) }
    }
}

/// The rows of a microbatch, the rows that were left out, and an account of the input rows.
pub struct Output {
    /// Rows of the step's schema, in canonical order.
    pub rows: RecordBatch,
    /// Rows that were left out.
    pub errors: Vec<RowError>,
    /// Number of input rows accounted for.
    pub(super) accounted: u64,
    /// Number of input rows that are in no output row, by reason.
    pub(super) unused: BTreeMap<&'static str, u64>,
}

impl Output {
    /// Makes an output from no input rows, such as the rows of a dataset or the text of a model.
    pub fn new(rows: RecordBatch, errors: Vec<RowError>) -> Self {
        Self { rows, errors, accounted: 0, unused: BTreeMap::new() }
    }
    /// Makes an output from a whole iteration. `accounted` is the number of rows of `from` that were read;
    /// each of them is in the rows or the errors.
    pub fn of_iteration(rows: RecordBatch, errors: Vec<RowError>, accounted: u64) -> Self {
        Self { accounted, ..Self::new(rows, errors) }
    }
    /// Counts rows of an iteration that were not used, under a reason.
    #[must_use]
    pub fn with_unused(mut self, reason: &'static str, rows: u64) -> Self {
        if rows > 0 {
            *self.unused.entry(reason).or_default() += rows;
        }
        self
    }
}

impl From<RecordBatch> for Output {
    fn from(rows: RecordBatch) -> Self {
        Self::new(rows, Vec::new())
    }
}

/// An account of the rows of a microbatch and the rows joined to it. Every row is open at first, and the
/// ledger can only be closed when no row is.
pub struct Ledger {
    input: Vec<bool>,
    /// Rows of the other step's microbatch that have no partner.
    unmatched: Vec<bool>,
    errors: Vec<RowError>,
    unused: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// Opens a ledger for the rows of a microbatch.
    pub fn new(input: &RecordBatch) -> Self {
        let input = vec![false; input.num_rows()];
        Self { input, unmatched: Vec::new(), errors: Vec::new(), unused: BTreeMap::new() }
    }
    /// Opens a ledger for the rows of a microbatch and the unmatched rows joined to it.
    pub fn of_join(input: &RecordBatch, joined: &Joined) -> Self {
        Self { unmatched: vec![false; joined.unmatched.num_rows()], ..Self::new(input) }
    }
    /// Records that a row became an output row, or a part of one.
    pub fn kept(&mut self, row: usize) {
        self.input[row] = true;
    }
    /// Records that every row became an output row.
    pub fn all_kept(&mut self) {
        self.input.fill(true);
    }
    /// Records rows that are left out for one reason, such as all answers to a prompt.
    pub fn left_out(&mut self, rows: impl IntoIterator<Item = usize>, error: RowError) {
        rows.into_iter().for_each(|row| self.input[row] = true);
        self.errors.push(error);
    }
    /// Records a row that the operator did not need, though nothing is wrong with it. It is counted under
    /// `reason`, unless it was kept.
    pub fn unused(&mut self, row: usize, reason: &'static str) {
        // A row that was kept for another reason is used, and must not be counted twice.
        if !std::mem::replace(&mut self.input[row], true) {
            *self.unused.entry(reason).or_default() += 1;
        }
    }
    /// Records that an unmatched row of the other step became an output row.
    pub fn unmatched_kept(&mut self, row: usize) {
        self.unmatched[row] = true;
    }
    /// Records that an unmatched row of the other step is left out.
    pub fn unmatched_left_out(&mut self, row: usize, error: RowError) {
        self.unmatched[row] = true;
        self.errors.push(error);
    }
    /// Adds an error about rows that are accounted for elsewhere, such as an unreadable score.
    pub fn note(&mut self, error: RowError) {
        self.errors.push(error);
    }
    /// Closes the ledger.
    ///
    /// # Errors
    /// A bug of the operator: it does not account for a row.
    pub fn close(self, rows: RecordBatch) -> Result<Output> {
        for (name, all) in [("the input", &self.input), ("the joined step", &self.unmatched)] {
            if let Some(row) = all.iter().position(|accounted| !accounted) {
                return Err(Error::bug(format!(
                    "row {row} of {name} would be lost: it is in no row, in no error and not counted"
                )));
            }
        }
        let accounted = (self.input.len() + self.unmatched.len()) as u64;
        Ok(Output { rows, errors: self.errors, accounted, unused: self.unused })
    }
}

/// Compares the number of rows that an operator accounts for with the number it was given.
pub(super) fn check(step: &str, output: &Output, given: u64) -> Result<()> {
    if output.accounted == given {
        return Ok(());
    }
    let accounted = output.accounted;
    Err(Error::bug(format!(
        "step `{step}` was given {given} rows and accounts for {accounted}; nothing of it is committed"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::named;

    fn three() -> RecordBatch {
        let column = |name: &str| -> arrow::array::ArrayRef {
            std::sync::Arc::new(arrow::array::StringArray::from_iter_values((0..3).map(|i| format!("{name} {i}"))))
        };
        named::IFT.batch(vec![column("prompt"), column("response")]).unwrap()
    }

    #[test]
    fn no_row_can_be_forgotten() {
        let rows = three();
        let mut ledger = Ledger::new(&rows);
        ledger.kept(0);
        ledger.left_out([2], RowError::dropped("2", "why", "for a reason"));
        let Err(lost) = ledger.close(rows.slice(0, 1)) else { panic!("row 1 is lost") };
        assert!(lost.to_string().contains("row 1 of the input would be lost"), "{lost}");

        let mut ledger = Ledger::new(&rows);
        ledger.kept(0);
        ledger.left_out([2], RowError::dropped("2", "why", "for a reason"));
        (0..3).for_each(|row| ledger.unused(row, "not_needed"));
        let output = ledger.close(rows.slice(0, 1)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((output.accounted, output.unused["not_needed"], output.errors.len()), (3, 1, 1));
        check("s", &output, 3).unwrap();
        assert!(check("s", &output, 4).is_err(), "an account of other rows");
    }
}
