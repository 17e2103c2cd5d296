//! Durations of jobs: the running ones, and the past microbatches of each step.

/// A job that has exceeded its step's mean is assumed to need at least this share of its time so far.
const OVERRUN: f64 = 0.1;

/// A running job.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunningJob {
    /// The job's share of the elapsed time, in seconds.
    pub charged: f64,
    within: Option<JobProgress>,
}

/// Progress within a long job.
#[derive(Clone, Copy, Debug)]
pub(super) struct JobProgress {
    pub done: usize,
    pub planned: usize,
    pub unit: &'static str,
    /// Units done and time charged at the first report; a resumed training does not start at 0.
    first: (usize, f64),
    /// Time charged at the last report.
    last: f64,
}

impl RunningJob {
    pub fn within(&mut self, done: usize, planned: usize, unit: &'static str) {
        let first = self.within.filter(|w| w.unit == unit).map_or((done, self.charged), |w| w.first);
        self.within = Some(JobProgress { done, planned, unit, first, last: self.charged });
    }
    /// Progress within the job, if it was reported.
    pub fn how_far(&self) -> Option<JobProgress> {
        self.within
    }
    /// Remaining seconds, estimated from the job's own progress.
    pub fn own_left(&self) -> Option<f64> {
        let w = self.within?;
        let units = w.done.checked_sub(w.first.0).filter(|n| *n > 0)?;
        let each = (w.last - w.first.1) / units as f64;
        let left = each * w.planned.saturating_sub(w.done) as f64 - (self.charged - w.last);
        Some(left.max(OVERRUN * each))
    }
    /// Remaining seconds, estimated from the job's own progress or from its step's mean.
    pub fn left(&self, mean: f64) -> f64 {
        self.own_left().unwrap_or_else(|| (mean - self.charged).max(OVERRUN * self.charged))
    }
}

/// Time and rows of the microbatches that this process has computed for a step.
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
    /// Rows per second of the step's share of the time.
    pub fn rows_per_second(&self) -> Option<f64> {
        (self.rows > 0 && self.seconds > 1e-3).then(|| self.rows as f64 / self.seconds)
    }
}
