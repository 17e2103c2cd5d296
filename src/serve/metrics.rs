//! Counters of the server, as text for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::Stats;

/// Counts connections.
#[derive(Default)]
pub(super) struct ConnectionCounts {
    open: AtomicU64,
    waited: AtomicU64,
    without_head: AtomicU64,
    stalled: AtomicU64,
    refused: AtomicU64,
}

/// The counts of connections at one moment.
pub(super) struct ConnectionSnapshot {
    pub open: u64,
    /// Connections that waited because too many were open.
    pub waited: u64,
    /// Connections that were closed because no request arrived in time.
    pub without_head: u64,
    /// Connections that were closed because the client did not read.
    pub stalled: u64,
    /// Connections that were refused because their client had too many.
    pub refused: u64,
}

/// An open connection, until it is dropped.
pub(super) struct OpenConnection(Arc<ConnectionCounts>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl ConnectionCounts {
    /// Counts an open connection.
    pub fn open(self: &Arc<Self>) -> OpenConnection {
        self.open.fetch_add(1, Relaxed);
        OpenConnection(self.clone())
    }
    pub fn waited(&self) {
        self.waited.fetch_add(1, Relaxed);
    }
    pub fn without_head(&self) {
        self.without_head.fetch_add(1, Relaxed);
    }
    pub fn stalled(&self) {
        self.stalled.fetch_add(1, Relaxed);
    }
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }
    pub fn snapshot(&self) -> ConnectionSnapshot {
        ConnectionSnapshot {
            open: self.open.load(Relaxed),
            waited: self.waited.load(Relaxed),
            without_head: self.without_head.load(Relaxed),
            stalled: self.stalled.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

/// A number that has a limit.
#[derive(Clone, Copy)]
pub(super) struct Bounded {
    pub now: usize,
    pub limit: usize,
}

/// Counts replies and connections.
#[derive(Default)]
pub(super) struct Metrics {
    /// By path and status. Paths that do not exist are counted as one, so the table stays small.
    replies: Mutex<BTreeMap<(&'static str, u16), u64>>,
    pub connections: Arc<ConnectionCounts>,
}

impl Metrics {
    pub fn count(&self, path: &'static str, status: u16) {
        *self.replies.lock().unwrap_or_else(PoisonError::into_inner).entry((path, status)).or_default() += 1;
    }

    /// All counters. `queue` are the requests that are being answered or wait.
    pub fn text(&self, stats: &Stats, queue: Bounded, max_connections: usize) -> String {
        let mut text = String::new();
        let replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, String)>| {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in lines {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let by_path = |((path, status), n): (&(&str, u16), &u64)| {
            (format!("{{path=\"{path}\",status=\"{status}\"}}"), n.to_string())
        };
        let replies = replies.iter().map(by_path).collect();
        family("reflux_http_requests_total", "counter", "Requests by path and status of the reply.", replies);
        let mut one = |name: &str, kind: &str, help: &str, value: String| {
            family(name, kind, help, vec![(String::new(), value)]);
        };
        one("reflux_queue_requests", "gauge", "Requests that are being answered or wait.", queue.now.to_string());
        one("reflux_queue_limit", "gauge", "Maximum of reflux_queue_requests.", queue.limit.to_string());
        let connections = self.connections.snapshot();
        one("reflux_connections", "gauge", "Open connections.", connections.open.to_string());
        one("reflux_connections_limit", "gauge", "Maximum of reflux_connections.", max_connections.to_string());
        for (name, help, value) in [
            ("connections_waited", "Connections that waited because too many were open.", connections.waited),
            (
                "connections_without_request",
                "Connections closed because no request came in time.",
                connections.without_head,
            ),
            ("connections_refused", "Connections refused because their client had too many.", connections.refused),
            ("connections_stalled", "Connections closed because the client did not read.", connections.stalled),
            ("answers", "Answers that were asked for.", stats.requests),
            ("prompt_tokens", "Tokens of prompts.", stats.prompt_tokens),
            ("cached_prompt_tokens", "Tokens of prompts that were not computed again.", stats.cached_prompt_tokens),
            ("generated_tokens", "Tokens drawn.", stats.generated_tokens),
            ("engine_steps", "Passes through the model.", stats.steps),
            ("engine_rows", "Rows of these passes.", stats.rows),
        ] {
            one(&format!("reflux_{name}_total"), "counter", help, value.to_string());
        }
        let busy = stats.busy_seconds.to_string();
        one("reflux_engine_busy_seconds_total", "counter", "Time in these passes.", busy);
        text
    }
}
