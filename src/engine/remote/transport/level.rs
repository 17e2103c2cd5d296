//! How many requests an endpoint gets at once: additive increase, multiplicative decrease.
//!
//! Pure logic: the caller says what time it is.

use std::time::Instant;

/// The level of a new endpoint: what the small ones of the usual servers take at once.
const START: f64 = 32.;
/// Answers over which speed and latency are averaged, at least.
const MIN_EPOCH: usize = 32;
/// Answers a second that are more than the best seen by this factor are worth their latency.
const CLEARLY_FASTER: f64 = 1.05;
/// A latency above the best seen by this factor, without more answers a second, means that requests queue.
const CLEARLY_SLOWER: f64 = 2.;
/// Averages in a row that must say so.
const MIN_SLOW_EPOCHS: u32 = 2;
/// Where requests queued, a lower level keeps this share of the best speed at least. Otherwise the requests themselves
/// have become longer.
const SAME_SPEED: f64 = 0.8;

/// Number of requests that may be in flight at one endpoint.
///
/// It doubles in every round trip until the first sign of congestion, as TCP does, and grows by a step afterwards.
/// It is halved when the endpoint says that it is busy, and when a higher level brought latency and no speed.
/// Latency alone says nothing: a server that batches answers more a second *and* each later. If a lower level
/// does not bring back the best speed, the requests have become longer, and what was measured before is forgotten.
#[derive(Debug)]
pub(super) struct Level {
    ceiling: f64,
    now: f64,
    /// Below it the level doubles in a round trip.
    threshold: f64,
    lowered: Option<Instant>,
    epoch: LevelEpoch,
    best: Option<Speed>,
    slow_epochs: u32,
    /// The level was lowered for its latency, and it is not seen yet what that brought.
    on_trial: bool,
}

/// Answers that came while the level was used in full.
#[derive(Debug, Default)]
struct LevelEpoch {
    since: Option<Instant>,
    answers: usize,
    /// Answers that it has at its end.
    length: usize,
    latency: f64,
}

#[derive(Clone, Copy, Debug)]
struct Speed {
    per_second: f64,
    latency: f64,
}

impl Level {
    pub fn new(ceiling: usize) -> Self {
        let ceiling = ceiling.max(1) as f64;
        Self {
            ceiling,
            now: START.min(ceiling),
            threshold: f64::INFINITY,
            lowered: None,
            epoch: LevelEpoch::default(),
            best: None,
            slow_epochs: 0,
            on_trial: false,
        }
    }

    /// Requests that may be in flight.
    pub fn allowed(&self) -> usize {
        self.now as usize
    }

    /// Records an answer to a request. `full` says whether as many requests as allowed were in flight: otherwise
    /// the answer shows nothing about a higher level.
    pub fn answered(&mut self, started: Instant, now: Instant, full: bool) {
        if !full {
            self.epoch = LevelEpoch::default();
            return;
        }
        // A request that was sent at a higher level shows nothing about this one.
        if self.lowered.is_some_and(|lowered| started < lowered) {
            return;
        }
        let step = (self.ceiling / 64.).max(1.);
        let rise = if self.now < self.threshold { 1. } else { step / self.now };
        self.now = (self.now + rise).min(self.ceiling);
        if self.epoch.since.is_none() {
            // The first answer only starts the clock.
            self.epoch =
                LevelEpoch { since: Some(now), length: self.allowed().max(MIN_EPOCH), ..LevelEpoch::default() };
            return;
        }
        self.epoch.answers += 1;
        self.epoch.latency += now.saturating_duration_since(started).as_secs_f64();
        if self.epoch.answers >= self.epoch.length {
            self.end_epoch(now);
        }
    }

    /// Records that the endpoint is busy. A request that was sent before the last decrease says nothing new.
    pub fn congested(&mut self, started: Instant, now: Instant) {
        if self.lowered.is_none_or(|lowered| started >= lowered) {
            self.lower(now);
        }
    }

    /// Starts again with few requests, after the endpoint was dead.
    pub fn restart(&mut self) {
        self.threshold = (self.now / 2.).max(1.);
        self.now = START.min(self.now);
        self.epoch = LevelEpoch::default();
        (self.best, self.slow_epochs, self.on_trial) = (None, 0, false);
    }

