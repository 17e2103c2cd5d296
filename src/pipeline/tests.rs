//! The pipeline file as a whole, with stub operators.

use super::stub::KINDS;
use super::*;

pub(super) const PAPER: &str = r#"
[pipeline]
name = "self-rewarding"
seed = 17
iterations = 2

[model.m0]
hf = "org/small"

[step.ift]
op = "read"
dataset = "datasets/ift"

[step.eft]
op = "read"
dataset = "datasets/eft"
schema = "eft"

[step.m1]
op = "sft"
from = ["ift", "eft"]
model = "m0"

[loop]
policy = "m1"
next = "dpo"

[step.prompts]
op = "synthesize"
from = "ift"
model = "m0"
sampling = { temperature = 0.6, max_tokens = 128 }

[step.responses]
op = "generate"
from = "prompts"
model = "policy"

[step.scores]
op = "judge"
from = "responses"
model = "policy"

[step.pairs]
op = "select"
from = "scores"
strategy = "best-worst"

[step.dpo]
op = "dpo"
from = "pairs"
model = "policy"
replay = "eft"

[step.truth]
op = "oracle"
from = "responses"

[step.exam]
op = "read"
dataset = "datasets/exam"
schema = "prompts"

[step.answers]
op = "generate"
from = "exam"
model = "policy"
samples = 1
"#;

fn parse(text: &str, set: &[&str]) -> Result<Plan<dyn StepSpec>, Diagnostics> {
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    parse_str("test.toml", text, &set, KINDS)
}
fn codes_of(text: &str, set: &[&str]) -> Vec<&'static str> {
    match parse(text, set) {
        Ok(plan) => plan.warnings.iter().map(|d| d.code.id).collect(),
        Err(problems) => problems.iter().map(|d| d.code.id).collect(),
    }
}

#[test]
fn the_paper_is_placed() {
    let plan = parse(PAPER, &[]).unwrap();
    assert!(plan.warnings.is_empty(), "{}", plan.warnings);
    let names: Vec<&str> = plan.steps.iter().map(|s| s.name.as_str()).collect();
    // Dependency order, equals by name; m1 makes the first policy, so it comes before all that use it.
    assert_eq!(
        names,
        ["eft", "exam", "ift", "m1", "answers", "prompts", "responses", "scores", "pairs", "dpo", "truth"]
    );
    let at = |name: &str| plan.step(name).map(|s| (s.placement, s.iterations.clone())).unwrap();
    assert_eq!(at("ift"), (Placement::Once, 0..=0));
    assert_eq!(at("m1"), (Placement::Once, 0..=0));
    assert_eq!(at("prompts"), (Placement::Ahead, 1..=2));
    assert_eq!(at("responses"), (Placement::Loop, 1..=2));
    assert_eq!(at("pairs"), (Placement::Loop, 1..=2));
    assert_eq!(at("dpo"), (Placement::Loop, 1..=2));
    // Reads rows of the loop, so only as far as the loop goes; the exam is sat by the final model too.
    assert_eq!(at("truth"), (Placement::Observer, 1..=2));
    assert_eq!(at("answers"), (Placement::Observer, 1..=3));
    let dpo = plan.step("dpo").unwrap();
    assert_eq!(dpo.model, Some(ModelUse::Policy));
    assert_eq!(dpo.inputs[0], Input { step: "pairs".into(), whole: true, joined: false, key: "from" });
    assert_eq!(dpo.inputs[1], Input { step: "eft".into(), whole: true, joined: false, key: "replay" });
    assert!(!plan.step("scores").unwrap().inputs[0].whole);
    let answers = plan.step("answers").unwrap();
    assert!(plan.enters(answers, &answers.inputs[0]));
    assert_eq!(plan.loop_.as_ref().unwrap().policy, ModelUse::Step("m1".into()));
    assert_eq!(plan.step("m1").unwrap().line, 19);
    assert_eq!(plan.step("pairs").unwrap().schema.name, "pairs");
}

