//! `/v1/models`, `/health` and `/metrics`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::metrics::Bounded;
use super::state::ServerState;
use crate::engine::Stats;

/// Answers `/v1/models`.
pub(super) fn models(served: &[Arc<ServerState>]) -> Value {
    json!({ "object": "list", "data": served.iter().map(|state| model(state)).collect::<Vec<_>>() })
}

/// The model in the form of OpenAI's interface, with what decides its answers.
pub(super) fn model(state: &ServerState) -> Value {
    json!({
        "id": state.name,
        "object": "model",
        "created": state.started,
        "owned_by": "reflux",
        "root": state.root,
        "parent": state.parent,
        "max_model_len": state.size.context,
        "vocab_size": state.size.vocab,
        "weights": state.engine.id(),
        "tokenizer": state.engine.tokenizer(),
    })
}

/// Answers `/metrics`.
pub(super) fn metrics(served: &[Arc<ServerState>], gone: Stats) -> String {
    let Some(state) = served.first() else { return String::new() };
    let stats = served.iter().fold(gone, |sum, state| sum.plus(&state.engine.stats()));
    let free = state.queue.available_permits().min(state.max_queue);
    let queue = Bounded { now: state.max_queue - free, limit: state.max_queue };
    state.metrics.text(&stats, queue, state.max_connections as usize)
}
