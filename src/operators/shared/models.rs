//! The models and engines of a run, shared by its operators. A model is loaded when a row first needs it;
//! steps with the same weights share one engine; an engine is dropped when the policy has moved on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device};

use super::adapter_chain::adapters_of;
use super::hub;
use super::own_servers::{ModelToServe, OwnServers, Pause, ServerUse};
use super::servers::{Servers, suits};
use crate::cancel::CancelFlag;
use crate::dataflow::{Context, ModelAt, Operator};
use crate::engine::remote::Connection;
use crate::engine::remote::transport::EndpointCounters;
use crate::engine::{Engine, EngineConfig, Scripted, Stats, open, scripted, start};
use crate::error::{Error, ErrorContext as _, Result};
use crate::model::formats::peft;
use crate::model::{LoraConfig, Model, device, saved_dtype};
use crate::pipeline::{Dtype, ModelKind, ModelSource, Plan, ServerProgram, ServerUpdate, model_table};
use crate::store::{InputForm, InputPlace, Lines, Run};

/// The key that names a model on the hub.
const HUB_KEY: &str = "hf";

/// Standard deviation of random initial weights.
const INIT_STD: f32 = 0.05;

/// The request to stop, as the engines see it.
pub(crate) fn cancel(cx: &Context<'_>) -> CancelFlag {
    cx.shared.stop.clone()
}

/// The shared models of a run.
pub struct Models {
    device: Device,
    config: EngineConfig,
    seed: u64,
    engines: Mutex<BTreeMap<String, CachedModel>>,
    servers: Servers,
    own_servers: OwnServers,
    /// Statistics of engines that were dropped.
    gone: Mutex<Vec<EngineUse>>,
}

/// Statistics of an engine in this process.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EngineUse {
    /// Name of the model.
    pub model: String,
    /// Share of prompt tokens found in the prefix cache.
    pub prefix_hit_rate: f64,
    /// The engine's counters.
    #[serde(flatten)]
    pub stats: Stats,
    /// For a model on servers: the counters of each endpoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointCounters>,
    /// For a model on servers: what the run has cost so far at the prices of the pipeline file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
}

impl EngineUse {
    fn new(model: &str, stats: Stats) -> Self {
        let (endpoints, cost) = (Vec::new(), None);
        Self { model: model.to_owned(), prefix_hit_rate: stats.hit_rate(), stats, endpoints, cost }
    }
}

struct CachedModel {
    name: String,
    /// The iteration in which it is the policy; 0 for a model of the pipeline file.
    version: u32,
    engine: Arc<dyn Engine>,
}

impl CachedModel {
    fn used(&self) -> EngineUse {
        EngineUse::new(&self.name, self.engine.stats())
    }
}

impl Models {
    /// Creates the models of a run on the device `device_name` (`auto` takes an accelerator if this build
    /// supports one).
    ///
    /// # Errors
    /// The device does not exist.
    pub fn new(device_name: &str, config: EngineConfig, seed: u64) -> Result<Self> {
        let (engines, gone) = (Mutex::default(), Mutex::default());
        let (servers, own_servers) = (Servers::default(), OwnServers::default());
        Ok(Self { device: device(device_name)?, config, seed, engines, servers, own_servers, gone })
    }

