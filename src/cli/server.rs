//! A model on a server, for commands that run one model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cancel::CancelFlag;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::operators;
use crate::pipeline::{External, ServerSource};
use crate::store::InputForm;

/// Flags for a model on a server.
#[derive(clap::Args)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// With an address in place of the model: the model's name on the server
    #[arg(long, value_name = "NAME")]
    served: Option<String>,
    /// The environment variable that has the server's key
    #[arg(long, value_name = "NAME")]
    key_env: Option<String>,
    /// The model's tokenizer, to send token ids: a directory with tokenizer.json, or a GGUF file
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
    /// Maximum number of requests in flight
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_in_flight: Option<u32>,
}

impl ServerArgs {
    /// The address, if the model is one.
    ///
    /// # Errors
    /// A flag for servers is given, and the model is not an address.
    pub fn address<'m>(&self, model: &'m Path) -> Result<Option<&'m str>> {
        let address = model.to_str().filter(|text| text.starts_with("http://") || text.starts_with("https://"));
        let given = [
            ("--served", self.served.is_some()),
            ("--key-env", self.key_env.is_some()),
            ("--tokenizer", self.tokenizer.is_some()),
            ("--max-in-flight", self.max_in_flight.is_some()),
        ];
        match (address, given.into_iter().find(|(_, given)| *given)) {
            (None, Some((flag, _))) => Err(Error::user(format!("{flag} has no effect: the model is not on a server"))
                .help("leave it out, or give an address such as http://127.0.0.1:8000/v1 in place of the model")),
            (address, _) => Ok(address),
        }
    }

    /// Connects to the server.
    ///
    /// # Errors
    /// The server cannot be used.
    pub fn open(&self, address: &str, cancel: &CancelFlag) -> Result<Arc<dyn Engine>> {
        let name = self.served.clone().ok_or_else(|| {
            Error::user("the model's name on the server is missing")
                .help("give it with --served NAME, as /v1/models lists it")
        })?;
        let tokenizer = self.tokenizer.as_ref().map(|path| External::outside("--tokenizer", path, InputForm::Model));
        let server = ServerSource {
            urls: vec![address.trim_end_matches('/').to_owned()],
            name,
            key: self.key_env.clone(),
            max_in_flight: self.max_in_flight.map_or(256, |n| n as usize),
            time_limit: 600.,
            tokenizer,
            ..ServerSource::default()
        };
        operators::server_engine(&server, cancel)
    }
}
