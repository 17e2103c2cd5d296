//! What a person is told before a run starts, when it is continued otherwise than it was begun, and when nothing came of it.

use std::path::Path;

use crate::common::program::reflux_on;
use reflux::model::formats::export::{Export, GgufType};

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
        let (code, said) = reflux_on(temp.path(), &unread, &["run"]);
        assert_eq!(code, Some(3), "again {again}: {said}");
        for words in
            ["nothing came of the run", "`scores`: none of 3 rows has a score", "`pairs`: no pair from 3 rows", "help:"]
        {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    // All scores are the same, so there is no pair; the scores alone are no result.
    let tied = judged(temp.path(), "Score: 4");
    let (code, said) = reflux_on(temp.path(), &tied, &["run", "--fresh"]);
    assert!(code == Some(3) && said.contains("no pair from 3 rows") && !said.contains("has a score"), "{said}");
    // Where scores are what was asked for, they are a result.
    let scores = tied.split("[step.pairs]").next().unwrap();
    let (code, said) = reflux_on(temp.path(), scores, &["run", "--fresh"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_run_is_continued_with_the_settings_that_it_was_made_with() {
    let temp = tempfile::tempdir().unwrap();
    let text = judged(temp.path(), "Score: 4")
        .replace("[step.pairs]\nop = \"select\"", "[step.pairs]\nop = \"positives\"\nscore_min = 1.0");
    let set = ["run", "--set", "step.pairs.score_min=2.5", "--set", "step.scores.samples=2"];
    let (code, said) = reflux_on(temp.path(), &text, &set);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = reflux_on(temp.path(), &text, &["run"]);
    assert_eq!(code, Some(2), "{said}");
    for words in ["add --resume", "--set step.pairs.score_min=2.5", "--set step.scores.samples=2"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (code, said) = reflux_on(temp.path(), &text, &["run", "--resume"]);
    assert!(code == Some(0) && said.contains("is finished"), "{said}");
    // Another pipeline is not a matter of settings.
    let other =
        text.replace("[step.pairs]", "[step.more]\nop = \"split\"\nfrom = \"q\"\npart = \"train\"\n[step.pairs]");
    let (code, said) = reflux_on(temp.path(), &other, &["run", "--resume"]);
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
            let (code, said) = reflux_on(dir, &text, &[command]);
            assert!(code == Some(2) && said.contains(words) && said.contains("step `"), "{command}, {words}: {said}");
            assert!(!dir.join("runs").exists(), "nothing was begun");
        }
    }
    let (code, said) = reflux_on(dir, &sft("init = \"pipelines/listworld/model\""), &["check"]);
    assert!(code == Some(0) && said.contains("note: `m1` tokenises the texts of `ift`"), "{said}");
}

/// A copy of a model's folder without the files that `leave` names.
fn copied(from: &str, to: &Path, leave: &[&str]) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if !leave.contains(&file.file_name().to_str().unwrap()) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

/// Rewrites a JSON file.
fn edited(path: &Path, edit: impl Fn(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// What `check` says of a judge.
fn judged_by(dir: &Path, model: &str, keys: &str) -> (Option<i32>, String) {
    let text = judged(dir, "Score: 4").replace(&format!("script = {:?}", dir.join("judge.toml")), model);
    reflux_on(dir, &text.replace("retries = 0", keys), &["check"])
}

#[test]
fn a_judge_that_cannot_be_loaded_or_asked_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let of = |name: &str| format!("tests/goldens/model/{name}");
    // Other families judge, too.
    for fine in ["tests/goldens/families/qwen2", &of("smollm2"), &of("llama2")] {
        let (code, said) = judged_by(dir, &format!("path = {fine:?}"), "sampling = { max_tokens = 4 }");
        assert!(code == Some(0) || said.contains("context has"), "{fine}: {said}");
    }
    let case = |name: &str, from: &str, leave: &[&str]| {
        let to = dir.join(name);
        copied(from, &to, leave);
        to
    };
    let mute = case("mute", &of("smollm2"), &["chat_template.jinja"]);
    edited(&mute.join("tokenizer_config.json"), |json| drop(json.as_object_mut().unwrap().remove("chat_template")));
    let cut = case("cut", &of("smollm2"), &[]);
    let weights = std::fs::read(cut.join("model.safetensors")).unwrap();
    std::fs::write(cut.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    let other = case("other", "tests/goldens/families/qwen2", &["tokenizer.json"]);
    for (path, words) in [
        (case("bare", &of("smollm2"), &["tokenizer.json"]), "tokenizer.json not found"),
        (mute, "has no chat template"),
        (case("empty", &of("smollm2"), &["model.safetensors"]), "found no weights"),
        (case("part", &of("llama2"), &["model-00002-of-00002.safetensors"]), "model-00002-of-00002.safetensors"),
        (cut, "the file is cut off or broken"),
        (other, "tokenizer.json not found"),
    ] {
        let (code, said) = judged_by(dir, &format!("path = {path:?}"), "");
        let at = said.contains("step `scores`, model `j`");
        assert!(code == Some(2) && said.contains(words) && at, "{}, {words}: {said}", path.display());
    }
    // A GGUF file says all of this within.
    let gguf = dir.join("mute.gguf");
    let mute = Export::open(&dir.join("mute"), GgufType::F32).unwrap();
    mute.write(&mut std::fs::File::create(&gguf).unwrap()).unwrap();
    let (code, said) = judged_by(dir, &format!("path = {gguf:?}"), "");
    assert!(code == Some(2) && said.contains("has no chat template"), "{said}");
    let (code, said) = judged_by(dir, "path = \"tests/goldens/families/qwen2\"\ndtype = \"bf16\"", "");
    assert!(code == Some(2) && said.contains("f32 only"), "{said}");
}

#[test]
fn a_context_that_is_too_small_for_the_rubric_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let small = dir.join("small");
    copied("pipelines/listworld/model", &small, &[]);
    let context = |n: u64| edited(&small.join("config.json"), |json| json["max_position_embeddings"] = n.into());
    let model = format!("init = {small:?}");
    context(700);
    let (code, said) = judged_by(dir, &model, "sampling = { max_tokens = 32 }");
    assert_eq!(code, Some(0), "{said}");
    // What the rubric takes, by the figures of the refusal.
    let (code, said) = judged_by(dir, &model, "sampling = { max_tokens = 690 }");
    let tokens: u64 = said.split("additive-5` has ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let sum = format!("{} together; the model's context has 700", tokens + 690);
    let flat = said.replace(['\n'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(code == Some(2) && flat.contains(&sum) && flat.contains(&format!("less than {}", 700 - tokens)), "{said}");
    context(tokens + 32);
    assert_eq!(judged_by(dir, &model, "sampling = { max_tokens = 32 }").0, Some(0));
    assert_eq!(judged_by(dir, &model, "sampling = { max_tokens = 33 }").0, Some(2));
    // Without reasons a judge writes nothing.
    assert_eq!(judged_by(dir, &model, "mode = \"expected\"").0, Some(0));
    context(tokens);
    assert_eq!(judged_by(dir, &model, "mode = \"expected\"").0, Some(2));
    // Prompts without a template may be short: longer answers are cut, which is told.
    context(64);
    let text = format!(
        "[model.m]\n{model}\n[step.p]\nop = \"listworld\"\ndata = \"requests\"\nrows = 2\n[step.r]\nop = \"generate\"\nfrom = \"p\"\n\
         model = \"m\"\nsampling = {{ max_tokens = 64 }}\n"
    );
    let (code, said) = reflux_on(dir, &text, &["check"]);
    assert!(code == Some(0) && said.contains("note: `r` may answer in 64 tokens"), "{said}");
}

#[test]
fn a_template_that_asks_for_the_date_needs_one() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let with = |name: &str, template: &str| {
        let to = dir.join(name);
        copied("pipelines/listworld/model", &to, &[]);
        edited(&to.join("tokenizer_config.json"), |json| json["chat_template"] = template.into());
        format!("init = {to:?}")
    };
    let turns = "{% for m in messages %}{{ ' ' + m['content'] }}{% endfor %}";
    let always = with("always", &format!("{{{{ strftime_now('%Y') }}}}{turns}"));
    let sometimes = with("some", &format!("{{% if tools %}}{{{{ strftime_now('%Y') }}}}{{% endif %}}{turns}"));
    let text = |model: &str, header: &str| {
        format!(
            "[pipeline]\nname = \"t\"\n{header}\n[model.m]\n{model}\n[step.p]\nop = \"listworld\"\ndata = \"requests\"\nrows = 2\n\
             [step.r]\nop = \"generate\"\nfrom = \"p\"\nmodel = \"m\"\nsampling = {{ max_tokens = 8 }}\n"
        )
    };
    let (code, said) = reflux_on(dir, &text(&always, ""), &["check"]);
    assert!(code == Some(2) && said.contains("strftime_now") && said.contains("date = \"YYYY-MM-DD\""), "{said}");
    let (code, said) = reflux_on(dir, &text(&sometimes, ""), &["check"]);
    assert!(code == Some(0) && said.contains("note: the chat template of `m` names `strftime_now`"), "{said}");
    for model in [always, sometimes] {
        let (code, said) = reflux_on(dir, &text(&model, "date = \"2026-01-31\""), &["check"]);
        assert!(code == Some(0) && !said.contains("strftime_now"), "{said}");
    }
}

#[test]
fn token_ids_of_another_tokenizer_are_found() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let other = dir.join("other");
    copied("pipelines/listworld/model", &other, &[]);
    edited(&other.join("tokenizer_config.json"), |json| {
        json["chat_template"] = "{% for m in messages %}{{ ' ' + m['content'] }}{% endfor %}".into();
    });
    let text = |keys: &str| {
        format!(
            "[model.writer]\ninit = {other:?}\n[model.m0]\ninit = \"pipelines/listworld/model\"\n[model.j]\nscript = {:?}\n[step.p]\n\
             op = \"listworld\"\ndata = \"requests\"\nrows = 2\n[step.r]\nop = \"generate\"\nfrom = \"p\"\nmodel = \"writer\"\n\
             sampling = {{ max_tokens = 8 }}\n[step.s]\nop = \"judge\"\nfrom = \"r\"\nmodel = \"j\"\n[step.pairs]\nop = \"select\"\n\
             from = \"s\"\n[step.d]\nop = \"dpo\"\nfrom = \"pairs\"\nmodel = \"m0\"\n{keys}\n",
            dir.join("judge.toml")
        )
    };
    judged(dir, "Score: 4");
    let (code, said) = reflux_on(dir, &text(""), &["check"]);
    let words = "by which `r` samples, is another than that of `m0`";
    assert!(code == Some(2) && said.contains(words) && said.contains("other_tokenizer = \"encode\""), "{said}");
    let (code, said) = reflux_on(dir, &text("other_tokenizer = \"encode\""), &["check"]);
    assert!(code == Some(0) && said.contains(words) && said.contains("`d` tokenises its texts again"), "{said}");
    let (code, said) = reflux_on(dir, &text("").replace("\"writer\"", "\"m0\""), &["check"]);
    assert!(code == Some(0) && !said.contains("is another"), "{said}");
    // Judgements that are rated are the judge's, whoever answered what it judged.
    let rated = |judge: &str| {
        let judge = format!(
            "from = \"r\"\nmodel = {judge:?}\nkeep_tokens = true\nrubric = \"pipelines/listworld/judge.jinja\"\nsampling = {{ max_tokens = 8 }}\n"
        );
        let rate = "[step.rated]\nop = \"meta-judge\"\nfrom = \"s\"\nmodel = \"j\"\n[step.pairs]\nop = \"select\"\nfrom = \"rated\"";
        let text = text("").replace("from = \"r\"\nmodel = \"j\"\n", &judge);
        text.replace("[step.pairs]\nop = \"select\"\nfrom = \"s\"", rate)
    };
    let (code, said) = reflux_on(dir, &rated("m0"), &["check"]);
    assert!(code == Some(0) && !said.contains("is another"), "{said}");
    let (code, said) = reflux_on(dir, &rated("writer"), &["check"]);
    assert!(code == Some(2) && said.contains("by which `s` samples, is another than that of `m0`"), "{said}");
}
