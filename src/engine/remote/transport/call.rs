//! What is sent, what comes back, and the limits of both.

use std::time::Duration;

use bytes::Bytes;

use super::endpoint::Endpoint;
use super::secret::Secret;
use crate::error::Error;

/// Where requests go, and their limits.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Servers of one model.
    pub endpoints: Vec<Endpoint>,
    /// Sent as a bearer token.
    pub key: Option<Secret>,
    /// Requests in flight at one endpoint, at most. The level that is used is found.
    pub max_in_flight: usize,
    /// The time within which one row is retried, from its first fault, or from the beginning of an outage of all servers.
    pub row_budget: Duration,
    /// The time within which a request must have its whole reply.
    pub request_timeout: Duration,
    /// Length of a reply, at most.
    pub max_body: usize,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Path below the endpoint's url, such as `/completions`.
    pub path: &'static str,
    /// JSON.
    pub body: Bytes,
    /// A hash of the prompt's head. Calls with equal ones prefer the same endpoint.
    pub affinity: u64,
}

/// A reply that counts: a JSON object with a status of success.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its HTTP status.
    pub status: u16,
    /// Its JSON.
    pub body: Bytes,
    /// Index of the endpoint that sent it.
    pub endpoint: usize,
}

/// Why a call has no reply, finally.
#[derive(Debug)]
pub enum Fault {
    /// The row fails, and the others go on.
    Row {
        /// `bad_request`, `prompt_too_long`, `bad_reply`, `server_unavailable` or `server_died`.
        code: &'static str,
        /// With the server's words, printable and bounded.
        message: String,
    },
    /// No row can succeed: wrong key, url or name. It says what to do.
    Stop(Error),
}
