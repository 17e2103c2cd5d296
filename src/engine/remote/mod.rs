//! Models on OpenAI-compatible servers: vLLM, SGLang, llama.cpp, `reflux serve` and others.
//!
//! [`connect`] probes the servers of a model. [`engine`] makes an engine of the connection: with a tokenizer
//! [`TokenServer`], which sends and receives token ids, and without one [`ChatServer`], which sends text. Each engine has
//! a [`ReplyStore`], so that a reply that was received once is never requested again.
//!
//! Every sample is a request of its own: a fault of one concerns no other, and servers that ignore `n` do no harm.

mod canary;
mod chat;
mod connection;
mod dialect;
mod probe;
mod reply;
mod special;
mod spelling;
mod structured;
mod tokens;
#[cfg(feature = "servers")]
pub mod transport;
#[cfg(not(feature = "servers"))]
#[path = "transport/absent.rs"]
pub mod transport;
mod usage;
mod weights;

use std::sync::Arc;

pub use canary::{Canary, CanaryReading};
pub use chat::ChatServer;
pub use connection::{Connection, NoReplies, RemoteConfig, ReplyStore};
pub use probe::{connect, is_ready};
pub use special::SpecialTextRule;
pub use structured::honours;
pub use tokens::TokenServer;
pub use usage::Usage;
pub use weights::WeightServer;

use super::backend::Engine;

/// The engine of a connection, with the replies that it already has.
pub fn engine(connection: &Arc<Connection>, replies: Arc<dyn ReplyStore>) -> Arc<dyn Engine> {
    match connection.config.tokenizer.clone() {
        Some(tokenizer) => Arc::new(TokenServer::new(connection.clone(), tokenizer, replies)),
        None => Arc::new(ChatServer::new(connection.clone(), replies)),
    }
}
