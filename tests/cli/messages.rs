//! Messages for programs and for nobody, and what a run closes with, printed again.

use std::process::{Command, Output};

use serde_json::{Value, json};

use super::suggestions::{World, without_training};

fn output(world: &World, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(world.0.path()).env("NO_COLOR", "1").env_remove("REFLUX_LOG").args(args).output().unwrap()
}

/// Standard error of a command, each line as JSON.
fn events(world: &World, args: &[&str], code: i32) -> Vec<Value> {
    let Output { status, stderr, .. } = output(world, args);
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{args:?}: {text}");
    let parsed = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{args:?}: {e}: {line}"));
    text.lines().map(parsed).collect()
}

/// The small pipeline with a bound that its pairs are beyond.
fn with_warning() -> String {
    without_training() + "[health.margin]\nwarn = 2.0\n"
}

#[test]
fn every_line_for_programs_is_an_object() {
    let world = World::new();
    world.write("bad.toml", &without_training().replace("microbatch", "microbach"));
    let problems = events(&world, &["check", "bad.toml", "--log", "json"], 2);
    let fields = &problems[0]["fields"];
    assert_eq!((&problems[0]["level"], &fields["file"]), (&json!("ERROR"), &json!("bad.toml")), "{problems:?}");
    assert_eq!((&fields["line"], &fields["column"]), (&json!(4), &json!(1)), "{problems:?}");
    assert!(fields["help"].as_str().unwrap().contains("did you mean `microbatch`"), "{problems:?}");
    assert!(["code", "name", "message"].iter().all(|key| fields[key].is_string()), "{problems:?}");
    // Of an override the place is in its own text.
    let set = events(&world, &["check", "small.toml", "--set", "pipeline.microbach=3", "--log=json"], 2);
    assert_eq!(set[0]["fields"]["line"], 1, "{set:?}");

    world.write("warns.toml", WARNS);
    let warned = events(&world, &["--log", "json", "check", "warns.toml"], 0);
    assert!(warned.len() == 2 && warned.iter().all(|w| w["level"] == "WARN"), "{warned:?}");
    assert_eq!(warned[0]["fields"]["file"], "warns.toml", "{warned:?}");

    for wrong in [
        &["--log", "json", "check", "--nosuch"][..],
        &["check", "small.toml", "--nosuch", "--log=json"],
        &["nosuch", "--log", "json"],
        &["--log", "json"],
        &["show", "--log", "json"],
    ] {
        let said = events(&world, wrong, 2);
        assert!(said.len() == 1 && said[0]["level"] == "ERROR", "{wrong:?}: {said:?}");
        assert!(!said[0]["fields"]["message"].as_str().unwrap().is_empty(), "{wrong:?}: {said:?}");
    }
    let run = events(&world, &["run", "small.toml", "--log", "json"], 0);
    assert!(run.iter().any(|event| event["event"] == "status"), "{run:?}");
}

/// A step and a model that nobody uses are warned of.
const WARNS: &str = "[pipeline]\nname = \"w\"\n[step.rows]\nop = \"read\"\ndataset = \"data/rows.jsonl\"\nschema = \"prompts\"\n\
                     [model.unused]\nscript = \"data/script.toml\"\n";

#[test]
fn quiet_is_for_every_message_that_is_no_error() {
    let world = World::new();
    world.write("warns.toml", WARNS);
    let said = |args: &[&str], log: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        command.current_dir(world.0.path()).env("NO_COLOR", "1").env_remove("REFLUX_LOG").args(args);
        if let Some(log) = log {
            command.env("REFLUX_LOG", log);
        }
        let Output { status, stderr, .. } = command.output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    };
    let none = (Some(0), String::new());
    for (args, log) in [
        (&["check", "warns.toml"][..], None),
        (&["check", "small.toml"], Some("reflux=no/such/level")),
        (&["run", "small.toml", "--set", "health.parse_failures.warn=-1.0"], None),
        (&["run", "small.toml", "--name", "again"], Some("reflux=debug")),
    ] {
        let loud = said(&[args, &["--fresh"][..usize::from(args[0] == "run")]].concat(), log);
        assert!(loud.0 == Some(0) && !loud.1.is_empty(), "{args:?} says nothing: {loud:?}");
        let quiet = [args, &["--fresh"][..usize::from(args[0] == "run")], &["-q"]].concat();
        assert_eq!(said(&quiet, log), none, "{args:?}");
    }
    let (code, error) = said(&["check", "nosuch.toml", "-q"], None);
    assert!(code == Some(2) && error.contains("nosuch.toml"), "{error}");
}

