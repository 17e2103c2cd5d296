//! Which endpoint gets the next request.
//!
//! Pure logic: the caller says what time it is.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::health::EndpointHealth;
use super::level::Level;

/// The endpoints with their levels and health.
#[derive(Debug)]
pub(super) struct Balance(Vec<Server>);

#[derive(Debug)]
pub(super) struct Server {
    pub level: Level,
    pub health: EndpointHealth,
    pub in_flight: usize,
    /// The server asked for no requests until then.
    paused_until: Option<Instant>,
    /// A suspect is in flight, and nothing else may be.
    alone: bool,
}

/// A place at an endpoint for one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub endpoint: usize,
    pub at: Instant,
    trial: bool,
    alone: bool,
}

/// What the end of a request changed about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndpointChange {
    None,
    Died,
    Revived,
}

impl EndpointChange {
    fn died(died: bool) -> Self {
        if died { Self::Died } else { Self::None }
    }
}

/// What a request showed about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// A reply to the request.
    Answered,
    /// An error that concerns the request alone.
    Alive,
    /// Too many requests; none is wanted for this long.
    Busy(Duration),
    /// No reply within the time limit.
    Slow,
    /// A lost connection or an error of the server.
    Struck,
    /// There is nobody at the address.
    Gone,
    /// Nothing: the request was dropped.
    Dropped,
}

impl Balance {
    pub fn new(endpoints: usize, max_in_flight: usize) -> Self {
        let server = |_| Server {
            level: Level::new(max_in_flight),
            health: EndpointHealth::new(),
            in_flight: 0,
            paused_until: None,
            alone: false,
        };
        Self((0..endpoints).map(server).collect())
    }

    pub fn servers(&self) -> &[Server] {
        &self.0
    }

    pub fn in_flight(&self) -> usize {
        self.0.iter().map(|s| s.in_flight).sum()
    }

    /// The endpoint that requests with this affinity prefer: the same one for equal affinities, as long as it is
    /// alive. Other requests keep their endpoint when one dies.
    pub fn preferred(&self, affinity: u64) -> Option<usize> {
        let alive = (0..self.0.len()).filter(|&e| self.0[e].health.is_alive());
        alive.max_by_key(|&e| weight(affinity, e))
    }

    /// Whether an endpoint takes a request now.
    pub fn has_room(&self, endpoint: usize, now: Instant) -> bool {
        let server = &self.0[endpoint];
        !server.alone
            && server.in_flight < server.level.allowed()
            && server.paused_until.is_none_or(|until| now >= until)
            && server.health.admits(now)
    }

    /// An endpoint for a request: the preferred one if it has room, otherwise the one with the least requests in
    /// flight. The `reserved` endpoints with the least requests in flight are kept free for suspects.
    pub fn choose(&self, affinity: u64, reserved: usize, now: Instant) -> Option<usize> {
        let kept = self.least_used(reserved);
        let takes = |e: usize| !kept.contains(&e) && self.has_room(e, now);
        self.preferred(affinity).filter(|&e| takes(e)).or_else(|| {
            let free = (0..self.0.len()).filter(|&e| takes(e));
            free.min_by_key(|&e| (self.0[e].in_flight, Reverse(weight(affinity, e))))
        })
    }

    /// An endpoint without any request in flight, for a suspect.
    pub fn choose_empty(&self, affinity: u64, now: Instant) -> Option<usize> {
        let empty = (0..self.0.len()).filter(|&e| self.0[e].in_flight == 0 && self.has_room(e, now));
        empty.max_by_key(|&e| weight(affinity, e))
    }

    fn least_used(&self, count: usize) -> Vec<usize> {
        if count == 0 {
            return Vec::new();
        }
        let mut alive: Vec<usize> = (0..self.0.len()).filter(|&e| self.0[e].health.is_alive()).collect();
        alive.sort_by_key(|&e| self.0[e].in_flight);
        alive.truncate(count);
        alive
    }

    /// Records that a request is sent.
    pub fn begin(&mut self, endpoint: usize, alone: bool, now: Instant) -> Grant {
        let server = &mut self.0[endpoint];
        server.in_flight += 1;
        server.alone = alone;
        Grant { endpoint, at: now, trial: server.health.begin(), alone }
    }

    /// Records that nobody is at an endpoint's address. Returns whether it was thought to be alive.
    pub fn found_gone(&mut self, endpoint: usize, now: Instant) -> bool {
        let health = &mut self.0[endpoint].health;
        health.is_alive() && health.gone(now, false, now)
    }

