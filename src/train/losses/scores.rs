//! Inputs of the losses: summed log-probabilities of pairs, and what the pairs carry.

use std::collections::BTreeMap;

use candle_core::{Error, Result, Tensor};

use super::columns::PairColumn;
use super::parameters::{LossParams, Parameter};

/// Inputs of a loss for a batch of pairs. Every tensor is `[B]`, f64 on the CPU; only `chosen` and `rejected` have
/// gradients.
pub struct Scores {
    /// `log pi(y_w|x)`.
    pub chosen: Tensor,
    /// `log pi(y_l|x)`.
    pub rejected: Tensor,
    /// `log ref(y_w|x)`.
    pub ref_chosen: Tensor,
    /// `log ref(y_l|x)`.
    pub ref_rejected: Tensor,
    /// Number of tokens of `y_w`.
    pub chosen_tokens: Tensor,
    /// Number of tokens of `y_l`.
    pub rejected_tokens: Tensor,
    /// The columns of the pairs that the losses declare, by name.
    pub columns: BTreeMap<&'static str, Tensor>,
    /// Parameters of the losses.
    pub params: LossParams,
}

impl Scores {
    /// `beta`.
    pub(super) fn beta(&self) -> f64 {
        self.params.beta
    }
    /// The value of a parameter that the loss declares.
    pub(super) fn get(&self, parameter: &Parameter) -> f64 {
        self.params.get(parameter)
    }
    /// A column of the pairs that the loss declares.
    pub(super) fn column(&self, column: &PairColumn) -> Result<&Tensor> {
        self.columns.get(column.name).ok_or_else(|| Error::Msg(format!("the pairs have no `{}`", column.name)))
    }
    /// `r_w`.
    pub(super) fn chosen_ratio(&self) -> Result<Tensor> {
        &self.chosen - &self.ref_chosen
    }
    /// `r_l`.
    pub(super) fn rejected_ratio(&self) -> Result<Tensor> {
        &self.rejected - &self.ref_rejected
    }
    /// `beta D`.
    pub(super) fn logit(&self) -> Result<Tensor> {
        (self.chosen_ratio()? - self.rejected_ratio()?)? * self.beta()
    }
    /// `r_w / |y_w| - r_l / |y_l|`.
    pub(super) fn mean_ratio(&self) -> Result<Tensor> {
        self.chosen_ratio()?.div(&self.chosen_tokens)? - self.rejected_ratio()?.div(&self.rejected_tokens)?
    }
}
