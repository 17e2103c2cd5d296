//! Keys that have no effect in the setting that they are given in are refused, whatever the operator; a default that is
//! written out is not.

use crate::common;
use reflux::operators;
use reflux::pipeline;

/// A pipeline whose last step is `step`; the rest gives it what it may read.
fn file(step: &str) -> String {
    format!(
        r#"
[pipeline]
name = "t"
[model.m0]
init = "pipelines/listworld/model"
[step.ift]
op = "listworld"
data = "ift"
rows = 8
[step.text]
op = "listworld"
data = "pretrain"
rows = 8
[step.eft]
op = "listworld"
data = "eft"
rows = 8
[step.ranked]
op = "listworld"
data = "ranked"
rows = 8
[step.requests]
op = "listworld"
data = "requests"
rows = 8
[step.answers]
op = "generate"
from = "requests"
model = "m0"
[step.more]
op = "generate"
from = "requests"
model = "m0"
[step.scores]
op = "judge"
from = "answers"
model = "m0"
keep_tokens = true
[step.others]
op = "judge"
from = "answers"
model = "m0"
[step.pairs]
op = "select"
from = "scores"
[step.agreed]
op = "select"
from = "scores"
consistency = "others"
[step.met]
op = "compare"
from = ["answers", "more"]
model = "m0"
[step.both]
op = "concat"
from = "pairs"
with = "agreed"
[step.last]
{step}
"#
    )
}

/// Every problem of the file, in one text.
fn problems(text: &str) -> String {
    pipeline::parse_str("test.toml", text, &[], operators::ALL).err().map(|d| d.render(false)).unwrap_or_default()
}

const DPO: &str = "op = \"dpo\"\nfrom = \"pairs\"\nmodel = \"m0\"\n";
const SFT: &str = "op = \"sft\"\nfrom = \"ift\"\nmodel = \"m0\"\n";
const JUDGE: &str = "op = \"judge\"\nfrom = \"answers\"\nmodel = \"m0\"\n";
const GENERATE: &str = "op = \"generate\"\nfrom = \"requests\"\nmodel = \"m0\"\n";
const SELECT: &str = "op = \"select\"\nfrom = \"scores\"\n";
const COMPARE: &str = "op = \"compare\"\nfrom = [\"answers\", \"more\"]\n";
const MEASURE: &str = "op = \"measure\"\nfrom = \"scores\"\n";
const META_JUDGE: &str = "op = \"meta-judge\"\nfrom = \"scores\"\nmodel = \"m0\"\n";

