//! [`Loss`]: a loss with its equation, and the parameters and columns that it declares.

use std::collections::BTreeMap;
use std::fmt;

use candle_core::{Result, Tensor};

use super::scores::Scores;

/// An option of losses. A key of `dpo` in pipeline files.
#[derive(Debug)]
pub struct Parameter {
    /// Name in pipeline files.
    pub key: &'static str,
    /// What it is, for the reference and for messages.
    pub about: &'static str,
    /// Its value if it is not given.
    pub default: f64,
    /// Least and greatest value.
    pub range: (f64, f64),
}

impl PartialEq for Parameter {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// `e`, of several losses.
pub(super) const LABEL_SMOOTHING: Parameter = Parameter {
    key: "label_smoothing",
    about: "probability that a preference is wrong, e of the losses",
    default: 0.,
    range: (0., 0.49),
};

/// Values of the losses' parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct LossParams {
    /// Strength of the pull to the reference, which every loss reads.
    pub beta: f64,
    /// Values of the parameters that some losses declare, by their keys. The others have their defaults.
    values: BTreeMap<&'static str, f64>,
}

impl Default for LossParams {
    fn default() -> Self {
        Self::new(0.1)
    }
}

impl LossParams {
    /// This `beta`, and the defaults of all other parameters.
    pub fn new(beta: f64) -> Self {
        Self { beta, values: BTreeMap::new() }
    }

    /// The value of a parameter.
    pub fn get(&self, parameter: &Parameter) -> f64 {
        self.values.get(parameter.key).copied().unwrap_or(parameter.default)
    }

    /// Sets a parameter.
    pub fn set(&mut self, parameter: &'static Parameter, value: f64) {
        self.values.insert(parameter.key, value);
    }
}

/// An input of a loss besides the policy's log-probabilities and beta: a parameter, a column of the pairs, or the
/// reference.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Input {
    /// A parameter.
    Parameter(&'static Parameter),
    /// [`Scores::margin`].
    Margin,
    /// [`Scores::consistency`].
    Consistency,
    /// [`Scores::ref_chosen`] and [`Scores::ref_rejected`].
    Reference,
}

impl Input {
    /// The key of `dpo` that has no effect with losses that do not read the input; none for a column.
    pub fn key(self) -> Option<&'static str> {
        match self {
            Self::Parameter(parameter) => Some(parameter.key),
            Self::Reference => Some("reference"),
            Self::Margin | Self::Consistency => None,
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
    /// What it reads. Options that it does not read are refused, and rows that lack a column that it reads are left out.
    pub reads: &'static [Input],
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
    pub fn takes(&self, input: Input) -> bool {
        self.reads.contains(&input)
    }
}

impl PartialEq for Loss {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
