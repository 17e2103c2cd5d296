//! [`ServedModel`]: a model that a server of the run's own serves, with what is needed to start the server again at any
//! time and to check that it has the model's weights.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use super::adapter_chain::{AdapterLink, adapters_from};
use super::program_environment::ProgramEnvironment;
use super::program_log;
use super::server_process::{ServerLaunch, ServerProcess};
use super::servers::{MAX_BODY, REQUEST_TIMEOUT, holds};
use crate::cancel::CancelFlag;
use crate::dataflow::Context;
use crate::engine::remote::transport::{Endpoint, TransportConfig};
use crate::engine::remote::{
    Canary, CanaryReading, Connection, NoReplies, RemoteConfig, SpecialTextRule, Usage, WeightServer, connect, engine,
    honours,
};
use crate::engine::{BatchedEngine, ConstraintForm, EngineConfig};
use crate::error::{Error, ErrorContext as _, ErrorKind, Result};
use crate::model::formats::peft_sum;
use crate::model::{Config, Model, Tokenizer};
use crate::pipeline::{ServerProgram, ServerUpdate};

/// Memory for keys and values while the canary's figures are computed.
const CANARY_MEMORY: u64 = 1 << 30;
/// Characters of a hash in the name of a policy on its server.
const SHORT_HASH: usize = 12;
/// Difference that an adapter beside its base makes, in place of the sum of both: the same products in another order.
const ADAPTER_ROUNDING: f32 = 1e-4;

/// A model to serve.
pub(super) struct ModelToServe<'a> {
    /// As what steps use it: the policy, or by its own name. There is a server for each.
    pub slot: &'a str,
    pub program: &'a Arc<ServerProgram>,
    /// Its name, as in `models/NAME`.
    pub name: &'a str,
    /// The iteration in which it is the policy; 0 for a model of the pipeline file.
    pub version: u32,
    /// How an adapter that was trained on it names it, and the adapters that lead to it.
    pub label: Option<String>,
    pub adapters: Vec<AdapterLink>,
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
    pub mark: PathBuf,
    pub program: Arc<ServerProgram>,
    pub cancel: CancelFlag,
    /// How often a server that runs on from policy to policy has ended by itself.
    pub deaths: AtomicUsize,
    /// File with the difference of the first policy that the server had.
    pub canary_file: PathBuf,
    config: Config,
    label: Option<String>,
    adapters: Vec<AdapterLink>,
    dir: PathBuf,
    scratch: PathBuf,
    log: PathBuf,
    environment: ProgramEnvironment,
}

/// A server that takes requests, and has the weights of its model.
pub(super) struct RunningServer {
    pub model: Arc<ServedModel>,
    pub connection: Arc<Connection>,
    pub process: Arc<ServerProcess>,
    endpoint: Endpoint,
    /// What it was started with.
    base: Arc<ServedModel>,
    /// The adapter that it computes with.
    adapter: Option<String>,
    /// Held while it is asked to which forms it holds its answers.
    forms: Mutex<()>,
}

/// How a server that runs gets the weights of another model.
pub(super) enum WeightChange {
    /// As the sum of these adapters of its base.
    Adapters(Vec<PathBuf>),
    /// From the model's directory.
    Weights,
}

impl RunningServer {
    /// Whether the server has ended by itself.
    pub fn is_lost(&self) -> bool {
        self.process.failure().is_some_and(|e| e.kind() != ErrorKind::Cancelled)
    }

    /// Checks that the server holds answers to a form, before a step relies on it.
    ///
    /// # Errors
    /// It does not; it cannot be asked; cancelled.
    pub fn holds(&self, step: &str, form: ConstraintForm) -> Result<()> {
        // A form counts as honoured while it is being tried.
        let _asking = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = engine(&self.connection, Arc::new(NoReplies));
        let honours = |form| honours(&self.connection, &*asked, form, self.process.lost());
        holds(step, &self.model.name, form, &honours)
    }
}

/// The name of a server's folders in a run's directory.
pub(super) fn folder(model: &str) -> String {
    // No step has such a name.
    format!("server.{model}")
}

