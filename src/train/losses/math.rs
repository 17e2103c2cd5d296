//! Functions that several losses use.

use candle_core::{Result, Tensor};

/// `log s(x)`. The maximum is held constant: the derivative is then exact everywhere, at 0 too, where a policy that
/// equals its reference starts (`relu` and `abs` have no usable derivative there).
pub(super) fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    let y = x.neg()?;
    let max = y.relu()?.detach();
    (max.neg()?.exp()? + (y - &max)?.exp()?)?.log()?.add(&max)?.neg()
}

/// `s(x)`, whose derivative is exact far out too: `e^(log s(x))`.
pub(super) fn logistic(x: &Tensor) -> Result<Tensor> {
    log_sigmoid(x)?.exp()
}

/// `-(1 - e) log s(x) - e log s(-x)`.
pub(super) fn smoothed(x: &Tensor, e: f64) -> Result<Tensor> {
    let right = log_sigmoid(x)?;
    if e == 0. {
        return right.neg();
    }
    (right * (e - 1.))? - log_sigmoid(&x.neg()?)? * e
}

/// `KL(Bernoulli(s(p)) || Bernoulli(s(q)))`.
pub(super) fn bernoulli_kl(p: &Tensor, q: &Tensor) -> Result<Tensor> {
    let part = |p: &Tensor, q: &Tensor| logistic(p)? * (log_sigmoid(p)? - log_sigmoid(q)?)?;
    part(p, q)? + part(&p.neg()?, &q.neg()?)?
}
