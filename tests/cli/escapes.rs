//! What files and models say cannot steer the terminal, whatever command prints it and wherever it comes from.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use candle_core::Device;
use reflux::store::write_parquet;
use serde_json::{Value, json};

/// Clears the screen in two ways, turns the direction of writing, and begins a line of its own.
const EVIL: &str = "ev\u{1b}[2Jil\u{9b}2J\u{7f}\u{202e}\u{2066}\u{61c}\u{2028}\nerror: forged";

/// A file's name that says the same.
fn evil(end: &str) -> String {
    format!("{EVIL}{end}")
}

/// As a TOML string.
fn toml(text: &str) -> String {
    let shown = |c: char| if is_terminal_control(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    format!("\"{}\"", text.chars().map(shown).collect::<String>().replace('\n', "\\n"))
}

/// Whether a terminal or the eye would obey a character.
fn is_terminal_control(c: char) -> bool {
    let bidi = ['\u{61c}', '\u{200e}', '\u{200f}'];
    let lines = ('\u{2028}'..='\u{202e}').contains(&c) || ('\u{2066}'..='\u{206f}').contains(&c);
    c.is_control() && c != '\n' && c != '\t' || lines || bidi.contains(&c)
}

/// A folder of files that say what they should not.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }
    fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }
    /// A copy of the small world's model with other keys in a file.
    fn model(&self, name: &str, file: &str, keys: &Value) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/m0");
        let dir = self.path(name);
        std::fs::create_dir_all(&dir).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
        }
        let mut changed: Value = serde_json::from_slice(&std::fs::read(dir.join(file)).unwrap()).unwrap();
        for (key, value) in keys.as_object().unwrap() {
            changed[key] = value.clone();
        }
        std::fs::write(dir.join(file), changed.to_string()).unwrap();
    }
    fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        command.current_dir(self.0.path()).env_remove("NO_COLOR").env_remove("REFLUX_LOG").args(args);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        (status.code(), text(stdout) + "\n" + &text(stderr))
    }
    /// Runs a command and looks at all that it prints. `words` are of the evil text: what is not printed proves nothing.
    fn tame<S: AsRef<OsStr> + std::fmt::Debug>(&self, code: i32, args: &[S], words: &str) -> String {
        let (got, said) = self.run(args);
        let obeyed: Vec<char> = said.chars().filter(|c| is_terminal_control(*c)).collect();
        assert!(obeyed.is_empty(), "{args:?} prints {obeyed:?}: {said:?}");
        assert!(!said.lines().any(|line| line.starts_with("error: forged")), "{args:?} lets text begin a line: {said}");
        assert!(said.contains(words), "{args:?} does not say `{words}`: {said}");
        assert_eq!(got, Some(code), "{args:?}: {said}");
        said
    }
}

/// Escapes of messages, and what stands for them in tables and in JSON.
const ESCAPED: &str = "ev\\u{1b}[2Jil\\u{9b}2J\\u{7f}\\u{202e}\\u{2066}\\u{61c}\\u{2028}";
const IN_A_CELL: &str = "ev\u{fffd}[2Jil\u{fffd}2J";
const IN_JSON: &str = "ev\\u001b[2Jil\\u009b2J\\u007f\\u202e\\u2066\\u061c\\u2028\\nerror: forged";

