//! `/v1/models`, `/health` and `/metrics`.

use serde_json::{Value, json};

use super::metrics::Bounded;
use super::state::ServerState;

/// Answers `/v1/models`.
pub(super) fn models(state: &ServerState) -> Value {
    json!({ "object": "list", "data": [model(state)] })
}

/// The model in the form of OpenAI's interface, with what decides its answers.
pub(super) fn model(state: &ServerState) -> Value {
    json!({
        "id": state.name,
        "object": "model",
        "created": state.started,
        "owned_by": "reflux",
        "root": state.root,
        "parent": null,
        "max_model_len": state.size.context,
        "vocab_size": state.size.vocab,
        "weights": state.engine.id(),
        "tokenizer": state.engine.tokenizer(),
    })
}

/// Answers `/metrics`.
pub(super) fn metrics(state: &ServerState) -> String {
    let free = state.queue.available_permits().min(state.max_queue);
    let queue = Bounded { now: state.max_queue - free, limit: state.max_queue };
    state.metrics.text(&state.engine.stats(), queue, state.max_connections as usize)
}
