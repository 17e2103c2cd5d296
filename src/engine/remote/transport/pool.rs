//! Places at the endpoints, shared by all rows of all threads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::balance::{Balance, EndpointChange, Grant, Server, Signal};
use super::endpoint::{Endpoint, EndpointCounters};

/// Waiting rows that are looked through for one whose preferred endpoint has room.
const LOOK_AHEAD: usize = 64;
/// Times that the first waiting row may be overtaken.
const MAX_OVERTAKEN: u32 = 64;
/// A row whose budget ends gets this long to find a place for a last attempt.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// The endpoints, their counters, and the rows that wait for a place.
pub(super) struct EndpointPool {
    budget: Duration,
    state: Mutex<PoolState>,
}

struct PoolState {
    balance: Balance,
    counters: Vec<EndpointCounters>,
    /// When nobody was found at an endpoint's address, the last time.
    refused_at: Vec<Option<Instant>>,
    /// Rows that were in flight when an endpoint died.
    suspects: VecDeque<WaitingRow>,
    queue: VecDeque<WaitingRow>,
    overtaken: u32,
    /// Since when every exchange has failed, and the words of the last failure.
    outage: Option<(Instant, String)>,
}

/// A row's wish for a place.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub affinity: u64,
    /// The row may have killed an endpoint, so nothing else may be in flight with it.
    pub suspect: bool,
    /// When the call of `send` began.
    pub sent: Instant,
    /// When the row's time ends, if it has failed before.
    pub deadline: Option<Instant>,
}

struct WaitingRow {
    wish: Wish,
    since: Instant,
    place: oneshot::Sender<GrantOutcome>,
}

/// A place, or the words of the outage that outlasted the row's budget.
type GrantOutcome = Result<Grant, Option<String>>;

/// A place at an endpoint. Dropping it gives it back.
pub(super) struct Lease {
    pool: Arc<EndpointPool>,
    grant: Grant,
    ended: bool,
}

/// The receiving end of a wait. Dropping it gives back a place that came too late.
struct Ticket {
    pool: Arc<EndpointPool>,
    place: oneshot::Receiver<GrantOutcome>,
}

impl EndpointPool {
    pub fn new(endpoints: &[Endpoint], max_in_flight: usize, budget: Duration) -> Self {
        let counters =
            endpoints.iter().map(|e| EndpointCounters { url: e.url().to_owned(), ..EndpointCounters::default() });
        let state = PoolState {
            balance: Balance::new(endpoints.len(), max_in_flight),
            counters: counters.collect(),
            refused_at: vec![None; endpoints.len()],
            suspects: VecDeque::new(),
            queue: VecDeque::new(),
            overtaken: 0,
            outage: None,
        };
        Self { budget, state: Mutex::new(state) }
    }

    /// Waits for a place. Rows that have failed before go first.
    ///
    /// # Errors
    /// The row's budget ended first; with the words of the outage, if there is one.
    pub async fn acquire(self: &Arc<Self>, wish: Wish) -> Result<Lease, Option<String>> {
        let mut ticket = {
            let (place, receiver) = oneshot::channel();
            let now = Instant::now();
            let mut state = self.lock();
            let waiting = WaitingRow { wish, since: now, place };
            match (wish.suspect, wish.deadline) {
                (true, _) => state.suspects.push_back(waiting),
                (false, Some(_)) => state.queue.push_front(waiting),
                (false, None) => state.queue.push_back(waiting),
            }
            state.serve(now);
            Ticket { pool: Arc::clone(self), place: receiver }
        };
        match (&mut ticket.place).await {
            Ok(Ok(grant)) => Ok(Lease { pool: Arc::clone(self), grant, ended: false }),
            Ok(Err(words)) => Err(words),
            Err(_) => Err(None),
        }
    }

    /// Gives places that time alone has freed, and ends the wait of rows whose budget is spent.
    pub fn tick(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        state.serve(now);
        state.expire(now, self.budget);
    }

    /// Whether nobody was found at the endpoint's address since `since`.
    pub fn was_refused(&self, endpoint: usize, since: Instant) -> bool {
        self.lock().refused_at[endpoint].is_some_and(|at| at >= since)
    }

    /// Records that nobody is at the endpoint's address.
    pub fn refused(&self, endpoint: usize) {
        let now = Instant::now();
        let mut state = self.lock();
        state.refused_at[endpoint] = Some(now);
        if state.balance.found_gone(endpoint, now) {
            state.counters[endpoint].deaths += 1;
            tracing::warn!("{}: nobody listens; it is left out and tried again", state.counters[endpoint].url);
        }
    }

