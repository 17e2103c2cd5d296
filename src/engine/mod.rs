//! Text generation as a service: [`Engine`] and its backends.
//!
//! [`BatchedEngine`] runs a Llama on one device with continuous batching: requests join and leave at token granularity, prompts
//! are computed in chunks beside the decoding of others, and what prompts have in common is computed once.
//! [`Sequential`] runs models of other families, one sequence after the other. [`open`] takes the one that a model asks for.
//! [`Scripted`] answers from rules, without weights, for tests and for measuring overlap.
//!
//! What a request gets depends on its messages, its sampling options and its key: never on its batch-mates, on when it
//! came, or on the number of threads.

mod answer;
mod backend;
mod batched;
mod choice;
mod codec;
mod config;
mod encoded;
mod kv;
mod open;
mod prefix;
mod request;
mod sampling;
mod scheduler;
mod scripted;
mod sequential;
mod stats;
mod stream;

pub use crate::model::Message;
pub use backend::Engine;
pub use batched::BatchedEngine;
pub use codec::Codec;
pub use config::EngineConfig;
pub(crate) use open::has_template;
pub use open::{open, start};
pub use request::{Answer, AnswerPrefix, ChoiceRequest, Completion, Finish, Probabilities, Request, RequestError};
pub use sampling::Sampling;
pub use scripted::{Script, Scripted, scripted};
pub use sequential::Sequential;
pub use stats::Stats;
pub use stream::{Listener, PromptRequests, RequestBuilder, RequestOptions, answer_in_order};
