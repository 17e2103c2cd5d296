//! The address of a server, and what was counted about it.

use std::net::IpAddr;

use url::Url;

use crate::data::address_problem;
use crate::error::{Error, Result};

/// The address of one server, such as `http://10.0.0.1:8000/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    origin: String,
    host: String,
    port: u16,
}

impl Endpoint {
    /// Reads a url. A slash at its end is dropped.
    ///
    /// # Errors
    /// It is not an http or https url, or it holds a user name, a password, a query or a fragment.
    pub fn new(url: &str) -> Result<Self> {
        // A refused url may hold a password, so it is not repeated.
        let help = "write it as http://HOST:PORT/v1";
        let refused = |problem: &str| Error::user(format!("a server's address {problem}")).help(help);
        if let Some(problem) = address_problem(url) {
            return Err(refused(problem));
        }
        let parsed = Url::parse(url).map_err(|e| refused(&format!("cannot be read: {e}")))?;
        let (Some(host), Some(port)) = (parsed.host_str(), parsed.port_or_known_default()) else {
            return Err(refused("has no host"));
        };
        Ok(Self {
            url: parsed.as_str().trim_end_matches('/').to_owned(),
            origin: parsed.origin().ascii_serialization(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        })
    }

    /// The url without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Scheme, host and port, for absolute paths of the server.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Where the server listens.
    pub(super) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// Whether the server is on this machine, so that no proxy can reach it.
    pub(super) fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// What was counted of one endpoint, and its present state.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct EndpointCounters {
    /// Its url.
    pub url: String,
    /// Requests that were sent to it.
    pub requests: u64,
    /// Requests that it answered with a reply.
    pub answered: u64,
    /// Requests that it did not answer and that were to be sent again, here or elsewhere.
    pub retries: u64,
    /// Requests that it refused for good.
    pub refused: u64,
    /// Times that it was found dead.
    pub deaths: u64,
    /// Tokens of the prompts of its replies, as it counts them.
    pub prompt_tokens: u64,
    /// The part of them that was in its cache; `None` if it does not say.
    pub cached_prompt_tokens: Option<u64>,
    /// Tokens of the answers of its replies, as it counts them.
    pub generated_tokens: u64,
    /// Seconds that rows waited for a place at it, summed over rows.
    pub waiting_seconds: f64,
    /// Seconds that requests took, summed over requests.
    pub seconds: f64,
    /// Requests in flight.
    pub in_flight: usize,
    /// How many requests may be in flight now.
    pub level: usize,
    /// Whether it is used, and not left out as dead.
    pub alive: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_refused() {
        let endpoint = Endpoint::new("http://localhost:8000/v1/").unwrap();
        assert_eq!(endpoint.url(), "http://localhost:8000/v1");
        assert_eq!(endpoint.origin(), "http://localhost:8000");
        assert_eq!(endpoint.address(), ("localhost", 8000));
        assert!(endpoint.is_loopback());
        let six = Endpoint::new("http://[::1]:80").unwrap();
        assert_eq!(six.address(), ("::1", 80));
        assert!(six.is_loopback());
        let far = Endpoint::new("https://api.example.com/v1").unwrap();
        assert_eq!(far.address(), ("api.example.com", 443));
        assert!(!far.is_loopback());
        for bad in ["", "localhost:8000/v1", "ftp://x/v1", "http://", "http://a/v1?key=secret", "http://me:secret@a/v1"]
        {
            let error = Endpoint::new(bad).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
