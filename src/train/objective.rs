//! [`Objective`]: what DPO minimises.

use candle_core::{Device, Result, Tensor};

use super::losses::{self, Loss, LossParams, Scores};
use super::rows::Pair;

/// The objective of DPO: `mean loss of the pairs + nll_weight x NLL of chosen + replay_weight x SFT loss of replay`.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// The preference loss.
    pub loss: &'static Loss,
    /// Its parameters.
    pub params: LossParams,
    /// Weight of the NLL of the chosen completions: the mean over their tokens in the batch, which is TRL's `sft` loss
    /// and was its `rpo_alpha` (IRPO, arXiv 2404.19733, divides by each completion's length first).
    pub nll_weight: f64,
    /// Weight of the SFT loss of the replayed rows.
    pub replay_weight: f64,
    /// LD-DPO (arXiv 2409.06411 eq. 9; TRL's `ld_alpha`), for any loss: the weight of tokens beyond the length of the
    /// shorter completion, in the log-probabilities of policy and reference. The NLL of chosen counts every token
    /// fully.
    pub ld_alpha: Option<f64>,
}

impl Default for Objective {
    fn default() -> Self {
        Self {
            loss: &losses::LOSSES[0],
            params: LossParams::default(),
            nll_weight: 0.,
            replay_weight: 0.,
            ld_alpha: None,
        }
    }
}

/// Means over pairs of the implicit rewards, `beta (log pi - log ref)`.
pub(super) struct Rewards {
    pub chosen: f64,
    pub rejected: f64,
    /// Of chosen minus rejected.
    pub margins: f64,
    /// Share of pairs whose chosen reward is strictly above the rejected one.
    pub accuracies: f64,
}

impl Objective {
    /// The rewards of pairs, from the policy's and the reference's summed log-probabilities.
    pub(super) fn rewards(&self, chosen: &[f64], rejected: &[f64], reference: &[(f64, f64)]) -> Rewards {
        assert!(chosen.len() == reference.len() && rejected.len() == reference.len(), "one sum a completion");
        let beta = self.params.beta;
        let rewards: Vec<(f64, f64)> = (0..reference.len())
            .map(|i| (beta * (chosen[i] - reference[i].0), beta * (rejected[i] - reference[i].1)))
            .collect();
        let mean = |value: fn(&(f64, f64)) -> f64| rewards.iter().map(value).sum::<f64>() / rewards.len() as f64;
        Rewards {
            chosen: mean(|r| r.0),
            rejected: mean(|r| r.1),
            margins: mean(|r| r.0 - r.1),
            accuracies: mean(|r| f64::from(u8::from(r.0 > r.1))),
        }
    }

    /// The inputs of the loss: the policy's summed log-probabilities of the pairs' completions, the reference's, and
    /// the columns that the pairs carry.
    pub(super) fn scores(
        &self,
        chosen: Tensor,
        rejected: Tensor,
        reference: &[(f64, f64)],
        pairs: &[&Pair],
    ) -> Result<Scores> {
        let column = |value: fn(&Pair) -> f64| pairs.iter().map(|p| value(p)).collect();
        let columns = self
            .loss
            .columns()
            .map(|column| Ok((column.name, on_cpu(pairs.iter().map(|pair| pair.columns.get(column)).collect())?)));
        Ok(Scores {
            chosen,
            rejected,
            ref_chosen: on_cpu(reference.iter().map(|r| r.0).collect())?,
            ref_rejected: on_cpu(reference.iter().map(|r| r.1).collect())?,
            chosen_tokens: on_cpu(column(|p| p.chosen.len() as f64))?,
            rejected_tokens: on_cpu(column(|p| p.rejected.len() as f64))?,
            columns: columns.collect::<Result<_>>()?,
            params: self.params.clone(),
        })
    }
}

/// Numbers as a column of [`Scores`].
pub(super) fn on_cpu(values: Vec<f64>) -> Result<Tensor> {
    Tensor::new(values, &Device::Cpu)
}
