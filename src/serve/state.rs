//! What all connections share, and the models that are served.

use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::clients::ClientLimits;
use super::metrics::Metrics;
use crate::engine::{ModelSize, TokenEngine};

/// A model, with what all connections and models share.
#[derive(Clone)]
pub(super) struct ServerState {
    pub engine: Arc<dyn TokenEngine>,
    /// The model's name in requests and replies.
    pub name: String,
    /// Where the model was loaded from.
    pub root: String,
    /// The model whose adapter it is.
    pub parent: Option<String>,
    pub size: ModelSize,
    /// Hash of the key that requests must carry.
    pub key: Option<blake3::Hash>,
    /// A permit for each request that may be answered or wait.
    pub queue: Arc<Semaphore>,
    pub max_queue: usize,
    /// Maximum number of open connections.
    pub max_connections: u32,
    /// Maximum numbers of those of one client.
    pub of_client: ClientLimits,
    /// A permit for each KiB of bodies that may be in memory.
    pub bodies: Arc<Semaphore>,
    /// Locked while a body is parsed: parsed JSON is many times larger than its text.
    pub parsing: Arc<Mutex<()>>,
    /// Seconds from 1970 to the start of the server. It is the `created` of all replies, so that equal requests get
    /// equal bytes.
    pub started: u64,
    /// Whether the server is stopping.
    pub stopping: watch::Sender<bool>,
    pub metrics: Arc<Metrics>,
}

impl ServerState {
    /// The beginning of the hash of the weights.
    pub fn fingerprint(&self) -> &str {
        let id = self.engine.id();
        id.get(..16).unwrap_or(id)
    }
}

/// A body that was read, with its share of the memory for bodies.
pub(super) struct ReadBody {
    pub bytes: Vec<u8>,
    pub _share: OwnedSemaphorePermit,
}
