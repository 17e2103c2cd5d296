//! How a trainer ends, and what becomes of the run.

use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device};
use reflux::data::Columns;
use reflux::model::Model;

use crate::common;
use crate::support::{Outside, printed, processes, root, until};

fn hash(dir: &Path) -> String {
    Model::load(dir, &Device::Cpu, DType::F32, false).unwrap().hash
}

#[test]
fn what_a_trainer_leaves_is_committed_as_any_model() {
    let outside = Outside::new();
    let out = outside.train("success", "", &[]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    let run = outside.run();
    let model = run.model("tuned").unwrap();
    assert_eq!(model.hash, hash(&outside.path("trained")));
    assert_ne!(model.hash, hash(&root().join("pipelines/listworld/m0")));
    let files: Vec<&str> = model.files.keys().map(String::as_str).collect();
    let all = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "reflux.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(files, all, "a checkpoint of the trainer is not taken");
    assert_eq!(hash(&outside.dir().join("models/tuned")), model.hash);
    let metrics = run.load_metrics(&run.metrics()[0]).unwrap();
    assert_eq!(Columns(&metrics).double("loss").unwrap().values().to_vec(), [0.1, 0.2]);
    assert_eq!(Columns(&metrics).double("rewards/margins").unwrap().values().to_vec(), [0.5, 0.5]);
    let log = outside.log();
    assert!(log.contains("mode success, seed 3, iteration 0"), "{log}");
    assert!(log.contains("microbatch=00000.parquet") && log.contains("microbatch=00001.parquet"), "{log}");
    assert!(!outside.dir().join("scratch").exists());
    let verify =
        printed(Command::new(env!("CARGO_BIN_EXE_reflux")).args(["verify"]).arg(outside.dir()).current_dir(root()));
    assert_eq!(verify.code, Some(0), "{}", verify.text);
    assert!(!verify.text.contains("logs"), "{}", verify.text);

    // The same elsewhere, with other bounds, is the same.
    let other = Outside::new();
    let out = other.train("success", "time_limit = \"1h\"\nrestarts = 3", &[]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    let (mut here, mut there) = (common::outcome(&outside.dir()), common::outcome(&other.dir()));
    for outcome in [&mut here, &mut there] {
        // It names the command, which has a path of the test.
        outcome.remove("models/tuned/reflux.json").unwrap();
    }
    assert!(here == there, "{:?} {:?}", here.keys(), there.keys());

    // `--fresh` removes the log with the run.
    let note = outside.dir().join("logs/tuned/notes.txt");
    std::fs::write(&note, "mine").unwrap();
    let out = outside.train("success", "", &["--fresh"]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    assert_eq!((outside.starts(), note.exists()), (1, true));
}

#[test]
fn a_failure_shows_what_the_trainer_said() {
    let outside = Outside::new();
    for (mode, code) in [("fails", "exit code 1; "), ("bad-input", "exit code 2, which says that it cannot use its")] {
        let out = outside.train(mode, "restarts = 5", &["--fresh"]);
        assert_eq!(out.code, Some(2), "{}", out.text);
        assert!(out.text.contains(&format!("the trainer of `tuned` ended with {code}")), "{}", out.text);
        let said = if mode == "fails" { "  CUDA out of memory" } else { "  a pair has no tokens" };
        assert!(out.text.contains(said), "{}", out.text);
        assert!(out.text.contains("logs/tuned/iteration=0.log"), "{}", out.text);
        assert_eq!(outside.starts(), 1, "an exit code is no reason to start it again");
        assert!(outside.run().model("tuned").is_none());
    }
}

#[test]
fn variables_reach_the_trainer_and_secrets_are_not_shown() {
    let outside = Outside::new();
    let keys = "environment = { PLAIN = \"a word\", TOKEN = { env = \"REFLUX_TEST_TOKEN\" } }";
    let file = outside.pipeline("variables", keys);
    let out = printed(outside.command(&file, &[]).env("REFLUX_TEST_TOKEN", "sk-5ecret"));
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("variables: a word, ***") && !out.text.contains("sk-5ecret"), "{}", out.text);
    assert!(outside.log().contains("variables: a word, sk-5ecret"), "the log is the program's own");
    let out = printed(outside.command(&file, &[]).env_remove("REFLUX_TEST_TOKEN"));
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("step `tuned`: the environment variable REFLUX_TEST_TOKEN is not set"), "{}", out.text);
}

#[test]
fn a_trainer_that_was_ended_is_started_again_with_its_output() {
    for (mode, keys) in [("dies-once", ""), ("hangs-once", "time_limit = \"10s\"")] {
        let outside = Outside::new();
        let out = outside.train(mode, keys, &[]);
        assert_eq!(out.code, Some(0), "{}", out.text);
        assert!(out.text.contains("it is started again with the same output folder"), "{}", out.text);
        assert_eq!(outside.starts(), 2);
        assert!(outside.log().contains("goes on"));
        assert!(outside.run().model("tuned").is_some());
    }
    let outside = Outside::new();
    for (mode, keys, want, starts) in [
        ("dies", "", "was ended by signal 9 (SIGKILL; out of memory?) (2 starts)", 2),
        ("dies", "restarts = 0", "was ended by signal 9 (SIGKILL; out of memory?) (1 start)", 1),
        ("hangs", "restarts = 0\ntime_limit = \"1s\"", "was stopped at its time limit of 1 second (1 start)", 1),
    ] {
        let out = outside.train(mode, keys, &["--fresh"]);
        assert_eq!(out.code, Some(2), "{}", out.text);
        assert!(out.text.contains(want), "{}", out.text);
        assert_eq!(outside.starts(), starts);
        assert_eq!(processes(&outside.scratch()), Vec::<i32>::new());
    }
    // A run that stopped there goes on with other bounds.
    let out = outside.train("hangs", "restarts = 1\ntime_limit = \"2s\"", &[]);
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("time limit of 2 seconds (2 starts)"), "{}", out.text);
}

