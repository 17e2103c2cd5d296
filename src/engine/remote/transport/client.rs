//! The face of the transport.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{RecvTimeoutError, unbounded};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use super::call::{Call, Fault, Reply, TransportConfig};
use super::endpoint::EndpointCounters;
use super::exchange::{self, Limits};
use super::flight::{Flight, TICK};
use super::pool::EndpointPool;
use super::row::SharedTransport;
use super::{runtime, words};
use crate::cancel::CancelFlag;
use crate::error::{Error, Result};

/// Longest budget of a row. A point in time that is further away cannot be computed.
const MAX_BUDGET: Duration = Duration::from_secs(365 * 24 * 3600);

/// Sends requests to servers of one model. Threads share it, and with it the levels of its endpoints.
pub struct Transport(Arc<SharedTransport>);

impl Transport {
    /// Makes clients; connects to nothing yet.
    ///
    /// # Errors
    /// There is no endpoint, the key cannot be sent, or TLS cannot be set up.
    pub fn new(config: TransportConfig) -> Result<Self> {
        if config.endpoints.is_empty() {
            return Err(Error::user("no server is given").help("name at least one in `server`"));
        }
        let mut headers = HeaderMap::new();
        if let Some(key) = &config.key {
            let value = HeaderValue::from_str(&format!("Bearer {}", key.expose()));
            // The reason is left out, because it may quote the key.
            let mut value = value.map_err(|_| {
                Error::user("the key of a server holds characters that cannot be sent, such as a line end")
                    .help("check the variable that `key` names")
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let budget = config.row_budget.min(MAX_BUDGET);
        let clients = config.endpoints.iter().map(|e| exchange::client(e, headers.clone()));
        Ok(Self(Arc::new(SharedTransport {
            clients: clients.collect::<Result<_>>()?,
            pool: Arc::new(EndpointPool::new(&config.endpoints, config.max_in_flight, budget)),
            endpoints: config.endpoints,
            key: config.key,
            max_in_flight: config.max_in_flight.max(1),
            limits: Limits { time: config.request_timeout, body: config.max_body },
            budget,
        })))
    }

    /// Sends all calls. `done(i, reply)` is called on this thread as the reply to call `i` comes, once for each call.
    /// Returns when all are settled.
    ///
    /// # Errors
    /// The first error of `done`, or a stop by `cancel`. Requests in flight are then dropped. Replies that had come
    /// before are still handed to `done`, because they are paid for.
    pub fn send(
        &self,
        calls: Vec<Call>,
        cancel: &CancelFlag,
        done: &mut dyn FnMut(usize, std::result::Result<Reply, Fault>) -> Result<()>,
    ) -> Result<()> {
        let mut flight = Flight::new(Arc::clone(&self.0))?;
        let mut calls = calls.into_iter().enumerate();
        loop {
            if cancel.is_set() {
                flight.hand_over(done)?;
                return Err(Error::cancelled());
            }
            while flight.has_room() {
                let Some((index, call)) = calls.next() else { break };
                flight.start(index, call);
            }
            if flight.open == 0 {
                return Ok(());
            }
            if let Some((index, result)) = flight.next()?
                && let Err(error) = done(index, result)
            {
                // What else has come is paid for. Its error is mostly that of the first one.
                let _ = flight.hand_over(done);
                return Err(error);
            }
        }
    }

    /// Asks one endpoint for an absolute path of its server, such as `/v1/models`, once. A reply of any status counts.
    ///
    /// # Errors
    /// Nothing whole came back, or a stop by `cancel`.
    pub fn get(&self, endpoint: usize, path: &str, cancel: &CancelFlag) -> Result<Reply> {
        self.once(endpoint, path, None, cancel)
    }

    /// Sends a JSON body to an absolute path of one endpoint's server, once. A reply of any status counts.
    ///
    /// # Errors
    /// As [`Transport::get`].
    pub fn post(&self, endpoint: usize, path: &str, body: Bytes, cancel: &CancelFlag) -> Result<Reply> {
        self.once(endpoint, path, Some(body), cancel)
    }

    fn once(&self, endpoint: usize, path: &str, body: Option<Bytes>, cancel: &CancelFlag) -> Result<Reply> {
        let handle = runtime::handle()?;
        let shared = Arc::clone(&self.0);
        let server = shared.endpoints.get(endpoint);
        let url = format!("{}{path}", server.ok_or_else(|| Error::bug("an endpoint that is not there"))?.origin());
        let (answer, receiver) = unbounded();
        let asked = url.clone();
        let task = handle.spawn(async move {
            let client = &shared.clients[endpoint];
            let received = match body {
                None => exchange::get(client, &asked, shared.limits).await,
                Some(body) => exchange::post(client, &asked, body, shared.limits).await,
            };
            // Whoever cancelled listens no more.
            let _ = answer.send(received);
        });
        let received = loop {
            match receiver.recv_timeout(TICK) {
                Ok(received) => break received,
                Err(RecvTimeoutError::Timeout) if cancel.is_set() => {
                    task.abort();
                    return Err(Error::cancelled());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::bug(format!("{url}: the request ended early")));
                }
            }
        };
        match received {
            Ok(received) => Ok(Reply { status: received.status, body: received.body, endpoint }),
            Err(failure) => {
                let words = words::printable(&failure.words, self.0.key.as_ref());
                let help = "check that the server runs and that the url in `server` is its own";
                Err(Error::system(format!("{url}: {words}")).help(help))
            }
        }
    }

    /// What a server says in the body of an error, ready to be shown.
    pub fn words(&self, body: &[u8]) -> String {
        words::of_server(body, self.0.key.as_ref())
    }

    /// What was counted of each endpoint.
    pub fn counters(&self) -> Vec<EndpointCounters> {
        self.0.pool.counters()
    }
}
