//! Losses of the DPO family. A loss is a file here, with its equation, its parameters and the columns that it reads,
//! and its line in [`LOSSES`].
//!
//! Notation: `w` is chosen, `l` rejected; `r = log pi(y|x) - log ref(y|x)`, summed over the completion's tokens;
//! `D = r_w - r_l`; `m = log pi(y|x) / |y|`; `s` is the logistic function; `e` is `label_smoothing`; `g` is
//! `margin_scale` times the judge's score of `w` minus its score of `l`; `C` is the agreement of two judges, in [0, 1].

mod apo;
mod columns;
mod cream;
mod hinge;
mod ipo;
mod loss;
mod math;
mod parameters;
mod robust;
mod rpo;
mod scores;
mod sigmoid;
mod sigmoid_norm;
mod simpo;

use crate::error::{Error, Result};

pub use columns::{PairColumn, PairColumns};
pub use loss::{Loss, LossInput};
pub use parameters::{LossParams, Parameter};
pub use scores::Scores;

/// Every loss, in the order of the reference.
pub static LOSSES: &[Loss] = &[
    sigmoid::LOSS,
    ipo::LOSS,
    hinge::LOSS,
    robust::LOSS,
    sigmoid_norm::LOSS,
    simpo::LOSS,
    apo::ZERO,
    apo::DOWN,
    rpo::SQUARED,
    rpo::BACKWARD_KL,
    rpo::FORWARD_KL,
    cream::LOSS,
];

/// The loss with this name.
///
/// # Errors
/// No loss has the name. The message lists all names.
pub fn by_name(name: &str) -> Result<&'static Loss> {
    LOSSES.iter().find(|l| l.name == name).ok_or_else(|| {
        let all: Vec<_> = LOSSES.iter().map(|l| l.name).collect();
        Error::user(format!("there is no DPO loss `{name}`")).help(format!("choose one of: {}", all.join(", ")))
    })
}

/// Every parameter that a loss declares, once, in the order of [`LOSSES`].
pub fn parameters() -> Vec<&'static Parameter> {
    let mut all: Vec<&'static Parameter> = Vec::new();
    for input in LOSSES.iter().flat_map(|loss| loss.reads) {
        if let LossInput::Parameter(parameter) = input
            && !all.contains(parameter)
        {
            all.push(parameter);
        }
    }
    all
}

/// The column of this name that a loss declares.
///
/// # Errors
/// No loss declares it. The message lists all columns.
pub fn column(name: &str) -> Result<&'static PairColumn> {
    columns().into_iter().find(|column| column.name == name).ok_or_else(|| {
        let all: Vec<_> = columns().into_iter().map(|column| column.name).collect();
        Error::user(format!("no loss reads a column `{name}`")).help(format!("choose one of: {}", all.join(", ")))
    })
}

/// Every column of the pairs that a loss declares, once, in the order of [`LOSSES`].
pub fn columns() -> Vec<&'static PairColumn> {
    let mut all: Vec<&'static PairColumn> = Vec::new();
    for column in LOSSES.iter().flat_map(Loss::columns) {
        if !all.contains(&column) {
            all.push(column);
        }
    }
    all
}

#[cfg(test)]
mod tests;
