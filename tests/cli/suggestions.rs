//! Every suggestion works when it is typed: what it was about is gone then.

use std::path::Path;
use std::process::{Command, Output};

/// A folder with a pipeline without faults, and a finished run of it.
pub struct World(pub tempfile::TempDir);

const PIPELINE: &str = r#"
[pipeline]
name = "good"
microbatch = 2
[engine]
max_batch = 4
[health.parse_failures]
warn = 0.5
[model.script]
script = "data/script.toml"
[step.rows]
op = "read"
dataset = "data/rows.jsonl"
schema = "prompts"
[step.answers]
op = "generate"
from = "rows"
model = "script"
samples = 2
sampling = { temperature = 1.0, max_tokens = 8 }
[step.scores]
op = "judge"
from = "answers"
model = "script"
rubric = "additive-5"
samples = 1
[step.pairs]
op = "select"
from = "scores"
strategy = "best-random"
[step.m1]
op = "sft"
from = "seed"
model = "m0"
learning_rate = 1e-3
[step.seed]
op = "listworld"
data = "ift"
rows = 4
[model.m0]
path = "models/m0"
[loop]
policy = "m1"
next = "dpo"
[step.own]
op = "generate"
from = "rows"
model = "policy"
[step.dpo]
op = "dpo"
from = "loop_pairs"
model = "policy"
loss = "sigmoid"
reference = "policy-start"
[step.loop_scores]
op = "judge"
from = "own"
model = "script"
[step.loop_pairs]
op = "select"
from = "loop_scores"
"#;

/// The steps that train nothing: what is run here.
pub fn without_training() -> String {
    PIPELINE[..PIPELINE.find("[step.m1]").unwrap()].replace("[engine]\nmax_batch = 4\n", "")
}

impl World {
    pub fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(world.0.path().join("data")).unwrap();
        std::fs::create_dir(world.0.path().join("models")).unwrap();
        let m0 = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/m0");
        std::os::unix::fs::symlink(m0, world.0.path().join("models/m0")).unwrap();
        world.write("data/script.toml", "[[answer]]\ntext = [\"Yes.\\nScore: 4\", \"No.\\nScore: 1\"]\n");
        let row = |i: u32| {
            let ids = format!("{i:032x}");
            format!("{{\"prompt_id\": \"{ids}\", \"prompt\": \"p{i}\", \"origin\": \"o\", \"parents\": []}}\n")
        };
        world.write("data/rows.jsonl", &(0..12).map(row).collect::<String>());
        world.write("good.toml", PIPELINE);
        world.write("small.toml", &without_training());
        let from = PIPELINE.find("[step.m1]").unwrap();
        world.write("trained.toml", &format!("[pipeline]\n{}", &PIPELINE[from..PIPELINE.find("[loop]").unwrap()]));
        world
    }
    /// With a finished run `good` of the steps that train nothing.
    pub fn with_run() -> Self {
        let world = Self::new();
        world.good("reflux run small.toml -q");
        world
    }
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }
    /// Types a command.
    pub fn typed(&self, command: &str) -> (Option<i32>, String) {
        // The word may come again among the arguments.
        let reflux = format!("reflux() {{ '{}' \"$@\"; }}; {command}", env!("CARGO_BIN_EXE_reflux"));
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(reflux).current_dir(self.0.path()).env("NO_COLOR", "1");
        let Output { status, stdout, stderr } = shell.output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
    }
    /// Types a command that works.
    pub fn good(&self, command: &str) -> String {
        let (code, said) = self.typed(command);
        assert_eq!(code, Some(0), "{command}: {said}");
        said
    }
    /// Types a command with a mistake, then with the suggestion in the mistake's place.
    fn meant(&self, command: &str, mistake: &str, means: &str) {
        let (code, said) = self.typed(command);
        assert_eq!(code, Some(2), "{command}: {said}");
        let suggested = suggestion(&said).unwrap_or_else(|| panic!("{command} suggests nothing: {said}"));
        assert_eq!(suggested, means, "{command}: {said}");
        assert!(command.matches(mistake).count() == 1, "`{mistake}` is not once in {command}");
        self.good(&command.replace(mistake, &suggested));
    }
}

/// What a message suggests.
fn suggestion(said: &str) -> Option<String> {
    // A message that is drawn is broken into lines.
    let words: Vec<&str> = said.split_whitespace().filter(|w| *w != "│").collect();
    let said = words.join(" ");
    let quoted = |from: &str, quote: char| {
        let (_, rest) = said.split_once(&format!("{from}{quote}"))?;
        Some(rest.split(quote).next()?.to_owned())
    };
    // clap's begin with "tip: a similar value exists: 'json'".
    quoted("did you mean ", '`').or_else(|| quoted("exists: ", '\''))
}

