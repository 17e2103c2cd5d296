//! Models of the Hugging Face hub, against a stand-in that answers as the hub does: which commit a run takes and keeps, what
//! is taken from the cache, and what is said where there is nothing to take.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::program::said;
use reflux::data::Columns;
use reflux::store::Run;

const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";
const TOKEN: &str = "hf_good";

/// What the stand-in has, and what it was asked.
#[derive(Default)]
struct Shelf {
    /// The commit that `main` is.
    main: &'static str,
    /// Paths that were asked for, and whether a token came along.
    asked: Vec<(String, bool)>,
}

/// A stand-in for the hub.
struct Hub {
    port: u16,
    shelf: Arc<Mutex<Shelf>>,
}

/// The folder that a commit has the files of.
fn folder(commit: &str) -> PathBuf {
    let name = if commit == FIRST { "smollm2" } else { "llama3" };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model").join(name)
}

impl Hub {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shelf = Arc::new(Mutex::new(Shelf { main: FIRST, ..Shelf::default() }));
        let served = Arc::clone(&shelf);
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shelf = Arc::clone(&served);
                std::thread::spawn(move || serve(&stream, &shelf, port));
            }
        });
        Self { port, shelf }
    }

    fn asked(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.shelf.lock().unwrap().asked)
    }
}

/// Answers requests until the other side is done.
fn serve(stream: &TcpStream, shelf: &Mutex<Shelf>, port: u16) {
    let mut lines = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if lines.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.insert(name.to_lowercase(), value.trim().to_owned());
            }
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let (status, more, body) = answer(&path, &headers, shelf, port);
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n", body.len());
        if (&*stream).write_all(head.as_bytes()).and_then(|()| (&*stream).write_all(&body)).is_err() {
            return;
        }
    }
}

/// Status, headers and body for a path.
fn answer(
    path: &str,
    headers: &BTreeMap<String, String>,
    shelf: &Mutex<Shelf>,
    port: u16,
) -> (&'static str, String, Vec<u8>) {
    let token = headers.get("authorization").map(|t| t.trim_start_matches("Bearer ").to_owned());
    let main = {
        let mut shelf = shelf.lock().unwrap();
        shelf.asked.push((path.to_owned(), token.is_some()));
        shelf.main
    };
    let none = || ("404 Not Found", String::new(), Vec::new());
    if path.contains("some/gated") && token.as_deref() != Some(TOKEN) {
        return ("401 Unauthorized", "x-error-code: GatedRepo\r\n".into(), Vec::new());
    }
    let path = path.replace("some/gated", "some/tiny");
    if let Some(revision) = path.strip_prefix("/api/models/some/tiny/revision/") {
        let commit = if revision == "main" { main } else { revision };
        if ![FIRST, SECOND].contains(&commit) {
            return none();
        }
        let mut names: Vec<String> =
            folder(commit).read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        // The hub also has what nobody needs.
        names.extend([
            "README.md".to_owned(),
            "original/consolidated.00.pth".into(),
            "consolidated.safetensors".into(),
        ]);
        let siblings: Vec<_> = names.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": commit, "siblings": siblings }).to_string();
        return ("200 OK", String::new(), body.into_bytes());
    }
    if let Some((commit, name)) = path.strip_prefix("/some/tiny/resolve/").and_then(|p| p.split_once('/')) {
        // Large files are at another host, small ones at another path of this one.
        let place = match name.ends_with(".safetensors") {
            true => format!("http://localhost:{port}/lfs/{commit}/{name}"),
            false => format!("/api/resolve-cache/models/some/tiny/{commit}/{name}"),
        };
        let more = format!(
            "location: {place}\r\nx-repo-commit: {commit}\r\netag: \"{commit}-{name}\"\r\nx-linked-etag: \"{commit}-{name}\"\r\n"
        );
        return (if name.ends_with(".safetensors") { "302 Found" } else { "307 Temporary Redirect" }, more, Vec::new());
    }
    let rest = path.strip_prefix("/lfs/").or_else(|| path.strip_prefix("/api/resolve-cache/models/some/tiny/"));
    let Some((commit, name)) = rest.and_then(|p| p.split_once('/')) else { return none() };
    let Ok(bytes) = std::fs::read(folder(commit).join(name)) else { return none() };
    let range = headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
    let Some((from, to)) = range else { return ("200 OK", String::new(), bytes) };
    let from: usize = from.parse().unwrap();
    if from >= bytes.len() {
        return ("416 Range Not Satisfiable", String::new(), Vec::new());
    }
    let to = to.parse().map_or(bytes.len(), |to: usize| bytes.len().min(to + 1));
    let more = format!(
        "content-range: bytes {from}-{}/{}\r\nx-repo-commit: {commit}\r\netag: \"{commit}-{name}\"\r\n",
        to - 1,
        bytes.len()
    );
    ("206 Partial Content", more, bytes[from..to].to_vec())
}

