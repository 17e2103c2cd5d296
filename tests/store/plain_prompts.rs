//! A list of prompts is the same prompts to every reader, whatever file it is in; keys can be renamed, and what is not read is
//! told.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{self, RunOptions, run};
use arrow::array::RecordBatch;
use reflux::data::{Columns, Prompts as PromptsOf, hash_hex, named};
use reflux::store::{
    Dataset, FormatDef, PromptReader, Rename, Run, guess, import, load_prompts, read_parquet, write_parquet,
};
use serde_json::{Value, json};

const TEXTS: [&str; 3] = ["Hi", "Say \"yes, please\"", "naïve 🎉?"];

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// The prompts in every kind of file.
fn lists(dir: &Path) -> Vec<PathBuf> {
    let rows: Vec<Value> = TEXTS.iter().map(|text| json!({"prompt": text, "note": "x"})).collect();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let csv = "note,prompt\r\nx,Hi\r\nx,\"Say \"\"yes, please\"\"\"\r\nx,naïve 🎉?\r\n";
    let texts =
        |texts: &[&str]| std::sync::Arc::new(arrow::array::StringArray::from(texts.to_vec())) as arrow::array::ArrayRef;
    let table = RecordBatch::try_from_iter([("prompt", texts(&TEXTS)), ("note", texts(&["x"; 3]))]).unwrap();
    write_parquet(&dir.join("x.parquet"), &table).unwrap();
    vec![
        write(dir, "x.jsonl", &lines),
        write(dir, "x.json", &Value::from(rows).to_string()),
        write(dir, "x.csv", csv),
        write(dir, "y.txt", &format!("{}\r\n\n  {}\n{}", TEXTS[0], TEXTS[1], TEXTS[2])),
        dir.join("x.parquet"),
    ]
}

fn columns(rows: &RecordBatch, names: &[&str]) -> Vec<Vec<String>> {
    let columns: Vec<_> = names.iter().map(|name| Columns(rows).text(name).unwrap()).collect();
    (0..rows.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_owned()).collect()).collect()
}

fn wanted() -> Vec<Vec<String>> {
    TEXTS.iter().map(|text| vec![hash_hex([text]), (*text).to_owned(), "given".to_owned()]).collect()
}

#[test]
fn a_list_of_prompts_is_the_same_to_every_reader() {
    let temp = tempfile::tempdir().unwrap();
    for path in lists(temp.path()) {
        let place = path.display().to_string();
        let notes = if place.ends_with("txt") { vec![] } else { vec![("note".to_owned(), 3)] };
        assert_eq!(guess(&path).unwrap().name, "prompts", "{place}");
        let dataset = Dataset::open(&path, &named::PROMPTS).unwrap();
        let mut batches = dataset.batches(8);
        let rows = batches.next().unwrap().unwrap();
        assert_eq!(columns(&rows, &["prompt_id", "prompt", "origin"]), wanted(), "{place}");
        assert!(batches.next().is_none());
        assert_eq!(batches.unread().clone().into_iter().collect::<Vec<_>>(), notes, "{place}");

        let how = reflux::store::ImportOptions { out: Some(temp.path().join("made.parquet")), ..Default::default() };
        let imported = import(&path, &how).unwrap();
        assert_eq!((imported.format, imported.schema), (FormatDef::by_name("prompts"), "prompts"), "{place}");
        assert_eq!(read_parquet(&imported.path).unwrap(), rows, "{place}");
        assert_eq!(imported.unread.into_iter().collect::<Vec<_>>(), notes, "{place}");

        let given = load_prompts(&path).unwrap();
        let all: Vec<_> = given.rows.iter().map(|p| vec![p.id.clone(), p.text.clone(), "given".to_owned()]).collect();
        assert_eq!((all, given.unread.into_iter().collect()), (wanted(), notes.clone()), "{place}");

        let mut prompts = PromptReader::open(&path).unwrap();
        let texts: Vec<String> = prompts.by_ref().map(|p| p.unwrap().1.unwrap().turns().remove(0).content).collect();
        assert_eq!(texts, TEXTS, "{place}");
        let unread = prompts.unread();
        let unread = unread.lock().unwrap();
        assert_eq!(unread.clone().into_iter().collect::<Vec<_>>(), notes, "{place}");
    }
}

