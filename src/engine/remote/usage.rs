//! [`Usage`]: the tokens that a server has counted.

/// The tokens that a server has counted for a reply, or for several.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of prompts.
    pub prompt: u64,
    /// The part of them that was in the server's cache; `None` if the server does not say.
    pub cached: Option<u64>,
    /// Tokens of answers.
    pub sampled: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.sampled = self.sampled.saturating_add(other.sampled);
        if let Some(more) = other.cached {
            self.cached = Some(self.cached.unwrap_or(0).saturating_add(more));
        }
    }
}
