//! The page of a run: its figures are those of the other commands, it is bounded and the same each time, and no text of
//! a model leaves its place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::looked_at::{finished, lines, of, reflux, text};
use crate::common::{RunOptions, run, small_loop};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The page of a run, as a file and as text.
fn page(run: &Path) -> (PathBuf, String) {
    let out = tempfile::tempdir().unwrap().keep().join("page.html");
    text(&["report", run.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    let html = std::fs::read_to_string(&out).unwrap();
    (out, html)
}

/// The snapshot in a page.
fn snapshot(html: &str) -> Value {
    let data = html.split_once("id=\"snapshot\">").unwrap().1.split_once("</script>").unwrap().0;
    serde_json::from_str(data).unwrap()
}

/// A run of the small loop, changed by `change`, as the program makes it, with the page that it wrote at its end.
fn made(change: impl Fn(String) -> String) -> PathBuf {
    let temp = tempfile::tempdir().unwrap().keep();
    let file = temp.join("small.toml");
    std::fs::write(&file, change(small_loop(&temp))).unwrap();
    text(&["run", file.to_str().unwrap(), "--runs", temp.to_str().unwrap(), "-q"]);
    temp.join("small")
}

#[test]
fn figures_are_those_of_the_other_commands() {
    let run = finished().to_str().unwrap();
    let shown = snapshot(&page(finished()).1);
    let contents: Value = serde_json::from_str(&text(&["ls", run, "--json"])).unwrap();
    let mut counts = BTreeMap::new();
    for step in shown["steps"].as_array().unwrap() {
        for count in step["counts"].as_array().unwrap() {
            counts.insert((step["name"].as_str().unwrap(), count["iteration"].as_u64().unwrap()), count);
        }
    }
    let listed = contents["steps"].as_array().unwrap();
    for step in listed.iter().filter(|s| !s["step"].as_str().unwrap().contains('.')) {
        let count = counts[&(step["step"].as_str().unwrap(), step["iteration"].as_u64().unwrap())];
        for figure in ["rows", "microbatches", "bytes", "left_out"] {
            assert_eq!(count[figure], step[figure], "{figure} of {step}");
        }
    }
    let summary: Value = serde_json::from_str(&text(&["summary", run, "--json"])).unwrap();
    assert_eq!(shown["sections"]["overview"]["table"], summary["table"]);
    assert_eq!(shown["sections"]["health"]["values"], summary["health"]);
    for list in ["left_out", "unused"] {
        assert_eq!(shown["sections"]["funnel"][list], summary[list]);
    }
    // The distribution of a step's scores has the rows and the mean of its rows.
    let distributions = shown["sections"]["scores"]["distributions"].as_array().unwrap();
    let scores = distributions.iter().find(|d| d["step"] == "scores" && d["name"] == "score").unwrap();
    for (place, iteration) in scores["iterations"].as_array().unwrap().iter().enumerate() {
        let mean = summary["loop"][place]["scores mean"].as_f64().unwrap();
        assert!((iteration["mean"].as_f64().unwrap() - mean).abs() < 1e-4 * mean.abs().max(1.), "{iteration}");
        let rows = iteration["n"].as_u64().unwrap() + iteration["without"].as_u64().unwrap();
        assert_eq!(rows, counts[&("scores", place as u64 + 1)]["rows"].as_u64().unwrap());
        let binned: u64 = iteration["bins"].as_array().unwrap().iter().map(|bin| bin[1].as_u64().unwrap()).sum();
        assert_eq!(binned, iteration["n"].as_u64().unwrap());
    }
    // Curves have the values of the metrics, to the digits that a drawing needs.
    let rows = lines(&["show", &of("metrics/dpo"), "--iteration", "2", "--format", "json"]);
    let trainings = shown["sections"]["training"]["trainings"].as_array().unwrap();
    let dpo = trainings.iter().find(|t| t["step"] == "dpo" && t["iteration"] == 2).unwrap();
    assert_eq!((dpo["every"].as_u64(), dpo["at"].as_array().unwrap().len()), (Some(1), rows.len()));
    for (row, loss) in rows.iter().zip(dpo["curves"]["loss"].as_array().unwrap()) {
        let loss = loss.as_f64().unwrap();
        assert!((loss - row["loss"].as_f64().unwrap()).abs() <= 1e-4 * loss.abs(), "{row}");
    }
}

#[test]
fn the_reading_room_tells_what_trace_tells() {
    let shown = snapshot(&page(finished()).1);
    let prompts = shown["sections"]["reading"]["prompts"].as_array().unwrap();
    let paired: Vec<&Value> = prompts.iter().filter(|p| p["pairs"] != json!([])).collect();
    assert!(!paired.is_empty(), "no sampled prompt has a pair");
    for prompt in paired.iter().take(3) {
        let id = prompt["prompt_id"].as_str().unwrap();
        let trace: Value = serde_json::from_str(&text(&["trace", finished().to_str().unwrap(), id, "--json"])).unwrap();
        let events = |what: &str| {
            let here = |e: &&Value| e["what"] == what && e["iteration"] == prompt["iteration"];
            trace["events"].as_array().unwrap().iter().filter(here).cloned().collect::<Vec<_>>()
        };
        let scores = events("score");
        assert_eq!(prompt["answers"].as_array().unwrap().len(), scores.len());
        let best = prompt["answers"][0]["score"].as_f64();
        assert_eq!(
            best,
            scores.iter().filter_map(|e| e["row"]["score"].as_f64()).reduce(f64::max),
            "the best comes first"
        );
        let (pair, training) = (&prompt["pairs"][0], &events("training")[0]);
        assert_eq!(pair["training"]["optimizer_steps"], training["optimizer_steps"]);
        assert_eq!(pair["chosen_id"], training["row"]["chosen_id"]);
        assert_eq!(prompt["references"][0]["chosen_logprob"], training["row"]["chosen_logprob"]);
    }
}

#[test]
fn a_run_has_one_page() {
    assert_eq!(page(finished()).1, page(finished()).1);
    assert!(page(finished()).1.len() < 2_000_000);
    let (code, _, err) = reflux(&["report", "no-such-run"]);
    assert!(code == Some(2) && err.contains("no-such-run"), "{err}");
}

/// Markup, addresses, handlers, templates and marks of writing direction, as a hostile model would write them.
const HOSTILE: &str = r#"
[[answer]]
match = "You write tasks"
text = ["Name {n} things <script>window.pwned=1</script>", "Say </script><img src=x onerror=window.pwned=1> {n}", "Explain javascript:window.pwned=1 {n} \u202eback\u202c"]
[[answer]]
match = "You grade an AI"
text = ["<b onclick='window.pwned=1'>fine</b> {{ 7 * 7 }} <!--<script>\nScore: {score}", "]]> &lt;iframe src='javascript:window.pwned=1'>\nScore: {score}", "\u2028 none"]
[[answer]]
text = ["Answer {n} <svg onload=window.pwned=1>."]
"#;

/// The small loop with a model that writes [`HOSTILE`] texts.
fn hostile() -> PathBuf {
    let temp = tempfile::tempdir().unwrap().keep();
    let script = temp.join("hostile.toml");
    std::fs::write(&script, HOSTILE).unwrap();
    made(|text| {
        let line = text.lines().find(|line| line.starts_with("script = ")).unwrap().to_owned();
        text.replace(&line, &format!("script = {script:?}"))
    })
}

#[test]
fn texts_of_models_stay_texts() {
    let run = hostile();
    let html = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert_eq!(html, page(&run).1, "the command writes what the run wrote");
    // Two elements of the page's own: the snapshot and the script.
    assert_eq!(html.matches("<script").count() - 2, 0, "only the page's own scripts");
    assert_eq!(html.matches("</script>").count(), 2);
    let policy = html.split_once("Content-Security-Policy\" content=\"").unwrap().1.split_once('"').unwrap().0;
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    let scripts = policy.split("script-src").nth(1).unwrap().split(';').next().unwrap();
    assert!(!scripts.contains("unsafe"), "{policy}");
    let shown = snapshot(&html).to_string();
    for text in ["<script>window.pwned=1</script>", "{{ 7 * 7 }}", "\\\\u{202e}back"] {
        assert!(shown.contains(text), "{text} is not shown");
    }
    assert!(!shown.contains(['\u{202e}', '\u{202c}', '\u{2028}']), "marks of writing direction are escaped");
}

#[test]
fn a_run_without_a_loop_says_what_it_does_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[pipeline]\nname = \"p\"\nseed = 1\n[step.asked]\nop = \"listworld\"\ndata = \"requests\"\nrows = 5\n";
    let run_dir = dir.path().join("p");
    run(text, &run_dir, &RunOptions::default()).0.unwrap();
    let shown = snapshot(&page(&run_dir).1);
    assert_eq!((&shown["state"], &shown["iterations"]), (&json!("unfinished"), &json!(0)));
    for section in ["overview", "scores", "training", "evaluation", "health", "reading", "time"] {
        let words = shown["sections"][section]["absent"].as_str().unwrap_or_else(|| panic!("{section}"));
        assert!(words.ends_with('.'), "{words}");
    }
    assert_eq!(shown["sections"]["rows"]["groups"][0]["sample"].as_array().unwrap().len(), 5);
}

#[test]
fn the_libraries_are_those_that_their_list_names() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/page/vendor");
    let list = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let files: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".js"))
        .collect();
    assert!(!files.is_empty());
    for name in files {
        let bytes = std::fs::read(folder.join(&name)).unwrap();
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let line = list.lines().find(|line| line.contains(&format!("`{name}`"))).unwrap();
        assert!(line.contains(&hash), "{name} has the hash {hash}");
    }
}

/// `tests/browser/report.mjs` has the checks.
#[test]
#[ignore = "needs REFLUX_CHROMIUM, the path of Chromium, and REFLUX_NODE_MODULES, a folder with playwright-core and axe-core"]
fn a_browser_shows_it() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let many = made(|text| {
        text.replace("iterations = 2", "iterations = 60").replace("per_iteration = 20", "per_iteration = 6")
    });
    let pages = json!([
        { "name": "hostile", "path": page(&hostile()).0, "iterations": 2, "hostile": true },
        { "name": "60 iterations", "path": page(&many).0, "iterations": 60, "hostile": false },
    ]);
    let list = tempfile::tempdir().unwrap().keep().join("pages.json");
    std::fs::write(&list, pages.to_string()).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("node")
        .arg(root.join("tests/browser/report.mjs"))
        .args([variable("REFLUX_NODE_MODULES"), variable("REFLUX_CHROMIUM")])
        .arg(&list)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