#[test]
fn arguments_and_file_names() {
    let world = World::new();
    world.tame(2, &[EVIL], ESCAPED);
    world.tame(2, &["show", "x", "--format", EVIL], ESCAPED);
    world.tame(2, &["show", "x", "--limit", EVIL], ESCAPED);
    world.tame(2, &["--log", "json", "show", EVIL], IN_JSON);
    for command in ["show", "check", "run", "explain", "cost", "ls", "verify", "import", "replay"] {
        world.tame(2, &[command, EVIL], ESCAPED);
    }
    for command in ["schema", "operators", "keys"] {
        world.tame(2, &[command, EVIL], ESCAPED);
    }
    world.tame(2, &["trace", EVIL, EVIL], ESCAPED);
    world.tame(2, &["diff", EVIL, EVIL], ESCAPED);
    world.tame(2, &["generate", EVIL, "Hi"], ESCAPED);
    world.tame(2, &["generate", "none", "--file", EVIL], ESCAPED);
    world.tame(2, &["logprobs", EVIL, EVIL], ESCAPED);
    world.tame(2, &["export", EVIL, "x.gguf"], ESCAPED);
    world.tame(2, &["eval", "drift", EVIL], ESCAPED);
    world.tame(2, &["eval", "win-rate", EVIL, EVIL, "--prompts", EVIL, "--judge", EVIL], ESCAPED);
    world.tame(2, &["revise", EVIL, "--scores", EVIL], ESCAPED);
    world.tame(2, &["run", "x.toml", "--set", EVIL], "");
    // A name that is no UTF-8 text.
    let name = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\xff\x1b[2J\x9b");
    world.tame(2, &[OsStr::new("show"), name], "a\u{fffd}\\u{1b}[2J\u{fffd}");
    let file = evil(".jsonl");
    world.write(&file, "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    world.tame(0, &["import", &file, "--out", &evil(".parquet")], ESCAPED);
    world.tame(0, &["show", &evil(".parquet")], "prompt");
}

#[test]
fn rows_and_columns() {
    let world = World::new();
    let row = json!({ "instruction": "a", "output": "b", EVIL: 1 }).to_string();
    world.write("keys.jsonl", format!("{row}\n"));
    world.tame(0, &["import", "keys.jsonl"], ESCAPED);
    world.write("alone.jsonl", json!({ EVIL: 1 }).to_string());
    world.tame(2, &["import", "alone.jsonl"], "ev");
    world.write("bad.jsonl", json!({ "prompt": 3, "response": EVIL }).to_string() + "\n{\"prompt\"\u{1b}[2J\n");
    world.tame(2, &["import", "bad.jsonl"], "");

    let text: ArrayRef = Arc::new(StringArray::from(vec![EVIL, "=1+1", "-2"]));
    write_parquet(&world.path("head.parquet"), &RecordBatch::try_from_iter([(EVIL, text)]).unwrap()).unwrap();
    world.tame(0, &["show", "head.parquet"], IN_A_CELL);
    world.tame(0, &["show", "head.parquet", "--format", "json"], IN_JSON);
    world.tame(2, &["show", "head.parquet", "--columns", "nosuch"], ESCAPED);
    world.tame(2, &["show", "head.parquet", "--where", &evil("x~1")], "");
    world.tame(2, &["import", "head.parquet"], "no format");

    world.write(
        "pairs.jsonl",
        json!({ "prompt": EVIL, "chosen": 3, "rejected": EVIL }).to_string() + "\n" + &json!({ EVIL: 1 }).to_string(),
    );
    world.model("m", "config.json", &json!({}));
    world.tame(2, &["logprobs", "m", "pairs.jsonl"], "line 1");
    world
        .write("prompts.jsonl", json!({ "messages": [{ "role": EVIL, "content": 3 }], EVIL: EVIL }).to_string() + "\n");
    world.tame(2, &["generate", "m", "--file", "prompts.jsonl"], "line 1");
    world.tame(2, &["generate", "m", "--file", "prompts.jsonl", "--json"], "line 1");
}

#[test]
fn csv_is_exact_for_programs_and_guards_formulas_on_request() {
    let world = World::new();
    let cells = ["=1+1", "+1", "-2", "@x", "\tx", "\rx", "plain", "a=b", EVIL];
    let text: ArrayRef = Arc::new(StringArray::from(cells.to_vec()));
    let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![-1; cells.len()]));
    let rows = RecordBatch::try_from_iter([("=head", text), ("n", numbers)]).unwrap();
    write_parquet(&world.path("f.parquet"), &rows).unwrap();
    let csv = |more: &[&str]| {
        let args: Vec<&str> =
            ["show", "f.parquet", "--format", "csv"].into_iter().chain(more.iter().copied()).collect();
        let (code, said) = world.run(&args);
        assert_eq!(code, Some(0), "{said}");
        said
    };
    let exact = csv(&[]);
    assert!(
        exact.starts_with("=head,n\n=1+1,-1\n+1,-1\n-2,-1\n@x,-1\n\tx,-1\n\"\rx\",-1\nplain,-1\na=b,-1\n"),
        "{exact:?}"
    );
    assert!(exact.contains(EVIL), "a pipe gets what the file holds");
    let guarded = csv(&["--guard-formulas"]);
    let want = "'=head,n\n'=1+1,-1\n'+1,-1\n'-2,-1\n'@x,-1\n'\tx,-1\n\"'\rx\",-1\nplain,-1\na=b,-1\n";
    assert!(guarded.starts_with(want), "{guarded:?}");
    world.tame(2, &["show", "f.parquet", "--guard-formulas"], "--format csv");
}