#[test]
fn the_resolved_file_is_a_fixed_point() {
    let plan = parse(PAPER, &["step.responses.samples=8", "step.responses.sampling.top_p=1"]).unwrap();
    assert!(plan.resolved.contains("samples = 8\nsampling = { temperature = 0.7, top_p = 1.0, max_tokens = 256 }"));
    assert!(plan.resolved.contains("beta = 0.1\nlearning_rate = 1e-6\nreplay = \"eft\"\nreference = \"policy-start\""));
    assert!(plan.resolved.contains("microbatch = 32\nwindow = 4"));
    let again = parse(&plan.resolved, &[]).unwrap();
    assert_eq!(again.resolved, plan.resolved);
    for format in [PlanFormat::Tree, PlanFormat::Mermaid, PlanFormat::Dot] {
        assert_eq!(explain(&again, format), explain(&plan, format));
    }
}

#[test]
fn the_order_of_the_file_does_not_matter() {
    let (head, tail) = PAPER.split_at(PAPER.find("[loop]").unwrap());
    assert_eq!(parse(&format!("{tail}{head}"), &[]).unwrap().resolved, parse(PAPER, &[]).unwrap().resolved);
}

#[test]
fn a_policy_writer_is_in_the_loop() {
    let plan = parse(PAPER, &["step.prompts.model=policy"]).unwrap();
    assert_eq!(plan.step("prompts").unwrap().placement, Placement::Loop);
}

#[test]
fn a_head_that_feeds_the_first_policy_cannot_run_ahead() {
    // The prompts would be needed in iteration 0 and in each later one.
    let text = PAPER.replace("from = [\"ift\", \"eft\"]", "from = [\"ift\", \"made\"]")
        + "[step.made]\nop = \"read\"\ndataset = \"x\"\nschema = \"text\"\n[step.own]\nop = \"synthesize\"\nmodel = \"m0\"\nfrom = \"ift\"\n";
    let plan = parse(&text, &[]).unwrap();
    assert_eq!(plan.step("own").unwrap().placement, Placement::Once);
}

#[test]
fn overrides_are_checked_the_same_way() {
    let plan = parse(PAPER, &["pipeline.seed=3", "step.pairs.strategy=best-random", "step.m1.from=eft"]).unwrap();
    assert_eq!(plan.seed, 3);
    assert_eq!(plan.step("m1").unwrap().inputs.len(), 1);
    assert_eq!(plan.step("pairs").unwrap().op.explain(), "best-random");
    assert_eq!(codes_of(PAPER, &["step.dpo.beat=1"]), ["E0102"]);
    assert_eq!(codes_of(PAPER, &["step.dpo.beta=lots"]), ["E0104"]);
    assert_eq!(codes_of(PAPER, &["step.dop.beta=1"]), ["E0202"]);
    assert_eq!(codes_of(PAPER, &["model.m1.path=x"]), ["E0309", "E0108"]);
    assert_eq!(codes_of(PAPER, &["seed"]), ["E0110"]);
    assert_eq!(codes_of(PAPER, &["=3"]), ["E0110"]);
    assert_eq!(codes_of(PAPER, &["step.dpo.beta="]), ["E0110"]);
    assert_eq!(codes_of(PAPER, &["step.m1.from=[eft]"]), ["E0002"]);
    assert_eq!(codes_of(PAPER, &["step.dpo=3"]), ["E0202", "E0104"]);
    // One source of a model replaces the other; a table in braces replaces the whole.
    let plan = parse(PAPER, &["model.m0.init=src", "step.responses.sampling={ top_p = 0.5 }"]).unwrap();
    assert!(matches!(&plan.models[0].kind, ModelKind::Init { config, seed: None } if config.shown() == "src"));
    assert!(plan.resolved.contains("sampling = { temperature = 0.7, top_p = 0.5, max_tokens = 256 }"));
    // A later override wins; one may add a step.
    let plan = parse(PAPER, &["pipeline.seed=1", "pipeline.seed=2", "step.new.op=dedup", "step.new.from=prompts"]);
    let plan = plan.unwrap();
    assert_eq!((plan.seed, plan.step("new").unwrap().placement), (2, Placement::Ahead));
}

