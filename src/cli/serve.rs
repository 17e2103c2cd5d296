//! `reflux serve`.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};

use super::interrupt::stop_on_interrupt;
use super::model::ModelArgs;
use super::session::Session;
use super::terminal;
use super::ticker::Ticker;
use crate::cancel::CancelFlag;
use crate::engine::{EngineConfig, open_tokens};
use crate::error::{Error, Result};
use crate::jinja::DateTime;
use crate::model::device;
use crate::serve::{ModelLoader, ServeOptions, available, serve};

const AFTER: &str = "Examples:
  reflux serve model.gguf                                         on http://127.0.0.1:8000/v1
  reflux serve models/M2 --port 0 --name m2                       on any free port, which is printed
  SERVE_KEY=... reflux serve model.gguf --host 0.0.0.0 --key-env SERVE_KEY
  curl http://127.0.0.1:8000/v1/completions -d '{\"prompt\": \"Name a river.\", \"seed\": 1}'

The interface is OpenAI's: /v1/completions, /v1/chat/completions, /v1/models; besides /tokenize, /detokenize, \
/health and /metrics. Equal requests get equal answers, whatever else is served. A field that is not known is \
refused.

Ctrl-C and SIGTERM stop the server; requests that are running end with an error.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Address to listen on. Any other than this machine's own requires --key-env
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes any free one
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// The model's name in requests; the file or folder name if absent
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Maximum number of requests that are answered or wait; further ones get status 429. 64 more connections may be open
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_queue: u32,
    /// Maximum number of connections from one address; further ones get status 429. By default half of all for other
    /// machines, and all for this one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_per_client: Option<u32>,
    /// Environment variable with the key that requests must carry
    #[arg(long, value_name = "VARIABLE")]
    key_env: Option<String>,
    /// Let requests load adapters and other weights from this machine's disk: /v1/load_lora_adapter,
    /// /v1/unload_lora_adapter and /update_weights_from_disk
    #[arg(long)]
    allow_load: bool,
    /// Memory for keys and values, e.g. 2GiB; by default a share of the free memory
    #[arg(long, value_name = "SIZE", value_parser = super::model::size, help_heading = "Model")]
    kv_memory: Option<u64>,
}

/// Reads the key from its variable.
fn key(variable: &str) -> Result<String> {
    let bad = |what: &str| Error::user(format!("--key-env {variable}: {what}"));
    let key = std::env::var(variable).map_err(|e| match e {
        std::env::VarError::NotPresent => bad("the variable is not set").help(format!("export {variable}=...")),
        std::env::VarError::NotUnicode(_) => bad("the variable is not UTF-8"),
    })?;
    match key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
        true => Err(bad("the key must be one or more visible ASCII characters")),
        false => Ok(key),
    }
}

/// Loads models as the first one is loaded.
fn loader(device: Device, dtype: DType, config: EngineConfig) -> Arc<ModelLoader> {
    Arc::new(move |path: &Path| open_tokens(path, &device, dtype, config.clone()))
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    // Before the model is loaded.
    available()?;
    let key = args.key_env.as_deref().map(key).transpose()?;
    let path = &args.model.model;
    let device = device(&args.model.loading.device)?;
    let mut config = EngineConfig::default().with_threads(args.model.threads())?;
    config.kv_memory = args.kv_memory.unwrap_or(config.kv_memory);
    config.date = Some(DateTime::now());
    let stop = CancelFlag::default();
    stop_on_interrupt(&stop);
    let ticker = Ticker::new(session.style, format!("loading {}", path.display()));
    let loader = args.allow_load.then(|| loader(device.clone(), args.model.dtype(), config.clone()));
    let engine = open_tokens(path, &device, args.model.dtype(), config)?;
    let seconds = ticker.seconds();
    let loaded = serde_json::json!({ "model": path.display().to_string() });
    ticker.finish(|| format!("loaded {} in {seconds:.1} s", path.display()), || loaded);
    let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let root = path.display().to_string();
    let options = ServeOptions {
        host: args.host.clone(),
        port: args.port,
        name: args.name.clone().or(file_name).unwrap_or_else(|| root.clone()),
        root,
        key,
        max_queue: args.max_queue as usize,
        loader,
        max_per_client: args.max_per_client,
    };
    let name = options.name.clone();
    serve(engine, options, &stop, |address| terminal::print_line(&format!("serving {name} on http://{address}/v1")))
}
