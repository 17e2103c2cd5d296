//! In place of `reflux serve` in a build without the feature `servers`.

#[path = "serve_options.rs"]
mod serve_options;

use std::net::SocketAddr;
use std::sync::Arc;

pub use serve_options::{ModelLoader, ServeOptions};

use crate::cancel::CancelFlag;
use crate::engine::TokenEngine;
use crate::error::{Error, Result};

/// # Errors
/// Always: this build has no network.
pub fn serve(
    _: Arc<dyn TokenEngine>,
    _: ServeOptions,
    _: &CancelFlag,
    _: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    available()
}

/// Whether this build can serve models.
///
/// # Errors
/// It cannot.
pub fn available() -> Result<()> {
    Err(Error::no_feature("`reflux serve` is not a part of this program"))
}
