//! The rows of one call of `send`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tokio::task::JoinSet;

use super::call::{Call, Fault, Reply};
use super::row::{self, SharedTransport};
use super::runtime;
use crate::error::{Error, Result};

/// How often the flag of a stop is looked at, and places are given that time alone has freed.
pub(super) const TICK: Duration = Duration::from_millis(20);
/// Rows that are under way for each request that may be in flight: those that wait for a place are known to the
/// balance, which can send rows with a common head to one endpoint.
const ROWS_PER_PLACE: usize = 2;
/// Rows that rest before their next attempt, at most, for each of those that may be under way.
const RESTING_PER_ROW: usize = 16;

/// The index of a call, and its result.
type Settled = (usize, std::result::Result<Reply, Fault>);

/// The rows of one call of `send` that are under way. Dropping it drops their requests.
pub(super) struct Flight {
    shared: Arc<SharedTransport>,
    handle: tokio::runtime::Handle,
    tasks: JoinSet<()>,
    sender: Sender<Settled>,
    receiver: Receiver<Settled>,
    began: Instant,
    ticked: Instant,
    /// Rows that are not settled.
    pub open: usize,
    max_open: usize,
    resting: Arc<AtomicUsize>,
}

impl Flight {
    pub fn new(shared: Arc<SharedTransport>) -> Result<Self> {
        let handle = runtime::handle()?;
        let (sender, receiver) = unbounded();
        let places = shared.endpoints.len().saturating_mul(shared.max_in_flight);
        let now = Instant::now();
        Ok(Self {
            shared,
            handle,
            tasks: JoinSet::new(),
            sender,
            receiver,
            began: now,
            ticked: now,
            open: 0,
            max_open: places.saturating_mul(ROWS_PER_PLACE),
            resting: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// Whether another row may begin. Rows that rest hold up no others, up to a limit that bounds the memory.
    pub fn has_room(&self) -> bool {
        let active = self.open.saturating_sub(self.resting.load(Ordering::Relaxed));
        active < self.max_open && self.open < self.max_open.saturating_mul(RESTING_PER_ROW)
    }

    pub fn start(&mut self, index: usize, call: Call) {
        self.open += 1;
        let (shared, resting) = (Arc::clone(&self.shared), Arc::clone(&self.resting));
        let (sender, began) = (Settle { sender: self.sender.clone(), index: Some(index) }, self.began);
        let row = async move {
            let result = row::settle(&shared, index, &call, began, &resting).await;
            sender.settle(result);
        };
        self.tasks.spawn_on(row, &self.handle);
    }

    /// The next settled row, if there is one within a tick.
    pub fn next(&mut self) -> Result<Option<Settled>> {
        let settled = match self.receiver.recv_timeout(TICK) {
            Ok(settled) => Some(settled),
            Err(RecvTimeoutError::Timeout) => None,
            // This side holds a sender.
            Err(RecvTimeoutError::Disconnected) => return Err(Error::bug("the channel of replies is closed")),
        };
        self.open -= usize::from(settled.is_some());
        while self.tasks.try_join_next().is_some() {}
        if self.ticked.elapsed() >= TICK {
            self.ticked = Instant::now();
            self.shared.pool.tick();
        }
        Ok(settled)
    }

    /// Hands over the replies that have come already, and drops what is in flight. Other results are dropped too: their
    /// rows are not settled.
    ///
    /// # Errors
    /// The first error of `done`. The other replies are handed over all the same.
    pub fn hand_over(
        &mut self,
        done: &mut dyn FnMut(usize, std::result::Result<Reply, Fault>) -> Result<()>,
    ) -> Result<()> {
        // Otherwise replies might come for ever.
        self.tasks.abort_all();
        let mut outcome = Ok(());
        while let Ok((index, result)) = self.receiver.try_recv() {
            if result.is_ok() {
                outcome = outcome.and(done(index, result));
            }
        }
        outcome
    }
}

/// Sends a row's result to the thread that waits for it, exactly once, even if the row's task panics.
struct Settle {
    sender: Sender<Settled>,
    index: Option<usize>,
}

impl Settle {
    fn settle(mut self, result: std::result::Result<Reply, Fault>) {
        if let Some(index) = self.index.take() {
            // Whoever stopped listens no more.
            let _ = self.sender.send((index, result));
        }
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if let Some(index) = self.index.take() {
            let fault = Fault::Stop(Error::bug("a request ended without a result"));
            let _ = self.sender.send((index, Err(fault)));
        }
    }
}