#[test]
fn rendered_as_promised() {
    let text = "[step.ift]\nop = \"raed\"\n\n[step.m1]\nop = \"sft\"\nfrom = [\"itf\"]\nmodel = \"m0\"\nlearnign_rate = 1e-6\n";
    let problems = parse(text, &["step.m1.learning_rate=-1"]).unwrap_err();
    let expected = "\
E0201 unknown-operator

  × step `ift`: unknown operator `raed`
   ╭─[test.toml:2:6]
 1 │ [step.ift]
 2 │ op = \"raed\"
   ·      ───┬──
   ·         ╰── unknown operator
 3 │
   ╰────
  help: did you mean `read`?

E0202 unknown-step

  × step `m1` reads `itf`, which is not a step
   ╭─[test.toml:6:9]
 5 │ op = \"sft\"
 6 │ from = [\"itf\"]
   ·         ──┬──
   ·           ╰── no such step
 7 │ model = \"m0\"
   ╰────
  help: did you mean `ift`?

E0301 unknown-model

  × step `m1`: no step makes the model `m0`
   ╭─[test.toml:7:9]
 6 │ from = [\"itf\"]
 7 │ model = \"m0\"
   ·         ──┬─
   ·           ╰── no such model
 8 │ learnign_rate = 1e-6
   ╰────
  help: did you mean `m1`?

E0102 unknown-key

  × step `m1` has no key `learnign_rate`
   ╭─[test.toml:8:1]
 7 │ model = \"m0\"
 8 │ learnign_rate = 1e-6
   · ──────┬──────
   ·       ╰── unknown key
   ╰────
  help: did you mean `learning_rate`?

E0105 out-of-range

  × step `m1`: `learning_rate` is out of range
   ╭─[--set:1:23]
 1 │ step.m1.learning_rate=-1
   ·                       ─┬
   ·                        ╰── a number from 0.0 to 1.0 is wanted
   ╰────

test.toml: 5 errors
";
    assert_eq!(problems.render(false), expected);
    assert!(problems.render(true).contains("\u{1b}["));
    assert_eq!(problems.errors(), 5);
}

#[test]
fn cycles_are_printed_whole() {
    let text = PAPER.replace("from = \"ift\"\nmodel = \"m0\"\nsampling", "from = \"pairs\"\nmodel = \"m0\"\nsampling");
    let problems = parse(&text, &[]).unwrap_err();
    let chain = "pairs -> prompts -> responses -> scores -> pairs";
    assert!(problems.iter().any(|d| d.code.id == "E0207" && d.message.contains(chain)), "{problems}");
    assert_eq!(codes_of(PAPER, &["step.scores.from=scores"]), ["E0207"]);
}

#[test]
fn a_long_chain_needs_no_stack() {
    let mut text = String::from("[step.s0]\nop=\"read\"\ndataset=\"x\"\nschema=\"prompts\"\n");
    for i in 1..20_000 {
        text += &format!("[step.s{i}]\nop=\"dedup\"\nfrom=\"s{}\"\n", i - 1);
    }
    let plan = parse(&text, &[]).unwrap();
    assert_eq!(plan.steps.len(), 20_000);
    let problems = parse(&text, &["step.s0.op=dedup", "step.s0.from=s19999"]).unwrap_err();
    assert!(problems.iter().any(|d| d.code.id == "E0207"));
    assert!(problems.render(false).len() < 100_000);
}

#[test]
fn models_are_resolved() {
    assert_eq!(codes_of(PAPER, &["step.scores.model=dpo"]), ["E0303"]);
    assert_eq!(codes_of(PAPER, &["step.scores.model=ift"]), ["E0304"]);
    assert_eq!(codes_of(PAPER, &["step.scores.model=m9"]), ["E0301"]);
    assert_eq!(codes_of(PAPER, &["step.pairs.model=m0"]), ["E0308"]);
    assert_eq!(codes_of(PAPER, &["step.dpo.reference=m9"]), ["E0301"]);
    let plan = parse(PAPER, &["step.dpo.reference=m1"]).unwrap();
    assert_eq!(plan.step("dpo").unwrap().models, [("reference", ModelUse::Step("m1".into()))]);
    let reference = |word: &str| {
        let plan = parse(PAPER, &[&format!("step.dpo.reference={word}")]).unwrap();
        plan.step("dpo").unwrap().models[0].1.clone()
    };
    assert_eq!(reference("policy-start"), ModelUse::Policy);
    assert_eq!(reference("policy"), ModelUse::Policy);
    assert_eq!(reference("base"), ModelUse::Source("m0".into()));
    assert_eq!(reference("m0"), ModelUse::Source("m0".into()));
    // A path is a model of its own, in f32.
    assert_eq!(reference("./src"), ModelUse::Source("./src".into()));
    let plan = parse(PAPER, &["step.dpo.reference=./src"]).unwrap();
    assert!(matches!(&plan.model("./src").unwrap().kind, ModelKind::Path(path) if path.shown() == "./src"));
    assert_eq!(codes_of(PAPER, &["step.dpo.reference=./scr"]), ["E0108"]);
    // Its weights must be kept in the type of those that are trained.
    assert_eq!(codes_of(PAPER, &["step.dpo.reference=./src", "model.m0.dtype=bf16"]), ["E0109"]);
    let other = ["model.ref.path=./src", "model.ref.dtype=f16", "step.dpo.reference=ref"];
    let apart = parse(PAPER, &other).unwrap_err().render(false);
    assert!(apart.contains("trains a model in f32 and uses a reference in f16"), "{apart}");
    assert!(apart.contains("give [model.m0] and [model.ref] the same dtype"), "{apart}");
    parse(PAPER, &[&other[..], &["model.m0.dtype=f16"]].concat()).unwrap();
    let near = parse(PAPER, &["step.dpo.reference=policy-strat"]).unwrap_err().render(false);
    assert!(near.contains("did you mean `policy-start`?"), "{near}");
    assert_eq!(codes_of(PAPER, &["step.dpo.reference=dpo"]), ["E0303"]);
    assert_eq!(codes_of(PAPER, &["step.dpo.reference=ift"]), ["E0304"]);
    // Another model than the policy has no claim to it; and a word gives way to a step or model of its name.
    let moved = ["step.dpo.model=m0", "step.dpo.reference=policy", "loop.next=again", "step.again.op=dpo"];
    let moved = [&moved[..], &["step.again.from=pairs", "step.again.model=policy"]].concat();
    assert_eq!(codes_of(PAPER, &moved), ["E0109"]);
    let renamed = PAPER.replace("\"m1\"", "\"first\"").replace("[step.m1]", "[step.first]");
    let of = |word: &str| {
        let plan = parse(&renamed, &[&format!("step.dpo.reference={word}")]).unwrap();
        plan.step("dpo").unwrap().models[0].1.clone()
    };
    assert_eq!((of("m1"), of("base")), (ModelUse::Step("first".into()), ModelUse::Source("m0".into())));
    assert_eq!(codes_of(PAPER, &["loop.next=m1"]), ["E0307", "E0306"]);
    assert_eq!(codes_of(PAPER, &["loop.next=pairs"]), ["E0305"]);
    assert_eq!(codes_of(PAPER, &["loop.policy=dpo"]), ["E0307"]);
    assert_eq!(codes_of(PAPER, &["loop.policy=policy"]), ["E0307"]);
    // An empty name is not the absence of one.
    for key in ["loop.policy", "loop.next", "step.scores.model", "step.dpo.reference", "model.m0.hf"] {
        assert_eq!(codes_of(PAPER, &[&format!("{key}=\"\"")]), ["E0105"], "{key}");
    }
    assert_eq!(codes_of(PAPER, &["step.dpo.replay=\"\""]), ["E0202"]);
    assert_eq!(codes_of(PAPER, &["model.m0.path=\"\""]), ["E0108"]);
    let (before, after) = (PAPER.find("[loop]").unwrap(), PAPER.find("[step.prompts]").unwrap());
    let no_loop = format!("{}{}", &PAPER[..before], &PAPER[after..]);
    // Without a loop there are no iterations to count either.
    assert_eq!(codes_of(&no_loop, &[]), ["E0109", "E0302", "E0302", "E0302", "E0302"]);
}

#[test]
fn every_code_has_a_case_that_gives_it() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut seen = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let code = name[..5].to_owned();
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        let set: Vec<String> = text.lines().filter_map(|l| l.strip_prefix("# --set ")).map(str::to_owned).collect();
        let without_data = text.lines().any(|l| l == "# --no-data");
        let load = if without_data { load_without_data::<dyn StepSpec> } else { load::<dyn StepSpec> };
        let found: Vec<&str> = match load(&path, &set, KINDS) {
            Ok(plan) => plan.warnings.iter().map(|d| d.code.id).collect(),
            Err(problems) => {
                assert!(!problems.render(false).is_empty());
                problems.iter().map(|d| d.code.id).collect()
            }
        };
        assert!(found.iter().all(|f| *f == code) && !found.is_empty(), "{name}: {found:?}");
        assert_eq!(codes::find(&name[6..]).map(|c| c.id), Some(code.as_str()), "{name}");
        seen.insert(code);
    }
    // No file makes the system refuse a thread: tests/limits/system.rs does.
    seen.insert("E0003".to_owned());
    let all: std::collections::BTreeSet<String> = codes::ALL.iter().map(|c| c.id.to_owned()).collect();
    assert_eq!(seen, all);
}

