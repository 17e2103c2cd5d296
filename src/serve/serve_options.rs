//! [`ServeOptions`], which builds without a network have too.

use std::path::Path;
use std::sync::Arc;

use crate::engine::TokenEngine;

/// Loads a model from this machine's disk.
pub type ModelLoader = dyn Fn(&Path) -> crate::error::Result<Arc<dyn TokenEngine>> + Send + Sync;

/// How to serve an engine.
pub struct ServeOptions {
    /// The name or address to listen on.
    pub host: String,
    /// The port; 0 takes any free one.
    pub port: u16,
    /// The model's name in requests and replies.
    pub name: String,
    /// Where the model comes from, for `/v1/models`.
    pub root: String,
    /// The key that requests must carry. Required if the address is not loopback.
    pub key: Option<String>,
    /// Maximum number of requests that are answered or wait. Further ones are refused.
    pub max_queue: usize,
    /// Maximum number of connections of one address. `None` is half of all for other machines, and all for this one.
    pub max_per_client: Option<u32>,
    /// Loads models from this machine's disk, if requests may do that.
    pub loader: Option<Arc<ModelLoader>>,
}
