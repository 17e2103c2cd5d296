//! Adapters and other weights, loaded while the server runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use reflux::engine::{EngineConfig, open_tokens};
use reflux::model::{LoraConfig, Model};
use reflux::serve::{ModelLoader, ServeOptions};
use serde_json::{Value, json};

use crate::client::{MODEL, Server, engine, options};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL)
}

fn loader() -> Arc<ModelLoader> {
    let config = EngineConfig { kv_memory: 16 << 20, ..EngineConfig::default() };
    Arc::new(move |path: &Path| open_tokens(path, &Device::Cpu, DType::F32, config.clone()))
}

fn server() -> Server {
    let root = root().display().to_string();
    Server::start(engine(), ServeOptions { root, loader: Some(loader()), ..options() })
}

/// Writes an adapter of the small model that changes it, and the model with the adapter merged.
fn adapter(dir: &Path) -> (PathBuf, PathBuf) {
    let model = Model::load(&root(), &Device::Cpu, DType::F32, false).unwrap();
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    let model = model.with_lora(&lora, 3).unwrap();
    for (name, variable) in model.llama.variables() {
        if name.ends_with("lora_B.weight") {
            let filled = variable.as_tensor().ones_like().unwrap().affine(0.05, 0.).unwrap();
            variable.set(&filled).unwrap();
        }
    }
    let (adapter, merged) = (dir.join("adapter"), dir.join("merged"));
    model.save_lora(Some(root().to_str().unwrap()), &adapter).unwrap();
    model.save(&merged).unwrap();
    (adapter, merged)
}

fn post(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    let (status, text) = server.post(path, body);
    (status, serde_json::from_str(&text).unwrap())
}

/// The token ids and log-probabilities of a model's answer.
fn answer(server: &Server, model: &str) -> Value {
    let body = json!({ "model": model, "prompt": "name two tools", "max_tokens": 8, "logprobs": 0, "seed": 3, "return_token_ids": true });
    let (status, reply) = post(server, "/v1/completions", &body);
    assert_eq!(status, 200, "{reply}");
    json!([reply["choices"][0]["token_ids"], reply["choices"][0]["logprobs"]["token_logprobs"]])
}

fn names(server: &Server) -> Vec<String> {
    let list: Value = serde_json::from_str(&server.get("/v1/models").1).unwrap();
    list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_adapter_is_a_model_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (adapter, merged) = adapter(dir.path());
    let server = server();
    let before = answer(&server, "m0");
    let load = json!({ "lora_name": "tuned", "lora_path": adapter });
    let (status, reply) = post(&server, "/v1/load_lora_adapter", &load);
    assert_eq!(status, 200, "{reply}");
    assert_eq!(names(&server), ["m0", "tuned"]);
    assert_eq!(answer(&server, "m0"), before);
    let tuned = answer(&server, "tuned");
    assert_ne!(tuned, before);
    let listed: Value = serde_json::from_str(&server.get("/v1/models/tuned").1).unwrap();
    assert_eq!(listed["parent"], "m0");
    let hash = Model::load(&merged, &Device::Cpu, DType::F32, false).unwrap().hash;
    assert_eq!(listed["weights"], json!(hash));

    // A used name, another base, and what is not there.
    assert_eq!(post(&server, "/v1/load_lora_adapter", &load).0, 400);
    let (status, reply) =
        post(&server, "/v1/load_lora_adapter", &json!({ "lora_name": "x", "lora_path": "/not/there" }));
    assert_eq!(status, 404, "{reply}");
    let (status, reply) = post(&server, "/v1/load_lora_adapter", &json!({ "lora_name": "x", "lora_path": merged }));
    assert_eq!(status, 400, "{reply}");
    let (status, reply) = post(&server, "/v1/completions", &json!({ "model": "x", "prompt": "a" }));
    assert_eq!(status, 404);
    assert!(reply["error"]["message"].as_str().unwrap().contains("this server has `m0`, `tuned`"), "{reply}");

    let (status, reply) = post(&server, "/v1/unload_lora_adapter", &json!({ "lora_name": "tuned" }));
    assert_eq!(status, 200, "{reply}");
    assert_eq!(post(&server, "/v1/unload_lora_adapter", &json!({ "lora_name": "tuned" })).0, 404);
    assert_eq!(names(&server), ["m0"]);

    // Other weights in place: what they answer is what the adapter did.
    post(&server, "/v1/load_lora_adapter", &load);
    let (status, reply) = post(&server, "/update_weights_from_disk", &json!({ "model_path": "/not/there" }));
    assert_eq!(status, 404, "{reply}");
    assert_eq!(answer(&server, "m0"), before);
    let (status, reply) = post(&server, "/update_weights_from_disk", &json!({ "model_path": merged }));
    assert_eq!((status, &reply["success"], &reply["adapters_removed"]), (200, &json!(true), &json!(1)), "{reply}");
    assert_eq!(answer(&server, "m0"), tuned);
    assert_eq!(names(&server), ["m0"]);
    let (status, reply) = post(&server, "/v1/load_lora_adapter", &load);
    assert_eq!(status, 400, "{reply}");
    assert!(reply["error"]["message"].as_str().unwrap().contains("is an adapter of "), "{reply}");
}

/// Without leave, requests reach nothing of the disk.
#[test]
fn a_server_loads_nothing_unless_it_may() {
    let server = Server::small();
    for (path, body) in [
        ("/v1/load_lora_adapter", json!({ "lora_name": "x", "lora_path": "/etc" })),
        ("/v1/unload_lora_adapter", json!({ "lora_name": "m0" })),
        ("/update_weights_from_disk", json!({ "model_path": "/etc" })),
    ] {
        let (status, reply) = post(&server, path, &body);
        assert_eq!((status, &reply["error"]["code"]), (403, &json!("loading_not_allowed")), "{reply}");
    }
}