/// A GGUF file of one text in its metadata.
fn gguf(key: &str, value: &str) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    for (text, kind) in [(key, Some(8u32)), (value, None)] {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.extend(kind.into_iter().flat_map(u32::to_le_bytes));
    }
    bytes.resize(4096, 0);
    bytes
}

#[test]
fn models() {
    let world = World::new();
    world.model("config", "config.json", &json!({ "model_type": EVIL, "architectures": [EVIL] }));
    world.tame(2, &["generate", "config", "Hi"], ESCAPED);
    world.model("number", "config.json", &json!({ "hidden_size": EVIL }));
    world.tame(2, &["generate", "number", "Hi"], ESCAPED);
    let raise = format!("{{{{ raise_exception({}) }}}}", json!(EVIL));
    world.model("template", "tokenizer_config.json", &json!({ "chat_template": raise }));
    world.tame(2, &["generate", "template", "Hi"], ESCAPED);
    world.model("syntax", "tokenizer_config.json", &json!({ "chat_template": format!("{{{{ x | {EVIL} }}}}") }));
    world.tame(2, &["generate", "syntax", "Hi"], "chat template");
    let says = format!("{{% for m in messages %}}{{{{ m.{} }}}}{{% endfor %}}", "content.nosuch()");
    world.model("method", "tokenizer_config.json", &json!({ "chat_template": says }));
    world.tame(2, &["generate", "method", EVIL], "");
    world.write("a.gguf", gguf("general.architecture", EVIL));
    world.tame(2, &["generate", "a.gguf", "Hi"], ESCAPED);
    world.write("b.gguf", gguf(EVIL, "llama"));
    world.tame(2, &["generate", "b.gguf", "Hi"], "");

    world.model("tensors", "config.json", &json!({}));
    let path = world.path("tensors/model.safetensors");
    let mut weights = reflux::model::read_tensors(&path, &Device::Cpu).unwrap();
    let (name, tensor) = weights.iter().next().map(|(n, t)| (n.clone(), t.clone())).unwrap();
    weights.remove(&name);
    weights.insert(EVIL.to_owned(), tensor);
    reflux::model::write_tensors(&weights, &mut std::fs::File::create(&path).unwrap()).unwrap();
    world.tame(2, &["generate", "tensors", "Hi"], "");
    world.tame(2, &["export", "tensors", "x.gguf"], "");
}