#[test]
fn prompts_of_messages_are_conversations() {
    let temp = tempfile::tempdir().unwrap();
    let m = |role: &str, content: &str| json!({"role": role, "content": content});
    let rows = [
        json!({"prompt": "u", "system": "s"}),
        json!({"prompt": [m("user", "a"), m("assistant", "b"), m("user", "c")]}),
        json!({"prompt": [m("user", "alone")], "prompt_id": "mine"}),
    ];
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let path = write(temp.path(), "x.jsonl", &text);
    let rows = Dataset::open(&path, &named::PROMPTS).unwrap().batches(8).next().unwrap().unwrap();
    let asked = PromptsOf::new(&rows).unwrap();
    assert_eq!(asked.turns(0), [("system", "s"), ("user", "u")]);
    assert_eq!(asked.turns(1), [("user", "a"), ("assistant", "b"), ("user", "c")]);
    assert_eq!(asked.conversation(2), None);
    assert_eq!(columns(&rows, &["prompt_id"]), [[asked.id(0)], [asked.id(1)], ["mine".to_owned()]]);
    let imported = import(&path, &reflux::store::ImportOptions::default()).unwrap();
    assert_eq!(read_parquet(&imported.path).unwrap(), rows);
    // An evaluation asks single questions.
    assert!(load_prompts(&path).unwrap_err().to_string().contains("has `system`"));
    // Answers beside the prompts make them other rows.
    for other in ["output", "response", "chosen"] {
        let row = json!({"prompt": "p", other: "a"}).to_string();
        let guessed = guess(&write(temp.path(), "y.jsonl", &row));
        assert!(guessed.is_err() || guessed.unwrap().name == "ift", "{other}");
    }
}

