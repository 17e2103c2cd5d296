//! What a run was made of is known: inputs that were edited are refused, with the replay that makes what follows.

use std::fs;

use crate::case::{Case, edit, rows};
use crate::common::program::said;
use crate::common::{self, outcome};
use candle_core::Device;
use reflux::model::{LoraConfig, Model};
use reflux::store::Run;

/// The command that a message proposes.
fn proposed(text: &str) -> Vec<String> {
    let line = text.lines().find_map(|l| l.trim().strip_prefix("reflux replay ")).unwrap_or_else(|| panic!("{text}"));
    std::iter::once("replay").chain(line.split(' ')).map(str::to_owned).collect()
}

/// Each kind of input is edited between two halves of a run, which then is refused; the replay that the refusal names makes what
/// a run of the edited input makes from its start.
#[test]
fn an_input_that_has_changed_is_refused_and_the_replay_makes_it() {
    type Edit = fn(&Case);
    let cases: [(&str, Edit, &str); 5] = [
        ("step.prompts.dataset", |c| c.write_prompts("new"), "--from prompts "),
        (
            "step.scores.rubric",
            |c| fs::write(c.path("rubric.jinja"), "You grade an AI! {{ prompt }}{{ response }}").unwrap(),
            "--from scores ",
        ),
        ("model.script.script", |c| edit(&c.path("script-0.toml"), "It depends on", "It hangs on"), "--from scores "),
        (
            "model.small.init",
            |c| edit(&c.path("model/config.json"), "\"rms_norm_eps\"", "\"reflux_note\": 1, \"rms_norm_eps\""),
            "--from responses ",
        ),
        ("model.small.init", |c| fs::write(c.path("model/generation_config.json"), "{}").unwrap(), "--from responses "),
    ];
    for (key, change, from) in cases {
        let case = Case::new();
        // Each input has been read by then, and the run is not finished.
        let output = case.run(&[], "model-before-rename:1");
        assert!(output.status.code().is_none(), "{key}: {}", said(&output));
        change(&case);
        let before = rows(&case.run_dir());
        let refused = case.run(&[], "");
        let text = said(&refused);
        assert_eq!(refused.status.code(), Some(2), "{key}: {text}");
        assert!(text.contains("read other inputs") && text.contains(&format!("({key})")), "{key}: {text}");
        assert!(text.contains(from), "{key}: {text}");
        assert_eq!(before, rows(&case.run_dir()), "{key}: a refused run changes nothing");
        let command = proposed(&text);
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let replayed = case.reflux(&[&words[..], &["--device", "cpu"]].concat(), "");
        assert!(replayed.status.success(), "{key}: {}", said(&replayed));
        assert!(said(&replayed).contains("changed since: "), "{key}: {}", said(&replayed));
        case.to_the_end(&["--name", "anew"]);
        assert_eq!(outcome(&case.path("runs/r-2")), outcome(&case.path("runs/anew")), "{key}");
    }
}

#[test]
fn an_edited_input_of_a_finished_run_is_told() {
    let case = Case::new();
    case.to_the_end(&[]);
    let before = rows(&case.run_dir());
    assert!(said(&case.run(&[], "")).contains("is finished"));
    let prompts = fs::read(case.path("prompts.jsonl")).unwrap();
    case.write_prompts("new");
    let refused = case.run(&[], "");
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("read other inputs") && text.contains("(step.prompts.dataset)"), "{text}");
    assert!(text.contains("--from prompts "), "{text}");
    assert_eq!(before, rows(&case.run_dir()));
    fs::write(case.path("prompts.jsonl"), prompts).unwrap();
    assert!(said(&case.run(&[], "")).contains("is finished"));
}

#[test]
fn replay_compares_the_inputs_of_what_it_takes_over() {
    let case = Case::new();
    // Rows that were not kept cannot be taken over.
    fs::write(case.path("p.toml"), case.pipeline().replace("keep = false\n", "")).unwrap();
    case.to_the_end(&[]);
    fs::write(case.path("rubric.jinja"), "You grade an AI: {{ prompt }} {{ response }}").unwrap();
    let (run, runs) = (case.run_dir(), case.path("runs"));
    let place = ["--runs", runs.to_str().unwrap(), "--into", "other", "--device", "cpu"];
    // The judge's step would be taken over, and its rubric is another one now.
    let args = ["replay", run.to_str().unwrap(), "--from", "tuned"];
    let refused = case.reflux(&[&args[..], &place].concat(), "");
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("--from scores") && text.contains("rubric.jinja` has"), "{text}");
    assert!(!case.path("runs/other").exists());
    // The lines of inputs that have not changed are taken over with the rows.
    fs::write(case.path("rubric.jinja"), "You grade an AI. {{ prompt }} {{ response }}").unwrap();
    let done = case.reflux(&[&args[..], &place].concat(), "");
    assert!(done.status.success(), "{}", said(&done));
    let keys = |name: &str| -> Vec<String> {
        let inputs = Run::open(&case.path(name)).unwrap().inputs();
        inputs.into_iter().map(|i| format!("{}.{} {}", i.table, i.key, i.hash)).collect()
    };
    assert_eq!(keys("runs/other"), keys("runs/r"));
    assert_eq!(keys("runs/r").len(), 4);
}