    /// Returns the engine of the step's model, and loads it if needed.
    ///
    /// # Errors
    /// The model cannot be loaded.
    pub fn engine(&self, cx: &Context<'_>) -> Result<Arc<dyn Engine>> {
        let at = cx.model.as_ref().ok_or_else(|| Error::bug("a step that has no model asks for an engine"))?;
        if let ModelAt::Source(name) = at
            && let source = cx.model_source(name)?
            && matches!(source.kind, ModelKind::Server(_))
        {
            return self.servers.engine(cx, source);
        }
        if let Some(used) = &cx.step.model
            && let Some(ModelSource { program: Some(program), .. }) = cx.shared.plan.source_of(used)
        {
            let engine = self.served(cx, at, &used.to_string(), program)?;
            return suits(cx.step, &used.to_string(), engine.capabilities()).map(|()| engine);
        }
        let (key, name, version) = match at {
            ModelAt::Source(name) => (name.clone(), name, 0),
            ModelAt::Made { hash, name, version } => (hash.clone(), name, *version),
        };
        // The lock is held while loading, so that others wait for the model instead of loading it twice.
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = engines.get(&key) {
            return Ok(Arc::clone(&loaded.engine));
        }
        // No future step uses a policy older than the last one.
        let mut gone = Vec::new();
        engines.retain(|_, loaded| {
            let stays = loaded.version == 0 || loaded.version + 1 >= version;
            if !stays {
                gone.push(loaded.used());
            }
            stays
        });
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).extend(gone);
        let engine: Arc<dyn Engine> = match at {
            ModelAt::Source(name) if matches!(cx.model_source(name)?.kind, ModelKind::Script { .. }) => {
                Arc::new(script(cx.run(), cx.model_source(name)?)?)
            }
            ModelAt::Source(name) => {
                let source = cx.model_source(name)?;
                let doing = || format!("model `{name}`");
                match files(cx.run(), source).doing(doing)? {
                    Some(path) => open(&path, &self.device, dtype(source), self.config.clone()).doing(doing)?,
                    None => start(self.load(cx, at, false)?, self.config.clone()).doing(doing)?,
                }
            }
            ModelAt::Made { .. } => start(self.load(cx, at, false)?, self.config.clone())?,
        };
        engines.insert(key, CachedModel { name: name.clone(), version, engine: Arc::clone(&engine) });
        Ok(engine)
    }

    /// The engine of a model on a server that the run starts.
    fn served(
        &self,
        cx: &Context<'_>,
        at: &ModelAt,
        slot: &str,
        program: &Arc<ServerProgram>,
    ) -> Result<Arc<dyn Engine>> {
        let (name, version) = match at {
            ModelAt::Source(name) => (name, 0),
            ModelAt::Made { name, version, .. } => (name, *version),
        };
        let adapters = match at {
            ModelAt::Made { name, .. } if program.update == ServerUpdate::Lora => {
                let models = cx.run().dir().join("models");
                adapters_of(&std::path::absolute(&models).doing(|| models.display())?, name)?
            }
            _ => Vec::new(),
        };
        let to_serve = ModelToServe {
            slot,
            program,
            name,
            version,
            label: Self::label(cx, at)?,
            adapters,
            load: &|| self.load(cx, at, false),
            directory: &|model, scratch| self.directory(cx, model, scratch),
            config: &self.config,
        };
        self.own_servers.engine(cx, &to_serve)
    }

    /// Stops the servers that the run has started until the value is dropped: a training may need their device.
    ///
    /// # Errors
    /// The run is being stopped.
    pub(crate) fn pause_servers(&self, cx: &Context<'_>) -> Result<Pause> {
        self.own_servers.pause(&cx.shared.stop)
    }

    /// Stops the servers that the run has started. None is started afterwards.
    ///
    /// # Errors
    /// A folder that was made for one cannot be removed.
    pub fn stop_servers(&self, run: &Run) -> Result<()> {
        self.own_servers.close().iter().try_for_each(|(folder, version)| run.remove_scratch(folder, *version))
    }

    /// Returns statistics of each engine: dropped ones in order of dropping, then the others by name.
    pub fn engines(&self) -> Vec<EngineUse> {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        let here = engines.values().map(CachedModel::used).collect();
        in_order(gone, here, self.servers.all(), self.own_servers.used())
    }

    /// As [`Models::engines`]; `None` while a model is being loaded or a server connected to.
    pub fn try_engines(&self) -> Option<Vec<EngineUse>> {
        let engines = self.engines.try_lock().ok()?;
        let gone = self.gone.try_lock().ok()?.clone();
        let here = engines.values().map(CachedModel::used).collect();
        Some(in_order(gone, here, self.servers.try_all()?, self.own_servers.try_used()?))
    }

    /// Connects to the servers of the plan's models, and checks that they can do what the steps need. Returns a line
    /// on each model.
    ///
    /// # Errors
    /// A server cannot be used, or lacks what a step needs.
    pub fn check_servers(
        &self,
        plan: &Plan<dyn Operator>,
        run: Option<&Run>,
        cancel: &CancelFlag,
    ) -> Result<Vec<String>> {
        self.servers.check(plan, run, cancel)
    }

    /// Loads a copy of the step's model to train: all weights, or a new adapter with weights drawn for this
    /// iteration.
    ///
    /// # Errors
    /// The model cannot be loaded, or has no weights.
    pub fn trainable(&self, cx: &Context<'_>, lora: Option<&LoraConfig>) -> Result<Model> {
        let at = cx.model.as_ref().ok_or_else(|| Error::bug("a training step has no model"))?;
        let model = self.load(cx, at, lora.is_none())?;
        match lora {
            Some(lora) => model.with_lora(lora, self.seed.wrapping_add(cx.epoch.iteration.into())),
            None => Ok(model),
        }
    }

    /// Returns the base model named in `models/NAME/adapter`: its path, or its name on the hub. Random
    /// weights have neither.
    ///
    /// # Errors
    /// The step has no model.
    pub fn base(cx: &Context<'_>) -> Result<Option<String>> {
        Self::label(cx, cx.model.as_ref().ok_or_else(|| Error::bug("a training step has no model"))?)
    }

    /// How an adapter that is trained on a model names it.
    fn label(cx: &Context<'_>, at: &ModelAt) -> Result<Option<String>> {
        Ok(match at {
            ModelAt::Made { name, .. } => Some(format!("../../{name}")),
            ModelAt::Source(name) => match &cx.model_source(name)?.kind {
                ModelKind::Path(path) => Some(path.shown()),
                ModelKind::Hub { repo, .. } => Some(repo.clone()),
                ModelKind::Init { .. } | ModelKind::Script { .. } | ModelKind::Server(_) => None,
            },
        })
    }

    /// Loads a model that is not trained.
    ///
    /// # Errors
    /// As [`Models::trainable`].
    pub fn frozen(&self, cx: &Context<'_>, at: &ModelAt) -> Result<Model> {
        self.load(cx, at, false)
    }

    /// Returns the directory of the step's model, which has been loaded as `model`, for a program outside. A model
    /// that is not such a directory (random weights, a GGUF file, an adapter, or weights of another type than its
    /// `dtype`) is written to `scratch`.
    ///
    /// # Errors
    /// The step has no model; a full disk.
    pub fn directory(&self, cx: &Context<'_>, model: &Model, scratch: &Path) -> Result<PathBuf> {
        let own = match cx.model.as_ref() {
            None => return Err(Error::bug("a training step has no model")),
            Some(ModelAt::Made { name, .. }) => Some(cx.run().dir().join("models").join(name)),
            Some(ModelAt::Source(name)) => {
                let source = cx.model_source(name)?;
                match files(cx.run(), source)? {
                    Some(path) if is_directory_of(&path, dtype(source))? => Some(path),
                    _ => None,
                }
            }
        };
        let dir = match own {
            Some(dir) => dir,
            None => {
                model.save(scratch)?;
                scratch.to_owned()
            }
        };
        std::path::absolute(&dir).doing(|| dir.display())
    }

    fn load(&self, cx: &Context<'_>, at: &ModelAt, trainable: bool) -> Result<Model> {
        let model = self.load_files(cx, at, trainable)?;
        Ok(Model { tokenizer: model.tokenizer.with_date(self.config.date), ..model })
    }

    fn load_files(&self, cx: &Context<'_>, at: &ModelAt, trainable: bool) -> Result<Model> {
        match at {
            ModelAt::Made { name, .. } => {
                let entry =
                    cx.run().model(name).ok_or_else(|| Error::bug(format!("model `{name}` is not committed")))?;
                cx.run().verify_model(&entry)?;
                let dir = cx.run().dir().join(&entry.path);
                let model = Model::load(&dir, &self.device, saved_dtype(&dir)?, trainable)?;
                if model.hash != entry.hash {
                    return Err(Error::user(format!("models/{name}: the weights are not those that the run made"))
                        .help("the file was changed; restore it, or run again with --fresh"));
                }
                Ok(model)
            }
            ModelAt::Source(name) => {
                let source = cx.model_source(name)?;
                let doing = || format!("model `{name}`");
                if let Some(path) = files(cx.run(), source).doing(doing)? {
                    return Model::load(&path, &self.device, dtype(source), trainable).doing(doing);
                }
                match &source.kind {
                    ModelKind::Init { config, seed } => {
                        let seed = seed.unwrap_or(self.seed);
                        let config = config.open(cx.run()).doing(doing)?;
                        Model::init(config, INIT_STD, seed, &self.device, dtype(source), trainable).doing(doing)
                    }
                    _ => Err(Error::user(format!(
                        "model `{name}` is a script or on a server: it has no weights for a training or a reference"
                    ))
                    .help("give the step a model with weights")),
                }
            }
        }
    }
}

