//! Servers that run on from one policy to the next, and get its weights as an adapter or in place. The server is `reflux
//! serve`; between it and the run may be a liar.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use reflux::cancel::CancelFlag;
use reflux::engine::remote::WeightServer;
use reflux::engine::remote::transport::{Endpoint, TransportConfig};
use serde_json::{Value, json};

use crate::own_servers::{Place, REFLUX, assert_same, printed, server, until, until_there};
use crate::stub::{Request, Response, Stub};

/// A server that loads what it is told to.
const LOADS: &str = "exec \"$1\" serve \"$2\" --port \"$3\" --name \"$4\" --threads 1 --allow-load";
/// The training leaves an adapter.
const ADAPTERS: [&str; 2] = ["--set", "step.dpo.lora={rank = 4}"];

fn local(more: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let place = Place::new();
    let out = place.run("", more);
    assert_eq!(out.code, Some(0), "{}", out.text);
    place.outcome()
}

/// Names of the files that differ.
fn different<'a>(a: &'a BTreeMap<String, Vec<u8>>, b: &'a BTreeMap<String, Vec<u8>>) -> Vec<&'a str> {
    let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
    names.filter(|name| a.get(*name) != b.get(*name)).map(String::as_str).collect()
}

/// A log of a server as the run wrote it, and whether there is one for a later policy.
fn only_log(place: &Place) -> String {
    let dir = place.dir().join("logs/server.policy");
    let logs: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .filter(|f| f.path().extension().is_some_and(|e| e == "log"))
        .collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    place.log(0)
}

#[test]
fn a_server_that_reloads_has_the_bits_of_a_local_run() {
    let local = local(&[]);
    let place = Place::new();
    let out = place.run(&server(LOADS, "update = \"reload\""), &[]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    assert_same(&local, &place.outcome());
    // One start, and each policy by a reload.
    let log = only_log(&place);
    assert_eq!(log.matches("reflux: start").count(), 1, "{log}");
    assert!(log.contains("from here on with the weights of M2") && log.contains("weights of M3"), "{log}");
    assert!(place.servers().is_empty() && !place.dir().join("scratch").exists());
}

#[test]
fn a_server_that_loads_adapters_computes_as_the_policy() {
    let local = local(&ADAPTERS);
    let place = Place::new();
    let out = place.run(&server(LOADS, "update = \"lora\""), &ADAPTERS);
    assert_eq!(out.code, Some(0), "{}", out.text);
    let log = only_log(&place);
    assert_eq!(log.matches("reflux: start").count(), 1, "{log}");
    assert!(log.contains("from here on with the weights of M2") && log.contains("weights of M3"), "{log}");
    // M2 is an adapter of the model that the server was started with, and has its bits. M3 is one of M2: two adapters are
    // added in another order than they were merged in, and the answers of M3 are what is computed with them.
    let served = place.outcome();
    let different = different(&local, &served);
    assert!(different.iter().all(|name| name.starts_with("data/seen/iteration=3/")), "{different:?}");
    assert!(place.servers().is_empty() && !place.dir().join("scratch").exists());
}

/// Adapters are added to what the server was started with, which is another model in each process.
#[test]
fn a_resumed_run_starts_with_its_present_policy() {
    let local = local(&ADAPTERS);
    let place = Place::new();
    let run = || place.command(&server(LOADS, "update = \"lora\""), &ADAPTERS);
    let mut child = run().spawn().unwrap();
    until_there(&mut child, &place.dir().join("models/M2"));
    child.kill().unwrap();
    child.wait().unwrap();
    until("the end of the server", || place.servers().is_empty());
    let out = printed(&mut run());
    assert_eq!(out.code, Some(0), "{}", out.text);
    assert_same(&local, &place.outcome());
    assert!(place.log(2).contains("models/M2 "), "{}", place.log(2));
}

/// A server that runs on has nothing that a start with its first weights would bring back.
#[test]
fn a_server_that_is_killed_is_started_with_the_present_policy() {
    for (update, more) in [("reload", &[][..]), ("lora", &ADAPTERS[..])] {
        let rows = ["--set", "step.requests.rows=40"];
        let more: Vec<&str> = more.iter().chain(&rows).copied().collect();
        let local = local(&more);
        let place = Place::new();
        let mut reflux = place.start(&server(LOADS, &format!("update = {update:?}")), &more);
        until_there(&mut reflux, &place.dir().join("data/answers/iteration=2"));
        for process in place.servers() {
            // One of them is the shell that watches over the group.
            let _ = Command::new("kill").args(["-KILL", &process.to_string()]).status();
        }
        let said = || std::fs::read_to_string(place.path("out")).unwrap();
        assert!(reflux.wait().unwrap().success(), "{}", said());
        assert!(
            said().contains("ended by itself; it is started again (1 of at most 2 times), now as `M2`"),
            "{}",
            said()
        );
        let log = place.log(2);
        assert!(log.contains("reflux: start 1") && log.contains("models/M2 "), "{log}");
        // M3 is one adapter away from the server that was started with M2.
        assert_same(&local, &place.outcome());
    }
}

#[test]
fn a_server_that_dies_too_often_stops_the_run() {
    let place = Place::new();
    let dies = format!(
        "\"$1\" serve \"$2\" --port \"$3\" --name \"$4\" --threads 1 --allow-load & pid=$!; while [ ! -e {:?} ]; do sleep \
         0.05; done; sleep 1; echo 'CUDA error: device lost'; kill -KILL $pid; exit 7",
        place.dir().join("data/answers/iteration=1")
    );
    let keys = "update = \"reload\"\nrestarts = 1";
    let out = place.run(&server(&dies, keys), &["--set", "step.requests.rows=100", "--set", "step.answers.samples=40"]);
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("it is started again (1 of at most 1 times)"), "{}", out.text);
    assert!(
        out.text.contains("ended with exit code 7") && out.text.contains("CUDA error: device lost"),
        "{}",
        out.text
    );
    assert!(place.servers().is_empty());
}

