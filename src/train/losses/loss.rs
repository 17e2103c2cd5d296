//! [`Loss`]: a loss with its equation and the inputs that it declares.

use std::fmt;

use candle_core::{Result, Tensor};

use super::columns::PairColumn;
use super::parameters::Parameter;
use super::scores::Scores;

/// An input of a loss besides the policy's log-probabilities and beta: a parameter, a column of the pairs, or the
/// reference.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum LossInput {
    /// A parameter.
    Parameter(&'static Parameter),
    /// A column of the pairs.
    Column(&'static PairColumn),
    /// [`Scores::ref_chosen`] and [`Scores::ref_rejected`].
    Reference,
}

impl LossInput {
    /// The key of `dpo` that has no effect with losses that do not read the input; none for a column.
    pub fn key(self) -> Option<&'static str> {
        match self {
            Self::Parameter(parameter) => Some(parameter.key),
            Self::Reference => Some("reference"),
            Self::Column(_) => None,
        }
    }
}

/// A named loss.
pub struct Loss {
    /// Name in pipeline files and in TRL's `loss_type`.
    pub name: &'static str,
    /// The equation, in the notation of [`super`].
    pub equation: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// What it reads. Options that it does not read are refused, and rows that lack a column that it reads are left
    /// out.
    pub reads: &'static [LossInput],
    /// Loss of each pair, `[B]`.
    pub each: fn(&Scores) -> Result<Tensor>,
}

impl fmt::Debug for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Loss {
    /// Whether it reads this input.
    pub fn takes(&self, input: LossInput) -> bool {
        self.reads.contains(&input)
    }

    /// The columns of the pairs that it reads.
    pub fn columns(&self) -> impl Iterator<Item = &'static PairColumn> {
        self.reads.iter().filter_map(|input| match input {
            LossInput::Column(column) => Some(*column),
            _ => None,
        })
    }
}

impl PartialEq for Loss {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