#[test]
fn pipeline_files() {
    let world = World::new();
    let name = evil(".toml");
    for (text, words) in [
        (format!("[pipeline]\nname = {}\n", toml(EVIL)), "ev"),
        (format!("[pipeline]\nname = \"a\"\n{} = 1\n", toml(EVIL)), "ev"),
        (format!("[step.{}]\nop = \"read\"\n", toml(EVIL)), "ev"),
        (format!("[step.a]\nop = {}\n", toml(EVIL)), "ev"),
        (format!("[step.a]\nop = \"generate\"\nfrom = {0}\nmodel = {0}\n", toml(EVIL)), "ev"),
        (format!("[step.a]\nop = \"read\"\ndataset = {0}\nschema = {0}\n", toml(EVIL)), "ev"),
        // Characters that TOML refuses, and text that it takes, are drawn with a caret.
        (format!("[pipeline]\nname = \"{EVIL}\"\n"), "forged"),
        ("[pipeline]\nnam = 1 # \u{9b}2J \u{202e} \u{2028}\n".to_owned(), "nam"),
        (format!("[pipeline]\nname = \"a\" {EVIL}\n"), ""),
    ] {
        world.write(&name, text);
        for command in ["check", "run", "explain", "cost"] {
            world.tame(2, &[command, &name], words);
        }
    }
    world.tame(2, &["check", &name, "--set", &format!("pipeline.{EVIL}=1")], "");
}

/// A run without training, whose prompts, answers, judgements, rubric and files say what they should not.
fn evil_run(world: &World) {
    let answers = [toml(&format!("{EVIL}\nScore: 5")), toml(&format!("{EVIL}\nScore: 1")), toml(EVIL)];
    world.write("script.toml", format!("[[answer]]\ntext = [{}]\n", answers.join(", ")));
    let row = |i: u32| {
        json!({ "prompt_id": format!("{i:032x}"), "prompt": format!("{i} {EVIL}"), "origin": EVIL, "parents": [], EVIL: 1 })
            .to_string()
            + "\n"
    };
    world.write(evil(".jsonl"), (0..4).map(row).collect::<String>());
    let text = format!(
        "[pipeline]\nname = \"evil\"\nmicrobatch = 2\n[model.s]\nscript = \"script.toml\"\n\
         [step.prompts]\nop = \"read\"\nschema = \"prompts\"\ndataset = {}\n\
         [step.answers]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"s\"\nsamples = 3\n\
         [step.scores]\nop = \"judge\"\nfrom = \"answers\"\nmodel = \"s\"\nsamples = 1\n\
         [step.pairs]\nop = \"select\"\nfrom = \"scores\"\n",
        toml(&evil(".jsonl")),
    );
    world.write(evil(".toml"), text);
    world.tame(0, &["run", &evil(".toml"), "-v"], "done in");
}

#[test]
fn runs() {
    let world = World::new();
    evil_run(&world);
    world.tame(0, &["run", &evil(".toml")], "is finished");
    world.tame(0, &["run", &evil(".toml"), "--fresh", "--log", "json"], "\"event\":\"done\"");
    world.tame(0, &["ls", "evil"], "pairs");
    world.tame(0, &["verify", "evil"], "all as committed");
    for step in ["prompts", "answers", "scores", "pairs"] {
        let what = format!("evil/{step}");
        world.tame(0, &["show", &what, "--width", "200"], "\u{fffd}[2Jil");
        world.tame(0, &["show", &what, "--format", "json"], IN_JSON);
    }
    world.tame(0, &["show", "evil/errors"], "");
    let (_, pairs) = world.run(&["show", "evil/pairs", "--format", "json"]);
    let pair: Value = serde_json::from_str(pairs.lines().next().unwrap()).unwrap();
    assert!(pair["chosen"][0]["content"].as_str().unwrap().contains(EVIL), "JSON says what the row holds: {pair}");
    let id = pair["prompt_id"].as_str().unwrap();
    world.tame(0, &["trace", "evil", id], IN_A_CELL);
    world.tame(0, &["trace", "evil", id, "--json"], IN_JSON);
    world.tame(0, &["eval", "drift", "evil"], "scores");

    // Another run, whose rows differ, and a manifest that is not what it was.
    std::fs::create_dir(world.path("runs/other")).unwrap();
    let copied = Command::new("cp").args(["-r", "runs/evil/.", "runs/other"]).current_dir(world.0.path()).status();
    assert!(copied.unwrap().success());
    let manifest = world.path("runs/other/manifest.jsonl");
    // Without checksums, so that what the lines say is looked at.
    let text = std::fs::read_to_string(&manifest).unwrap();
    let bare = text.split_inclusive('\n').map(|line| format!("{{{}", &line["{\"sum\":\"0123456789abcdef\",".len()..]));
    let text: String = bare.collect();
    for (from, to) in [("\"step\":\"scores\"", json!(EVIL).to_string()), ("\"event\"", json!(EVIL).to_string())] {
        assert!(text.contains(from) || from == "\"event\"", "the manifest has no {from}: {text}");
        let key = from.split(':').next().unwrap();
        std::fs::write(&manifest, text.replace(from, &format!("{key}:{to}"))).unwrap();
        for args in
            [vec!["ls", "other"], vec!["verify", "other"], vec!["diff", "evil", "other"], vec!["show", "other/x"]]
        {
            let (_, said) = world.run(&args);
            let obeyed: Vec<char> = said.chars().filter(|c| is_terminal_control(*c)).collect();
            assert!(obeyed.is_empty() && !said.contains("\nerror: forged"), "{args:?}: {said:?}");
        }
    }
}

