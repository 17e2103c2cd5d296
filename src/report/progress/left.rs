//! How long a run still takes. The time in which jobs run is shared evenly among those that run at once, so that the
//! shares of all jobs add up to the time that passes, whatever runs beside what; what a step still takes is the mean
//! share of its microbatches times those that are left.

use std::time::Duration;

use super::ProgressState;

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
    fn own_left(&self) -> Option<f64> {
        let w = self.within?;
        let units = w.done.checked_sub(w.first.0).filter(|n| *n > 0)?;
        let each = (w.last - w.first.1) / units as f64;
        let left = each * w.planned.saturating_sub(w.done) as f64 - (self.charged - w.last);
        Some(left.max(OVERRUN * each))
    }
    /// Seconds that it still takes, by its own account or by its step's mean.
    fn left(&self, mean: f64) -> f64 {
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
    fn mean(&self) -> Option<f64> {
        (self.microbatches > 0).then(|| self.seconds / f64::from(self.microbatches))
    }
    /// Rows a second of the step's own share of the time.
    pub fn rows_per_second(&self) -> Option<f64> {
        (self.rows > 0 && self.seconds > 1e-3).then(|| self.rows as f64 / self.seconds)
    }
}

/// The time left.
#[derive(Clone, Debug, PartialEq)]
pub enum Left {
    /// There is nothing left to do.
    Nothing,
    /// Seconds, more than 0.
    Seconds(f64),
    /// It depends on these steps, of which no microbatch has been computed yet.
    Unknown(Vec<String>),
}

impl ProgressState {
    /// Shares the time that has passed among the jobs that run.
    pub(super) fn charge(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.charged).as_secs_f64();
        self.charged = self.charged.max(now);
        let share = passed / self.jobs.len().max(1) as f64;
        self.jobs.values_mut().for_each(|job| job.charged += share);
    }

    /// The time left, as of the last event.
    pub fn left(&self) -> Left {
        let (mut seconds, mut unknown, mut over) = (0., Vec::new(), true);
        for (at, step) in self.steps.iter().enumerate() {
            let total = self.total(at);
            let waiting = total.map(|total| total.saturating_sub(step.done.microbatches));
            if waiting == Some(0) {
                continue;
            }
            over = false;
            let jobs = || self.jobs.iter().filter(|((of, _), _)| *of == at).map(|(_, job)| job);
            let by_jobs = || jobs().find_map(|job| Some(job.charged + job.own_left()?));
            let (Some(waiting), Some(mean)) = (waiting, step.timing.mean().or_else(by_jobs)) else {
                unknown.push(step.outline.name.clone());
                continue;
            };
            let not_begun = f64::from(waiting) - jobs().count() as f64;
            seconds += not_begun.max(0.) * mean + jobs().map(|job| job.left(mean)).sum::<f64>();
        }
        match (over, unknown.is_empty()) {
            (true, _) => Left::Nothing,
            (false, true) => Left::Seconds(seconds.max(f64::MIN_POSITIVE)),
            (false, false) => Left::Unknown(unknown),
        }
    }
}