#[test]
fn what_is_no_model_is_not_committed() {
    let outside = Outside::new();
    for (mode, want) in [
        ("no-model", "config.json"),
        ("only-checkpoint", "config.json"),
        ("broken-model", "model.safetensors"),
        ("links-out", "`model.safetensors` is a link to "),
        ("pipe", "`model.safetensors` is a pipe or a device"),
        ("output-link", "is a file or a link, and no longer the folder"),
        ("output-file", "is a file or a link, and no longer the folder"),
        ("not-a-number", "finite"),
        ("other-shape", "`num_attention_heads` is 2 and was 4"),
        ("other-vocabulary", "has another vocabulary than the model that it started from"),
    ] {
        let out = outside.train(mode, "", &["--fresh"]);
        assert_eq!(out.code, Some(2), "{mode}: {}", out.text);
        assert!(out.text.contains("what the trainer of `tuned` left in "), "{mode}: {}", out.text);
        assert!(out.text.contains(want), "{mode}: {}", out.text);
        assert!(outside.run().model("tuned").is_none());
        assert!(!outside.dir().join("models/tuned").exists());
    }
}

/// Rows and model are handed over to be read. A trainer that writes to them changes nothing that is committed, and is
/// not believed.
#[test]
fn a_trainer_that_writes_to_its_input_is_refused() {
    let outside = Outside::new();
    let out = outside.train("writes-pairs", "", &[]);
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("microbatch=00000.parquet, a copy of the rows that it was given"), "{}", out.text);
    let verify = || printed(Command::new(env!("CARGO_BIN_EXE_reflux")).arg("verify").arg(outside.dir()));
    assert!(!verify().text.contains("damaged"), "{}", verify().text);
    let copy = outside.path("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(root().join("pipelines/listworld/m0")).unwrap().flatten() {
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let file = outside.pipeline("writes-model", "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"pipelines/listworld/m0\"", &format!("{copy:?}"))).unwrap();
    let out = printed(&mut outside.command(&file, &["--fresh"]));
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("copy/config.json, a file of {model}"), "{}", out.text);
    assert!(outside.run().model("tuned").is_none());
}

