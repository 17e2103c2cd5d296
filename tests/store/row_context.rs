//! A system message, a history or tools beside a row change what it means: readers keep them or refuse the row.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use reflux::data::{Columns, Prompts, named};
use reflux::error::Error;
use reflux::store::{Dataset, ImportOptions, OnBadRow, import, load_answers, load_prompts, write_parquet};

/// The prompts that are read of a dataset, and the bad rows with their places.
fn collected(path: &Path, schema: &'static reflux::data::Schema) -> (Vec<String>, Vec<(u64, String)>) {
    let mut batches = Dataset::open(path, schema).unwrap().on_bad_row(OnBadRow::Collect).batches(64);
    let mut prompts = Vec::new();
    for batch in batches.by_ref() {
        let batch = batch.unwrap();
        match Columns(&batch).text("prompt") {
            Ok(texts) => prompts.extend(texts.iter().flatten().map(str::to_owned)),
            Err(_) => {
                let turns = Columns(&batch).messages("prompt").unwrap();
                prompts.extend((0..batch.num_rows()).map(|row| turns.row(row).map(|turn| turn.1).collect::<String>()));
            }
        }
    }
    let bad = batches.take_bad_rows().into_iter().map(|bad| (bad.row, bad.message)).collect();
    (prompts, bad)
}

fn first_error(path: &Path) -> Error {
    Dataset::open(path, &named::IFT).unwrap().batches(64).find_map(Result::err).expect("a bad row")
}