    fn end_epoch(&mut self, now: Instant) {
        let epoch = std::mem::take(&mut self.epoch);
        let elapsed = epoch.since.map_or(0., |since| now.saturating_duration_since(since).as_secs_f64());
        let answers = epoch.answers as f64;
        let speed = Speed { per_second: answers / elapsed.max(1e-9), latency: epoch.latency / answers };
        let on_trial = std::mem::take(&mut self.on_trial);
        let comparable = |best: &Speed| !on_trial || speed.per_second >= best.per_second * SAME_SPEED;
        match self.best.filter(comparable) {
            Some(best) if speed.per_second < best.per_second * CLEARLY_FASTER => {
                if speed.latency < best.latency * CLEARLY_SLOWER {
                    self.slow_epochs = 0;
                    return;
                }
                self.slow_epochs += 1;
                if self.slow_epochs >= MIN_SLOW_EPOCHS {
                    self.lower(now);
                    // Still slow at the lower level is reason enough to lower it again.
                    self.slow_epochs = MIN_SLOW_EPOCHS - 1;
                    self.on_trial = true;
                }
            }
            _ => {
                self.best = Some(speed);
                self.slow_epochs = 0;
            }
        }
    }

    fn lower(&mut self, now: Instant) {
        self.now = (self.now / 2.).max(1.);
        self.threshold = self.now;
        self.lowered = Some(now);
        self.epoch = LevelEpoch::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Runs round trips: each sends as many requests as allowed, which all take `latency(level)` seconds.
    fn round_trips(level: &mut Level, now: &mut Instant, count: usize, latency: impl Fn(usize) -> f64) {
        for _ in 0..count {
            let (started, sent) = (*now, level.allowed());
            let each = latency(sent) / sent as f64;
            for _ in 0..sent {
                *now += Duration::from_secs_f64(each);
                // A steady flow: every request was sent one latency ago.
                level.answered(*now - Duration::from_secs_f64(latency(sent)), *now, true);
            }
            assert!(*now > started);
        }
    }

    #[test]
    fn it_rises_to_the_ceiling_of_a_server_that_keeps_up() {
        let (mut level, mut now) = (Level::new(256), Instant::now());
        assert_eq!(level.allowed(), 32);
        round_trips(&mut level, &mut now, 6, |_| 0.1);
        assert_eq!(level.allowed(), 256);
        // A server whose latency grows, but with it its speed, is not congested.
        let mut level = Level::new(64);
        round_trips(&mut level, &mut now, 40, |n| 0.1 + 0.01 * n as f64);
        assert_eq!(level.allowed(), 64);
    }

    #[test]
    fn it_stays_near_the_knee_of_a_server_that_queues() {
        let (mut level, mut now) = (Level::new(256), Instant::now());
        // At most 16 at once, each of which takes a tenth of a second.
        let latency = |n: usize| 0.1 * (n as f64 / 16.).max(1.);
        round_trips(&mut level, &mut now, 30, latency);
        for _ in 0..300 {
            round_trips(&mut level, &mut now, 1, latency);
            assert!((8..=128).contains(&level.allowed()), "{}", level.allowed());
        }
    }

    #[test]
    fn it_is_halved_once_per_round_trip_and_grows_by_a_step() {
        let (mut level, mut now) = (Level::new(64), Instant::now());
        round_trips(&mut level, &mut now, 4, |_| 0.1);
        assert_eq!(level.allowed(), 64);
        let sent = now;
        for _ in 0..10 {
            now += Duration::from_millis(1);
            level.congested(sent, now);
        }
        assert_eq!(level.allowed(), 32);
        round_trips(&mut level, &mut now, 2, |_| 0.1);
        assert!((33..=34).contains(&level.allowed()), "{}", level.allowed());
        for _ in 0..20 {
            now += Duration::from_millis(1);
            level.congested(now, now);
        }
        assert_eq!(level.allowed(), 1);
    }

    #[test]
    fn longer_requests_cost_one_decrease_and_not_all() {
        let (mut level, mut now) = (Level::new(64), Instant::now());
        round_trips(&mut level, &mut now, 10, |_| 0.1);
        let mut lowest = 64;
        for _ in 0..20 {
            round_trips(&mut level, &mut now, 1, |_| 2.);
            lowest = lowest.min(level.allowed());
        }
        assert!((30..=36).contains(&lowest), "{lowest}");
    }

    #[test]
    fn a_level_that_is_not_used_does_not_grow() {
        let (mut level, now) = (Level::new(64), Instant::now());
        for _ in 0..100 {
            level.answered(now, now + Duration::from_millis(1), false);
        }
        assert_eq!(level.allowed(), 32);
    }
}
