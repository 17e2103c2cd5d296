//! Estimates the remaining time of a run. Elapsed time is shared evenly among the jobs that run at once, so
//! the shares of all jobs add up to the elapsed time, whatever runs in parallel. The remaining time of a
//! step is the mean share of its microbatches times the number left.

use super::state::ProgressState;

/// The remaining time.
#[derive(Clone, Debug, PartialEq)]
pub enum TimeLeft {
    /// Nothing is left to do.
    Nothing,
    /// A positive number of seconds.
    Seconds(f64),
    /// Unknown, because these steps have not computed a microbatch yet.
    Unknown(Vec<String>),
}

impl ProgressState {
    /// Returns the remaining time as of the last event.
    pub fn left(&self) -> TimeLeft {
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
            (true, _) => TimeLeft::Nothing,
            (false, true) => TimeLeft::Seconds(seconds.max(f64::MIN_POSITIVE)),
            (false, false) => TimeLeft::Unknown(unknown),
        }
    }
}