/// Sends a request to a server and returns its reply.
fn forward(address: &str, request: &Request) -> Response {
    let Ok(mut stream) = TcpStream::connect(address) else { return Response::reset() };
    let Request { method, path, body, .. } = request;
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n");
    let sent = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
    let mut reply = String::new();
    match sent.and_then(|()| stream.read_to_string(&mut reply)) {
        Ok(_) => {
            let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(502);
            Response::status(status, body).header("content-type", "application/json")
        }
        Err(_) => Response::reset(),
    }
}

/// What a liar does with a request that it does not pass on as it is.
enum Lie {
    Say(Response),
    PassOn(Request),
}

/// Runs a pipeline whose server is reached through one that lies. Returns what was printed, and the paths that were
/// asked for, but for those of answers.
fn lied_to(
    place: &Place,
    keys: &str,
    more: &[&str],
    lie: impl Fn(&Request) -> Option<Lie> + Send + Sync + 'static,
) -> (crate::own_servers::Printed, Vec<String>) {
    let (port, out) = (place.path("port"), place.path("serving"));
    let script = format!(
        "\"$1\" serve \"$2\" --port 0 --name \"$4\" --threads 1 --allow-load > {out:?} & echo \"$3\" > {port:?}.new; mv \
         {port:?}.new {port:?}; wait"
    );
    let (sender, stubs): (_, Receiver<Stub>) = channel();
    let between = thread::spawn(move || {
        let real = || {
            let text = std::fs::read_to_string(&out).unwrap_or_default();
            Some(text.split_once("http://")?.1.split_once("/v1")?.0.to_owned())
        };
        until("the port", || port.exists() && real().is_some());
        let (real, port) = (real().unwrap(), std::fs::read_to_string(&port).unwrap());
        let stub = Stub::start_at(&format!("127.0.0.1:{}", port.trim()), move |request| match lie(request) {
            None => forward(&real, request),
            Some(Lie::Say(response)) => response,
            Some(Lie::PassOn(request)) => forward(&real, &request),
        });
        sender.send(stub).unwrap();
    });
    let printed = place.run(&server(&script, keys), more);
    between.join().unwrap();
    let asked = stubs.recv().unwrap().requests();
    let asked =
        asked.into_iter().map(|request| request.path).filter(|path| path != "/v1/completions" && path != "/v1/models");
    assert!(place.servers().is_empty());
    (printed, asked.collect())
}

