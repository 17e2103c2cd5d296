//! The life of one row: attempts until there is a reply, or a fault that is final.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use tokio::net::TcpStream;

use super::backoff;
use super::balance::Signal;
use super::call::{Call, Fault, Reply};
use super::endpoint::Endpoint;
use super::exchange::{self, Limits};
use super::pool::{EndpointPool, Wish};
use super::secret::Secret;
use super::verdict::{Retry, RowVerdict, judge};

/// Maximum number of unreadable replies to a row.
const MAX_UNREADABLE: u32 = 3;
/// Maximum number of endpoints that die during attempts of a row.
const MAX_DEATHS: u32 = 2;
/// Longest time for finding out whether a server still listens at its address.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// What all rows of a transport share.
pub(super) struct SharedTransport {
    pub endpoints: Vec<Endpoint>,
    pub clients: Vec<Client>,
    pub key: Option<Secret>,
    pub limits: Limits,
    pub max_in_flight: usize,
    pub budget: Duration,
    pub pool: Arc<EndpointPool>,
}

/// A row's past.
struct RowHistory<'a> {
    shared: &'a SharedTransport,
    index: usize,
    sent: Instant,
    /// Rows of the same call that wait before their next attempt.
    resting: &'a AtomicUsize,
    faults: u32,
    unreadable: u32,
    deaths: u32,
    deadline: Option<Instant>,
    words: String,
}

/// Counts a row among the resting ones for as long as it lives.
struct Resting<'a>(&'a AtomicUsize);

impl<'a> Resting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends a row until it is settled.
pub(super) async fn settle(
    shared: &SharedTransport,
    index: usize,
    call: &Call,
    sent: Instant,
    resting: &AtomicUsize,
) -> Result<Reply, Fault> {
    let mut row = RowHistory {
        shared,
        index,
        sent,
        resting,
        faults: 0,
        unreadable: 0,
        deaths: 0,
        deadline: None,
        words: String::new(),
    };
    loop {
        if let Some(settled) = row.attempt(call).await {
            return settled;
        }
    }
}

impl RowHistory<'_> {
    /// One attempt with the wait after it, if it failed. Returns what settles the row.
    async fn attempt(&mut self, call: &Call) -> Option<Result<Reply, Fault>> {
        // A suspect waits for those before it, which is no fault of its own: only an outage ends that wait.
        let suspect = self.deaths > 0;
        let deadline = self.deadline.filter(|_| !suspect);
        let asked = Instant::now();
        let wish = Wish { affinity: call.affinity, suspect, sent: self.sent, deadline };
        let lease = match self.shared.pool.acquire(wish).await {
            Ok(lease) => lease,
            Err(words) => {
                if let Some(words) = words.filter(|_| self.words.is_empty()) {
                    self.words = words;
                }
                return Some(Err(self.exhausted()));
            }
        };
        if suspect {
            self.deadline = self.deadline.and_then(|deadline| deadline.checked_add(asked.elapsed()));
        }
        let (endpoint, since) = (lease.endpoint(), lease.since());
        let url = self.shared.endpoints[endpoint].url();
        let path = format!("{url}{}", call.path);
        let client = &self.shared.clients[endpoint];
        let received = exchange::post(client, &path, call.body.clone(), self.shared.limits).await;
        let status = received.as_ref().map_or(0, |r| r.status);
        match judge(url, received, self.shared.key.as_ref()) {
            RowVerdict::Reply(body) => {
                lease.end(Signal::Answered, None);
                Some(Ok(Reply { status, body, endpoint }))
            }
            RowVerdict::Row { code, message } => {
                lease.end(Signal::Alive, None);
                Some(Err(Fault::Row { code, message }))
            }
            RowVerdict::Stop(error) => {
                lease.end(Signal::Alive, None);
                Some(Err(Fault::Stop(error)))
            }
            RowVerdict::Retry(retry) => {
                // Before the place is free: the next row would be sent on an idle connection of a dead server, and be
                // taken for the one that killed it.
                let died = retry.may_have_died && self.has_died(endpoint, since).await;
                lease.end(self.bounded(retry.signal), Some(&retry.words));
                self.rest(retry, endpoint, since, died).await.map(Err)
            }
        }
    }

    /// Limits the pause that a busy server asks for to the budget of a row.
    fn bounded(&self, signal: Signal) -> Signal {
        match signal {
            Signal::Busy(pause) => Signal::Busy(pause.min(self.shared.budget)),
            other => other,
        }
    }

    /// Waits before the next attempt. Returns a fault if there is to be none.
    async fn rest(&mut self, retry: Retry, endpoint: usize, since: Instant, died: bool) -> Option<Fault> {
        self.faults += 1;
        self.unreadable += u32::from(retry.unreadable);
        self.words = retry.words;
        if self.unreadable >= MAX_UNREADABLE {
            let message = format!("{}; asked {MAX_UNREADABLE} times", self.words);
            return Some(Fault::Row { code: "bad_reply", message });
        }
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + self.shared.budget);
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Some(self.exhausted());
        }
        // Where nobody listens, the row needs no pause: it goes to another endpoint, or waits until a dead one is tried.
        if retry.signal != Signal::Gone {
            let wait = backoff::delay(self.index as u64, self.faults).max(retry.after).min(left);
            let _resting = Resting::new(self.resting);
            tokio::time::sleep(wait).await;
        }
        // A server may go down a moment after its connections.
        let died = died || (retry.may_have_died && self.has_died(endpoint, since).await);
        self.deaths += u32::from(died);
        (self.deaths >= MAX_DEATHS).then(|| {
            let message = format!(
                "servers died {MAX_DEATHS} times while they computed this request, the last time {}",
                self.words
            );
            Fault::Row { code: "server_died", message }
        })
    }

    /// Whether nobody listens at an endpoint's address any more.
    async fn has_died(&self, endpoint: usize, since: Instant) -> bool {
        if self.shared.pool.was_refused(endpoint, since) {
            return true;
        }
        let connect = TcpStream::connect(self.shared.endpoints[endpoint].address());
        let refused = match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Err(e)) => e.kind() == std::io::ErrorKind::ConnectionRefused,
            _ => false,
        };
        if refused {
            self.shared.pool.refused(endpoint);
        }
        refused
    }

    fn exhausted(&self) -> Fault {
        let seconds = self.shared.budget.as_secs_f64();
        let tried = match self.faults {
            0 => "not sent".to_owned(),
            1 => "sent once".to_owned(),
            n => format!("sent {n} times"),
        };
        let words = if self.words.is_empty() { "no server answers" } else { &self.words };
        Fault::Row { code: "server_unavailable", message: format!("{words}; {tried} within {seconds} s") }
    }
}
