//! A newcomer's first hour: what README and docs propose is typed in order in a fresh folder, with mistakes on purpose. Each
//! command has its exit code and words that it must print; where a message makes a suggestion, the suggestion is typed.
//! `tests/docs/pages.rs` types every command that the pages print; here is what a person types of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::copy;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A person in a folder of their own, who types commands.
struct Newcomer {
    dir: tempfile::TempDir,
    typed: std::cell::Cell<usize>,
}

impl Newcomer {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["pipelines", "datasets"] {
            copy(&root().join(folder), &dir.path().join(folder));
        }
        let tiny = root().join("tests/goldens/model/llama3/model.golden-gguf");
        std::fs::copy(tiny, dir.path().join("tiny.gguf")).unwrap();
        Self { dir, typed: std::cell::Cell::new(0) }
    }
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }
    /// Types a line; exit code and everything that was printed.
    fn types(&self, line: &str) -> (i32, String) {
        self.typed.set(self.typed.get() + 1);
        let program = Path::new(env!("CARGO_BIN_EXE_reflux")).parent().unwrap().to_owned();
        let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("exec 2>&1; set -o pipefail; {line}")]).current_dir(self.dir.path());
        let done = bash.env("PATH", path).env("COLUMNS", "110").env_remove("NO_COLOR").output().unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        (done.status.code().unwrap(), said)
    }
    /// Types a line that ends with this code, and prints these words; everything that was printed.
    fn sees(&self, line: &str, code: i32, words: &[&str]) -> String {
        let (ended, said) = self.types(line);
        assert_eq!(ended, code, "`{line}` ended otherwise\n{said}");
        for word in words {
            assert!(said.contains(word), "`{line}` does not print {word:?}\n{said}");
        }
        assert!(!said.contains('\u{1b}'), "`{line}` prints colours where there is no terminal\n{said}");
        said
    }
    /// Types a line with a mistake, is told of it, and types what is suggested in its place.
    fn mistypes(&self, line: &str, typo: &str, words: &[&str]) {
        let said = self.sees(line, 2, words);
        let meant = suggestion(&said).unwrap_or_else(|| panic!("`{line}` suggests nothing for {typo:?}\n{said}"));
        assert_ne!(meant, typo, "`{line}` suggests the mistake");
        let corrected = line.replace(typo, &meant);
        let (code, said) = self.types(&corrected);
        assert_eq!(code, 0, "`{corrected}`, as suggested, does not work\n{said}");
    }
    /// Writes a pipeline file with a mistake, is told of it, and corrects the file as suggested.
    fn miswrites(&self, text: &str, typo: &str, words: &[&str]) {
        self.write("my.toml", text);
        let said = self.sees("reflux check my.toml", 2, words);
        let meant = suggestion(&said).unwrap_or_else(|| panic!("nothing is suggested for {typo:?}\n{said}"));
        self.write("my.toml", &text.replace(typo, &meant));
        self.sees("reflux check my.toml", 0, &["no errors"]);
    }
}

/// What a message proposes: the word after "did you mean", or the last of clap's similar ones, which is the nearest.
fn suggestion(said: &str) -> Option<String> {
    let flat = said.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((_, after)) = flat.split_once("tip: ") {
        let similar = after.split_once("exist")?.1.split(" Usage:").next()?;
        return similar.rsplit('\'').nth(1).map(str::to_owned);
    }
    flat.split_once("did you mean `")?.1.split_once('`').map(|(word, _)| word.to_owned())
}

/// The quickstart, small enough for a test.
const SMALL: &str = "--set step.written.per_iteration=96 --set step.m1.epochs=2 --set step.heldout.rows=32";

#[test]
fn a_newcomers_first_hour() {
    let me = Newcomer::new();
    looking_around(&me);
    the_first_run(&me);
    looking_at_the_run(&me);
    another_run(&me);
    a_pipeline_of_my_own(&me);
    models_without_a_pipeline(&me);
    what_went_wrong(&me);
    assert!(me.typed.get() >= 50, "only {} lines were typed", me.typed.get());
}

