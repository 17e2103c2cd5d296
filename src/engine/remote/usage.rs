//! [`Usage`]: the tokens that a server has counted.

/// The tokens that a server has counted for a reply, or for several.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of prompts.
    pub prompt: u64,
    /// The part of them that was in the server's cache.
    pub cached: u64,
    /// Tokens of answers.
    pub sampled: u64,
}