const ROWS: [(&str, Option<&str>, Option<&str>); 5] = [
    ("plain", None, None),
    ("pirate", Some("Talk like a pirate."), None),
    ("blank", Some(" "), Some("[]")),
    ("tools", None, Some(r#"[{"name": "f"}]"#)),
    ("last", None, None),
];

#[test]
fn a_dataset_row_keeps_its_system_message_and_is_bad_with_tools() {
    let temp = tempfile::tempdir().unwrap();
    let (json, parquet) = (temp.path().join("x.jsonl"), temp.path().join("y.parquet"));
    let line = |row: &(&str, Option<&str>, Option<&str>)| {
        serde_json::json!({"prompt": row.0, "response": "a", "system": row.1, "tools": row.2}).to_string() + "\n"
    };
    std::fs::write(&json, ROWS.iter().map(line).collect::<String>()).unwrap();
    let text = |texts: Vec<Option<&str>>| Arc::new(StringArray::from(texts)) as ArrayRef;
    let rows = RecordBatch::try_from_iter([
        ("prompt", text(ROWS.iter().map(|row| Some(row.0)).collect())),
        ("system", text(ROWS.iter().map(|row| row.1).collect())),
        ("response", text(vec![Some("a"); ROWS.len()])),
        ("tools", text(ROWS.iter().map(|row| row.2).collect())),
    ]);
    write_parquet(&parquet, &rows.unwrap()).unwrap();
    for path in [&json, &parquet] {
        let (prompts, bad) = collected(path, &named::IFT);
        let pirate = "system: Talk like a pirate.\n\nuser: pirate";
        assert_eq!(prompts, ["plain", pirate, "blank", "last"], "{}", path.display());
        assert_eq!(bad.iter().map(|bad| bad.0).collect::<Vec<_>>(), [4]);
        assert!(bad[0].1.contains("has `tools`"), "{bad:?}");
        let error = first_error(path).to_string();
        assert!(error.contains(" 4 has `tools`, which changes what the row means"), "{error}");
        let rows = Dataset::open(path, &named::IFT).unwrap().batches(2).next().unwrap().unwrap();
        let asked = Prompts::new(&rows).unwrap();
        assert_eq!(asked.turns(1), [("system", "Talk like a pirate."), ("user", "pirate")]);
        assert_eq!(asked.conversation(0), None);
    }
    // A schema without a place for it has no such row.
    let eft = temp.path().join("eft.jsonl");
    std::fs::write(&eft, r#"{"prompt": "p", "response": "a", "judgement": "j", "score": 1, "system": "s"}"#).unwrap();
    assert!(collected(&eft, &named::EFT).1[0].1.contains("has `system`"));
    // A column that the pipeline file names is read, whatever it is called.
    let rename = [("prompt".to_owned(), "system".to_owned())];
    let renamed = Dataset::open_as(&parquet, &named::IFT, &rename).unwrap().on_bad_row(OnBadRow::Collect);
    let read: usize = renamed.batches(64).map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(read, 2);
    // Import of rows that follow a schema goes by the same rule.
    let error = import(&json, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("line 4 has `tools`"), "{error}");
    let how = ImportOptions { skip_bad: true, schema: Some(&named::IFT), ..ImportOptions::default() };
    let imported = import(&json, &how).unwrap();
    assert_eq!((imported.written.rows, imported.bad, imported.extra.len()), (4, 1, 0));
}

/// TRL's conversational rows: a prompt of messages, as JSON lines and as Parquet, in every schema that has prompts.
#[test]
fn a_prompt_of_messages_is_read_as_a_conversation() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let m = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
    let one =
        serde_json::json!({"prompt": [m("user", "a"), m("assistant", "b"), m("user", "c")], "response": "d", "id": 1});
    let two = serde_json::json!({"prompt": [m("user", "e")], "response": "f", "system": "s"});
    let three = serde_json::json!({"prompt": [m("user", "g")], "response": "h"});
    std::fs::write(path("x.jsonl"), format!("{one}\n{two}\n{three}\n")).unwrap();
    let file = std::fs::File::open(path("x.jsonl")).unwrap();
    let reader = || std::io::BufReader::new(file.try_clone().unwrap());
    let (schema, _) = arrow::json::reader::infer_json_schema(reader(), None).unwrap();
    std::io::Seek::rewind(&mut &file).unwrap();
    let mut rows = arrow::json::ReaderBuilder::new(schema.into()).build(reader()).unwrap();
    write_parquet(&path("x.parquet"), &rows.next().unwrap().unwrap()).unwrap();
    for name in ["x.jsonl", "x.parquet"] {
        let dataset = Dataset::open(&path(name), &named::IFT).unwrap();
        let mut batches = dataset.batches(8);
        let rows = batches.next().unwrap().unwrap();
        let asked = Prompts::new(&rows).unwrap();
        assert_eq!(asked.turns(0), [("user", "a"), ("assistant", "b"), ("user", "c")], "{name}");
        assert_eq!(asked.text(0), "user: a\n\nassistant: b\n\nuser: c");
        assert_eq!(asked.turns(1), [("system", "s"), ("user", "e")]);
        assert_eq!((asked.text(2), asked.conversation(2)), ("g", None));
        assert_eq!(batches.unread().clone().into_iter().collect::<Vec<_>>(), [("id".to_owned(), 1)]);
        // What was read is stored, and read again as it is.
        write_parquet(&path("again.parquet"), &rows).unwrap();
        let again = Dataset::open(&path("again.parquet"), &named::IFT).unwrap().batches(8).next().unwrap().unwrap();
        assert_eq!(again, rows);
    }
    let answered = serde_json::json!({"prompt": [m("user", "a"), m("assistant", "b")], "response": "d"});
    std::fs::write(path("x.jsonl"), format!("{three}\n{answered}\n")).unwrap();
    assert!(first_error(&path("x.jsonl")).to_string().contains("ends with the assistant's turn"));
    let pair = serde_json::json!({"prompt_id": "p", "prompt": [m("user", "u")], "chosen_id": "c", "rejected_id": "r",
        "chosen": [m("assistant", "a")], "rejected": [m("assistant", "b")], "system": "s"});
    std::fs::write(path("x.jsonl"), pair.to_string()).unwrap();
    assert_eq!(collected(&path("x.jsonl"), &named::PREFERENCES).0, ["su"]);
}

#[test]
fn a_message_that_calls_a_tool_is_no_text() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.parquet");
    let text = |texts: Vec<Option<&str>>| Arc::new(StringArray::from(texts)) as ArrayRef;
    // One message a row; the second row's calls a tool.
    let field = |name: &str| Arc::new(Field::new(name, DataType::Utf8, true));
    let messages = |role: &str, calls: Option<&str>| {
        let turns = StructArray::from(vec![
            (field("role"), text(vec![Some(role); 2])),
            (field("content"), text(vec![Some("x"), Some("y")])),
            (field("tool_calls"), text(vec![None, calls])),
        ]);
        let item = Arc::new(Field::new_list_field(DataType::Struct(turns.fields().clone()), true));
        Arc::new(ListArray::new(item, OffsetBuffer::from_lengths([1, 1]), Arc::new(turns), None)) as ArrayRef
    };
    let ids = |prefix: &str| {
        let ids: Vec<String> = (0..2).map(|row| format!("{prefix}{row}")).collect();
        Arc::new(StringArray::from(ids)) as ArrayRef
    };
    let rows = RecordBatch::try_from_iter([
        ("prompt_id", ids("p")),
        ("prompt", messages("user", None)),
        ("chosen_id", ids("c")),
        ("chosen", messages("assistant", Some(r#"[{"id": 1}]"#))),
        ("rejected_id", ids("r")),
        ("rejected", messages("assistant", None)),
    ]);
    write_parquet(&path, &rows.unwrap()).unwrap();
    let (prompts, bad) = collected(&path, &named::PREFERENCES);
    assert_eq!(prompts, ["x"]);
    assert!(bad.len() == 1 && bad[0].0 == 2 && bad[0].1.contains("`tool_calls`"), "{bad:?}");
}

#[test]
fn questions_and_answers_to_evaluate_have_no_context() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.jsonl");
    for row in [
        r#"{"prompt": "p", "response": "a", "system": "Talk like a pirate."}"#,
        r#"{"instruction": "p", "output": "a", "history": [["q", "r"]]}"#,
    ] {
        std::fs::write(&path, row).unwrap();
        for error in [load_prompts(&path).unwrap_err(), load_answers(&path).unwrap_err()] {
            assert!(error.to_string().contains("which changes what the row means"), "{error}");
        }
    }
    std::fs::write(&path, r#"{"prompt": "p", "response": "a", "system": "", "history": []}"#).unwrap();
    assert_eq!((load_prompts(&path).unwrap().rows.len(), load_answers(&path).unwrap().rows.len()), (1, 1));
}

/// What the message proposes for a misspelt column is typed as it stands, and works.
#[test]
fn the_proposed_rename_works() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("x.jsonl"), "{\"promt\": \"p\", \"response\": \"a\"}\n").unwrap();
    let check = |more: &str| {
        let text = format!(
            "[pipeline]\nname = \"x\"\n[step.a]\nop = \"read\"\ndataset = \"x.jsonl\"\nschema = \"ift\"\n{more}\n"
        );
        std::fs::write(temp.path().join("p.toml"), text).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_reflux"));
        command.args(["check", "p.toml"]).current_dir(temp.path()).env("COLUMNS", "200").env("NO_COLOR", "1");
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (fits, said) = check("");
    let proposed = said.split('`').find(|part| part.starts_with("rename = {"));
    assert!(!fits && proposed.is_some(), "{said}");
    let (fits, said) = check(proposed.unwrap());
    assert!(fits, "{said}");
}
