//! The key `structured`: judgements that a server holds to a form.

use std::path::{Path, PathBuf};
use std::process::Command;

use reflux::data::Columns;
use reflux::store::Run;
use serde_json::{Value, json};

use crate::common::program::said;
use crate::models::{chat, completions, models, number, run};
use crate::stub::{Request, Response, Stub};

/// A pipeline whose judge is the model on this server, or a script without one, with more keys of the judge.
fn pipeline(dir: &Path, url: Option<&str>, judge: &str) -> PathBuf {
    let script = dir.join("script.toml");
    std::fs::write(&script, "[[answer]]\ntext = [\"yes\", \"no\"]\n").unwrap();
    let model = url.map_or_else(|| format!("script = {script:?}"), |url| format!("server = {url:?}\nname = \"smol\""));
    let text = format!(
        r#"
[pipeline]
name = "held"
seed = 5
microbatch = 4
[model.script]
script = {script:?}
[model.judge]
{model}
[step.requests]
op = "listworld"
data = "requests"
rows = 8
[step.answers]
op = "generate"
from = "requests"
model = "script"
samples = 2
[step.judged]
op = "judge"
from = "answers"
model = "judge"
samples = 2
{judge}
"#
    );
    let file = dir.join("held.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// The texts between the last parentheses of a regular expression.
fn alternatives(regex: &str) -> Vec<String> {
    let inner = regex.rsplit_once('(').map_or(regex, |(_, inner)| inner).trim_end_matches(')');
    inner.replace('\\', "").split('|').map(str::to_owned).collect()
}

/// An answer that obeys `structured_outputs` if the server knows it, and `response_format` if it knows that.
fn answer(request: &Request, owner: &str, knows: &[&str]) -> Response {
    if request.method == "GET" {
        return models(owner);
    }
    let body = request.json();
    let drawn = number(&request.body, 1 << 20) as usize;
    let pick = |texts: &[Value]| texts[drawn % texts.len()].clone();
    let held = &body["structured_outputs"];
    let key = |key: &str| knows.contains(&key).then(|| held.get(key)).flatten();
    let formatted = knows.contains(&"response_format").then(|| body.get("response_format")).flatten();
    let schema = formatted.map(|format| &format["json_schema"]["schema"]);
    let text = if let Some(choices) = key("choice") {
        pick(choices.as_array().unwrap()).as_str().unwrap().to_owned()
    } else if let Some(object) = key("regex").and_then(|r| r.as_str()).filter(|r| r.starts_with("\\{")) {
        let name = object.rsplit_once("\": (").unwrap().0.rsplit_once('"').unwrap().1;
        let values = alternatives(object.trim_end_matches("\\}"));
        let value: Vec<Value> = values.iter().map(|v| serde_json::from_str(v).unwrap()).collect();
        json!({"reasons": "fine", name: pick(&value)}).to_string()
    } else if let Some(regex) = key("regex") {
        let texts = alternatives(&regex.as_str().unwrap().replace("\\[\\[", "<").replace("\\]\\]", ">"));
        let texts: Vec<Value> = texts.iter().map(|t| json!(t.replace('<', "[[").replace('>', "]]"))).collect();
        format!("It is\nfine.\n{}", pick(&texts).as_str().unwrap())
    } else if let Some(schema) = schema {
        let (name, values) = schema["properties"].as_object().unwrap().iter().find(|(k, _)| *k != "reasons").unwrap();
        json!({"reasons": "fine", name: pick(values["enum"].as_array().unwrap())}).to_string()
    } else {
        format!("Answer {drawn}, as I please.")
    };
    chat(&text)
}

/// Checks that all judgements of a run have a score, and returns their number.
fn all_read(runs: &Path) -> usize {
    let run = Run::open(&runs.join("held")).unwrap();
    let rows = run.read_step("judged", None).unwrap().unwrap();
    let columns = Columns(&rows);
    let judgements = columns.judgements("judgements").unwrap();
    let mut count = 0;
    for row in 0..rows.num_rows() {
        for judgement in judgements.whole(row) {
            assert_eq!(judgement.outcome, "score", "{}", judgement.text);
            count += 1;
        }
    }
    count
}

#[test]
fn judgements_are_held_to_each_form() {
    let scores = json!(["Score: 0", "Score: 1", "Score: 2", "Score: 3", "Score: 4", "Score: 5"]);
    let regex = "(.|\\n){0,512}\\n(Score: 0|Score: 1|Score: 2|Score: 3|Score: 4|Score: 5)";
    for (keys, field, wanted) in [
        ("structured = \"choice\"", "choice", scores),
        ("structured = \"regex\"", "regex", json!(regex)),
        ("structured = \"choice\"\npattern = 'Rating: (\\d)'\nmax = 1", "choice", json!(["Rating: 0", "Rating: 1"])),
        ("structured = \"choice\"\nmode = \"pairwise\"", "choice", json!(["[[A]]", "[[B]]", "[[C]]"])),
        (
            "structured = \"regex\"\nmode = \"pairwise\"\nsampling.max_tokens = 9",
            "regex",
            json!("(.|\\n){0,18}\\n(\\[\\[A\\]\\]|\\[\\[B\\]\\]|\\[\\[C\\]\\])"),
        ),
        ("structured = \"json\"", "regex", Value::Null),
        ("structured = \"json\"\nmode = \"pairwise\"", "regex", Value::Null),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let stub = Stub::start(|request| answer(request, "vllm", &["choice", "regex"]));
        let file = pipeline(dir.path(), Some(&stub.url()), keys);
        let output = run(&file, &dir.path().join("runs"), &[]);
        assert!(output.status.success(), "{keys}: {}", said(&output));
        assert!(all_read(&dir.path().join("runs")) >= 32, "{keys}");
        let last: Value = serde_json::from_str(completions(&stub).last().unwrap()).unwrap();
        let sent = &last["structured_outputs"][field];
        match wanted {
            Value::Null => assert!(sent.as_str().unwrap().contains("{0,512}"), "{keys}: {sent}"),
            wanted => assert_eq!(*sent, wanted, "{keys}"),
        }
    }
}

#[test]
fn a_server_that_ignores_the_form_is_found_out_and_another_form_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::start(|request| answer(request, "vllm", &[]));
    let file = pipeline(dir.path(), Some(&stub.url()), "structured = \"choice\"");
    let output = run(&file, &dir.path().join("runs"), &[]);
    let words = said(&output);
    assert!(
        words.contains("step `judged` has structured = \"choice\", which the server of `judge` ignores"),
        "{words}"
    );
    assert!(words.contains("take `structured` out") && !dir.path().join("runs/held/data").exists(), "{words}");
    // One that knows OpenAI's own field, and nothing else.
    let stub = Stub::start(|request| answer(request, "someone", &["response_format"]));
    let file = pipeline(dir.path(), Some(&stub.url()), "structured = \"regex\"");
    let check = Command::new(env!("CARGO_BIN_EXE_reflux")).args(["check", "--online"]).arg(&file).output().unwrap();
    assert!(said(&check).contains("it honours structured = \"json\"; or take the key out"), "{}", said(&check));
    let file = pipeline(dir.path(), Some(&stub.url()), "structured = \"json\"");
    let output = run(&file, &dir.path().join("json"), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(all_read(&dir.path().join("json")), 32);
}

#[test]
fn what_cannot_be_held_to_a_form_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::start(|request| answer(request, "vllm", &["choice", "regex"]));
    let url = stub.url();
    for (url, keys, words) in [
        (None, "structured = \"choice\"", "structured = \"choice\" needs a model on a server"),
        (None, "structured = \"regex\"\nmode = \"pairwise\"", "structured = \"regex\" needs a model on a server"),
        (Some(&*url), "structured = \"choice\"\nmode = \"expected\"", "other probabilities than the judge's own"),
        (Some(&*url), "structured = \"json\"\nkeep_tokens = true", "take `keep_tokens` out"),
        (Some(&*url), "structured = \"choice\"\nmax = 4.5", "constrained scores are whole numbers"),
        (
            Some(&*url),
            "structured = \"regex\"\npattern = 'Points (\\d)'",
            "does not read every score in such a judgement",
        ),
        (Some(&*url), "structured = \"json\"\npattern = 'Rating: (\\d)\"'", ""),
        (Some(&*url), "structured = \"yes\"", "`structured`"),
    ] {
        let file = pipeline(dir.path(), url, keys);
        let check = Command::new(env!("CARGO_BIN_EXE_reflux")).arg("check").arg(&file).output().unwrap();
        let printed = said(&check);
        assert_eq!(check.status.success(), words.is_empty(), "{keys}: {printed}");
        assert!(printed.contains(words), "{keys}: {printed}");
    }
    assert_eq!(stub.count(), 0);
}