#[test]
fn a_run_reads_a_list_of_prompts_and_tells_what_it_does_not_read() {
    let temp = tempfile::tempdir().unwrap();
    lists(temp.path());
    let pipeline = |file: &str| {
        format!(
            "[pipeline]\nname = \"{}\"\n[step.prompts]\nop = \"read\"\ndataset = \"{file}\"\n\
             [step.fresh]\nop = \"dedup\"\nfrom = \"prompts\"\n",
            file.replace('.', "-")
        )
    };
    for file in ["x.jsonl", "x.csv", "y.txt", "x.parquet"] {
        write(temp.path(), "p.toml", &pipeline(file));
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        let output = command.args(["run", "p.toml"]).current_dir(temp.path()).env("NO_COLOR", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let told = said.matches("not read: note (in 3 rows)").count();
        assert_eq!(told, usize::from(file != "y.txt"), "{file}: {said}");
        let run = Run::open(&temp.path().join("runs").join(file.replace('.', "-"))).unwrap();
        let rows = run.read_step("fresh", Some(0)).unwrap().unwrap();
        assert_eq!(columns(&rows, &["prompt_id", "prompt", "origin"]), wanted());
    }
}

#[test]
fn a_limit_takes_the_answers_of_a_prompt_together() {
    let temp = tempfile::tempdir().unwrap();
    let answer = |prompt: usize, sample: u32| {
        (format!("p{prompt}"), format!("p{prompt}-{sample}"), vec![sample], Some(sample as f32), vec![sample as f32])
    };
    let file = temp.path().join("scores.parquet");
    let answers: Vec<_> = (0..4).flat_map(|prompt| (0..3).map(move |sample| answer(prompt, sample))).collect();
    common::scored::write_scores(&file, &answers);
    let torn = temp.path().join("torn.parquet");
    let apart: Vec<_> = (0..3).flat_map(|sample| (0..4).map(move |prompt| answer(prompt, sample))).collect();
    common::scored::write_scores(&torn, &apart);
    let read = |file: &Path, limit: usize| -> reflux::error::Result<Vec<String>> {
        let text = format!(
            "[pipeline]\nname = \"x\"\nmicrobatch = 2\n[step.scores]\nop = \"read\"\ndataset = {file:?}\nlimit = {limit}\n"
        );
        let place = temp.path().join(format!("run-{limit}-{}", file.file_stem().unwrap().display()));
        run(&text, &place, &RunOptions::default()).0?;
        let rows = Run::open(&place)?.read_step("scores", Some(0))?.unwrap();
        Ok(columns(&rows, &["response_id"]).concat())
    };
    let groups = |prompts: usize| -> Vec<String> {
        (0..prompts).flat_map(|prompt| (0..3).map(move |sample| format!("p{prompt}-{sample}"))).collect()
    };
    for (limit, prompts) in [(3, 1), (5, 1), (6, 2), (8, 2), (12, 4), (99, 4)] {
        assert_eq!(read(&file, limit).unwrap(), groups(prompts), "{limit}");
        // Of rows that do not stand together too; those beyond a limit that tears no prompt are not looked at.
        assert_eq!(read(&torn, limit.max(5)).unwrap(), groups(prompts), "{limit}");
    }
    let error = read(&file, 2).unwrap_err();
    assert!(error.to_string().contains("more than the 2 rows that `limit` allows"), "{error}");
}

#[test]
fn keys_are_renamed_and_what_is_proposed_works() {
    let temp = tempfile::tempdir().unwrap();
    let row = json!({"q": "Why?", "reply": "So.", "prompt": "old"});
    let path = write(temp.path(), "x.jsonl", &format!("{row}\n{row}\n"));
    let import_with = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        let output = command.arg("import").arg(&path).args(args).env("NO_COLOR", "1").output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    /// The arguments that a message proposes.
    fn proposed(said: &str) -> Vec<String> {
        let words: Vec<&str> = said.split_whitespace().collect();
        let flags = words.windows(2).filter(|pair| pair[0] == "--rename" && pair[1].contains('='));
        let names: Vec<&str> = flags.map(|pair| pair[1].trim_end_matches(['?', ','])).collect();
        names.iter().flat_map(|name| ["--rename".to_owned(), (*name).to_owned()]).collect()
    }
    let (code, out, err) = import_with(&["--rename", "q=instruction", "--rename", "reply=output"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("2 rows of `ift` from alpaca") && out.contains("not read: prompt (in 2 rows)"), "{out}");
    // A slip is told with what works.
    let (code, _, err) = import_with(&["--rename", "q=instruction", "--rename", "repyl=output"]);
    assert!(code == Some(2) && err.contains("has the key `repyl`"), "{err}");
    let typed =
        [vec!["--rename".to_owned(), "q=instruction".to_owned()], proposed(err.split("help").nth(1).unwrap())].concat();
    assert_eq!(typed[2..], ["--rename", "reply=output"]);
    let (code, _, err) = import_with(&typed.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    // So is a name that nobody reads.
    let (code, _, err) = import_with(&["--rename", "reply=output", "--rename", "q=instrction"]);
    assert!(code == Some(2) && err.contains("fit no schema"), "{err}");
    let typed =
        [vec!["--rename".to_owned(), "reply=output".to_owned()], proposed(err.split("help").nth(1).unwrap())].concat();
    assert_eq!(typed[2..], ["--rename", "q=instruction"]);
    assert_eq!(import_with(&typed.iter().map(String::as_str).collect::<Vec<_>>()).0, Some(0));
    // So is a name that is taken.
    let (code, _, err) = import_with(&["--rename", "q=prompt", "--rename", "reply=response"]);
    assert!(code == Some(2) && err.contains("a row has both keys"), "{err}");
    let typed =
        [proposed(err.split("help").nth(1).unwrap()), vec!["--rename".into(), "reply=response".into()]].concat();
    let (code, out, err) = import_with(&typed.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((code, err.as_str()), (Some(0), ""), "{typed:?}");
    assert!(out.contains("2 rows of `ift`, with the columns q"), "{out}");
    let rows = read_parquet(&path.with_extension("parquet")).unwrap();
    assert_eq!(columns(&rows, &["prompt", "response", "q"]), vec![vec!["Why?", "So.", "old"]; 2]);
    // The same of Parquet.
    let parquet = temp.path().join("y.parquet");
    let table = rows.project(&[0, 1]).unwrap();
    let names: Vec<_> = ["q", "reply"].into_iter().zip(table.columns().to_vec()).collect();
    write_parquet(&parquet, &RecordBatch::try_from_iter(names).unwrap()).unwrap();
    let rename = Rename::parse(&["q=instruction".into(), "reply=output".into()]).unwrap();
    let imported = import(&parquet, &reflux::store::ImportOptions { rename, ..Default::default() }).unwrap();
    assert_eq!(columns(&read_parquet(&imported.path).unwrap(), &["prompt"]), [["Why?"], ["Why?"]]);
}

#[test]
fn a_key_that_comes_twice_is_a_bad_row() {
    let temp = tempfile::tempdir().unwrap();
    let good = r#"{"prompt": "a", "response": "b"}"#;
    let twice = r#"{"prompt": "first", "prompt": "second", "response": "b"}"#;
    let within = r#"{"prompt": [{"role": "user", "content": "a", "content": "b"}], "response": "b"}"#;
    for (row, key) in [(twice, "prompt"), (within, "content")] {
        let path = write(temp.path(), "x.jsonl", &format!("{good}\n{row}\n"));
        let read = |path: &Path| Dataset::open(path, &named::IFT).unwrap().batches(8).find_map(Result::err).unwrap();
        for error in [read(&path), import(&path, &reflux::store::ImportOptions::default()).unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("line 2") && error.contains(&format!("has the key `{key}` twice")), "{error}");
        }
        let prompts: Vec<_> = PromptReader::open(&path).unwrap().map(|prompt| prompt.unwrap().1).collect();
        assert!(prompts[0].is_ok() && prompts[1].as_ref().unwrap_err().contains("twice"));
    }
}