#[test]
fn words_of_a_pipeline_file() {
    let world = World::new();
    world.good("reflux check good.toml");
    for (good, mistake, means) in [
        ("[engine]", "[engin]", "engine"),
        ("[loop]", "[looop]", "loop"),
        ("microbatch = 2", "microbach = 2", "microbatch"),
        ("max_batch = 4", "max-batch = 4", "max_batch"),
        ("[health.parse_failures]", "[health.parse_failure]", "parse_failures"),
        ("warn = 0.5", "wran = 0.5", "warn"),
        ("path = \"models/m0\"", "pth = \"models/m0\"", "path"),
        ("path = \"models/m0\"", "path = \"models/m00\"", "models/m0"),
        ("path = \"models/m0\"", "path = \"model/m0\"", "models/m0"),
        ("script = \"data/script.toml\"", "script = \"data/scirpt.toml\"", "data/script.toml"),
        ("op = \"listworld\"", "op = \"listwrld\"", "listworld"),
        ("dataset = \"data/rows.jsonl\"", "dataset = \"data/row.jsonl\"", "data/rows.jsonl"),
        ("dataset = \"data/rows.jsonl\"", "datset = \"data/rows.jsonl\"", "dataset"),
        ("schema = \"prompts\"", "schema = \"promts\"", "prompts"),
        ("from = \"answers\"", "from = \"answrs\"", "answers"),
        ("model = \"m0\"", "model = \"M0\"", "m0"),
        ("sampling = { temperature", "sampling = { temprature", "temperature"),
        ("strategy = \"best-random\"", "strategy = \"best_random\"", "best-random"),
        ("rubric = \"additive-5\"", "rubric = \"aditive-5\"", "additive-5"),
        ("data = \"ift\"", "data = \"itf\"", "ift"),
        ("policy = \"m1\"", "policy = \"m11\"", "m1"),
        ("next = \"dpo\"", "next = \"dpoo\"", "dpo"),
        ("loss = \"sigmoid\"", "loss = \"sigmod\"", "sigmoid"),
        ("reference = \"policy-start\"", "reference = \"policy_start\"", "policy-start"),
        ("learning_rate = 1e-3", "learning-rate = 1e-3", "learning_rate"),
    ] {
        assert!(PIPELINE.contains(good), "the file has no {good}");
        let text = PIPELINE.replacen(good, mistake, 1);
        world.write("bad.toml", &text);
        let (code, said) = world.typed("reflux check bad.toml");
        assert_eq!(code, Some(2), "{mistake}: {said}");
        let suggested = suggestion(&said).unwrap_or_else(|| panic!("{mistake}: nothing is suggested: {said}"));
        assert_eq!(suggested, means, "{mistake}: {said}");
        assert!(!mistake.contains(&format!("\"{suggested}\"")), "{mistake}: it is what was typed");
        // Typed in the place of the word that is nearest to what it says.
        let part = |text: &str| text.split(['"', '[', ']', ' ', '{', '=']).map(str::to_owned).collect::<Vec<_>>();
        let wrong = part(mistake).into_iter().find(|word| !part(good).contains(word)).unwrap();
        let place = wrong.split('.').next_back().filter(|_| mistake.starts_with('[')).unwrap_or(&wrong).to_owned();
        world.write("bad.toml", &PIPELINE.replacen(good, &mistake.replace(&place, &suggested), 1));
        world.good("reflux check bad.toml");
    }
}

#[test]
fn overrides() {
    let world = World::new();
    for (mistake, wrong, means) in [
        ("step.dpoo.beta=0.2", "dpoo", "dpo"),
        ("step.dpo.bta=0.2", "bta", "beta"),
        ("model.m00.dtype=f32", "m00", "m0"),
        ("pipelin.seed=3", "pipelin", "pipeline"),
        ("pipeline.sed=3", "sed", "seed"),
        ("step.dpo.loss=hing", "hing", "hinge"),
    ] {
        world.meant(&format!("reflux check good.toml --set {mistake}"), wrong, means);
    }
}

