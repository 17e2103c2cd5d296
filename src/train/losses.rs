//! The DPO family: every loss is one function from summed log-probabilities to a loss per pair, and one line in
//! [`LOSSES`].
//!
//! Notation: `w` is chosen, `l` rejected; `r = log pi(y|x) - log ref(y|x)` summed over the completion's tokens;
//! `D = r_w - r_l`; `s` is the logistic function.

use candle_core::{Result, Tensor};

use crate::error;

/// What a loss may look at. Every tensor is `[B]`, f64 on the CPU; only `chosen` and `rejected` have gradients.
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
    /// Strength of the pull to the reference.
    pub beta: f64,
    /// Probability that a label is wrong, in [0, 0.5).
    pub label_smoothing: f64,
}

impl Scores {
    /// `r_w`.
    fn chosen_ratio(&self) -> Result<Tensor> {
        &self.chosen - &self.ref_chosen
    }
    /// `r_l`.
    fn rejected_ratio(&self) -> Result<Tensor> {
        &self.rejected - &self.ref_rejected
    }
    /// `beta D`.
    fn logit(&self) -> Result<Tensor> {
        (self.chosen_ratio()? - self.rejected_ratio()?)? * self.beta
    }
}

/// A named loss.
pub struct Loss {
    /// As pipeline files and TRL's `loss_type` spell it.
    pub name: &'static str,
    /// The equation, in the notation of this module.
    pub equation: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// Loss of each pair, `[B]`.
    pub each: fn(&Scores) -> Result<Tensor>,
}

impl std::fmt::Debug for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
impl PartialEq for Loss {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// Every loss there is.
pub static LOSSES: &[Loss] = &[
    Loss {
        name: "sigmoid",
        equation: "-(1 - e) log s(beta D) - e log s(-beta D), e = label_smoothing",
        paper: "DPO, arXiv 2305.18290 eq. 7; smoothing as cDPO, ericmitchell.ai/cdpo.pdf",
        each: sigmoid,
    },
    Loss {
        name: "ipo",
        equation: "(r_w / |y_w| - r_l / |y_l| - 1 / (2 beta))^2",
        paper: "IPO, arXiv 2310.12036 eq. 17; per token, as its authors told TRL",
        each: ipo,
    },
    Loss {
        name: "hinge",
        equation: "max(0, 1 - beta D)",
        paper: "SLiC, arXiv 2305.10425; RSO, arXiv 2309.06657",
        each: hinge,
    },
];

/// The loss of that name.
///
/// # Errors
/// There is none; the message lists those there are.
pub fn by_name(name: &str) -> error::Result<&'static Loss> {
    LOSSES.iter().find(|l| l.name == name).ok_or_else(|| {
        let all: Vec<_> = LOSSES.iter().map(|l| l.name).collect();
        error::Error::user(format!("there is no DPO loss `{name}`")).help(format!("choose one of: {}", all.join(", ")))
    })
}

/// `log s(x)`. The maximum is held constant: the derivative is then exact everywhere, at 0 too, where a policy that
/// equals its reference starts (`relu` and `abs` have no usable derivative there).
fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    let y = x.neg()?;
    let max = y.relu()?.detach();
    (max.neg()?.exp()? + (y - &max)?.exp()?)?.log()?.add(&max)?.neg()
}

fn sigmoid(s: &Scores) -> Result<Tensor> {
    let logit = s.logit()?;
    let right = log_sigmoid(&logit)?;
    if s.label_smoothing == 0. {
        return right.neg();
    }
    let wrong = log_sigmoid(&logit.neg()?)?;
    (right * (s.label_smoothing - 1.))? - wrong * s.label_smoothing
}

fn ipo(s: &Scores) -> Result<Tensor> {
    let per_token = (s.chosen_ratio()?.div(&s.chosen_tokens)? - s.rejected_ratio()?.div(&s.rejected_tokens)?)?;
    (per_token - 1. / (2. * s.beta))?.sqr()
}

fn hinge(s: &Scores) -> Result<Tensor> {
    (1. - s.logit()?)?.relu()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn scores(chosen: &Tensor, rejected: &Tensor, label_smoothing: f64) -> Scores {
        let of = |values: [f64; 4]| Tensor::new(&values, &Device::Cpu).unwrap();
        Scores {
            chosen: chosen.clone(),
            rejected: rejected.clone(),
            ref_chosen: of([-10., -20., -3., -900.]),
            ref_rejected: of([-12., -20., -4., -10.]),
            chosen_tokens: of([3., 7., 1., 300.]),
            rejected_tokens: of([4., 7., 2., 3.]),
            beta: 0.1,
            label_smoothing,
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences_also_where_policy_equals_reference() {
        // The second pair sits exactly on the reference, the last is far out.
        let at = [[-11., -20., -1.5, -10.], [-9., -20., -6., -5000.]];
        for loss in LOSSES {
            for smoothing in [0., 0.2] {
                let vars = at.map(|v| Var::new(&v, &Device::Cpu).unwrap());
                let total = (loss.each)(&scores(&vars[0], &vars[1], smoothing)).unwrap().sum_all().unwrap();
                let grads = total.backward().unwrap();
                for (side, var) in vars.iter().enumerate() {
                    let got = grads.get(var).unwrap().to_vec1::<f64>().unwrap();
                    for i in 0..4 {
                        let value = |step: f64| {
                            let mut moved = at;
                            moved[side][i] += step;
                            let [c, r] = moved.map(|v| Tensor::new(&v, &Device::Cpu).unwrap());
                            let each = (loss.each)(&scores(&c, &r, smoothing)).unwrap().to_vec1::<f64>().unwrap();
                            assert!(each[i].is_finite());
                            each[i]
                        };
                        let want = (value(1e-4) - value(-1e-4)) / 2e-4;
                        let (got, near) = (got[i], 1e-6 * (1. + want.abs()));
                        assert!((got - want).abs() < near, "{} {smoothing} {side} {i}: {got} {want}", loss.name);
                    }
                }
            }
        }
    }

    #[test]
    fn known_values() {
        let at = |v: [f64; 4]| Tensor::new(&v, &Device::Cpu).unwrap();
        let each = |name: &str, e: f64| {
            let s = scores(&at([-10., -20., -3., -900.]), &at([-12., -20., -14., -10.]), e);
            (by_name(name).unwrap().each)(&s).unwrap().to_vec1::<f64>().unwrap()
        };
        let ln2 = 2f64.ln();
        assert!((each("sigmoid", 0.)[0] - ln2).abs() < 1e-15);
        assert!((each("sigmoid", 0.)[2] - (1. + (-1f64).exp()).ln()).abs() < 1e-15);
        assert!((each("sigmoid", 0.3)[1] - ln2).abs() < 1e-15);
        assert!((each("ipo", 0.)[2] - 0.).abs() < 1e-15);
        assert!((each("hinge", 0.)[1] - 1.).abs() < 1e-15);
        assert!((each("hinge", 0.)[2] - 0.).abs() < 1e-15);
        let error = by_name("sigmoidal").unwrap_err();
        assert_eq!(error.help_text(), Some("choose one of: sigmoid, ipo, hinge"));
    }
}
