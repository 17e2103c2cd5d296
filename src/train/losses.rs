//! The DPO family: every loss is one function from summed log-probabilities to a loss per pair, and one line in
//! [`LOSSES`].
//!
//! Notation: `w` is chosen, `l` rejected; `r = log pi(y|x) - log ref(y|x)` summed over the completion's tokens;
//! `D = r_w - r_l`; `m = log pi(y|x) / |y|`; `s` is the logistic function; `e` is `label_smoothing`; `g` is
//! `margin_scale` times the judge's score of `w` less that of `l`; `C` is how far two judges agree, in [0, 1].

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
    /// The judge's score of `y_w` less that of `y_l`.
    pub margin: Tensor,
    /// `C`, in [0, 1].
    pub consistency: Tensor,
    /// What the losses can be tuned by.
    pub knobs: LossParams,
}

/// What the losses can be tuned by; each takes what its equation names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossParams {
    /// Strength of the pull to the reference.
    pub beta: f64,
    /// Probability that a label is wrong, in [0, 0.5).
    pub label_smoothing: f64,
    /// SimPO's target margin between the mean log-probabilities, times beta.
    pub gamma: f64,
    /// RPO's factor from a difference of scores to a difference of rewards.
    pub margin_scale: f64,
}

impl Default for LossParams {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0., gamma: 0.5, margin_scale: 1. }
    }
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
        (self.chosen_ratio()? - self.rejected_ratio()?)? * self.knobs.beta
    }
    /// `r_w / |y_w| - r_l / |y_l|`.
    fn mean_ratio(&self) -> Result<Tensor> {
        self.chosen_ratio()?.div(&self.chosen_tokens)? - self.rejected_ratio()?.div(&self.rejected_tokens)?
    }
    /// `g`.
    fn target(&self) -> Result<Tensor> {
        &self.margin * self.knobs.margin_scale
    }
}

/// What a loss reads beside the policy's log-probabilities and beta: an option of its own, a column of the pairs, or the
/// reference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// [`LossParams::label_smoothing`].
    LabelSmoothing,
    /// [`LossParams::gamma`].
    Gamma,
    /// [`LossParams::margin_scale`].
    MarginScale,
    /// [`Scores::margin`].
    Margin,
    /// [`Scores::consistency`].
    Consistency,
    /// [`Scores::ref_chosen`] and [`Scores::ref_rejected`].
    Reference,
}