#[test]
fn words_of_commands() {
    let world = World::with_run();
    for (command, wrong, means) in [
        ("reflux shw good/pairs", "shw", "show"),
        ("reflux show good/pairs --colums prompt_id", "--colums", "--columns"),
        ("reflux show good/pairs --format jsn", "jsn", "json"),
        ("reflux show good/pars", "pars", "pairs"),
        ("reflux show god/pairs", "god/pairs", "good/pairs"),
        ("reflux show good/pairs --columns margn", "margn", "margin"),
        ("reflux show good/pairs --where 'margn>1'", "margn", "margin"),
        ("reflux show good/errors/pars", "pars", "pairs"),
        ("reflux ls godo", "godo", "good"),
        ("reflux verify godo", "godo", "good"),
        ("reflux replay good --from scors --dry-run", "scors", "scores"),
        ("reflux schema pars", "pars", "pairs"),
        ("reflux operators dpp", "dpp", "dpo"),
        ("reflux keys pipelin", "pipelin", "pipeline"),
        ("reflux explain E01O2", "E01O2", "E0102"),
        ("reflux explain unknown-kee", "unknown-kee", "unknown-key"),
        ("reflux explain goood.toml", "goood.toml", "good.toml"),
        ("reflux check goood.toml", "goood.toml", "good.toml"),
        ("reflux import data/rows.jsonl --schema promts --format reflux", "promts", "prompts"),
        ("reflux eval drift good --step answrs", "answrs", "answers"),
        ("reflux cost trained.toml --hardware 8xH10", "H10", "H100"),
    ] {
        world.meant(command, wrong, means);
    }
}

#[test]
fn renamed_columns() {
    let world = World::new();
    let read = |rename: &str| {
        format!(
            "[pipeline]\nname = \"r\"\n[step.r]\nop = \"read\"\ndataset = \"r.jsonl\"\nschema = \"ift\"\n{rename}\n"
        )
    };
    for (row, given, want) in [
        (
            "{\"instruction\": \"a\", \"output\": \"b\"}",
            "",
            "rename = { prompt = \"instruction\", response = \"output\" }",
        ),
        ("{\"prompt\": \"a\", \"responce\": \"b\"}", "", "rename = { response = \"responce\" }"),
        // A typo in `rename`, and one that is right beside one that is missing.
        (
            "{\"Frage\": \"a\", \"response\": \"b\"}",
            "rename = { prompt = \"Frag\" }",
            "rename = { prompt = \"Frage\" }",
        ),
        (
            "{\"Frage\": \"a\", \"output\": \"b\"}",
            "rename = { prompt = \"Frage\" }",
            "rename = { prompt = \"Frage\", response = \"output\" }",
        ),
        (
            "{\"a \\\"b\\u001b\": \"a\", \"output\": \"b\"}",
            "rename = { prompt = \"a b\" }",
            "rename = { prompt = \"a \\\"b\\u001b\", response = \"output\" }",
        ),
    ] {
        world.write("r.jsonl", &format!("{row}\n"));
        world.write("r.toml", &read(given));
        let (code, said) = world.typed("reflux check r.toml");
        assert_eq!(code, Some(2), "{said}");
        let suggested = suggestion(&said).unwrap_or_else(|| panic!("{row} {given}: {said}"));
        assert_eq!(suggested, want, "{said}");
        world.write("r.toml", &read(&suggested));
        world.good("reflux check r.toml");
    }
    // One name cannot stand for two columns.
    world.write("r.jsonl", "{\"respons\": \"a\"}\n");
    world.write("r.toml", &read(""));
    let (_, said) = world.typed("reflux check r.toml");
    assert!(suggestion(&said).is_none() && said.contains("`reflux schema ift`"), "{said}");
}

/// The commands of a message that are complete: they stand in backquotes and name more than what the command is called.
fn commands(said: &str) -> Vec<String> {
    let words: Vec<&str> = said.split_whitespace().filter(|w| *w != "│").collect();
    let said = words.join(" ");
    let quoted = said.split('`').skip(1).step_by(2).filter(|text| text.starts_with("reflux "));
    quoted.filter(|text| text.split(' ').count() > 2).map(str::to_owned).collect()
}