#[test]
fn only_what_a_head_starts_can_be_streamed() {
    let streaming = "step.dpo.data_schedule=streaming";
    let plan = parse(PAPER, &[streaming]).unwrap();
    let tree = explain(&plan, PlanFormat::Tree);
    assert!(tree.contains("from pairs (`pairs`, by microbatch, as they close; window of 4 measured here)"), "{tree}");
    assert!(tree.contains("barrier: trains as microbatches close, makes the next policy when its iteration closes"));
    assert!(explain(&plan, PlanFormat::Mermaid).contains("\"pairs, streaming, window\""));
    // Rows of a dataset that is read to its end, through any number of steps.
    let stored = ["step.requests.op=listworld", "step.requests.data=requests", "step.responses.from=requests"];
    assert!(parse(PAPER, &stored).is_ok());
    assert_eq!(codes_of(PAPER, &[stored.as_slice(), &[streaming]].concat()), ["E0209"]);
}

#[test]
fn explained_as_a_tree() {
    let plan = parse(PAPER, &["step.truth.keep=false", "step.answers.keep=true"]);
    // A step that nobody reads and that is not kept is worth a warning, no more.
    let plan = plan.unwrap();
    assert_eq!(plan.warnings.iter().map(|d| d.code.id).collect::<Vec<_>>(), ["W0401"]);
    let expected = "\
self-rewarding: 2 iterations of the loop, 32 rows a microbatch, at most 4 microbatches open, seed 17
├─ models
│  └─ m0: org/small from the hub, f32
├─ once, before anything else (iteration 0)
│  ├─ eft: read gives `eft`
│  │  └─ reads datasets/eft
│  ├─ exam: read gives `prompts`
│  │  └─ reads datasets/exam
│  ├─ ift: read gives `ift`
│  │  └─ reads datasets/ift
│  └─ m1: sft gives `models`
│     ├─ learning rate 5.5e-6
│     ├─ from ift (`ift`, whole)
│     ├─ from eft (`eft`, whole)
│     ├─ model m0
│     └─ barrier: makes a model when its inputs close
├─ ahead of the loop (iterations 1 to 2; does not wait for the policy)
│  └─ prompts: synthesize gives `prompts`
│     ├─ 512 prompts an iteration
│     ├─ from ift (`ift`, whole, the same rows in each iteration)
│     └─ model m0
├─ in the loop (iterations 1 to 2)
│  ├─ policy: m1 in iteration 1, then the model that dpo made one iteration before
│  ├─ responses: generate gives `responses`
│  │  ├─ 4 answers a prompt at 0.7
│  │  ├─ from prompts (`prompts`, by microbatch)
│  │  └─ model policy
│  ├─ scores: judge gives `scores`
│  │  ├─ additive-5, 3 times
│  │  ├─ from responses (`responses`, by microbatch)
│  │  └─ model policy
│  ├─ pairs: select gives `pairs` (groups by key)
│  │  ├─ best-worst
│  │  └─ from scores (`scores`, by microbatch)
│  └─ dpo: dpo gives `models`
│     ├─ beta 0.1
│     ├─ from pairs (`pairs`, whole; window of 4 measured here)
│     ├─ replay = eft (`eft`, whole, the same rows in each iteration)
│     ├─ model policy
│     ├─ reference = model policy
│     └─ barrier: makes the next policy when its iteration closes
└─ for every policy, beside the loop (iterations 1 to 3)
   ├─ answers: generate gives `responses`
   │  ├─ 1 answers a prompt at 0.7
   │  ├─ from exam (`prompts`, by microbatch, the same rows in each iteration)
   │  └─ model policy
   └─ truth: oracle gives `scores` (iterations 1 to 2 only: it reads rows of the loop) (not kept)
      ├─ counts points
      └─ from responses (`responses`, by microbatch)
";
    assert_eq!(explain(&plan, PlanFormat::Tree), expected);
    let mermaid = explain(&plan, PlanFormat::Mermaid);
    assert!(mermaid.starts_with("flowchart LR\n"));
    for part in ["s5 -- \"prompts\" --> s6", "s9 -. next .-> policy", "-- \"pairs, whole, window\" -->"] {
        assert!(mermaid.contains(part), "{part}\n{mermaid}");
    }
    let dot = explain(&plan, PlanFormat::Dot);
    assert!(dot.contains("s9 -> policy [style=dashed, label=\"next\"") && dot.ends_with("}\n"), "{dot}");
}