impl ServedModel {
    /// Loads the model, and computes what its server will be compared with.
    pub fn new(cx: &Context<'_>, to_serve: &ModelToServe<'_>) -> Result<Self> {
        let ModelToServe { slot, program, name, version, load, directory, config, .. } = *to_serve;
        let folder = folder(slot);
        let model = load()?;
        let scratch = cx.run().scratch(&folder, version)?;
        let scratch = std::path::absolute(&scratch).doing(|| scratch.display())?;
        let mark = scratch.parent().unwrap_or(&scratch).to_owned();
        let dir = directory(&model, &scratch)?;
        let (hash, tokenizer, cancel) = (model.hash.clone(), model.tokenizer.clone(), cx.shared.stop.clone());
        let environment = ProgramEnvironment::new(&program.environment)?;
        let own_config = model.llama.config().clone();
        let small = EngineConfig { kv_memory: config.kv_memory.min(CANARY_MEMORY), ..config.clone() };
        let canary = Canary::new(&BatchedEngine::spawn(model, small)?, &tokenizer, &cancel)?;
        let log = cx.run().log_file(&folder, version)?;
        let log = std::path::absolute(&log).doing(|| log.display())?;
        let canary_file = cx.run().canary_file(&folder)?;
        Ok(Self {
            slot: slot.to_owned(),
            name: name.to_owned(),
            version,
            hash,
            tokenizer,
            canary,
            mark,
            program: Arc::clone(program),
            cancel,
            deaths: AtomicUsize::new(0),
            canary_file,
            config: own_config,
            label: to_serve.label.clone(),
            adapters: to_serve.adapters.clone(),
            dir,
            scratch,
            log,
            environment,
        })
    }

    /// The server and the model, for messages.
    pub fn who(&self) -> String {
        format!("the server of [server.{}] for model `{}`", self.program.name, self.name)
    }

    /// The name of the model on its server. That of another policy is another one, unless the server goes on as what it
    /// was started as.
    fn served_name(&self) -> String {
        if self.program.update == ServerUpdate::Reload {
            return self.program.served_name.clone().unwrap_or_else(|| self.slot.clone());
        }
        let own = || format!("{}-{}", self.name, self.hash.get(..SHORT_HASH).unwrap_or(&self.hash));
        self.program.served_name.clone().unwrap_or_else(own)
    }

    /// Starts a server and checks that it has this model's weights. `limit` is the largest difference that is allowed.
    pub fn start(self: &Arc<Self>, limit: f32) -> Result<(RunningServer, f32)> {
        let port = free_port()?;
        let name = self.served_name();
        let dir = utf8(&self.dir)?;
        let command = self.program.command.fill(&|value| match value {
            "model" => dir.to_owned(),
            "port" => port.to_string(),
            _ => name.clone(),
        });
        let endpoint = Endpoint::new(&format!("http://127.0.0.1:{port}/v1"))?;
        let process = ServerProcess::start(ServerLaunch {
            who: self.who(),
            program: Arc::clone(&self.program),
            command,
            environment: self.environment.clone(),
            // A server that was given other weights since its start has lost them.
            restarts: if self.program.update.runs_on() { 0 } else { self.program.restarts },
            endpoint: endpoint.clone(),
            log: self.log.clone(),
            mark: self.mark.clone(),
            cancel: self.cancel.clone(),
        })?;
        let process = Arc::new(process);
        let connected = connect(self.connection(endpoint.clone(), name), process.lost());
        let checked = connected.and_then(|connection| {
            let limits = CanaryLimits { difference: limit, weights: Some(&self.hash), help: STARTED };
            Ok((self.check(&connection, &limits, process.lost())?, connection))
        });
        let (difference, connection) = checked.map_err(|e| self.reason(e, &process))?;
        let (model, base, forms) = (Arc::clone(self), Arc::clone(self), Mutex::default());
        Ok((RunningServer { model, connection, process, endpoint, base, adapter: None, forms }, difference))
    }

    /// How a server that runs can get this model's weights; `None` if it must be started with them.
    pub fn change_for(&self, server: &RunningServer) -> Option<WeightChange> {
        if server.process.failure().is_some() || server.base.program != self.program {
            return None;
        }
        match self.program.update {
            ServerUpdate::Restart => None,
            ServerUpdate::Reload => Some(WeightChange::Weights),
            ServerUpdate::Lora => {
                adapters_from(&self.adapters, server.base.label.as_deref()).map(WeightChange::Adapters)
            }
        }
    }

