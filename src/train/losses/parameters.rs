//! Parameters of the losses, and their values.

use std::collections::BTreeMap;

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