#[test]
fn corrections_and_outputs_of_others() {
    let world = World::new();
    evil_run(&world);
    for (name, text) in [
        ("a.csv", format!("response_id,score\n\"{EVIL}\",\"{EVIL}\"\n")),
        ("b.csv", format!("\"{EVIL}\",score\nx,1\n")),
        ("c.jsonl", json!({ "response_id": EVIL, "score": EVIL }).to_string()),
        ("d.jsonl", json!({ "response_id": EVIL, "score": 1 }).to_string()),
    ] {
        world.write(name, text);
        world.tame(2, &["revise", "evil", "--scores", name], "ev");
    }
    let outputs = json!([{ "instruction": EVIL, "output": EVIL, "generator": EVIL, "dataset": EVIL }]);
    world.write("prompts.json", outputs.to_string());
    world.tame(
        0,
        &["eval", "alpaca", "export", "prompts.json", "--prompts", "prompts.json", "-o", &evil(".json")],
        ESCAPED,
    );
    let row = json!({ "instruction": EVIL, "output_1": "a", "output_2": "b", "generator_1": EVIL, "generator_2": EVIL, "preference": 1.5 });
    world.write("annotations.json", json!([row]).to_string());
    world.tame(0, &["eval", "alpaca", "win-rate", "annotations.json"], ESCAPED);
    world.tame(0, &["eval", "alpaca", "win-rate", "annotations.json", "--json"], IN_JSON);
}

#[test]
fn log_lines() {
    let world = World::new();
    // A warning that names a file and a row: rows of a prompt that do not stand together.
    let row = |prompt: &str, rank: u32| {
        let ids = (prompt, format!("{prompt} {rank}"));
        json!({ "prompt_id": ids.0, "prompt": prompt, "response_id": ids.1, "response": "r", "rank": rank, "origin": "o" })
            .to_string()
            + "\n"
    };
    let rows = [row(EVIL, 0), row("b", 0), row(EVIL, 1), row("b", 1)].concat();
    world.write(evil(".jsonl"), rows);
    let text = format!(
        "[pipeline]\nname = \"t\"\n[step.rows]\nop = \"read\"\nschema = \"ranked\"\ndataset = {}\n",
        toml(&evil(".jsonl"))
    );
    world.write("t.toml", text);
    let said = world.tame(0, &["run", "t.toml"], "do not stand together");
    assert!(said.lines().any(|line| line.starts_with("warning: ") && line.contains(ESCAPED)), "{said}");
    let said = world.tame(0, &["run", "t.toml", "--fresh", "--log", "json"], "do not stand together");
    let line = said.lines().find(|line| line.contains("do not stand together")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["level"], "WARN");
    assert!(line["fields"]["message"].as_str().unwrap().contains(EVIL), "{line}");
}