#[test]
fn a_trainer_without_manners_ends_all_the_same() {
    let outside = Outside::new();
    let out = outside.train("closes-streams", "", &[]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    let out = outside.train("ignores-signals", "restarts = 0\ntime_limit = \"1s\"", &["--fresh"]);
    assert!(out.code == Some(2) && out.text.contains("time limit of 1 second"), "{}", out.text);
    assert_eq!(processes(&outside.scratch()), Vec::<i32>::new());
}

/// A script that the command names may be mended until its model is committed. From then on it is an input like any
/// other.
#[test]
fn a_changed_script_is_told_at_a_resume() {
    let outside = Outside::new();
    let script = outside.path("mine.sh");
    let original = std::fs::read_to_string(root().join("tests/trainer/fake.sh")).unwrap();
    std::fs::write(&script, &original).unwrap();
    let file = outside.pipeline("fails", "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"tests/trainer/fake.sh\"", &format!("{script:?}"))).unwrap();
    let out = printed(&mut outside.command(&file, &[]));
    assert!(out.code == Some(2) && out.text.contains("exit code 1"), "{}", out.text);
    std::fs::write(&script, original.replace("fails) ", "fails) leave; exit 0; ")).unwrap();
    let out = printed(&mut outside.command(&file, &["--resume"]));
    assert_eq!(out.code, Some(0), "{}", out.text);
    assert!(out.text.contains("a file that the command names has changed"), "{}", out.text);
    assert!(outside.run().model("tuned").is_some());
    std::fs::write(&script, &original).unwrap();
    let out = printed(&mut outside.command(&file, &["--resume"]));
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(out.text.contains("mine.sh` has ") && out.text.contains("(step.tuned.command[1])"), "{}", out.text);
}

#[test]
fn what_a_trainer_does_not_report_is_told() {
    let outside = Outside::new();
    for (mode, want) in [
        ("half", "was given 4 rows and reports that 3 were trained on: "),
        ("silent", "the trainer reported no metrics"),
    ] {
        let out = outside.train(mode, "", &["--fresh"]);
        assert_eq!(out.code, Some(0), "{}", out.text);
        assert!(out.text.contains(want), "{}", out.text);
    }
}

