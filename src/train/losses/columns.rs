//! Columns of the pairs that losses read, and their values.

use std::collections::BTreeMap;

/// A number that every pair carries for the losses that read it.
#[derive(Debug)]
pub struct PairColumn {
    /// Name of the column in `pairs`.
    pub name: &'static str,
    /// Value of a pair without one, for losses that do not read it.
    pub default: f64,
    /// Least and greatest value. A pair with another one is left out.
    pub range: (f64, f64),
    /// Columns of a preference row that must have a value if the loss reads this one.
    pub needs: &'static [&'static str],
    /// What a step says that does not fill these columns, and what to do: `does not say how far two judges agree`.
    pub unfilled: (&'static str, &'static str),
    /// Problem of a row without a value: a code, and what to do.
    pub missing: (&'static str, &'static str),
    /// Problem of a pair whose value is out of range: a code, and what it must be.
    pub bad: (&'static str, &'static str),
}

impl PartialEq for PairColumn {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// Values of the columns that losses declare, by the names of the columns. Those that are not set have their defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairColumns(BTreeMap<&'static str, f64>);

impl PairColumns {
    /// The value of a column.
    pub fn get(&self, column: &PairColumn) -> f64 {
        self.0.get(column.name).copied().unwrap_or(column.default)
    }

    /// Sets the value of a column.
    pub fn set(&mut self, column: &'static PairColumn, value: f64) {
        self.0.insert(column.name, value);
    }
}
