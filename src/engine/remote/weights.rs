//! New weights for a server that runs on: LoRA adapters, and weights that are read in place of others.
//!
//! What a server says about a load is not believed; see [`super::canary`].

use std::path::Path;

use serde_json::{Value, json};

use super::probe::path_of;
use super::transport::{Endpoint, Reply, Transport, TransportConfig};
use crate::cancel::CancelFlag;
use crate::error::{Error, Result};

/// Where SGLang and `reflux serve` take the directory of new weights.
const UPDATE: &str = "/update_weights_from_disk";
/// Where vLLM takes it, in its development mode.
const RPC: &str = "/collective_rpc";

/// A server whose weights can be changed while it runs.
pub struct WeightServer {
    transport: Transport,
    /// The path of its address, such as `/v1`.
    base: String,
}

impl WeightServer {
    /// Prepares requests to a server; asks nothing yet. `config` has one endpoint and the time of a load.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(endpoint: &Endpoint, config: TransportConfig) -> Result<Self> {
        Ok(Self { transport: Transport::new(config)?, base: path_of(endpoint.url()).to_owned() })
    }

    /// Loads a LoRA adapter, which requests then name.
    ///
    /// # Errors
    /// The server refuses it, or does not answer; cancelled.
    pub fn load_adapter(&self, name: &str, dir: &Path, cancel: &CancelFlag) -> Result<()> {
        let path = format!("{}/load_lora_adapter", self.base);
        let reply = self.post(&path, &json!({ "lora_name": name, "lora_path": dir }), cancel)?;
        match reply.status {
            200..300 => Ok(()),
            404 | 405 if !self.says_more(&reply) => {
                Err(Error::user(format!("the server loads no adapters: {path} is not there (status {})", reply.status))
                    .help(ADAPTERS))
            }
            _ => Err(self.refused("the adapter", &reply).help(ADAPTERS)),
        }
    }

    /// Forgets an adapter.
    ///
    /// # Errors
    /// As [`WeightServer::load_adapter`].
    pub fn unload_adapter(&self, name: &str, cancel: &CancelFlag) -> Result<()> {
        let path = format!("{}/unload_lora_adapter", self.base);
        let reply = self.post(&path, &json!({ "lora_name": name }), cancel)?;
        if (200..300).contains(&reply.status) { Ok(()) } else { Err(self.refused("to unload an adapter", &reply)) }
    }

    /// Has the server read the weights of a directory in place of its own. No request may be running. vLLM leaves an
    /// output head that is tied to the embedding as it was: `sees_head` says that there is none, or that a comparison
    /// of figures will find it.
    ///
    /// # Errors
    /// The server refuses them, cannot do this, or does not answer; it is vLLM and its head would not be seen; cancelled.
    pub fn reload(&self, dir: &Path, sees_head: bool, cancel: &CancelFlag) -> Result<()> {
        let reply = self.post(UPDATE, &json!({ "model_path": dir }), cancel)?;
        match reply.status {
            // It may be that the path exists and the directory does not.
            404 | 405 if !self.says_more(&reply) && !sees_head => {
                let message = "the server leaves a tied output head as it was when it reads weights in place, and rounds \
                               too much for that to be seen";
                Err(Error::user(message).help("use update = \"restart\" or \"lora\", or start the server in f32"))
            }
            404 | 405 if !self.says_more(&reply) => self.reload_vllm(dir, cancel),
            200..300 if succeeded(&reply) => Ok(()),
            _ => Err(self.refused("the weights", &reply).help(RELOADS)),
        }
    }

    /// The same for vLLM, which is paused meanwhile.
    fn reload_vllm(&self, dir: &Path, cancel: &CancelFlag) -> Result<()> {
        let load = json!({ "method": "reload_weights", "kwargs": { "weights_path": dir } });
        for (path, body) in
            [("/pause?mode=wait", json!({})), (RPC, load), ("/reset_prefix_cache", json!({})), ("/resume", json!({}))]
        {
            let reply = self.post(path, &body, cancel)?;
            match reply.status {
                200..300 if succeeded(&reply) => {}
                404 | 405 => {
                    let message = format!("the server has neither {UPDATE} nor {path}, and cannot read new weights");
                    return Err(Error::user(message).help(RELOADS));
                }
                _ => return Err(self.refused(&format!("{path}, on the way to new weights,"), &reply).help(RELOADS)),
            }
        }
        Ok(())
    }

    fn post(&self, path: &str, body: &Value, cancel: &CancelFlag) -> Result<Reply> {
        self.transport.post(0, path, body.to_string().into(), cancel)
    }

    /// Whether a reply with status 404 is about what was asked for, and not about the path.
    fn says_more(&self, reply: &Reply) -> bool {
        let words = self.transport.words(&reply.body);
        !(words.is_empty() || words.starts_with("Not Found") || words.starts_with("path `"))
    }

    fn refused(&self, what: &str, reply: &Reply) -> Error {
        let words = self.transport.words(&reply.body);
        let said = if words.is_empty() { String::new() } else { format!(": {words}") };
        Error::user(format!("the server refuses {what} (status {}){said}", reply.status))
    }
}

/// What loads adapters.
const ADAPTERS: &str = "start vLLM with --enable-lora, a --max-lora-rank that suffices and the variable \
                        VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or `reflux serve` with --allow-load; or take \
                        update = \"lora\" out";

/// What reads new weights.
const RELOADS: &str = "use vLLM with the variable VLLM_SERVER_DEV_MODE=1, or `reflux serve` with --allow-load; or \
                       take update = \"reload\" out";

/// Whether a reply does not say the contrary.
fn succeeded(reply: &Reply) -> bool {
    serde_json::from_slice::<Value>(&reply.body).map_or(true, |said| said["success"] != false)
}