/// A step, keys that are fine by themselves, and the key that has no effect beside them.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    (DPO, "loss = \"ipo\"", "label_smoothing", "0.1"),
    (DPO, "loss = \"hinge\"", "label_smoothing", "0.1"),
    (DPO, "loss = \"cream\"\nfrom = \"agreed\"", "label_smoothing", "0.1"),
    (DPO, "loss = \"rpo_sq\"", "label_smoothing", "0.1"),
    (DPO, "", "margin_scale", "2.0"),
    (DPO, "loss = \"simpo\"", "margin_scale", "2.0"),
    (DPO, "", "simpo_gamma", "1.0"),
    (DPO, "loss = \"rpo_bwd_kl\"", "simpo_gamma", "1.0"),
    (DPO, "", "replay_weight", "0.5"),
    (DPO, "", "replay_batch", "4"),
    (DPO, "", "rubric", "\"src/operators/shared/templates/additive-5.jinja\""),
    (DPO, "replay = \"ift\"", "rubric", "\"src/operators/shared/templates/additive-5.jinja\""),
    (DPO, "", "validate_every", "7"),
    (DPO, "", "measure", "\"margin\""),
    (DPO, "", "keep_weights", "\"last\""),
    (DPO, "schedule = \"constant\"", "final_learning_rate", "1e-9"),
    (DPO, "audit = 0.0", "audit_threshold", "0.5"),
    (SFT, "batch_tokens = 512", "batch_size", "4"),
    (SFT, "", "rubric", "\"src/operators/shared/templates/additive-5.jinja\""),
    (SFT, "", "keep_weights", "\"last\""),
    (SFT, "schedule = \"constant\"", "final_learning_rate", "1e-9"),
    (JUDGE, "mode = \"expected\"", "pattern", "\"x([0-9])\""),
    (JUDGE, "mode = \"expected\"", "several", "\"last\""),
    (JUDGE, "mode = \"expected\"", "retries", "3"),
    (JUDGE, "mode = \"expected\"", "sampling", "{ temperature = 0.3 }"),
    (JUDGE, "mode = \"expected\"\nreasons = true", "lead", "\"Points: \""),
    (JUDGE, "mode = \"pairwise\"", "several", "\"last\""),
    (SELECT, "", "consistency_of", "\"microbatch\""),
    (SELECT, "", "length_unit", "\"characters\""),
    (COMPARE, "by = \"score\"\nfrom = [\"scores\", \"others\"]", "samples", "2"),
    (COMPARE, "by = \"score\"\nfrom = [\"scores\", \"others\"]", "sampling", "{ temperature = 0.1 }"),
    (COMPARE, "model = \"m0\"", "margin", "0.5"),
    (MEASURE, "resamples = 0", "confidence", "0.9"),
    (MEASURE, "", "perfect", "4.0"),
    ("op = \"listworld\"\ndata = \"ift\"\nrows = 4\n", "", "shots", "5"),
    (META_JUDGE, "strip_score = false", "score_pattern", "\"x([0-9])\""),
    (META_JUDGE, "sampling = { temperature = 0.0 }", "retries", "4"),
    (META_JUDGE, "", "iterations", "1"),
    (DPO, "loss = \"simpo\"", "reference", "\"m0\""),
    (DPO, "", "data", "\"cumulative\""),
    (JUDGE, "sampling = { temperature = 0.0 }", "retries", "4"),
    (JUDGE, "mode = \"pairwise\"\nsampling = { temperature = 0.0 }", "retries", "4"),
    (COMPARE, "model = \"m0\"\nsampling = { temperature = 0.0 }", "retries", "4"),
    (MEASURE, "from = \"met\"", "distinct_of", "7"),
    (MEASURE, "from = \"met\"", "bin", "0.25"),
    (MEASURE, "from = \"answers\"", "growth", "0.2"),
    (MEASURE, "from = [\"met\", \"answers\"]", "bin", "0.25"),
    ("op = \"dedup\"\nfrom = \"requests\"\n", "", "within", "\"iteration\""),
];

/// Keys of a step; a later line of the same key takes the place of the earlier one.
fn keys(step: &str, more: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in step.lines().chain(more.lines()) {
        let key = line.split(" = ").next();
        lines.retain(|l| l.split(" = ").next() != key);
        lines.push(line);
    }
    lines.join("\n")
}

