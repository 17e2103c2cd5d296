//! Counters of an engine, cheap to add to from its thread and to read from any other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What an engine has done since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Stats {
    /// Requests answered, with a completion or a row error.
    pub requests: u64,
    /// Tokens of the prompts of admitted requests.
    pub prompt_tokens: u64,
    /// Prompt tokens that were not computed because the cache had them.
    pub cached_prompt_tokens: u64,
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Passes through the model.
    pub steps: u64,
    /// Rows of those passes.
    pub rows: u64,
    /// Time in those passes, in seconds.
    pub busy_seconds: f64,
    /// The part of it that prompt rows took. The time of a pass is shared evenly among its rows. 0 if the engine does
    /// not measure it.
    pub prefill_seconds: f64,
}

impl Stats {
    /// The counters of two engines together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            cached_prompt_tokens: self.cached_prompt_tokens + other.cached_prompt_tokens,
            generated_tokens: self.generated_tokens + other.generated_tokens,
            steps: self.steps + other.steps,
            rows: self.rows + other.rows,
            busy_seconds: self.busy_seconds + other.busy_seconds,
            prefill_seconds: self.prefill_seconds + other.prefill_seconds,
        }
    }

    /// Share of prompt tokens that were in the prefix cache. 0 before the first prompt.
    pub fn hit_rate(&self) -> f64 {
        if self.prompt_tokens == 0 { 0. } else { self.cached_prompt_tokens as f64 / self.prompt_tokens as f64 }
    }
}

/// The counters behind [`Stats`].
#[derive(Default)]
pub(super) struct Counters {
    pub requests: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub cached_prompt_tokens: AtomicU64,
    pub generated_tokens: AtomicU64,
    pub steps: AtomicU64,
    pub rows: AtomicU64,
    busy_nanos: AtomicU64,
    prefill_nanos: AtomicU64,
}

/// Adds to a counter. Counters are only reported, so a relaxed order is enough.
pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

impl Counters {
    /// Adds time spent in a pass, and the share of it that prompts took.
    pub fn busy(&self, time: Duration, prefill: f64) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.busy_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.prefill_nanos.fetch_add((nanos as f64 * prefill) as u64, Ordering::Relaxed);
    }
    pub fn read(&self) -> Stats {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        Stats {
            requests: get(&self.requests),
            prompt_tokens: get(&self.prompt_tokens),
            cached_prompt_tokens: get(&self.cached_prompt_tokens),
            generated_tokens: get(&self.generated_tokens),
            steps: get(&self.steps),
            rows: get(&self.rows),
            busy_seconds: get(&self.busy_nanos) as f64 * 1e-9,
            prefill_seconds: get(&self.prefill_nanos) as f64 * 1e-9,
        }
    }
}