#[test]
fn a_server_that_says_it_has_reloaded_is_found_out() {
    let place = Place::new();
    let (out, asked) = lied_to(&place, "update = \"reload\"", &[], |request| {
        let lies = request.path == "/update_weights_from_disk";
        lies.then(|| Lie::Say(Response::json(r#"{"success": true, "message": "done"}"#)))
    });
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("for model `M2`: it does not compute with the weights of this model"), "{}", out.text);
    assert!(out.text.contains("the server said that it has taken the new weights"), "{}", out.text);
    assert_eq!(asked, ["/update_weights_from_disk"]);
    assert!(!place.dir().join("data/answers/iteration=2").exists());
}

/// Writes a copy of an adapter that changes nothing: all its numbers are zero.
fn without_effect(adapter: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(adapter.join("adapter_config.json"), to.join("adapter_config.json")).unwrap();
    let mut weights = std::fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let header = 8 + usize::try_from(u64::from_le_bytes(weights[..8].try_into().unwrap())).unwrap();
    weights[header..].fill(0);
    std::fs::write(to.join("adapter_model.safetensors"), weights).unwrap();
}

#[test]
fn a_server_that_loads_another_adapter_is_found_out() {
    let place = Place::new();
    let empty = place.path("empty");
    let (out, asked) = lied_to(&place, "update = \"lora\"", &ADAPTERS, move |request| {
        if request.path != "/v1/load_lora_adapter" {
            return None;
        }
        let mut body = request.json();
        without_effect(Path::new(body["lora_path"].as_str().unwrap()), &empty);
        body["lora_path"] = json!(empty);
        Some(Lie::PassOn(Request { body: body.to_string(), ..request.clone() }))
    });
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("for model `M2`: it does not compute with the weights of this model"), "{}", out.text);
    assert_eq!(asked, ["/v1/load_lora_adapter"]);
    assert!(!place.dir().join("data/answers/iteration=2").exists());
}

#[test]
fn a_load_that_fails_is_told_in_the_words_of_the_server() {
    let refused = r#"{"error": {"message": "LoRA rank 16 is greater than max_lora_rank 8.", "code": 400}}"#;
    let missing = r#"{"detail": "Not Found"}"#;
    for (update, more, status, body, want) in [
        (
            "lora",
            &ADAPTERS[..],
            400,
            refused,
            "the server refuses the adapter (status 400): LoRA rank 16 is greater than",
        ),
        ("lora", &ADAPTERS[..], 404, missing, "the server loads no adapters: /v1/load_lora_adapter is not there"),
        ("reload", &[][..], 400, r#"{"success": false, "message": "out of memory"}"#, "(status 400): out of memory"),
        ("reload", &[][..], 200, r#"{"success": false, "message": "bad shape"}"#, "(status 200): bad shape"),
        ("reload", &[][..], 404, missing, "the server has neither /update_weights_from_disk nor /pause?mode=wait"),
    ] {
        let place = Place::new();
        let (out, asked) = lied_to(&place, &format!("update = {update:?}"), more, move |request| {
            let loads = request.path.starts_with("/v1/load")
                || request.path.starts_with("/update")
                || request.path.starts_with("/pause");
            loads.then(|| Lie::Say(Response::status(status, body)))
        });
        assert_eq!(out.code, Some(2), "{}", out.text);
        assert!(
            out.text.contains("the server of [server.own] for model `M2`: ") && out.text.contains(want),
            "{want}: {}",
            out.text
        );
        assert!(!asked.is_empty());
    }
}

/// vLLM reads weights in its development mode, and is paused meanwhile.
#[test]
fn a_reload_in_the_manner_of_vllm() {
    let local = local(&[]);
    let place = Place::new();
    let (out, asked) = lied_to(&place, "update = \"reload\"", &[], |request| match request.path.as_str() {
        "/update_weights_from_disk" => Some(Lie::Say(Response::status(404, r#"{"detail": "Not Found"}"#))),
        "/pause?mode=wait" => Some(Lie::Say(Response::json(r#"{"status": "paused"}"#))),
        "/resume" => Some(Lie::Say(Response::json(r#"{"status": "resumed"}"#))),
        "/reset_prefix_cache" => Some(Lie::Say(Response::json(r#"{"success": true}"#))),
        "/collective_rpc" => {
            let body: Value = request.json();
            assert_eq!(body["method"], "reload_weights");
            let body = json!({ "model_path": body["kwargs"]["weights_path"] }).to_string();
            Some(Lie::PassOn(Request { path: "/update_weights_from_disk".into(), body, ..request.clone() }))
        }
        _ => None,
    });
    assert_eq!(out.code, Some(0), "{}", out.text);
    assert_same(&local, &place.outcome());
    let one = ["/update_weights_from_disk", "/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache", "/resume"];
    assert_eq!(asked, [one, one].concat());
}

/// vLLM leaves a tied output head as it was, and in bf16 no comparison of figures would show that.
#[test]
fn a_head_that_would_stay_unseen_is_refused() {
    let stub = Stub::start(|request| match request.path.as_str() {
        "/update_weights_from_disk" => Response::status(404, r#"{"detail": "Not Found"}"#),
        _ => Response::json(r#"{"success": true}"#),
    });
    let endpoint = Endpoint::new(&stub.url()).unwrap();
    let config = TransportConfig {
        endpoints: vec![endpoint.clone()],
        key: None,
        max_in_flight: 1,
        row_budget: Duration::from_secs(60),
        request_timeout: Duration::from_secs(60),
        max_body: 1 << 20,
    };
    let server = WeightServer::new(&endpoint, config).unwrap();
    let error = server.reload(Path::new("models/M2"), false, &CancelFlag::new()).unwrap_err();
    assert!(error.to_string().contains("leaves a tied output head as it was"), "{error}");
    assert_eq!(stub.count(), 1, "nothing is loaded");
    server.reload(Path::new("models/M2"), true, &CancelFlag::new()).unwrap();
    assert_eq!(stub.count(), 6);
}

/// `reflux serve` holds no answer to a form.
#[test]
fn a_form_that_the_server_ignores_is_found_out() {
    let place = Place::new();
    let text = std::fs::read_to_string(place.pipeline(&server(LOADS, ""))).unwrap();
    let mode = "mode = \"expected\"";
    assert!(text.contains(mode));
    let text =
        text.replace(mode, "structured = \"choice\"\nsampling = { max_tokens = 16 }").replace("min_mass = 0.0\n", "");
    let file = place.path("form.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(REFLUX);
    command.arg("run").arg(&file).arg("--runs").arg(place.path("runs")).env("NO_COLOR", "1");
    let out = printed(command.current_dir(env!("CARGO_MANIFEST_DIR")));
    assert_eq!(out.code, Some(2), "{}", out.text);
    let want = "step `judged` has structured = \"choice\", which the server of `m0` ignores or refuses";
    assert!(out.text.contains(want), "{}", out.text);
}

/// Variables reach the program, and secrets are shown nowhere but where the program prints them.
#[test]
fn variables_reach_the_server() {
    let place = Place::new();
    let script = "echo \"$PLAIN and $TOKEN\"; exit 3";
    let keys = "environment = { PLAIN = \"a word\", TOKEN = { env = \"REFLUX_TEST_TOKEN\" } }";
    let out = printed(place.command(&server(script, keys), &[]).env("REFLUX_TEST_TOKEN", "sk-5ecret"));
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("a word and ***") && !out.text.contains("sk-5ecret"), "{}", out.text);
    assert!(place.log(0).contains("a word and sk-5ecret"), "the log is the program's own");
    let stored = std::fs::read_to_string(place.dir().join("pipeline.toml")).unwrap();
    assert!(stored.contains("TOKEN = { env = \"REFLUX_TEST_TOKEN\" }") && !stored.contains("sk-5ecret"), "{stored}");
    // The next start needs it too.
    let out = printed(place.command(&server(LOADS, keys), &[]).env_remove("REFLUX_TEST_TOKEN"));
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("the environment variable REFLUX_TEST_TOKEN is not set"), "{}", out.text);
}
