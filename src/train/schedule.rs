//! Learning rate by optimizer step, equal to transformers' schedules.

use std::f64::consts::PI;

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Decay {
    /// No decay: `get_constant_schedule_with_warmup`.
    Constant,
    /// A straight line: `get_linear_schedule_with_warmup`, or with a final rate polynomial decay of power 1.
    Linear,
    /// Half a cosine: `get_cosine_schedule_with_warmup`, or with a final rate
    /// `get_cosine_with_min_lr_schedule_with_warmup`.
    #[default]
    Cosine,
}

impl Decay {
    /// Reads `constant`, `linear` or `cosine`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "constant" => Some(Decay::Constant),
            "linear" => Some(Decay::Linear),
            "cosine" => Some(Decay::Cosine),
            _ => None,
        }
    }
}

/// Length of the rise of the learning rate from 0.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Warmup {
    /// A number of optimizer steps.
    Steps(usize),
    /// A share of all steps, rounded up as in transformers.
    Share(f64),
}

/// The learning rate of every step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Schedule {
    /// The decay after the warm-up.
    pub decay: Decay,
    /// Rate at the end of the warm-up.
    pub learning_rate: f64,
    /// Rate that the decay reaches after the last step. Unused by [`Decay::Constant`].
    pub final_learning_rate: f64,
    /// The rise at the start.
    pub warmup: Warmup,
}

impl Schedule {
    /// Warm-up steps of `total`.
    pub fn warmup_steps(&self, total: usize) -> usize {
        match self.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Share(share) => (total as f64 * share.clamp(0., 1.)).ceil() as usize,
        }
    }

    /// The rate of optimizer step `step`, counted from 0, of `total`. As in transformers the first step of a warm-up
    /// has rate 0.
    pub fn at(&self, step: usize, total: usize) -> f64 {
        let warmup = self.warmup_steps(total);
        self.rate(step as f64, warmup as f64, total.saturating_sub(warmup).max(1) as f64)
    }

    /// The rate at `place` of `total`, in any unit and between steps too. It is for trainings whose number of steps
    /// is not known in advance. A warm-up given in steps is in the same unit.
    pub fn at_place(&self, place: f64, total: f64) -> f64 {
        let warmup = match self.warmup {
            Warmup::Steps(steps) => steps as f64,
            Warmup::Share(share) => total * share.clamp(0., 1.),
        };
        self.rate(place, warmup, (total - warmup).max(f64::MIN_POSITIVE))
    }

    fn rate(&self, place: f64, warmup: f64, rest: f64) -> f64 {
        if place < warmup {
            return self.learning_rate * place / warmup;
        }
        let progress = ((place - warmup) / rest).min(1.);
        let share = match self.decay {
            Decay::Constant => return self.learning_rate,
            Decay::Linear => 1. - progress,
            Decay::Cosine => 0.5 * (1. + (PI * progress).cos()),
        };
        self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * share
    }
}