    /// Gives the weights to a server that runs, and checks that it has them. Nobody may be asking it.
    pub fn update(
        self: &Arc<Self>,
        server: &RunningServer,
        change: &WeightChange,
        limit: f32,
    ) -> Result<(RunningServer, f32)> {
        let (endpoint, process, base) =
            (server.endpoint.clone(), Arc::clone(&server.process), Arc::clone(&server.base));
        let (name, lost) = (self.served_name(), process.lost());
        let weights = WeightServer::new(&endpoint, self.load_config(&endpoint))?;
        let before = program_log::write_line(&base.log, &format!("from here on with the weights of {}", self.name))?;
        self.load(&weights, &name, &base, (change, limit), lost).map_err(|e| {
            let said = self.environment.scrub(&program_log::last_words(&base.log, before));
            let error = Error::new(e.kind(), format!("{}{said}", e.message()));
            self.reason(e.help_text().iter().fold(error, |error, help| error.help(*help)), &process)
        })?;
        let adapter = matches!(change, WeightChange::Adapters(_)).then(|| name.clone());
        let limits = match adapter {
            // An adapter beside its base computes with the same products, and other weights.
            Some(_) => CanaryLimits { difference: limit.max(ADAPTER_ROUNDING), weights: None, help: UPDATED },
            None => CanaryLimits { difference: limit, weights: Some(&self.hash), help: UPDATED },
        };
        let checked = connect(self.connection(endpoint.clone(), name), lost)
            .and_then(|connection| Ok((self.check(&connection, &limits, lost)?, connection)));
        let (difference, connection) = checked.map_err(|e| self.reason(e, &process))?;
        if let Some(before) = &server.adapter
            && let Err(e) = weights.unload_adapter(before, lost)
        {
            tracing::warn!("{}: the adapter `{before}` of an earlier policy stays in its memory: {e}", self.who());
        }
        let (model, forms) = (Arc::clone(self), Mutex::default());
        Ok((RunningServer { model, connection, process, endpoint, base, adapter, forms }, difference))
    }

    fn load(
        &self,
        server: &WeightServer,
        name: &str,
        base: &Self,
        (change, limit): (&WeightChange, f32),
        lost: &CancelFlag,
    ) -> Result<()> {
        match change {
            WeightChange::Weights => {
                let sees_head = !self.config.tie_word_embeddings || limit <= HEAD_SEEN;
                server.reload(&self.dir, sees_head, lost)
            }
            WeightChange::Adapters(adapters) => {
                let dir = self.scratch.join("adapter");
                let rank = peft_sum::write_sum(adapters, &self.config, utf8(&base.dir)?, &dir)?;
                server.load_adapter(name, &dir, lost).map_err(|e| e.doing(format!("an adapter of rank {rank}")))
            }
        }
    }

    /// The error for a server that failed, which may be that it has ended.
    fn reason(&self, e: Error, process: &ServerProcess) -> Error {
        match e.kind() {
            ErrorKind::Cancelled => process.failure().unwrap_or(e),
            _ => e.doing(self.who()),
        }
    }

    fn load_config(&self, endpoint: &Endpoint) -> TransportConfig {
        let time = self.program.ready_within;
        TransportConfig {
            endpoints: vec![endpoint.clone()],
            key: None,
            max_in_flight: 1,
            row_budget: time,
            request_timeout: time,
            max_body: MAX_BODY,
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
    fn check(&self, connection: &Arc<Connection>, limits: &CanaryLimits<'_>, cancel: &CancelFlag) -> Result<f32> {
        let limit = limits.difference;
        let CanaryReading { difference, words, reported_weights } =
            self.canary.compare(connection, &self.tokenizer, cancel)?;
        // No comparison holds for what is not a number.
        if difference.is_nan() || difference > limit {
            return Err(Error::user(format!(
                "it does not compute with the weights of this model: {words} (difference {difference:.6}, at most \
                 {limit:.6} is allowed)"
            ))
            .help(limits.help));
        }
        if let (Some(wanted), Some(weights)) = (limits.weights, reported_weights)
            && weights != *wanted
        {
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

/// Largest bound at which a tied output head of an earlier policy is found: it was seen to be 0.0006 off.
const HEAD_SEEN: f32 = 5e-4;

/// What a server is held to.
struct CanaryLimits<'a> {
    /// Largest difference of a log-probability.
    difference: f32,
    /// The hash of the weights, if a server that tells its own must have the same.
    weights: Option<&'a str>,
    /// What to do about a larger difference.
    help: &'static str,
}

/// What to do about a server that was started with a model and computes with another one.
const STARTED: &str = "check that the command serves {model}, and nothing that it keeps from an earlier start; if it rounds \
                       more than that, as with weights of 8 or 4 bits, raise `tolerance`";
/// What to do about a server that says it has taken weights and computes with others.
const UPDATED: &str = "the server said that it has taken the new weights, and computes with others, or with a part of them; \
                       update = \"restart\" starts it with each policy";

/// The text of a path.
fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        Error::user(format!("`{}` is not UTF-8, and cannot be an argument", path.display()))
            .help("keep runs and models in directories with other names")
    })
}

/// A port of this machine that nobody listens on.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).doing(|| "looking for a free port")?;
    Ok(listener.local_addr().doing(|| "looking for a free port")?.port())
}