    /// The counters of all endpoints.
    pub fn counters(&self) -> Vec<EndpointCounters> {
        let state = self.lock();
        let with_state = |(counters, server): (&EndpointCounters, &Server)| EndpointCounters {
            in_flight: server.in_flight,
            level: server.level.allowed(),
            alive: server.health.is_alive(),
            ..counters.clone()
        };
        state.counters.iter().zip(state.balance.servers()).map(with_state).collect()
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // A panic while it was held is reported by its own thread; the counters stay usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, grant: &Grant, signal: Signal, words: Option<&str>) {
        let now = Instant::now();
        let mut state = self.lock();
        if signal == Signal::Gone {
            state.refused_at[grant.endpoint] = Some(now);
        }
        let change = state.balance.end(grant, signal, now);
        let counters = &mut state.counters[grant.endpoint];
        match change {
            EndpointChange::Died => {
                counters.deaths += 1;
                tracing::warn!("{}; the server is left out and tried again", words.unwrap_or(&counters.url));
            }
            EndpointChange::Revived => tracing::info!("{}: the server is back", counters.url),
            EndpointChange::None => {}
        }
        counters.seconds += now.saturating_duration_since(grant.at).as_secs_f64();
        match (words, signal) {
            (_, Signal::Dropped) => {}
            (Some(words), _) => {
                counters.retries += 1;
                let since = state.outage.take().map_or(now, |(since, _)| since);
                state.outage = Some((since, words.to_owned()));
            }
            (None, Signal::Answered) => {
                counters.answered += 1;
                state.outage = None;
            }
            (None, _) => {
                counters.refused += 1;
                state.outage = None;
            }
        }
        state.serve(now);
    }
}

impl PoolState {
    /// Gives free places to waiting rows.
    fn serve(&mut self, now: Instant) {
        while let Some(first) = self.suspects.front() {
            let Some(endpoint) = self.balance.choose_empty(first.wish.affinity, now) else { break };
            self.give(None, endpoint, now);
        }
        while let Some((row, endpoint)) = self.next(now) {
            self.give(Some(row), endpoint, now);
        }
    }

    /// The waiting row that is next, and its endpoint.
    fn next(&mut self, now: Instant) -> Option<(usize, usize)> {
        let first = self.queue.front()?;
        let reserved = self.suspects.len();
        let endpoint = self.balance.choose(first.wish.affinity, reserved, now)?;
        if self.balance.servers().len() == 1 || self.overtaken >= MAX_OVERTAKEN || reserved > 0 {
            self.overtaken = 0;
            return Some((0, endpoint));
        }
        let at_home = self.queue.iter().take(LOOK_AHEAD).position(|waiting| {
            self.balance.preferred(waiting.wish.affinity).is_some_and(|home| self.balance.has_room(home, now))
        });
        match at_home.filter(|row| *row > 0) {
            Some(row) => {
                self.overtaken += 1;
                let home = self.balance.preferred(self.queue[row].wish.affinity)?;
                Some((row, home))
            }
            None => {
                self.overtaken = 0;
                Some((0, endpoint))
            }
        }
    }

    /// Gives a place to a row of the queue, or to the first suspect.
    fn give(&mut self, row: Option<usize>, endpoint: usize, now: Instant) {
        let waiting = match row {
            Some(row) => self.queue.remove(row),
            None => self.suspects.pop_front(),
        };
        let Some(waiting) = waiting else { return };
        // A row that was given up has closed its end.
        if waiting.place.is_closed() {
            return;
        }
        let grant = self.balance.begin(endpoint, row.is_none(), now);
        let counters = &mut self.counters[endpoint];
        counters.requests += 1;
        counters.waiting_seconds += now.saturating_duration_since(waiting.since).as_secs_f64();
        if waiting.place.send(Ok(grant)).is_err() {
            self.counters[endpoint].requests -= 1;
            self.balance.end(&grant, Signal::Dropped, now);
        }
    }

    /// Ends the wait of rows whose budget is spent. A row that was not tried yet has its budget from the beginning
    /// of an outage: a long queue at servers that answer is no fault.
    fn expire(&mut self, now: Instant, budget: Duration) {
        let idle = self.balance.in_flight() == 0;
        let outage = self.outage.as_ref().filter(|_| idle);
        let spent = |waiting: &WaitingRow| match (waiting.wish.deadline, outage) {
            (Some(deadline), _) => now > deadline.max(waiting.since + LAST_CHANCE),
            (None, Some((since, _))) => now > (*since).max(waiting.wish.sent) + budget,
            (None, None) => false,
        };
        for queue in [&mut self.suspects, &mut self.queue] {
            if !queue.iter().any(spent) {
                continue;
            }
            for waiting in std::mem::take(queue) {
                if spent(&waiting) {
                    // Whoever closed the other end waits no more.
                    let _ = waiting.place.send(Err(outage.map(|(_, words)| words.clone())));
                } else {
                    queue.push_back(waiting);
                }
            }
        }
    }
}

impl Lease {
    pub fn endpoint(&self) -> usize {
        self.grant.endpoint
    }

    /// When the place was given.
    pub fn since(&self) -> Instant {
        self.grant.at
    }

    /// Gives the place back with what the request showed; `words` are there if the row is to be sent again.
    pub fn end(mut self, signal: Signal, words: Option<&str>) {
        self.ended = true;
        self.pool.end(&self.grant, signal, words);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.ended {
            self.pool.end(&self.grant, Signal::Dropped, None);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.place.close();
        if let Ok(Ok(grant)) = self.place.try_recv() {
            self.pool.end(&grant, Signal::Dropped, None);
        }
    }
}