/// Statistics of engines, of the dropped ones first.
fn in_order(
    gone: Vec<EngineUse>,
    here: Vec<EngineUse>,
    servers: Vec<(String, Arc<Connection>)>,
    own_servers: Vec<ServerUse>,
) -> Vec<EngineUse> {
    let mut here = here;
    here.extend(servers.into_iter().map(|(model, connection)| {
        let (endpoints, cost) = (connection.endpoints(), connection.cost());
        EngineUse { endpoints, cost, ..EngineUse::new(&model, connection.stats()) }
    }));
    here.sort_by(|a, b| a.model.cmp(&b.model));
    let own_servers = own_servers.into_iter().map(|used| {
        let ServerUse { model, stats, endpoints } = used;
        EngineUse { endpoints, ..EngineUse::new(&model, stats) }
    });
    gone.into_iter().chain(own_servers).chain(here).collect()
}

/// Whether a path is a model directory in Hugging Face's layout with weights of this type.
fn is_directory_of(path: &Path, dtype: DType) -> Result<bool> {
    let whole = path.join("config.json").is_file() && peft::base_of(path)?.is_none();
    Ok(whole && saved_dtype(path)? == dtype)
}

fn script(run: &Run, source: &ModelSource) -> Result<Scripted> {
    let ModelKind::Script { file } = &source.kind else { return Err(Error::bug("not a script")) };
    let path = file.open(run)?;
    let text = Lines::open(path)?.rest()?;
    scripted(&text).map_err(|e| e.doing(path.display()))
}

