//! Whether an endpoint is used: a dead one is left out and tried again after 1, 2, 4 … 60 seconds.
//!
//! Pure logic: the caller says what time it is.

use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Resets, cut bodies and server errors in a row, without any answer between them, that make an endpoint dead.
const MAX_STRIKES: u32 = 3;

/// State of an endpoint.
#[derive(Debug)]
pub(super) enum EndpointHealth {
    Alive {
        strikes: u32,
    },
    Dead {
        since: Instant,
        retry_at: Instant,
        pause: Duration,
        /// Whether the one request that tries the endpoint is in flight.
        trial: bool,
    },
}

impl EndpointHealth {
    pub fn new() -> Self {
        Self::Alive { strikes: 0 }
    }

    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Alive { .. })
    }

    /// Whether the endpoint takes a request now.
    pub fn admits(&self, now: Instant) -> bool {
        match self {
            Self::Alive { .. } => true,
            Self::Dead { retry_at, trial, .. } => now >= *retry_at && !trial,
        }
    }

    /// Records that a request is sent. Returns whether it is the one that tries a dead endpoint.
    pub fn begin(&mut self) -> bool {
        match self {
            Self::Alive { .. } => false,
            Self::Dead { trial, .. } => {
                *trial = true;
                true
            }
        }
    }

    /// Records a reply. Returns whether the endpoint has come back to life.
    pub fn replied(&mut self) -> bool {
        let back = !self.is_alive();
        *self = Self::new();
        back
    }

    /// Records a connection that was lost, or an error of the server. Returns whether the endpoint died of it.
    pub fn struck(&mut self, started: Instant, trial: bool, now: Instant) -> bool {
        match self {
            Self::Alive { strikes } if *strikes + 1 < MAX_STRIKES => {
                *strikes += 1;
                false
            }
            _ => self.gone(started, trial, now),
        }
    }

    /// Records that there is nobody at the address. Returns whether the endpoint died of it.
    pub fn gone(&mut self, started: Instant, trial: bool, now: Instant) -> bool {
        let (pause, died) = match self {
            Self::Alive { .. } => (FIRST_PAUSE, true),
            // Requests that were in flight when it died say nothing new.
            Self::Dead { since, .. } if !trial && started <= *since => return false,
            Self::Dead { pause, .. } => ((*pause * 2).min(LONGEST_PAUSE), false),
        };
        let since = match self {
            Self::Dead { since, .. } => *since,
            Self::Alive { .. } => now,
        };
        *self = Self::Dead { since, retry_at: now + pause, pause, trial: false };
        died
    }

    /// Records that the request that tried the endpoint was dropped without an outcome.
    pub fn dropped(&mut self, was_trial: bool) {
        if let Self::Dead { trial, .. } = self
            && was_trial
        {
            *trial = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_endpoint_is_tried_by_one_request_after_1_2_4_to_60_seconds() {
        let start = Instant::now();
        let mut health = EndpointHealth::new();
        assert!(health.gone(start, false, start));
        // The others that were in flight change nothing.
        assert!(!health.gone(start, false, start));
        let mut now = start;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(!health.admits(now + Duration::from_millis(pause * 1000 - 1)));
            now += Duration::from_secs(pause);
            assert!(health.admits(now));
            assert!(health.begin());
            assert!(!health.admits(now), "one at a time");
            assert!(!health.gone(now, true, now), "dead already");
        }
        health.dropped(true);
        assert!(health.replied());
        assert!(!health.replied());
        assert!(health.admits(now) && !health.begin());
    }

    #[test]
    fn three_strikes_in_a_row_make_it_dead() {
        let now = Instant::now();
        let mut health = EndpointHealth::new();
        assert!(!health.struck(now, false, now));
        assert!(!health.struck(now, false, now));
        health.replied();
        assert!(!health.struck(now, false, now));
        assert!(!health.struck(now, false, now));
        assert!(health.struck(now, false, now));
        assert!(!health.is_alive());
    }
}