    /// Records the end of a request, and what it showed.
    pub fn end(&mut self, grant: &Grant, signal: Signal, now: Instant) -> EndpointChange {
        let server = &mut self.0[grant.endpoint];
        let full = server.in_flight >= server.level.allowed();
        server.in_flight -= 1;
        server.alone &= !grant.alone;
        match signal {
            Signal::Answered => server.level.answered(grant.at, now, full),
            Signal::Busy(pause) => {
                server.level.congested(grant.at, now);
                let until = (!pause.is_zero()).then(|| now + pause);
                server.paused_until = server.paused_until.max(until);
            }
            Signal::Slow => server.level.congested(grant.at, now),
            Signal::Alive | Signal::Struck | Signal::Gone | Signal::Dropped => {}
        }
        match signal {
            Signal::Slow | Signal::Struck => EndpointChange::died(server.health.struck(grant.at, grant.trial, now)),
            Signal::Gone => EndpointChange::died(server.health.gone(grant.at, grant.trial, now)),
            Signal::Answered | Signal::Alive | Signal::Busy(_) if server.health.replied() => {
                server.level.restart();
                EndpointChange::Revived
            }
            Signal::Dropped => {
                server.health.dropped(grant.trial);
                EndpointChange::None
            }
            Signal::Answered | Signal::Alive | Signal::Busy(_) => EndpointChange::None,
        }
    }
}

/// Rendezvous hashing: the endpoint with the greatest weight is preferred.
fn weight(affinity: u64, endpoint: usize) -> u64 {
    mix(affinity ^ mix(endpoint as u64 + 1))
}

/// The finalizer of splitmix64.
pub(super) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_heads_go_to_one_endpoint_until_it_is_full() {
        let now = Instant::now();
        let mut balance = Balance::new(3, 2);
        let first = balance.choose(7, 0, now).unwrap();
        for _ in 0..2 {
            assert_eq!(balance.choose(7, 0, now), Some(first));
            balance.begin(first, false, now);
        }
        let mut rest: Vec<usize> = Vec::new();
        while let Some(next) = balance.choose(7, 0, now) {
            rest.push(next);
            balance.begin(next, false, now);
        }
        rest.sort_unstable();
        let others: Vec<usize> = (0..3).filter(|e| *e != first).flat_map(|e| [e, e]).collect();
        assert_eq!(rest, others);
        let spread: std::collections::BTreeSet<_> = (0..64).map(|a| Balance::new(3, 2).preferred(a)).collect();
        assert_eq!(spread.len(), 3);
    }

    #[test]
    fn without_its_endpoint_a_request_goes_to_the_least_used() {
        let now = Instant::now();
        let mut balance = Balance::new(2, 8);
        let (one, other) = (balance.preferred(1).unwrap(), 1 - balance.preferred(1).unwrap());
        let grant = balance.begin(one, false, now);
        assert_eq!(balance.end(&grant, Signal::Gone, now), EndpointChange::Died);
        assert_eq!(balance.preferred(1), Some(other));
        assert_eq!(balance.choose(1, 0, now), Some(other));
        let later = now + Duration::from_secs(1);
        let trial = (0..9).map(|_| {
            let at = balance.choose(1, 0, later).unwrap();
            balance.begin(at, false, later);
            at
        });
        // The living one takes eight; then the dead one is tried.
        assert_eq!(trial.filter(|at| *at == one).count(), 1);
        assert_eq!(balance.choose(1, 0, later), None);
    }

    #[test]
    fn a_suspect_is_alone_and_the_busy_are_left_in_peace() {
        let now = Instant::now();
        let mut balance = Balance::new(2, 8);
        let grant = balance.begin(0, false, now);
        // Endpoint 1 is empty, so it is kept for the suspect.
        assert_eq!(balance.choose(5, 1, now), Some(0));
        assert_eq!(balance.choose_empty(5, now), Some(1));
        let suspect = balance.begin(1, true, now);
        assert!(!balance.has_room(1, now));
        assert_eq!(balance.choose_empty(5, now), None);
        balance.end(&suspect, Signal::Answered, now);
        assert!(balance.has_room(1, now));
        balance.end(&grant, Signal::Busy(Duration::from_secs(2)), now);
        assert!(!balance.has_room(0, now));
        assert!(balance.has_room(0, now + Duration::from_secs(2)));
        assert_eq!(balance.servers()[0].level.allowed(), 4);
    }
}