#[test]
fn commands_in_messages() {
    type Setup = fn(&World);
    fn nothing(_: &World) {}
    fn cut_pairs(world: &World) {
        let file = world.0.path().join("runs/good/data/pairs/iteration=0/microbatch=00000.parquet");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    }
    fn cut_manifest(world: &World) {
        let file = world.0.path().join("runs/good/manifest.jsonl");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replacen("\"kind\":\"file\"", "\"kind\":", 1)).unwrap();
    }
    fn bad_row(world: &World) {
        world.write("data/rows.jsonl", "{\"prompt\": 3}\n{\"instruction\": \"a\", \"output\": \"b\"}\n");
        world.write("two words.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n{\"prompt\": 3}\n");
        world.write(
            "bad.toml",
            "[pipeline]\nname = \"bad\"\n[step.r]\nop = \"read\"\nschema = \"ift\"\ndataset = \"two words.jsonl\"\n",
        );
    }
    fn public_format(world: &World) {
        world.write("my pairs.jsonl", "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n");
        world.write("bad.toml", "[pipeline]\nname = \"bad\"\n[step.r]\nop = \"read\"\ndataset = \"my pairs.jsonl\"\n");
    }
    fn moved(world: &World) {
        std::fs::rename(world.0.path().join("runs"), world.0.path().join("my runs")).unwrap();
        let file = world.0.path().join("my runs/good/data/pairs/iteration=0/microbatch=00000.parquet");
        std::fs::write(file, "no Parquet").unwrap();
    }
    fn fruitless(world: &World) {
        world.write("data/script.toml", "[[answer]]\ntext = [\"I would rather not say.\"]\n");
    }
    // The scores are gone when the run is done: what they were made of is there.
    fn fruitless_and_gone(world: &World) {
        fruitless(world);
        let text = without_training().replace("op = \"judge\"", "op = \"judge\"\nkeep = false");
        world.write("small.toml", &text);
    }
    for (setup, command, code, least) in [
        (nothing as Setup, "reflux trace good nosuch", 2, 1),
        (nothing, "reflux trace good 00000000000000000000000000000001/3", 2, 1),
        (nothing, "reflux keys step", 2, 1),
        (cut_pairs, "reflux verify good", 1, 1),
        (cut_pairs, "reflux show good/pairs", 2, 2),
        (cut_manifest, "reflux ls good", 2, 1),
        (moved, "reflux show 'my runs/good/pairs'", 2, 2),
        (moved, "reflux verify 'my runs/good'", 1, 1),
        (bad_row, "reflux run bad.toml", 2, 1),
        (public_format, "reflux check bad.toml", 2, 1),
        (fruitless, "reflux run small.toml --name fruitless", 3, 2),
        (fruitless_and_gone, "reflux run small.toml --name fruitless", 3, 2),
    ] {
        let world = World::with_run();
        setup(&world);
        let (got, said) = world.typed(command);
        assert_eq!(got, Some(code), "{command}: {said}");
        let suggested = commands(&said);
        assert!(suggested.len() >= least, "{command} suggests only {suggested:?}: {said}");
        for suggestion in &suggested {
            assert!(
                !suggestion.contains("RUN") && !suggestion.contains("STEP"),
                "`{suggestion}` has a gap to fill: {said}"
            );
            let (got, told) = world.typed(suggestion);
            // Looking at what is damaged says so by its exit code.
            let looks = suggestion.contains("verify") && !suggestion.contains("--repair");
            assert_eq!(got, Some(if looks { 1 } else { 0 }), "`{suggestion}` of `{command}`: {told}");
        }
        if suggested.iter().any(|s| s.contains("--repair")) {
            let runs = if command.contains("my runs") { "'my runs'" } else { "runs" };
            world.good(&format!("reflux run small.toml --runs {runs}"));
            world.good(command);
        }
    }
}

#[test]
fn flags_in_messages() {
    let world = World::with_run();
    let (code, said) = world.typed("reflux import data/rows.jsonl --out data/rows.jsonl");
    assert!(code == Some(2) && said.contains("--out"), "{said}");
    // A run of a changed file: the commands that the refusal prints.
    world.write("small.toml", &without_training().replace("samples = 1", "samples = 2"));
    let (code, said) = world.typed("reflux run small.toml");
    assert_eq!(code, Some(2), "{said}");
    let replay =
        said.lines().map(str::trim).find(|line| line.starts_with("reflux replay")).unwrap_or_else(|| panic!("{said}"));
    world.good(replay);
    world.write("small.toml", &without_training());
    world.good("reflux run small.toml --set step.pairs.min_margin=1 --name set -q");
    let (code, said) = world.typed("reflux run small.toml --name set");
    assert!(code == Some(2) && said.contains("--resume") && said.contains("--set step.pairs.min_margin=1"), "{said}");
    world.good("reflux run small.toml --name set --resume");
    world.good("reflux run small.toml --name set --set step.pairs.min_margin=1");
}
