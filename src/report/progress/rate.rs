//! [`Rate`]: how fast a count grows.

use std::collections::VecDeque;
use std::time::Duration;

/// Rates are averaged over this period.
const WINDOW: Duration = Duration::from_secs(10);

/// A growing count whose rate is measured.
#[derive(Debug, Default)]
pub(super) struct Rate(VecDeque<(Duration, f64)>);

impl Rate {
    pub fn add(&mut self, now: Duration, count: f64) {
        // A smaller count means that another training began, so the old one is dropped.
        if self.0.back().is_some_and(|&(_, last)| count < last) {
            self.0.clear();
        }
        self.0.push_back((now, count));
        while self.0.len() > 2 && now.saturating_sub(self.0[1].0) >= WINDOW {
            self.0.pop_front();
        }
    }
    /// Units per second; `None` if nothing was added lately.
    pub fn per_second(&self, now: Duration) -> Option<f64> {
        let (&(from, first), &(to, last)) = (self.0.front()?, self.0.back()?);
        let seconds = to.saturating_sub(from).as_secs_f64();
        let fresh = now.saturating_sub(to) < WINDOW;
        (fresh && seconds > 0. && last > first).then(|| (last - first) / seconds)
    }
}
