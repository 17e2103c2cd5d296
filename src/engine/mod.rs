//! Text generation as a service: [`Engine`] and its backends.
//!
//! [`BatchedEngine`] runs a Llama on one device with continuous batching. Requests join and leave at token granularity,
//! prompts are computed in chunks next to the decoding of other requests, and a prefix that prompts share is computed
//! once.
//! [`Sequential`] runs models of other families, one sequence after the other. [`open`] chooses the backend for a
//! model. [`Scripted`] answers from rules, without weights, for tests and for measuring overlap.
//!
//! The answer to a request depends on its messages, its sampling options and its key. It never depends on the other
//! requests of a batch, on the time of its arrival, or on the number of threads.

mod answer;
mod backend;
mod batched;
mod choice;
mod codec;
mod config;
mod constraint;
mod encoded;
mod kv;
mod open;
mod prefix;
pub mod remote;
mod request;
mod sampling;
mod scheduler;
mod scripted;
mod sequence;
mod sequential;
mod stats;
mod stream;
mod task;

pub use crate::model::Message;
pub use answer::completion;
pub use backend::{Capabilities, Engine, ModelSize, TokenEngine};
pub use batched::BatchedEngine;
pub use codec::Codec;
pub use config::{EngineConfig, memory};
pub use constraint::{Constraint, ConstraintForm};
pub use encoded::{
    EncodedRequest, NewToken, RowResult, SampledTokens, ScoreRequest, ScoreResult, TokenListener, TokenScores,
};
pub(crate) use open::has_template;
pub use open::{adapter_base, open, open_tokens, start};
pub use request::{Answer, AnswerPrefix, ChoiceRequest, Completion, Finish, Probabilities, Request, RequestError};
pub use sampling::Sampling;
pub use scripted::{Script, Scripted, scripted};
pub use sequential::Sequential;
pub use stats::Stats;
pub use stream::{Listener, PromptRequests, RequestBuilder, RequestOptions, answer_in_order};