fn looking_around(me: &Newcomer) {
    me.sees("reflux --help", 0, &["Examples:", "Exit codes", "--color", "reflux summary quickstart"]);
    me.sees("reflux", 2, &["Usage: reflux"]);
    me.mistypes("reflux chekc pipelines/quickstart.toml", "chekc", &["unrecognized subcommand"]);
    me.sees("reflux check pipelines/quickstart.toml", 0, &["13 steps, no errors"]);
    me.sees("reflux check pipelines/quickstrat.toml", 2, &["pipelines/quickstrat.toml"]);
    me.sees("reflux explain pipelines/quickstart.toml", 0, &["in the loop", "barrier"]);
    me.sees("reflux operators", 0, &["judge", "select", "dpo"]);
    me.mistypes("reflux operators dpoo", "dpoo", &["dpoo"]);
    me.mistypes("reflux schema piars", "piars", &["piars"]);
    me.mistypes("reflux keys engin", "engin", &["engin"]);
    me.sees("reflux cost pipelines/quickstart.toml --hardware RTX4090", 0, &["165.2 TFLOPS", "at most"]);
    me.sees("reflux cost pipelines/quickstart.toml --hardware GTX9999", 2, &["GTX9999", "RTX4090"]);
    // Nothing has been run yet.
    me.sees("reflux ls", 2, &["`runs`", "reflux run"]);
}

