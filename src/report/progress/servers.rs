//! Figures of models on servers: what was sent, what came back, and what it cost.

use std::time::Duration;

use serde_json::{Value, json};

use super::rate::Rate;
use crate::data::counted;

/// What all engines of a run have done so far.
#[derive(Clone, Debug, Default)]
pub struct EngineReading {
    /// Tokens that they have sampled.
    pub sampled_tokens: u64,
    /// Each model on servers, in the order in which they are shown.
    pub servers: Vec<ServerReading>,
}

/// What the servers of a model have done since this process started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerReading {
    /// The model's name in the pipeline file, or that of a trained model.
    pub model: String,
    /// Requests that were sent, those in flight included.
    pub requests: u64,
    /// Requests that are in flight.
    pub in_flight: u64,
    /// Requests that had to be sent again.
    pub retries: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// The part of them that the servers had in a cache; `None` if they do not say.
    pub cached_prompt_tokens: Option<u64>,
    /// Tokens of answers.
    pub generated_tokens: u64,
    /// Cost of the run so far, where prices are given.
    pub cost: Option<f64>,
}

impl ServerReading {
    /// Adds another server of the same model.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.in_flight += other.in_flight;
        self.retries += other.retries;
        self.prompt_tokens += other.prompt_tokens;
        self.generated_tokens += other.generated_tokens;
        let cached = self.cached_prompt_tokens;
        self.cached_prompt_tokens = match other.cached_prompt_tokens {
            Some(more) => Some(cached.unwrap_or(0) + more),
            None => cached,
        };
        self.cost = self.cost.map_or(other.cost, |cost| Some(cost + other.cost.unwrap_or(0.)));
    }
}

/// A model on servers as progress shows it.
#[derive(Debug, Default)]
pub(super) struct ShownServer {
    reading: ServerReading,
    generated: Rate,
}

/// Updates what is shown. A model stays once it was there: its server may be between two starts.
pub(super) fn update(shown: &mut Vec<ShownServer>, now: Duration, readings: Vec<ServerReading>) {
    for reading in readings {
        let at = shown.iter().position(|server| server.reading.model == reading.model);
        let at = at.unwrap_or_else(|| {
            shown.push(ShownServer::default());
            shown.len() - 1
        });
        shown[at].generated.add(now, reading.generated_tokens as f64);
        shown[at].reading = reading;
    }
}

impl ShownServer {
    /// `judge: 12 requests in flight of 340, 2 sent again, 3400 tokens in (45% cached), 1200 out, 85 tokens/s`.
    pub fn parts(&self, now: Duration) -> Vec<String> {
        let ServerReading { model, requests, in_flight, retries, prompt_tokens, generated_tokens, .. } = &self.reading;
        let mut parts = vec![format!("{model}: {} in flight of {requests}", counted(*in_flight, "request"))];
        if *retries > 0 {
            parts.push(format!("{retries} sent again"));
        }
        if *prompt_tokens > 0 {
            let share = |cached: u64| format!(" ({:.0}% cached)", 100. * cached as f64 / *prompt_tokens as f64);
            let cached = self.reading.cached_prompt_tokens.map(share).unwrap_or_default();
            parts.push(format!("{} in{cached}", counted(*prompt_tokens, "token")));
            parts.push(format!("{generated_tokens} out"));
        }
        parts.extend(self.generated.per_second(now).map(|rate| format!("{rate:.0} tokens/s")));
        parts.extend(self.reading.cost.map(|cost| format!("cost {cost:.4}")));
        parts
    }

    pub fn json(&self, now: Duration) -> Value {
        let reading = &self.reading;
        json!({
            "model": reading.model, "requests": reading.requests, "in_flight": reading.in_flight,
            "retries": reading.retries, "prompt_tokens": reading.prompt_tokens,
            "cached_prompt_tokens": reading.cached_prompt_tokens, "generated_tokens": reading.generated_tokens,
            "generated_tokens_per_second": self.generated.per_second(now), "cost": reading.cost,
        })
    }
}
