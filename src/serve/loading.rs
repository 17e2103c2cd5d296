//! The models that are served, and requests that change them: adapters by vLLM's interface, and new weights by SGLang's.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::api_error::ApiError;
use super::fields::{RequestFields, shown};
use super::serve_options::ModelLoader;
use super::state::{ReadBody, ServerState};
use crate::engine::{Stats, TokenEngine, adapter_base};

type Result<T> = std::result::Result<T, ApiError>;

/// The models that are served.
pub(super) struct ServedModels {
    served: RwLock<Served>,
    /// Held while a model is loaded.
    loading: Mutex<()>,
    loader: Option<Arc<ModelLoader>>,
}

struct Served {
    /// The model of the server, then its adapters.
    models: Vec<Arc<ServerState>>,
    /// Counters of engines that were dropped.
    gone: Stats,
}

impl ServedModels {
    pub fn new(base: ServerState, loader: Option<Arc<ModelLoader>>) -> Self {
        let served = Served { models: vec![Arc::new(base)], gone: Stats::default() };
        Self { served: RwLock::new(served), loading: Mutex::default(), loader }
    }

    fn served(&self) -> std::sync::RwLockReadGuard<'_, Served> {
        self.served.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn served_mut(&self) -> std::sync::RwLockWriteGuard<'_, Served> {
        self.served.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model of the server itself.
    pub fn base(&self) -> Arc<ServerState> {
        Arc::clone(&self.served().models[0])
    }

    /// All models: that of the server, then its adapters.
    pub fn all(&self) -> Vec<Arc<ServerState>> {
        self.served().models.clone()
    }

    /// Counters of the models that are not served any more.
    pub fn gone(&self) -> Stats {
        self.served().gone
    }

    pub fn named(&self, name: &str) -> Option<Arc<ServerState>> {
        self.served().models.iter().find(|state| state.name == name).cloned()
    }

    /// The names of all models, for messages.
    pub fn names(&self) -> String {
        let names: Vec<String> = self.all().iter().map(|state| format!("`{}`", state.name)).collect();
        names.join(", ")
    }

    /// The model that a body asks for.
    ///
    /// # Errors
    /// There are several, and none has its name.
    pub fn of(&self, body: &ReadBody) -> Result<Arc<ServerState>> {
        /// The field that is looked for; the body is read again as a whole by whoever answers it.
        #[derive(serde::Deserialize)]
        struct Wanted {
            model: Option<String>,
        }
        let base = self.base();
        // A single model checks the name itself, and says what is wrong with a body.
        if self.served().models.len() == 1 {
            return Ok(base);
        }
        match serde_json::from_slice::<Wanted>(&body.bytes) {
            Ok(Wanted { model: Some(name) }) => self.named(&name).ok_or_else(|| {
                ApiError::no_model(format!("model `{}` not found; this server has {}", shown(&name), self.names()))
            }),
            _ => Ok(base),
        }
    }

    fn loader(&self) -> Result<&ModelLoader> {
        self.loader.as_deref().ok_or_else(|| {
            let message = "this server loads no models on request; `reflux serve --allow-load` does";
            ApiError::new(StatusCode::FORBIDDEN, message).code("loading_not_allowed")
        })
    }
}

/// A model that was loaded, in place of another one or beside it.
fn state_of(like: &ServerState, engine: Arc<dyn TokenEngine>, root: &str) -> Result<ServerState> {
    let size =
        engine.size().ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, "the model does not say its size"))?;
    Ok(ServerState { engine, size, root: root.to_owned(), ..like.clone() })
}

/// Reads a name or path that must be there.
fn required(fields: &mut RequestFields, name: &'static str) -> Result<String> {
    let text = fields.text(name)?.filter(|text| !text.is_empty());
    text.ok_or_else(|| ApiError::field(name, format!("`{name}` is missing")))
}