#[test]
fn keys_are_documented_where_they_are_read() {
    let kind = KINDS.iter().find(|k| k.name == "generate").unwrap();
    let keys = kind.keys();
    let names: Vec<&str> = keys.iter().map(|k| k.key).collect();
    assert_eq!(names, ["op", "from", "model", "keep", "samples", "sampling"]);
    assert_eq!(keys[5].nested[0].default.as_deref(), Some("0.7"));
    let read = KINDS.iter().find(|k| k.name == "read").unwrap().keys();
    assert!(read.iter().all(|k| k.key != "from" && k.key != "model"));
    let table = keys_table(&read);
    assert!(table.contains("directory of Parquet files (text; required)"), "{table}");
    for section in &SECTION_DOCS {
        let keys = (section.keys)();
        assert!(!keys.is_empty() && keys.iter().all(|k| !k.about.is_empty()), "{}", section.name);
    }
    // The keys of a table that is absent are known all the same.
    let sft = KINDS.iter().find(|k| k.name == "sft").unwrap().keys();
    assert!(sft.iter().any(|k| k.key == "lora" && k.nested[0].key == "rank" && k.nested[0].required));
}

#[test]
fn sub_tables() {
    assert_eq!(codes_of(PAPER, &["step.responses.sampling.temprature=1"]), ["E0102"]);
    let problems = parse(PAPER, &["step.responses.temperature=1"]).unwrap_err();
    let help = problems.iter().next().and_then(|d| d.help.clone()).unwrap();
    assert_eq!(help, "it goes into the table `sampling`: sampling = { temperature = .. }");
    assert_eq!(codes_of(PAPER, &["step.responses.sampling=3"]), ["E0104"]);
    // An optional table's required key is required once the table is there.
    assert_eq!(codes_of(PAPER, &["step.m1.lora={}"]), ["E0103"]);
    assert!(parse(PAPER, &["step.m1.lora.rank=8"]).unwrap().resolved.contains("lora = { rank = 8 }"));
}