/// An adapter's base model is an input as the adapter is.
#[test]
fn the_base_of_an_adapter_is_an_input() {
    let case = Case::new();
    let base = Model::init(&case.path("model"), 0.05, 1, &Device::Cpu, candle_core::DType::F32, false).unwrap();
    base.save(&case.path("base")).unwrap();
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    let adapted = base.with_lora(&lora, 1).unwrap();
    adapted.save_lora(Some(case.path("base").to_str().unwrap()), &case.path("adapter")).unwrap();
    let text = case.pipeline().replace(
        &format!("init = \"{}\"", case.path("model").display()),
        &format!("path = \"{}\"", case.path("adapter").display()),
    );
    fs::write(case.path("p.toml"), text).unwrap();
    let output = case.run(&[], "model-before-rename:1");
    assert!(output.status.code().is_none(), "{}", said(&output));
    let inputs = Run::open(&case.run_dir()).unwrap().inputs();
    let keys: Vec<String> = inputs.iter().map(|i| format!("{}.{}", i.table, i.key)).collect();
    assert!(
        keys.contains(&"model.small.path".to_owned()) && keys.contains(&"model.small.path.base".to_owned()),
        "{keys:?}"
    );
    let other = Model::init(&case.path("model"), 0.05, 2, &Device::Cpu, candle_core::DType::F32, false).unwrap();
    other.save(&case.path("base")).unwrap();
    let refused = said(&case.run(&[], ""));
    assert!(refused.contains("base/model.safetensors` has other content (model.small.path.base)"), "{refused}");
    assert!(refused.contains("--from responses"), "{refused}");
}

#[test]
fn settings_that_change_no_row_may_change() {
    let case = Case::new();
    case.killed(8);
    let whole = Case::new();
    whole.to_the_end(&[]);
    let set = ["--set", "engine.max_batch=3", "--set", "engine.threads=1", "--set", "engine.kv_memory=\"1 MiB\""];
    case.to_the_end(
        &[&set[..], &["--set", "pipeline.window=1", "--set", "pipeline.name=other", "--name", "r"]].concat(),
    );
    // The models say where their bases were, which are two folders here.
    assert_eq!(rows(&case.run_dir()), rows(&whole.run_dir()));
    assert!(case.verify(&[]).status.success());
    let refused = said(&case.run(&["--set", "step.scores.samples=3"], ""));
    assert!(refused.contains("the pipeline file has changed"), "{refused}");
}

/// A run of before the manifest had inputs goes on, and is compared with its file as it was.
#[test]
fn a_manifest_of_format_1_is_read() {
    let case = Case::new();
    case.killed(8);
    let dir = case.run_dir();
    // Its file did not end with its own hash.
    let text = fs::read_to_string(dir.join("pipeline.toml")).unwrap();
    let (text, _) = text.split_once("# blake3").unwrap();
    fs::write(dir.join("pipeline.toml"), text).unwrap();
    let mut health = false;
    let identity: String = text
        .split_inclusive('\n')
        .filter(|line| {
            if line.starts_with('[') {
                health = line.trim_end() == "[health]";
            }
            !health
        })
        .collect();
    let hash = blake3::hash(identity.trim_end().as_bytes()).to_hex().to_string();
    let manifest = common::without_checksums(&fs::read_to_string(dir.join("manifest.jsonl")).unwrap());
    let mut lines: Vec<String> =
        manifest.lines().filter(|l| !l.contains("\"kind\":\"input\"")).map(String::from).collect();
    lines[0] = format!("{{\"kind\":\"run\",\"format\":1,\"reflux\":\"0.1.0\",\"pipeline\":\"{hash}\",\"seed\":3}}");
    fs::write(dir.join("manifest.jsonl"), lines.join("\n") + "\n").unwrap();
    assert!(case.verify(&[]).status.success(), "{}", said(&case.verify(&[])));
    let refused = said(&case.run(&["--set", "engine.max_batch=3"], ""));
    assert!(refused.contains("the pipeline file has changed"), "{refused}");
    case.to_the_end(&[]);
    assert!(case.verify(&[]).status.success());
}
