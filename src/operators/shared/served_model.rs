//! [`ServedModel`]: a model that a server of the run's own serves, with what is needed to start the server again at any
//! time and to check that it has the model's weights.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::server_process::{ServerLaunch, ServerProcess};
use super::servers::{MAX_BODY, REQUEST_TIMEOUT};
use crate::cancel::CancelFlag;
use crate::dataflow::Context;
use crate::engine::remote::transport::{Endpoint, TransportConfig};
use crate::engine::remote::{Canary, CanaryReading, Connection, RemoteConfig, SpecialTextRule, Usage, connect};
use crate::engine::{BatchedEngine, EngineConfig};
use crate::error::{Error, ErrorContext as _, ErrorKind, Result};
use crate::model::{Model, Tokenizer};
use crate::pipeline::ServerProgram;

/// Memory for keys and values while the canary's figures are computed.
const CANARY_MEMORY: u64 = 1 << 30;
/// Characters of a hash in the name of a policy on its server.
const SHORT_HASH: usize = 12;

/// A model to serve.
pub(super) struct ModelToServe<'a> {
    /// As what steps use it: the policy, or by its own name. There is a server for each.
    pub slot: &'a str,
    pub program: &'a Arc<ServerProgram>,
    /// Its name, as in `models/NAME`.
    pub name: &'a str,
    /// The iteration in which it is the policy; 0 for a model of the pipeline file.
    pub version: u32,
    /// Loads it.
    pub load: &'a dyn Fn() -> Result<Model>,
    /// The directory of the loaded model; the path is for one that has none.
    pub directory: &'a dyn Fn(&Model, &Path) -> Result<PathBuf>,
    /// Settings of engines here.
    pub config: &'a EngineConfig,
}

/// What is needed to start a model's server again at any time.
pub(super) struct ServedModel {
    pub slot: String,
    pub name: String,
    pub version: u32,
    pub hash: String,
    pub tokenizer: Tokenizer,
    pub canary: Canary,
    pub dir: PathBuf,
    pub log: PathBuf,
    pub mark: PathBuf,
    pub program: Arc<ServerProgram>,
    pub cancel: CancelFlag,
}

/// A server that takes requests, and has the weights of its model.
pub(super) struct RunningServer {
    pub model: Arc<ServedModel>,
    pub connection: Arc<Connection>,
    pub process: ServerProcess,
}

/// The name of a server's folders in a run's directory.
pub(super) fn folder(model: &str) -> String {
    // No step has such a name.
    format!("server.{model}")
}

impl ServedModel {
    /// Loads the model, and computes what its server will be compared with.
    pub fn new(cx: &Context<'_>, to_serve: &ModelToServe<'_>) -> Result<Self> {
        let ModelToServe { slot, program, name, version, load, directory, config } = *to_serve;
        let folder = folder(slot);
        let model = load()?;
        let scratch = cx.run().scratch(&folder, version)?;
        let scratch = std::path::absolute(&scratch).doing(|| scratch.display())?;
        let mark = scratch.parent().unwrap_or(&scratch).to_owned();
        let dir = directory(&model, &scratch)?;
        let (hash, tokenizer, cancel) = (model.hash.clone(), model.tokenizer.clone(), cx.shared.stop.clone());
        let small = EngineConfig { kv_memory: config.kv_memory.min(CANARY_MEMORY), ..config.clone() };
        let canary = Canary::new(&BatchedEngine::spawn(model, small)?, &tokenizer, &cancel)?;
        let log = cx.run().log_file(&folder, version)?;
        let log = std::path::absolute(&log).doing(|| log.display())?;
        let (slot, name, program) = (slot.to_owned(), name.to_owned(), Arc::clone(program));
        Ok(Self { slot, name, version, hash, tokenizer, canary, dir, log, mark, program, cancel })
    }

    /// The server and the model, for messages.
    pub fn who(&self) -> String {
        format!("the server of [server.{}] for model `{}`", self.program.name, self.name)
    }