fn the_first_run(me: &Newcomer) {
    let typo = format!("reflux run pipelines/quickstart.toml {SMALL} --set step.dpo.btea=0.2");
    let said = me.sees(&typo, 2, &["btea"]);
    assert_eq!(suggestion(&said).as_deref(), Some("beta"), "{said}");
    let said = me.sees(
        &format!("reflux run pipelines/quickstart.toml {SMALL}"),
        0,
        &[
            "iteration  policy",
            "M1: runs/quickstart/models/M1 (m1: ",
            "M3: runs/quickstart/models/M3 (dpo 2: ",
            "done in",
        ],
    );
    assert!(!said.contains("0s left"), "{said}");
    let log = said.split("\n\n").next().unwrap();
    assert!(log.lines().count() > 20 && log.lines().all(|line| line.chars().count() <= 110), "{log}");
    // What it closed with, again; but for the log, which is not of it.
    let closing = said[said.find("iteration  policy").unwrap()..].trim_end();
    let summary = me.sees("reflux summary quickstart", 0, &["done in"]);
    let table = |text: &str| text.lines().filter(|l| l.contains("M1")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(table(closing), table(&summary));
    assert!(summary.contains(closing.lines().last().unwrap()), "{summary}");
    // The same command says that there is nothing to do, and with other settings how to go on.
    me.sees(&format!("reflux run pipelines/quickstart.toml {SMALL}"), 0, &["is finished", "--fresh"]);
    me.sees("reflux run pipelines/quickstart.toml", 2, &["add --resume"]);
    me.sees("reflux run pipelines/quickstart.toml --resume", 0, &["is finished"]);
}

fn looking_at_the_run(me: &Newcomer) {
    me.sees("reflux ls", 0, &["run", "pairs", "scores", "quickstart", "finished"]);
    me.sees("reflux ls quickstart", 0, &["finished", "responses", "M3", "metrics of"]);
    me.sees("reflux ls quickstrat", 2, &["quickstrat"]);
    let said = me.sees("reflux show quickstart/pairs", 0, &["prompt", "chosen", "rejected", "not shown:", "--columns"]);
    assert!(said.starts_with("prompt"), "what people look for comes first\n{said}");
    let hidden = said.split("--columns ").nth(1).unwrap().split(' ').next().unwrap();
    me.sees(&format!("reflux show quickstart/pairs --columns {hidden}"), 0, &[hidden]);
    me.mistypes("reflux show quickstart/piars", "piars", &["piars"]);
    me.mistypes("reflux show quickstart/scores --columns prompt,respons", "respons", &["respons"]);
    me.mistypes("reflux show quickstart/truth --where 'scor>=4'", "scor", &["scor"]);
    me.sees("reflux show quickstart/errors", 0, &["code"]);
    me.sees("reflux show quickstart/metrics/dpo --columns step,loss --limit 2", 0, &["step  "]);
    let ids = me.sees("reflux show quickstart/pairs --format csv --columns prompt_id --limit 1", 0, &["prompt_id"]);
    let id = ids.lines().nth(1).unwrap();
    me.sees(&format!("reflux trace quickstart {}", &id[..8]), 0, &["pair"]);
    me.sees("reflux verify quickstart", 0, &[]);
}

fn another_run(me: &Newcomer) {
    let replay = "reflux replay quickstart --set step.pairs.min_margin=1 --into strict";
    me.sees(&format!("{replay} --dry-run"), 0, &["pairs"]);
    me.sees(replay, 0, &["done in", "runs/strict/models/M3"]);
    me.sees("reflux diff quickstart strict", 1, &["min_margin"]);
    let said = me.sees("reflux ls", 0, &["quickstart", "strict"]);
    let row = |name: &str| said.lines().find(|l| l.starts_with(name)).unwrap().to_owned();
    assert_ne!(row("quickstart").replace("quickstart", ""), row("strict").replace("strict", "    "), "{said}");
    me.sees("COLUMNS=50 reflux ls", 0, &["not shown:", "--json has all"]);
}

fn a_pipeline_of_my_own(me: &Newcomer) {
    me.write("mine.jsonl", "{\"prompt\": \"list two animals\", \"chosen\": \"cat dog\", \"rejected\": \"red\"}\n");
    me.sees("reflux import mine.jsonl --out mine.parquet", 0, &["1"]);
    let text = "[pipeline]\nname = \"mine\"\n\n[model.m0]\npath = \"pipelines/listworld/m0\"\n\n\
                [step.pairs]\nop = \"read\"\ndataset = \"mine.parquet\"\nschema = \"preferences\"\n\n\
                [step.tuned]\nop = \"dpo\"\nfrom = \"pairs\"\nmodel = \"m0\"\nepochs = 3\n";
    me.miswrites(&text.replace("epochs", "epohcs"), "epohcs", &["E0", "epohcs", "my.toml:"]);
    me.miswrites(&text.replace("\"dpo\"", "\"dop\""), "dop", &["dop"]);
    me.miswrites(&text.replace("from = \"pairs\"", "from = \"paris\""), "paris", &["paris"]);
    me.write("my.toml", text);
    // A training without a loop closes with its loss, its accuracy and its model.
    me.sees(
        "reflux run my.toml",
        0,
        &["tuned: runs/mine/models/tuned (tuned: 3 steps, loss 0.69", "at last, accuracy", "done in"],
    );
    me.sees("reflux summary mine", 0, &["runs/mine/models/tuned", "done in"]);
    me.sees("reflux summary mine --json | head -1", 0, &["{"]);
    me.sees("reflux ls", 0, &["mine"]);
}

fn models_without_a_pipeline(me: &Newcomer) {
    let model = "runs/quickstart/models/M1";
    me.sees(&format!("reflux generate {model} 'list three animals' --temperature 0 --max-tokens 8 -q"), 0, &[]);
    me.sees("reflux generate runs/quickstart/models/M9 'list three animals'", 2, &["runs/quickstart/models/M9"]);
    me.sees(&format!("reflux logprobs {model} mine.jsonl"), 0, &["chosen_logprob"]);
    me.sees(&format!("reflux export {model} m1.gguf"), 2, &["GGUF"]);
    me.sees("reflux export tiny.gguf again.gguf", 0, &["again.gguf", "tensors"]);
    me.sees("reflux export tiny.gguf again.gguf", 2, &["--force"]);
    me.sees("reflux export tiny.gguf again.gguf --force", 0, &["again.gguf"]);
    me.sees("reflux export tiny.gguf again", 2, &["must end in .gguf"]);
    me.sees("reflux generate again.gguf 'a list' --temperature 0 --max-tokens 4 -q", 0, &[]);
    // A GGUF that is there says its own shape.
    let of = |model: &str| format!("reflux cost my.toml --set model.m0.path={model} --hardware 2xRTX3090");
    let (tiny, small) =
        (me.sees(&of("tiny.gguf"), 0, &["tuned"]), me.sees(&of("pipelines/listworld/m0"), 0, &["tuned"]));
    assert_ne!(tiny, small);
}

fn what_went_wrong(me: &Newcomer) {
    // A file is damaged, found, and made again.
    let pairs = me.sees("ls runs/strict/data/pairs/iteration=1/*.parquet | head -1", 0, &[]);
    let pairs = pairs.trim();
    let before = std::fs::read(me.dir.path().join(pairs)).unwrap();
    std::fs::write(me.dir.path().join(pairs), &before[..before.len() / 2]).unwrap();
    me.sees("reflux verify strict", 1, &["pairs", "--repair"]);
    me.sees("reflux verify strict --repair", 0, &[]);
    me.sees("reflux ls", 0, &["unfinished"]);
    me.sees("reflux summary strict", 0, &["unfinished: runs/strict"]);
    let again = "reflux run runs/strict/pipeline.toml --name strict";
    me.sees(again, 0, &["done in"]);
    assert_eq!(std::fs::read(me.dir.path().join(pairs)).unwrap(), before, "made again to the same bytes");
    // A damaged run does not keep the others from being listed.
    let manifest = me.read("runs/mine/manifest.jsonl");
    me.write("runs/mine/manifest.jsonl", &manifest.replacen("\"run\"", "\"urn\"", 1));
    me.sees("reflux ls", 0, &["quickstart", "mine", "damaged"]);
    me.write("runs/mine/manifest.jsonl", &manifest);
}