/// A path that must exist.
fn existing(path: &str) -> Result<PathBuf> {
    let message = || format!("no model found at {}", shown(path));
    std::fs::canonicalize(path).map_err(|_| ApiError::new(StatusCode::NOT_FOUND, message()).code("path_not_found"))
}

/// Answers `/v1/load_lora_adapter`: the adapter becomes a model of its own beside the base, with merged weights.
pub(super) fn load_adapter(models: &ServedModels, body: ReadBody) -> Result<Value> {
    let loader = models.loader()?;
    let mut fields = RequestFields::parse(&body.bytes)?;
    let (name, path) = (required(&mut fields, "lora_name")?, required(&mut fields, "lora_path")?);
    let in_place = fields.flag("load_inplace", false)?;
    fields.finish()?;
    let _loading = models.loading.lock().unwrap_or_else(PoisonError::into_inner);
    let base = models.base();
    if name == base.name || (!in_place && models.named(&name).is_some()) {
        let message = format!("`{}` is loaded already; `load_inplace` replaces an adapter", shown(&name));
        return Err(ApiError::field("lora_name", message));
    }
    let dir = existing(&path)?;
    let own =
        adapter_base(&dir)?.ok_or_else(|| ApiError::field("lora_path", format!("{} is no adapter", shown(&path))))?;
    let (own, served) = (existing(&own.to_string_lossy())?, existing(&base.root)?);
    if own != served {
        let message = format!(
            "{} is an adapter of {}, and this server has {}",
            shown(&path),
            shown(&own.to_string_lossy()),
            shown(&served.to_string_lossy())
        );
        return Err(ApiError::field("lora_path", message));
    }
    let state = state_of(&base, loader(&dir)?, &path)?;
    let state = ServerState { name: name.clone(), parent: Some(base.name.clone()), ..state };
    let mut served = models.served_mut();
    forget(&mut served, &name);
    served.models.push(Arc::new(state));
    Ok(json!({ "message": format!("Success: LoRA adapter '{name}' added successfully.") }))
}

/// Removes an adapter. Requests that it is answering end as they would have.
fn forget(served: &mut Served, name: &str) -> bool {
    let Some(place) = served.models.iter().skip(1).position(|state| state.name == name) else { return false };
    let state = served.models.remove(place + 1);
    served.gone = served.gone.plus(&state.engine.stats());
    true
}

/// Answers `/v1/unload_lora_adapter`.
pub(super) fn unload_adapter(models: &ServedModels, body: ReadBody) -> Result<Value> {
    models.loader()?;
    let mut fields = RequestFields::parse(&body.bytes)?;
    let name = required(&mut fields, "lora_name")?;
    fields.finish()?;
    if !forget(&mut models.served_mut(), &name) {
        let message = format!("the adapter `{}` is not loaded", shown(&name));
        return Err(ApiError::no_model(message));
    }
    Ok(json!({ "message": format!("Success: LoRA adapter '{name}' removed successfully.") }))
}

/// Answers `/update_weights_from_disk`: another model takes the place and the name of the server's. Its adapters are
/// those of the one before, and are removed.
pub(super) fn update(models: &ServedModels, body: ReadBody) -> Result<Value> {
    let loader = models.loader()?;
    let mut fields = RequestFields::parse(&body.bytes)?;
    let path = required(&mut fields, "model_path")?;
    fields.neutral("flush_cache", &[json!(true)], "leave it out")?;
    fields.finish()?;
    let _loading = models.loading.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = existing(&path)?;
    let state = state_of(&models.base(), loader(&dir)?, &path)?;
    let mut served = models.served_mut();
    let before = std::mem::replace(&mut served.models, vec![Arc::new(state)]);
    served.gone = before.iter().fold(served.gone, |sum, state| sum.plus(&state.engine.stats()));
    let adapters = before.len() - 1;
    Ok(json!({ "success": true, "message": format!("the weights of {path} are served"), "adapters_removed": adapters }))
}