    /// The name of the model on its server. That of another policy is another one.
    fn served_name(&self) -> String {
        let own = || format!("{}-{}", self.name, self.hash.get(..SHORT_HASH).unwrap_or(&self.hash));
        self.program.served_name.clone().unwrap_or_else(own)
    }

    /// Starts a server and checks that it has this model's weights. `limit` is the largest difference that is allowed.
    pub fn start(self: &Arc<Self>, limit: f32) -> Result<(RunningServer, f32)> {
        let port = free_port()?;
        let name = self.served_name();
        let text = |path: &Path| path.to_str().map(str::to_owned);
        let dir = text(&self.dir).ok_or_else(|| {
            Error::user(format!("`{}` is not UTF-8, and cannot be an argument", self.dir.display()))
                .help("keep runs and models in directories with other names")
        })?;
        let command = self.program.command.fill(&|value| match value {
            "model" => dir.clone(),
            "port" => port.to_string(),
            _ => name.clone(),
        });
        let endpoint = Endpoint::new(&format!("http://127.0.0.1:{port}/v1"))?;
        let process = ServerProcess::start(ServerLaunch {
            who: self.who(),
            program: Arc::clone(&self.program),
            command,
            endpoint: endpoint.clone(),
            log: self.log.clone(),
            mark: self.mark.clone(),
            cancel: self.cancel.clone(),
        })?;
        let checked = connect(self.connection(endpoint, name), process.lost())
            .and_then(|connection| Ok((self.check(&connection, limit, process.lost())?, connection)));
        match checked {
            Ok((difference, connection)) => {
                let model = Arc::clone(self);
                Ok((RunningServer { model, connection, process }, difference))
            }
            // The reason may be that the server has died.
            Err(e) if e.kind() == ErrorKind::Cancelled => Err(process.failure().unwrap_or(e)),
            Err(e) => Err(e.doing(self.who())),
        }
    }

    fn connection(&self, endpoint: Endpoint, name: String) -> RemoteConfig {
        let program = &self.program;
        let starts = u32::try_from(program.restarts).unwrap_or(u32::MAX).saturating_add(1);
        RemoteConfig {
            transport: TransportConfig {
                endpoints: vec![endpoint],
                key: None,
                max_in_flight: program.max_in_flight,
                // A request may meet a start after each death.
                row_budget: program.time_limit.saturating_add(program.ready_within.saturating_mul(starts)),
                request_timeout: REQUEST_TIMEOUT,
                max_body: MAX_BODY,
            },
            name,
            tokenizer: Some(self.tokenizer.clone()),
            special_text: SpecialTextRule::Refuse,
            max_tokens: None,
            price: None,
            max_cost: None,
            spent_before: Usage::default(),
            id: Some(self.hash.clone()),
        }
    }

    /// Compares the server with the weights, and returns the difference.
    fn check(&self, connection: &Arc<Connection>, limit: f32, cancel: &CancelFlag) -> Result<f32> {
        let CanaryReading { difference, words, reported_weights } =
            self.canary.compare(connection, &self.tokenizer, cancel)?;
        // No comparison holds for what is not a number.
        if difference.is_nan() || difference > limit {
            return Err(Error::user(format!(
                "it does not compute with the weights of this model: {words} (difference {difference:.6}, at most \
                 {limit:.6} is allowed)"
            ))
            .help(
                "check that the command serves {model}, and nothing that it keeps from an earlier start; if it rounds \
                 more than that, as with weights of 8 or 4 bits, raise `tolerance`",
            ));
        }
        if let Some(weights) = reported_weights.filter(|weights| *weights != self.hash) {
            return Err(Error::user(format!(
                "it reports weights with the hash {weights}; those of this model have {}",
                self.hash
            ))
            .help("check that the command serves {model}; `reflux serve` needs --dtype for weights in bf16 or f16"));
        }
        tracing::info!("{}: {words}", self.who());
        Ok(difference)
    }
}

/// A port of this machine that nobody listens on.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).doing(|| "looking for a free port")?;
    Ok(listener.local_addr().doing(|| "looking for a free port")?.port())
}
