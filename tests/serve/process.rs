//! The command: its line, its signals, its refusals.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::client::{MODEL, reply};

fn spawn(args: &[&str], key: Option<&str>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").env_remove("SERVE_TEST_KEY");
    command.args(["serve", MODEL, "--port", "0", "-q", "--kv-memory", "16MiB"]).args(args);
    if let Some(key) = key {
        command.env("SERVE_TEST_KEY", key);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn refused(args: &[&str], key: Option<&str>) -> String {
    let output = spawn(args, key).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_command_prints_its_address_and_ends_on_a_signal() {
    let mut child = spawn(&["--key-env", "SERVE_TEST_KEY", "--name", "small"], Some("k-1"));
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("serving small on ").unwrap_or_else(|| panic!("{line}"));
    let body = json!({ "model": "small", "prompt": "name two", "max_tokens": 2 }).to_string();
    let post = || ureq::post(&format!("{url}/completions"));
    assert_eq!(reply(post().send_string(&body)).0, 401);
    let (status, text) = reply(post().set("Authorization", "Bearer k-1").send_string(&body));
    assert_eq!(status, 200, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&answer["model"], &answer["object"]), (&json!("small"), &json!("text_completion")));
    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn an_open_address_requires_a_key() {
    let open = refused(&["--host", "0.0.0.0"], None);
    assert!(open.contains("a key is required") && open.contains("--key-env"), "{open}");
    let unset = refused(&["--key-env", "SERVE_TEST_KEY"], None);
    assert!(unset.contains("the variable is not set"), "{unset}");
    let blank = refused(&["--key-env", "SERVE_TEST_KEY"], Some("a b"));
    assert!(blank.contains("visible ASCII"), "{blank}");
    let nowhere = refused(&["--host", "203.0.113.1"], None);
    assert!(nowhere.contains("cannot listen on 203.0.113.1:0"), "{nowhere}");
}