impl Input {
    /// The options that only some losses read, with their keys in pipeline files.
    pub const OPTIONS: [(Self, &'static str); 4] = [
        (Self::LabelSmoothing, "label_smoothing"),
        (Self::Gamma, "simpo_gamma"),
        (Self::MarginScale, "margin_scale"),
        (Self::Reference, "reference"),
    ];
}

/// A named loss.
pub struct Loss {
    /// As pipeline files and TRL's `loss_type` spell it.
    pub name: &'static str,
    /// The equation, in the notation of this module.
    pub equation: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// What it reads; options that it does not read are refused, and rows that lack a column it reads.
    pub reads: &'static [Input],
    /// Loss of each pair, `[B]`.
    pub each: fn(&Scores) -> Result<Tensor>,
}

impl std::fmt::Debug for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}
impl Loss {
    /// Whether it reads that.
    pub fn takes(&self, input: Input) -> bool {
        self.reads.contains(&input)
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
        equation: "-(1 - e) log s(beta D) - e log s(-beta D)",
        paper: "DPO, arXiv 2305.18290 eq. 7; smoothing as cDPO, ericmitchell.ai/cdpo.pdf",
        reads: &[Input::Reference, Input::LabelSmoothing],
        each: sigmoid,
    },
    Loss {
        name: "ipo",
        equation: "(r_w / |y_w| - r_l / |y_l| - 1 / (2 beta))^2",
        paper: "IPO, arXiv 2310.12036 eq. 17; per token, as its authors told TRL",
        reads: &[Input::Reference],
        each: ipo,
    },
    Loss {
        name: "hinge",
        equation: "max(0, 1 - beta D)",
        paper: "SLiC, arXiv 2305.10425; RSO, arXiv 2309.06657",
        reads: &[Input::Reference],
        each: hinge,
    },
    Loss {
        name: "robust",
        equation: "(-(1 - e) log s(beta D) + e log s(-beta D)) / (1 - 2 e)",
        paper: "Robust DPO, arXiv 2403.00409",
        reads: &[Input::Reference, Input::LabelSmoothing],
        each: robust,
    },
    Loss {
        name: "sigmoid_norm",
        equation: "-log s(beta (r_w / |y_w| - r_l / |y_l|))",
        paper: "length-normalised DPO as in Tulu 3, arXiv 2411.15124",
        reads: &[Input::Reference],
        each: sigmoid_norm,
    },
    Loss {
        name: "simpo",
        equation: "-(1 - e) log s(beta (m_w - m_l) - gamma) - e log s(gamma - beta (m_w - m_l)); no reference",
        paper: "SimPO, arXiv 2405.14734 eq. 6",
        reads: &[Input::LabelSmoothing, Input::Gamma],
        each: simpo,
    },
    Loss {
        name: "apo_zero",
        equation: "1 - s(beta r_w) + s(beta r_l)",
        paper: "APO, arXiv 2408.06266 eq. 7: the chosen are better than what the model says by itself",
        reads: &[Input::Reference],
        each: apo_zero,
    },
    Loss {
        name: "apo_down",
        equation: "s(beta r_w) + 1 - s(beta D)",
        paper: "APO, arXiv 2408.06266 eq. 8: the chosen are worse than what the model says by itself",
        reads: &[Input::Reference],
        each: apo_down,
    },
    Loss {
        name: "rpo_sq",
        equation: "(beta D - g)^2",
        paper: "reward-aware preference optimisation of Nemotron-4, arXiv 2406.11704, squared distance",
        reads: &[Input::Reference, Input::MarginScale, Input::Margin],
        each: rpo_sq,
    },
    Loss {
        name: "rpo_bwd_kl",
        equation: "KL(Bernoulli(s(g)) || Bernoulli(s(beta D)))",
        paper: "reward-aware preference optimisation of Nemotron-4, arXiv 2406.11704, backward KL",
        reads: &[Input::Reference, Input::MarginScale, Input::Margin],
        each: rpo_bwd_kl,
    },
    Loss {
        name: "rpo_fwd_kl",
        equation: "KL(Bernoulli(s(beta D)) || Bernoulli(s(g)))",
        paper: "reward-aware preference optimisation of Nemotron-4, arXiv 2406.11704, forward KL",
        reads: &[Input::Reference, Input::MarginScale, Input::Margin],
        each: rpo_fwd_kl,
    },
    Loss {
        name: "cream",
        equation: "-C log s(beta D) - (1 - C) log s(-beta D)",
        paper: "CREAM, arXiv 2410.12735: the less two judges agree on a prompt's answers, the less its pair teaches",
        reads: &[Input::Reference, Input::Consistency],
        each: cream,
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

/// `s(x)`, whose derivative is exact far out too: `e^(log s(x))`.
fn logistic(x: &Tensor) -> Result<Tensor> {
    log_sigmoid(x)?.exp()
}

/// `-(1 - e) log s(x) - e log s(-x)`.
fn smoothed(x: &Tensor, e: f64) -> Result<Tensor> {
    let right = log_sigmoid(x)?;
    if e == 0. {
        return right.neg();
    }
    (right * (e - 1.))? - log_sigmoid(&x.neg()?)? * e
}

/// `KL(Bernoulli(s(p)) || Bernoulli(s(q)))`.
fn bernoulli_kl(p: &Tensor, q: &Tensor) -> Result<Tensor> {
    let part = |p: &Tensor, q: &Tensor| logistic(p)? * (log_sigmoid(p)? - log_sigmoid(q)?)?;
    part(p, q)? + part(&p.neg()?, &q.neg()?)?
}

fn sigmoid(s: &Scores) -> Result<Tensor> {
    smoothed(&s.logit()?, s.knobs.label_smoothing)
}

fn ipo(s: &Scores) -> Result<Tensor> {
    (s.mean_ratio()? - 1. / (2. * s.knobs.beta))?.sqr()
}

fn hinge(s: &Scores) -> Result<Tensor> {
    (1. - s.logit()?)?.relu()
}

fn robust(s: &Scores) -> Result<Tensor> {
    let (logit, e) = (s.logit()?, s.knobs.label_smoothing);
    ((log_sigmoid(&logit)? * (e - 1.))? + (log_sigmoid(&logit.neg()?)? * e)?)? / (1. - 2. * e)
}

fn sigmoid_norm(s: &Scores) -> Result<Tensor> {
    log_sigmoid(&(s.mean_ratio()? * s.knobs.beta)?)?.neg()
}

fn simpo(s: &Scores) -> Result<Tensor> {
    let means = (s.chosen.div(&s.chosen_tokens)? - s.rejected.div(&s.rejected_tokens)?)?;
    smoothed(&((means * s.knobs.beta)? - s.knobs.gamma)?, s.knobs.label_smoothing)
}

fn apo_zero(s: &Scores) -> Result<Tensor> {
    let of = |ratio: Tensor| logistic(&(ratio * s.knobs.beta)?);
    (1. - of(s.chosen_ratio()?)?)? + of(s.rejected_ratio()?)?
}

fn apo_down(s: &Scores) -> Result<Tensor> {
    logistic(&(s.chosen_ratio()? * s.knobs.beta)?)? + (1. - logistic(&s.logit()?)?)?
}

fn rpo_sq(s: &Scores) -> Result<Tensor> {
    (s.logit()? - s.target()?)?.sqr()
}

fn rpo_bwd_kl(s: &Scores) -> Result<Tensor> {
    bernoulli_kl(&s.target()?, &s.logit()?)
}

fn rpo_fwd_kl(s: &Scores) -> Result<Tensor> {
    bernoulli_kl(&s.logit()?, &s.target()?)
}

fn cream(s: &Scores) -> Result<Tensor> {
    let (logit, c) = (s.logit()?, &s.consistency);
    (log_sigmoid(&logit)? * c)?.neg()? - (log_sigmoid(&logit.neg()?)? * (1. - c)?)?
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
            margin: of([1., 0.25, 4., 2.]),
            consistency: of([1., 0.5, 0.8, 0.]),
            knobs: LossParams { label_smoothing, gamma: 0.3, margin_scale: 0.7, ..LossParams::default() },
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

    /// What a loss says it reads is what its value depends on, and no more.
    #[test]
    fn losses_read_what_they_declare() {
        let at = |v: [f64; 4]| Tensor::new(&v, &Device::Cpu).unwrap();
        let base = || scores(&at([-10., -21., -3., -90.]), &at([-12., -20., -6., -10.]), 0.1);
        type Change = fn(&mut Scores);
        let changes: [(Input, Change); 6] = [
            (Input::LabelSmoothing, |s| s.knobs.label_smoothing = 0.3),
            (Input::Gamma, |s| s.knobs.gamma = 0.9),
            (Input::MarginScale, |s| s.knobs.margin_scale = 0.2),
            (Input::Margin, |s| s.margin = (&s.margin * 3.).unwrap()),
            (Input::Consistency, |s| s.consistency = (&s.consistency * 0.5).unwrap()),
            (Input::Reference, |s| s.ref_chosen = (&s.ref_chosen * 0.9).unwrap()),
        ];
        for loss in LOSSES {
            let values = |s: &Scores| (loss.each)(s).unwrap().to_vec1::<f64>().unwrap();
            for (input, change) in changes {
                let mut changed = base();
                change(&mut changed);
                let depends = values(&base()) != values(&changed);
                assert_eq!(depends, loss.takes(input), "{} and {input:?}", loss.name);
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
        assert_eq!(
            error.help_text(),
            Some(format!("choose one of: {}", LOSSES.iter().map(|l| l.name).collect::<Vec<_>>().join(", ")).as_str())
        );
    }
}
