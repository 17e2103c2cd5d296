//! Counters of the server, as text for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use crate::engine::Stats;

/// Counts replies.
#[derive(Default)]
pub(super) struct Metrics {
    /// By path and status. Paths that do not exist are counted as one, so the table stays small.
    replies: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl Metrics {
    pub fn count(&self, path: &'static str, status: u16) {
        *self.replies.lock().unwrap_or_else(PoisonError::into_inner).entry((path, status)).or_default() += 1;
    }

    /// All counters. `open` of at most `max_queue` requests are being answered or wait.
    pub fn text(&self, stats: &Stats, open: usize, max_queue: usize) -> String {
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
        one("reflux_queue_requests", "gauge", "Requests that are being answered or wait.", open.to_string());
        one("reflux_queue_limit", "gauge", "Maximum of reflux_queue_requests.", max_queue.to_string());
        for (name, help, value) in [
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