/// Returns the path of a model's files, after fetching them; `None` if it has no files. The run's manifest
/// records their hashes and, for an adapter, those of the base model.
fn files(run: &Run, source: &ModelSource) -> Result<Option<PathBuf>> {
    match &source.kind {
        ModelKind::Path(external) => {
            let path = external.open(run)?;
            if let Some(base) = peft::base_of(path)? {
                external.related("base", base).open(run)?;
            }
            Ok(Some(path.to_owned()))
        }
        ModelKind::Hub { repo, revision } => hub_files(run, &source.name, repo, revision.as_deref()).map(Some),
        ModelKind::Init { .. } | ModelKind::Script { .. } | ModelKind::Server(_) => Ok(None),
    }
}

/// Returns the folder of a hub model's files. A resumed run uses the commit that it started with, even if
/// the branch has moved.
fn hub_files(run: &Run, name: &str, repo: &str, revision: Option<&str>) -> Result<PathBuf> {
    let table = model_table(name);
    let pinned = run.input(&table, HUB_KEY).and_then(|input| input.revision);
    let hub::HubModel { commit, dir } = hub::fetch(repo, pinned.as_deref().or(revision))?;
    run.read_input(&InputPlace {
        table: &table,
        key: HUB_KEY,
        path: &dir,
        form: InputForm::Model,
        revision: Some(&commit),
        content: None,
    })?;
    Ok(dir)
}

pub(crate) fn dtype(source: &ModelSource) -> DType {
    match source.dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    }
}