/// The program on a pipeline in which a model of the hub answers `rows` requests.
fn command(dir: &Path, port: u16, repo: &str, rows: usize, name: &str, env: &[(&str, &str)]) -> Command {
    let file = dir.join(format!("{name}.toml"));
    let text = format!(
        "[pipeline]\nname = \"h\"\nmicrobatch = 1\n[model.m]\nhf = {repo:?}\n[step.requests]\nop = \"listworld\"\ndata = \"ift\"\n\
         rows = {rows}\n[step.answers]\nop = \"generate\"\nfrom = \"requests\"\nmodel = \"m\"\nsamples = 1\n\
         sampling = {{ max_tokens = 24 }}\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").arg("run").arg(&file);
    command.arg("--runs").arg(dir.join("runs")).args(["--name", name, "--device", "cpu"]);
    for gone in
        ["HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "ALL_PROXY"]
    {
        command.env_remove(gone);
    }
    command.env("HF_ENDPOINT", format!("http://127.0.0.1:{port}")).env("HF_HOME", dir.join("cache"));
    command.envs(env.iter().copied());
    command
}

/// The commit that a run has recorded, and the models that wrote its rows.
fn used(dir: &Path, name: &str) -> (String, Vec<String>) {
    let run = Run::open(&dir.join("runs").join(name)).unwrap();
    let commit = run.input("model.m", "hf").unwrap().revision.unwrap();
    let rows = run.read_step("answers", None).unwrap().unwrap();
    let mut models: Vec<String> = Columns(&rows).text("model").unwrap().iter().map(|m| m.unwrap().to_owned()).collect();
    models.dedup();
    (commit, models)
}

#[test]
fn a_run_takes_a_commit_and_keeps_it() {
    let (hub, temp) = (Hub::start(), tempfile::tempdir().unwrap());
    let dir = temp.path();
    let run = |name: &str, rows| command(dir, hub.port, "some/tiny", rows, name, &[]).output().unwrap();
    let first = run("first", 2);
    assert_eq!(first.status.code(), Some(0), "{}", said(&first));
    let (commit, model) = used(dir, "first");
    assert_eq!((commit.as_str(), model.len()), (FIRST, 1));
    let asked: Vec<String> = hub.asked().into_iter().map(|(path, _)| path).collect();
    assert!(asked.contains(&"/api/models/some/tiny/revision/main".to_owned()), "{asked:?}");
    assert!(asked.iter().any(|p| p.starts_with("/lfs/") && p.ends_with("model.safetensors")), "{asked:?}");
    let unneeded = |p: &&String| p.contains("README") || p.contains("original") || p.contains("consolidated");
    assert_eq!(asked.iter().find(unneeded), None, "files that no model is loaded from");

    // Killed while it answers; meanwhile the branch moves on.
    let mut child = command(dir, hub.port, "some/tiny", 150, "killed", &[])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let rows = dir.join("runs/killed/data/answers");
    while !rows.exists() || rows.read_dir().unwrap().next().is_none() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it had a row");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    hub.shelf.lock().unwrap().main = SECOND;
    hub.asked();
    let resumed = run("killed", 150);
    assert!(resumed.status.success() && said(&resumed).contains("continuing the run"), "{}", said(&resumed));
    assert_eq!(used(dir, "killed"), (FIRST.to_owned(), model.clone()), "the commit that it began with");
    assert!(hub.asked().iter().all(|(path, _)| !path.contains("revision/main") && !path.contains(SECOND)));

    // What an interrupted download left is gone on with.
    let blobs = dir.join("cache/hub/models--some--tiny/blobs");
    let whole = std::fs::read(folder(SECOND).join("model.safetensors")).unwrap();
    std::fs::write(blobs.join(format!("{SECOND}-model-safetensors.part")), &whole[..1000]).unwrap();
    // Of another file everything had come, and only its name was missing.
    let config = std::fs::read(folder(SECOND).join("config.json")).unwrap();
    std::fs::write(blobs.join(format!("{SECOND}-config-json.part")), &config).unwrap();
    let fresh = run("fresh", 2);
    assert_eq!(fresh.status.code(), Some(0), "{}", said(&fresh));
    let (commit, other) = used(dir, "fresh");
    assert!(commit == SECOND && other != model, "a new run takes what the branch is now");
    assert_eq!(std::fs::read(blobs.join(format!("{SECOND}-model-safetensors"))).unwrap(), whole);
    assert_eq!(std::fs::read(blobs.join(format!("{SECOND}-config-json"))).unwrap(), config);
}

#[test]
fn the_cache_serves_where_the_hub_is_not_asked_or_not_there() {
    let (hub, temp) = (Hub::start(), tempfile::tempdir().unwrap());
    let dir = temp.path();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let offline = [("HF_HUB_OFFLINE", "1")];
    let none = command(dir, hub.port, "some/tiny", 2, "none", &offline).output().unwrap();
    assert!(none.status.code() == Some(2) && said(&none).contains("is not in the cache"), "{}", said(&none));
    assert_eq!(hub.asked(), [], "offline means offline");
    let gone = command(dir, closed, "some/tiny", 2, "gone", &[]).output().unwrap();
    assert!(!gone.status.success() && said(&gone).contains("cannot be reached"), "{}", said(&gone));

    let online = command(dir, hub.port, "some/tiny", 2, "online", &[]).output().unwrap();
    assert_eq!(online.status.code(), Some(0), "{}", said(&online));
    hub.asked();
    for (name, port, env) in [("offline", hub.port, &offline[..]), ("closed", closed, &[])] {
        let output = command(dir, port, "some/tiny", 2, name, env).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", said(&output));
        assert_eq!(said(&output).contains("is taken from the cache"), name == "closed", "{}", said(&output));
        assert_eq!(used(dir, name), used(dir, "online"), "{name}");
    }
    assert_eq!(hub.asked(), []);
}

#[test]
fn a_hub_that_says_nothing_is_not_waited_for() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    // It takes connections, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let output = command(dir, port, "some/tiny", 2, "silent", &[("HF_HUB_DOWNLOAD_TIMEOUT", "1")]).output().unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("cannot be reached"), "{}", said(&output));
}