#[test]
fn nothing_that_a_trainer_started_survives_it() {
    let outside = Outside::new();
    let out = outside.train("leaves-children", "", &[]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    let children = std::fs::read_to_string(outside.dir().join("children")).unwrap();
    assert_eq!(children.lines().count(), 2);
    for child in children.lines() {
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
}

/// Ctrl-C stops the trainer; a kill of reflux stops it too; the next start gets the same output folder.
#[test]
fn a_run_that_ends_takes_its_trainer_along() {
    for signal in ["INT", "KILL"] {
        let outside = Outside::new();
        let mut reflux = outside.start("hangs-once");
        let half_done = outside.scratch().join("output/half-done");
        until("the first start", || half_done.exists());
        let scratch = outside.scratch().canonicalize().unwrap();
        assert!(!processes(&scratch).is_empty());
        let kill = Command::new("kill").args([&format!("-{signal}"), &reflux.id().to_string()]).status().unwrap();
        assert!(kill.success());
        reflux.wait().unwrap();
        until("the end of the trainer", || processes(&scratch).is_empty());
        let out = outside.train("hangs-once", "", &["--resume"]);
        assert_eq!(out.code, Some(0), "{}", out.text);
        assert!(outside.log().contains("goes on"), "{}", outside.log());
        assert_eq!(outside.starts(), 2);
        assert!(outside.run().model("tuned").is_some() && !outside.dir().join("scratch").exists());
    }
}

#[test]
fn what_cannot_work_is_said_before_a_run() {
    let outside = Outside::new();
    let check = |text: &str| {
        let file = outside.path("checked.toml");
        std::fs::write(&file, text).unwrap();
        printed(
            Command::new(env!("CARGO_BIN_EXE_reflux")).env("NO_COLOR", "1").arg("check").arg(&file).current_dir(root()),
        )
    };
    let text = std::fs::read_to_string(outside.pipeline("success", "")).unwrap();
    let out = check(&text);
    assert_eq!(out.code, Some(0), "{}", out.text);
    for (from, to, want) in [
        ("{pairs}", "{pair}", "did you mean `pairs`?"),
        ("{pairs}", "x", "`command` does not hand over {pairs}"),
        ("[\"sh\"", "[\"no-such-program\"", "the program `no-such-program` was not found"),
        ("model = \"m0\"", "model = \"m0\"\naudit = 0.5", "`audit` has no effect without {reference} in `command`"),
        ("model = \"m0\"", "model = \"m0\"\ntime_limit = \"6 hours\"", "is not a length of time"),
        ("{seed}", "{reference}", "`given` gives rows of `ift`"),
        ("path = \"pipelines/listworld/m0\"", "script = \"s.toml\"", "script"),
    ] {
        std::fs::write(outside.path("s.toml"), "").unwrap();
        let out = check(&text.replace(from, to).replace("\"s.toml\"", &format!("{:?}", outside.path("s.toml"))));
        assert_eq!(out.code, Some(2), "{to}: {}", out.text);
        assert!(out.text.contains(want), "{to}: {}", out.text);
    }
    let explain = printed(
        Command::new(env!("CARGO_BIN_EXE_reflux"))
            .arg("explain")
            .arg(outside.pipeline("success", ""))
            .current_dir(root()),
    );
    assert!(explain.text.contains("trained by an external command: sh tests/trainer/fake.sh"), "{}", explain.text);
    let mut cost = Command::new(env!("CARGO_BIN_EXE_reflux"));
    cost.arg("cost").arg(outside.pipeline("success", "")).current_dir(root());
    let cost = printed(cost.args(["--hardware", "RTX4090", "--rows", "given=4"]));
    assert!(
        cost.text.contains("`tuned` is trained by an external command: its time and memory are not known"),
        "{}",
        cost.text
    );
}

/// In the loop: the next policy is what the trainer left, and the reference's log-probabilities are handed over.
#[test]
fn the_loop_goes_on_with_what_the_trainer_left() {
    let outside = Outside::new();
    let script = common::script(&outside.path("."), 0);
    let text = std::fs::read_to_string(root().join("pipelines/quickstart.toml")).unwrap();
    let (before, rest) = text.split_once("[step.dpo]").unwrap();
    let after = rest.split_once("# Evaluation").unwrap().1;
    let trained = outside.path("trained");
    let step = format!(
        "[step.dpo]\nop = \"train\"\nfrom = \"pairs\"\nmodel = \"policy\"\ncommand = [\"sh\", \"-c\", \
         'ls {{reference}}/iteration=*/microbatch=*.parquet && exec sh tests/trainer/fake.sh \"$@\"', \"sh\", \"success\", {trained:?}, \
         \"{{model}}\", \"{{pairs}}\", \"{{output}}\", \"{{metrics}}\", \"{{seed}}\", \"{{iteration}}\"]\n#"
    );
    let file = outside.path("loop.toml");
    std::fs::write(&file, format!("{before}{step}{after}")).unwrap();
    let script = format!("model.script.script={script:?}");
    let small = ["model.script.dtype=f32", script.as_str()];
    let more: Vec<&str> =
        common::SMALL_LISTWORLD.iter().chain(&small).flat_map(|set| ["--set", set]).chain(["--name", "loop"]).collect();
    let out = printed(&mut outside.command(&file, &more));
    assert_eq!(out.code, Some(0), "{}", out.text);
    let run = reflux::store::Run::open(&outside.path("runs/loop")).unwrap();
    let trained = hash(&trained);
    assert_eq!(run.model("M2").unwrap().hash, trained);
    assert_eq!(run.model("M3").unwrap().hash, trained);
    // The second iteration's answers are the trained model's.
    let rows = run.read_step("responses", Some(2)).unwrap().unwrap();
    assert!(Columns(&rows).text("model").unwrap().iter().flatten().all(|model| model == trained));
    assert!(run.read_step("dpo.reference", Some(2)).unwrap().unwrap().num_rows() > 0);
    let log = std::fs::read_to_string(run.dir().join("logs/dpo/iteration=2.log")).unwrap();
    assert!(
        log.contains("reference/iteration=2/microbatch=00000.parquet") && log.contains("seed 3, iteration 2"),
        "{log}"
    );
}