#[test]
fn a_key_without_effect_is_refused() {
    for (step, beside, key, value) in REFUSED {
        let fine = file(&keys(step, beside));
        assert_eq!(problems(&fine), "", "{beside}");
        let text = file(&keys(step, &format!("{beside}\n{key} = {value}")));
        let said = problems(&text).replace(['\n', '│'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(&format!("`{key}` has no effect")), "{beside} {key}: {said}");
    }
}

#[test]
fn options_of_drawing_are_refused_where_nothing_is_drawn() {
    for (key, value) in [("top_p", "0.5"), ("top_k", "7"), ("min_p", "0.1")] {
        for step in [GENERATE, JUDGE] {
            let one = format!("{step}samples = 1\n");
            let said = problems(&file(&format!("{one}sampling = {{ temperature = 0.0, {key} = {value} }}")));
            assert!(said.contains(&format!("`{key}` has no effect")), "{key}: {said}");
            assert_eq!(problems(&file(&format!("{one}sampling = {{ temperature = 0.7, {key} = {value} }}"))), "");
        }
    }
    // What switches an option off, and a default, say nothing.
    for fine in ["top_p = 1.0", "top_p = 0.9", "top_k = 0", "min_p = 0.0"] {
        assert_eq!(problems(&file(&format!("{GENERATE}samples = 1\nsampling = {{ temperature = 0.0, {fine} }}"))), "");
    }
    let said = problems(&file(&format!("{GENERATE}samples = 3\nsampling = {{ temperature = 0.0 }}")));
    assert!(said.contains("every answer to a prompt is the same"), "{said}");
    let said = problems(&file(&format!("{GENERATE}sampling = {{ min_tokens = 9, max_tokens = 4 }}")));
    assert!(said.contains("more than `max_tokens`"), "{said}");
}

#[test]
fn cream_needs_pairs_that_know_how_far_judges_agree() {
    let cream = |from: &str| problems(&file(&keys(DPO, &format!("loss = \"cream\"\nfrom = \"{from}\""))));
    assert!(cream("pairs").contains("how far two judges agree"), "{}", cream("pairs"));
    assert_eq!(cream("agreed"), "");
    // Some of its rows know.
    assert_eq!(cream("both"), "");
    let split = file(
        "op = \"split\"\nfrom = \"pairs\"\npart = \"train\"\n[step.dpo]\nop = \"dpo\"\nfrom = \"last\"\nmodel = \"m0\"\nloss = \"cream\"",
    );
    assert!(problems(&split).contains("how far two judges agree"), "{}", problems(&split));
}

#[test]
fn samples_of_a_judge_that_repeats_itself_are_refused() {
    for step in [JUDGE, META_JUDGE, &keys(COMPARE, "model = \"m0\"")] {
        let said = problems(&file(&keys(step, "samples = 2\nsampling = { temperature = 0.0 }")));
        assert!(said.contains("every sample is the same"), "{step}: {said}");
    }
}

#[test]
fn lists_by_iteration_that_are_longer_than_there_are_iterations_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let small = common::small_loop(temp.path());
    assert_eq!(problems(&small), "");
    for (step, key) in
        [("pairs", "length_control = [0.1, 0.2"), ("pairs", "max_chosen_length = [9, 8"), ("dpo", "limit = [4, 3")]
    {
        let with = |list: &str| small.replace(&format!("[step.{step}]\n"), &format!("[step.{step}]\n{list}\n"));
        assert_eq!(problems(&with(&format!("{key}]"))), "", "{key}");
        let plan = pipeline::parse_str("test.toml", &with(&format!("{key}, 0]")), &[], operators::ALL).unwrap();
        let said = plan.warnings.render(false);
        assert!(said.contains("has values for 3 iterations, and the step has 2"), "{key}: {said}");
    }
    let once = problems(&file(&keys(DPO, "limit = [4, 3]")));
    assert!(once.contains("`limit` has 2 values, and the step runs once"), "{once}");
    assert!(problems(&file(&keys(DPO, "limit = []"))).contains("the list is empty"));
}

#[test]
fn a_file_with_all_defaults_written_out_is_as_good_as_one_without() {
    for (step, beside, ..) in REFUSED {
        let plan = pipeline::parse_str("test.toml", &file(&keys(step, beside)), &[], operators::ALL).unwrap();
        assert_eq!(problems(&plan.resolved), "", "{beside}");
    }
}

#[test]
fn sections_refuse_what_has_no_effect() {
    let once = file(SFT).replace("name = \"t\"", "name = \"t\"\niterations = 3");
    assert!(problems(&once).contains("`iterations` has no effect without [loop]"), "{}", problems(&once));
    let script = std::env::temp_dir().join(format!("reflux-no-effect-{}.toml", std::process::id()));
    std::fs::write(&script, "[[answer]]\ntext = \"x\"\n").unwrap();
    let with = |more: &str| problems(&format!("{}\n[model.s]\nscript = {script:?}\n{more}\n", file(SFT)));
    assert!(with("dtype = \"f16\"").contains("`dtype` has no effect"), "{}", with("dtype = \"f16\""));
    assert!(!with("").contains("has no effect"));
    // Nothing runs on an engine but models with weights.
    let scripted = |engine: &str| {
        problems(&format!(
            "[pipeline]\nname = \"t\"\n{engine}\n[model.s]\nscript = {script:?}\n[step.requests]\nop = \"listworld\"\n\
             data = \"requests\"\nrows = 2\n[step.answers]\nop = \"generate\"\nfrom = \"requests\"\nmodel = \"s\"\n"
        ))
    };
    assert_eq!(scripted("[engine]\nmax_batch = 128"), "", "a default that is written out");
    for key in ["threads = 2", "max_batch = 4", "kv_memory = \"1 GiB\""] {
        let said = scripted(&format!("[engine]\n{key}"));
        assert!(said.contains("has no effect where no model has weights"), "{key}: {said}");
        assert_eq!(problems(&format!("{}[engine]\n{key}\n", file(SFT))), "");
    }
    std::fs::remove_file(&script).unwrap();
}