#[test]
fn gated_and_absent_models_are_told_apart() {
    let (hub, temp) = (Hub::start(), tempfile::tempdir().unwrap());
    let dir = temp.path();
    for (name, repo, env, words) in [
        ("gated", "some/gated", &[][..], "is gated or private (401)"),
        ("refused", "some/gated", &[("HF_TOKEN", "hf_bad")], "is not open to this access token (401)"),
        ("absent", "some/none", &[], "has no model some/none with a revision main (404)"),
    ] {
        let output = command(dir, hub.port, repo, 2, name, env).output().unwrap();
        assert!(output.status.code() == Some(2) && said(&output).contains(words), "{name}: {}", said(&output));
    }
    hub.asked();
    let open = command(dir, hub.port, "some/gated", 2, "open", &[("HF_TOKEN", TOKEN)]).output().unwrap();
    assert_eq!(open.status.code(), Some(0), "{}", said(&open));
    // The token is the hub's, and nobody else's.
    let asked = hub.asked();
    assert!(asked.iter().any(|(path, token)| path.contains("/resolve/") && *token));
    assert!(asked.iter().any(|(path, _)| path.starts_with("/lfs/")));
    assert!(asked.iter().all(|(path, token)| !path.starts_with("/lfs/") || !token), "{asked:?}");
}