/// What a run closed with is printed again, also of rows that it did not keep.
#[test]
fn a_summary_is_what_the_run_closed_with() {
    let world = World::new();
    let script = "[[answer]]\ntext = [\"Yes.\\nScore: 4\", \"No.\\nScore: 1\", \"I would rather not say.\"]\n";
    world.write("data/script.toml", script);
    let kept = with_warning().replace("warn = 0.5", "warn = 0.01");
    let text = kept.replace("op = \"judge\"", "op = \"judge\"\nkeep = false");
    assert_ne!(kept, text);
    world.write("small.toml", &text);
    let Output { status, stdout, .. } = output(&world, &["run", "small.toml"]);
    let closed = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{closed}");
    for words in ["parse_failures is ", "margin is ", "rows were left out; `reflux show runs/good/errors` shows why"] {
        assert!(closed.contains(words), "no {words}: {closed}");
    }
    assert_eq!(world.good("reflux summary good").trim(), closed.trim());
    world.good("reflux show runs/good/errors");

    // Damaged, it is named; what is there is counted.
    let file = world.0.path().join("runs/good/summary.json");
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, whole.replacen("\"rows\"", "\"row\"", 1)).unwrap();
    let said = world.good("reflux summary good");
    assert!(said.contains("warning: `runs/good/summary.json`: its content is not what the run wrote"), "{said}");
    // As no run writes it, and without a hash.
    std::fs::write(&file, "{\"table\": [[]]}").unwrap();
    let said = world.good("reflux summary good");
    assert!(said.contains("warning: `runs/good/summary.json`: `table`"), "{said}");
    std::fs::remove_file(&file).unwrap();
    assert!(!world.good("reflux summary good").contains("warning"));
    // Where there is no summary and the pipeline file is none, the command that is proposed says so.
    std::fs::write(world.0.path().join("runs/good/pipeline.toml"), "[pipelin]\n").unwrap();
    let (code, said) = world.typed("reflux summary good");
    assert!(code == Some(2) && said.contains("`reflux check --no-data runs/good/pipeline.toml`"), "{said}");
    assert_eq!(world.typed("reflux check --no-data runs/good/pipeline.toml").0, Some(2));
}

/// An id that others begin with is found by its whole name, however many others there are.
#[test]
fn an_id_that_others_begin_with_is_traced() {
    let world = World::new();
    let row = |id: String| {
        format!("{{\"prompt_id\": \"{id}\", \"prompt\": \"say {id}\", \"origin\": \"o\", \"parents\": []}}\n")
    };
    let ids = (10..60).map(|n| format!("p{n}")).chain(["p1".to_owned(), "p".to_owned()]);
    world.write("data/rows.jsonl", &ids.map(row).collect::<String>());
    world.good("reflux run small.toml -q");
    for id in ["p", "p1", "p10", "p59"] {
        let told = world.good(&format!("reflux trace good {id}"));
        assert!(told.starts_with(&format!("prompt {id}\n  say {id}\n")), "{id}: {told}");
    }
    let (code, said) = world.typed("reflux trace good p2");
    assert!(code == Some(2) && said.contains("several ids begin with `p2`"), "{said}");
    let (code, said) = world.typed("reflux trace good p/0");
    assert!(code == Some(2) && said.contains("is a prompt, and only responses have judgements"), "{said}");
}
