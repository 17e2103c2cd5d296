//! Requests to servers: everything between "post this JSON" and "here is the reply, or a fault that is final".
//!
//! - `exchange` sends one request and reads one reply; `verdict` says what that means; `row` repeats it, with the
//!   waits of `backoff`, until the row is settled.
//! - `client` is the face: it hands out calls and results; `flight` has the rows of one call of `send`.
//! - `level`, `health` and `balance` decide how many requests go where. They are pure: no clock, no network.
//!   `pool` shares them among threads.
//!
//! A row is retried for faults of the transport and of a server that is busy, starting or gone, within its budget. A
//! request that was in flight when its server died is a *suspect*: it is sent again with nothing beside it, and if the
//! server dies once more, it is given up, so that one request does not end all servers.

mod backoff;
mod balance;
mod call;
mod client;
mod endpoint;
mod exchange;
mod flight;
mod health;
mod level;
mod pool;
mod row;
mod runtime;
mod secret;
mod verdict;
mod words;

pub use call::{Call, Fault, Reply, TransportConfig};
pub use client::Transport;
pub use endpoint::{Endpoint, EndpointCounters};
pub use secret::Secret;
