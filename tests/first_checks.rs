//! What a person is told before a run starts, when it is continued otherwise than it was begun, and when nothing came of it.

use std::path::Path;
use std::process::{Command, Output};

/// Runs the program on a pipeline text; exit code and what it said.
fn reflux(dir: &Path, text: &str, args: &[&str]) -> (Option<i32>, String) {
    let file = dir.join("p.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1");
    command.arg(args[0]).arg(&file).args(&args[1..]);
    if args[0] == "run" {
        command.arg("--runs").arg(dir.join("runs")).args(["--device", "cpu"]);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

fn judged(dir: &Path, says: &str) -> String {
    let (script, data) = (dir.join("judge.toml"), dir.join("ranked.jsonl"));
    std::fs::write(
        &script,
        format!("[[answer]]\nmatch = \"good\"\ntext = {says:?}\n[[answer]]\ntext = \"Score: 1\"\n"),
    )
    .unwrap();
    let row = |a: usize, text: &str| {
        format!(
            "{{\"prompt_id\":\"p\",\"prompt\":\"q\",\"response_id\":\"r{a}\",\"response\":\"{text} {a}\",\"rank\":{a}}}\n"
        )
    };
    std::fs::write(&data, [row(0, "good"), row(1, "good"), row(2, "good")].concat()).unwrap();
    format!(
        "[pipeline]\nname = \"n\"\n[model.j]\nscript = {script:?}\n[step.q]\nop = \"read\"\ndataset = {data:?}\nschema = \"ranked\"\n\
         [step.scores]\nop = \"judge\"\nfrom = \"q\"\nmodel = \"j\"\nsamples = 1\nretries = 0\n[step.pairs]\nop = \"select\"\nfrom = \"scores\"\n"
    )
}

#[test]
fn a_run_of_which_nothing_came_says_so_with_its_own_exit_code() {
    let temp = tempfile::tempdir().unwrap();
    let unread = judged(temp.path(), "I would rather not say.");
    for again in [false, true] {
        let (code, said) = reflux(temp.path(), &unread, &["run"]);
        assert_eq!(code, Some(3), "again {again}: {said}");
        for words in [
            "nothing came of the run",
            "`scores`: none of 3 rows has a score",
            "`pairs`: no pair came of 3 rows",
            "help:",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    // All scores are the same, so there is no pair; the scores alone are no result.
    let tied = judged(temp.path(), "Score: 4");
    let (code, said) = reflux(temp.path(), &tied, &["run", "--fresh"]);
    assert!(code == Some(3) && said.contains("no pair came of 3 rows") && !said.contains("has a score"), "{said}");
    // Where scores are what was asked for, they are a result.
    let scores = tied.split("[step.pairs]").next().unwrap();
    let (code, said) = reflux(temp.path(), scores, &["run", "--fresh"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_run_is_continued_with_the_settings_that_it_was_made_with() {
    let temp = tempfile::tempdir().unwrap();
    let text = judged(temp.path(), "Score: 4")
        .replace("[step.pairs]\nop = \"select\"", "[step.pairs]\nop = \"positives\"\nscore_min = 1.0");
    let set = ["run", "--set", "step.pairs.score_min=2.5", "--set", "step.scores.samples=2"];
    let (code, said) = reflux(temp.path(), &text, &set);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = reflux(temp.path(), &text, &["run"]);
    assert_eq!(code, Some(2), "{said}");
    for words in ["add --resume", "--set step.pairs.score_min=2.5", "--set step.scores.samples=2"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (code, said) = reflux(temp.path(), &text, &["run", "--resume"]);
    assert!(code == Some(0) && said.contains("is finished"), "{said}");
    // Another pipeline is not a matter of settings.
    let other =
        text.replace("[step.pairs]", "[step.more]\nop = \"split\"\nfrom = \"q\"\npart = \"train\"\n[step.pairs]");
    let (code, said) = reflux(temp.path(), &other, &["run", "--resume"]);
    assert!(code == Some(2) && said.contains("made with another pipeline file"), "{said}");
}

#[test]
fn what_cannot_work_is_found_before_anything_runs() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let bare = dir.join("bare");
    std::fs::create_dir(&bare).unwrap();
    std::fs::copy("pipelines/listworld/model/config.json", bare.join("config.json")).unwrap();
    let mute = dir.join("mute");
    std::fs::create_dir(&mute).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(format!("pipelines/listworld/model/{file}"), mute.join(file)).unwrap();
    }
    let judge = |model: &str| judged(dir, "Score: 4").replace(&format!("script = {:?}", dir.join("judge.toml")), model);
    let sft = |model: &str| {
        format!(
            "[pipeline]\nname = \"t\"\n[model.m]\n{model}\n[step.ift]\nop = \"listworld\"\ndata = \"ift\"\nrows = 2\n\
             [step.m1]\nop = \"sft\"\nfrom = \"ift\"\nmodel = \"m\"\n"
        )
    };
    let script = format!("script = {:?}", dir.join("judge.toml"));
    for (text, words) in [
        (judge(&format!("init = {bare:?}")), "tokenizer"),
        (judge(&format!("init = {mute:?}")), "no chat template"),
        (sft(&format!("init = {mute:?}")), "no chat template"),
        (sft(&script), "has no weights to train"),
        (sft("path = \"tests/goldens/families/qwen2\""), "cannot be trained"),
    ] {
        for command in ["check", "run"] {
            let (code, said) = reflux(dir, &text, &[command]);
            assert!(code == Some(2) && said.contains(words) && said.contains("step `"), "{command}, {words}: {said}");
            assert!(!dir.join("runs").exists(), "nothing was begun");
        }
    }
    let (code, said) = reflux(dir, &sft("init = \"pipelines/listworld/model\""), &["check"]);
    assert!(code == Some(0) && said.contains("note: `m1` tokenises the texts of `ift`"), "{said}");
}
