//! A system message, a history or tools beside a row change what it means: no reader passes over them.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use reflux::data::{Columns, named};
use reflux::error::Error;
use reflux::store::{Dataset, How, OnBadRow, given_answers, given_prompts, import, write_parquet};

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
fn a_dataset_row_with_a_system_message_or_tools_is_bad() {
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
        assert_eq!(prompts, ["plain", "blank", "last"], "{}", path.display());
        assert_eq!(bad.iter().map(|bad| bad.0).collect::<Vec<_>>(), [2, 4]);
        assert!(bad[0].1.contains("has `system`") && bad[1].1.contains("has `tools`"), "{bad:?}");
        let error = first_error(path).to_string();
        assert!(error.contains(" 2 has `system`, which changes what the row means"), "{error}");
    }
    // A column that the pipeline file names is read, whatever it is called.
    let rename = [("prompt".to_owned(), "system".to_owned())];
    let renamed = Dataset::open_as(&parquet, &named::IFT, &rename).unwrap().on_bad_row(OnBadRow::Collect);
    let read: usize = renamed.batches(64).map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(read, 2);
    // Import of rows that follow a schema goes by the same rule.
    let error = import(&json, &How::default()).unwrap_err().to_string();
    assert!(error.contains("line 2 has `system`"), "{error}");
    let how = How { skip_bad: true, schema: Some(&named::IFT), ..How::default() };
    let imported = import(&json, &how).unwrap();
    assert_eq!((imported.written.rows, imported.bad, imported.extra.len()), (3, 2, 0));
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
        for error in [given_prompts(&path).unwrap_err(), given_answers(&path).unwrap_err()] {
            assert!(error.to_string().contains("which changes what the row means"), "{error}");
        }
    }
    std::fs::write(&path, r#"{"prompt": "p", "response": "a", "system": "", "history": []}"#).unwrap();
    assert_eq!((given_prompts(&path).unwrap().rows.len(), given_answers(&path).unwrap().rows.len()), (1, 1));
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