/// A server that is started goes with any files; an address replaces them.
#[test]
fn an_override_of_a_server_or_of_its_files_keeps_the_other() {
    const SERVED: &str = "[server.own]\ncommand = [\"sh\", \"{model}\", \"{port}\", \"{name}\"]\n[model.m0]\npath = \"src\"\n\
                          server = \"own\"\n[step.ift]\nop = \"read\"\ndataset = \"src\"\n[step.m1]\nop = \"sft\"\nfrom = \"ift\"\n\
                          model = \"m0\"\n";
    let model = |text: &str, set: &[&str]| parse(text, set).unwrap().models[0].clone();
    let served = |set: &[&str]| model(SERVED, set);
    assert!(served(&[]).program.is_some_and(|p| p.restarts == 2));
    let init = served(&["model.m0.init=src"]);
    assert!(matches!(init.kind, ModelKind::Init { .. }) && init.program.is_some());
    let address = served(&["model.m0.server=http://localhost:1/v1", "model.m0.name=x"]);
    assert!(matches!(address.kind, ModelKind::Server(_)) && address.program.is_none());
    let local = SERVED.replace("server = \"own\"\n", "dtype = \"bf16\"\n");
    let moved = model(&local, &["model.m0.server=own"]);
    assert!(matches!(moved.kind, ModelKind::Path(_)) && moved.program.is_some() && moved.dtype == Dtype::Bf16);
    assert!(served(&["server.own.restarts=5"]).program.is_some_and(|p| p.restarts == 5));
    // The stored file reads the same.
    let plan = parse(SERVED, &[]).unwrap();
    assert_eq!(parse(&plan.resolved, &[]).unwrap().resolved, plan.resolved);
}
