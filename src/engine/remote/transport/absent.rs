//! In place of the transport in a build without the feature `servers`: the same types, and no network.
#![allow(dead_code, reason = "what only a network would use")]

#[path = "call.rs"]
mod call;
#[path = "endpoint.rs"]
mod endpoint;
#[path = "secret.rs"]
mod secret;

use std::convert::Infallible;

use bytes::Bytes;

pub use self::NoTransport as Transport;
pub use call::{Call, Fault, Reply, TransportConfig};
pub use endpoint::{Endpoint, EndpointCounters};
pub use secret::Secret;

use crate::cancel::CancelFlag;
use crate::error::{Error, Result};

/// Sends requests to servers. This build has none.
pub struct NoTransport(Infallible);

impl NoTransport {
    /// # Errors
    /// Always: this build has no network.
    pub fn new(_: TransportConfig) -> Result<Self> {
        Err(Error::no_feature("a server cannot be reached"))
    }

    /// As the transport of other builds.
    ///
    /// # Errors
    /// There is no transport to call it on.
    pub fn send(
        &self,
        _: Vec<Call>,
        _: &CancelFlag,
        _: &mut dyn FnMut(usize, std::result::Result<Reply, Fault>) -> Result<()>,
    ) -> Result<()> {
        match self.0 {}
    }

    /// As the transport of other builds.
    ///
    /// # Errors
    /// There is no transport to call it on.
    pub fn get(&self, _: usize, _: &str, _: &CancelFlag) -> Result<Reply> {
        match self.0 {}
    }

    /// As the transport of other builds.
    ///
    /// # Errors
    /// There is no transport to call it on.
    pub fn post(&self, _: usize, _: &str, _: Bytes, _: &CancelFlag) -> Result<Reply> {
        match self.0 {}
    }

    /// As the transport of other builds.
    pub fn words(&self, _: &[u8]) -> String {
        match self.0 {}
    }

    /// As the transport of other builds.
    pub fn counters(&self) -> Vec<EndpointCounters> {
        match self.0 {}
    }
}
