//! How long jobs take: those that run, and what the microbatches of a step took.

/// A job that has overrun its step's mean takes at least this share of what it took so far.
const OVERRUN: f64 = 0.1;

/// A job that runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Job {
    /// Its share of the time so far, in seconds.
    pub charged: f64,
    within: Option<Within>,
}

/// How far a long job is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within {
    pub done: usize,
    pub planned: usize,
    pub unit: &'static str,
    /// Units done and the share of the time when it was first told: a training that goes on does not begin at 0.
    first: (usize, f64),
    /// The share of the time when it was told last.
    last: f64,
}

impl Job {
    pub fn within(&mut self, done: usize, planned: usize, unit: &'static str) {
        let first = self.within.filter(|w| w.unit == unit).map_or((done, self.charged), |w| w.first);
        self.within = Some(Within { done, planned, unit, first, last: self.charged });
    }
    /// How far it is, where it tells.
    pub fn how_far(&self) -> Option<Within> {
        self.within
    }
    /// Seconds that it still takes by its own account.
    pub fn own_left(&self) -> Option<f64> {
        let w = self.within?;
        let units = w.done.checked_sub(w.first.0).filter(|n| *n > 0)?;
        let each = (w.last - w.first.1) / units as f64;
        let left = each * w.planned.saturating_sub(w.done) as f64 - (self.charged - w.last);
        Some(left.max(OVERRUN * each))
    }
    /// Seconds that it still takes, by its own account or by its step's mean.
    pub fn left(&self, mean: f64) -> f64 {
        self.own_left().unwrap_or_else(|| (mean - self.charged).max(OVERRUN * self.charged))
    }
}

/// What the microbatches of a step took that this process computed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    microbatches: u32,
    seconds: f64,
    rows: u64,
}

impl Timing {
    pub fn add(&mut self, seconds: f64, rows: u64) {
        self.microbatches += 1;
        self.seconds += seconds;
        self.rows += rows;
    }
    pub fn mean(&self) -> Option<f64> {
        (self.microbatches > 0).then(|| self.seconds / f64::from(self.microbatches))
    }
    /// Rows a second of the step's own share of the time.
    pub fn rows_per_second(&self) -> Option<f64> {
        (self.rows > 0 && self.seconds > 1e-3).then(|| self.rows as f64 / self.seconds)
    }
}
