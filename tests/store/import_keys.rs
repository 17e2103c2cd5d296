//! Nothing of a stranger's file is lost in silence: a key is read, listed, or its row is left out with the reason.

use std::sync::Arc;

use crate::common::rows::write_json_lines;
use arrow::array::{ArrayRef, BinaryArray, MapBuilder, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::array::{Int32Builder, StringBuilder};
use reflux::data::{Columns, Prompts};
use reflux::store::{FormatDef, ImportOptions, Imported, import, output_target, read_parquet};
use serde_json::{Value, json};

fn imported(rows: &[Value]) -> (Imported, RecordBatch) {
    let temp = tempfile::tempdir().unwrap();
    let imported = import(&write_json_lines(temp.path(), "x.jsonl", rows), &ImportOptions::default()).unwrap();
    let rows = read_parquet(&imported.path).unwrap();
    (imported, rows)
}

fn refused(rows: &[Value]) -> String {
    let temp = tempfile::tempdir().unwrap();
    let error = import(&write_json_lines(temp.path(), "x.jsonl", rows), &ImportOptions::default()).unwrap_err();
    format!("{error} {}", error.help_text().unwrap_or_default())
}

fn unread(imported: &Imported) -> Vec<(&str, u64)> {
    imported.unread.iter().map(|(key, rows)| (key.as_str(), *rows)).collect()
}

fn pairs(rows: &RecordBatch, names: [&str; 2]) -> Vec<[String; 2]> {
    let [a, b] = names.map(|name| Columns(rows).text(name).unwrap());
    (0..rows.num_rows()).map(|row| [a.value(row).to_owned(), b.value(row).to_owned()]).collect()
}

fn turns(rows: &RecordBatch, column: &str, row: usize) -> String {
    let messages = Columns(rows).messages(column).unwrap();
    messages.row(row).map(|(role, text)| format!("{role}: {text}")).collect::<Vec<_>>().join("; ")
}

#[test]
fn instructions_with_more_than_a_question_are_kept_or_left_out() {
    let (imported, rows) = imported(&[
        json!({"instruction": "a", "input": "", "output": "b", "history": [["q", "r"]]}),
        json!({"instruction": "a", "output": "b", "system": "Be brief."}),
        json!({"instruction": "a", "output": "b", "history": "what was said"}),
        json!({"instruction": "a", "output": "b", "tools": "[{\"name\": \"f\"}]"}),
        json!({"instruction": "a", "output": "<tool_call>{\"name\": \"f\"}</tool_call>"}),
        json!({"instruction": "c", "input": "d", "output": "e", "history": [], "system": "", "tools": "[]", "source": "s", "id": null}),
    ]);
    assert_eq!(asked(&rows, 0), "user: q; assistant: r; user: a");
    assert_eq!(asked(&rows, 1), "system: Be brief.; user: a");
    assert_eq!(pairs(&rows, ["prompt", "response"])[2..], [["c\n\nd", "e"]]);
    for reason in ["a history of earlier turns", "tools", "a tool call or its result"] {
        assert_eq!(imported.left_out.get(reason), Some(&1), "{reason}");
    }
    assert_eq!(unread(&imported), [("source", 1)]);
}

#[test]
fn conversations_in_the_spellings_people_have() {
    let m = |role: &str, content: &str| json!({"role": role, "content": content});
    let (imported, rows) = imported(&[
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "pirate"}], "system": "Talk like a pirate.", "tools": ""}),
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{}"}]}),
        // OpenAI: a call of a tool has no content.
        json!({"messages": [m("user", "q"), {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}]}),
        json!({"messages": [m("user", "q"), {"role": "assistant", "content": "no", "weight": 0}]}),
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image_url"}]}, m("assistant", "a")]}),
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}, m("assistant", "joined")]}),
        // UltraChat.
        json!({"prompt": "Name a bird.", "prompt_id": "a1", "messages": [m("user", "Name a bird."), m("assistant", "The wren."), m("user", "More."), m("assistant", "No.")]}),
        // LIMA.
        json!({"conversations": ["q1", "a1"], "source": "lima"}),
    ]);
    assert_eq!(imported.format, FormatDef::by_name("sharegpt"));
    let want = [
        ["system: Talk like a pirate.; user: q", "pirate"],
        ["user: parts", "joined"],
        ["user: Name a bird.", "The wren."],
        ["user: Name a bird.; assistant: The wren.; user: More.", "No."],
        ["user: q1", "a1"],
    ];
    let responses = Columns(&rows).text("response").unwrap();
    let have: Vec<_> = (0..rows.num_rows()).map(|row| [asked(&rows, row), responses.value(row).to_owned()]).collect();
    assert_eq!(have, want);
    let reasons: Vec<(&str, u64)> = imported.left_out.iter().map(|(why, rows)| (*why, *rows)).collect();
    assert_eq!(
        reasons,
        [
            ("a tool call or its result", 2),
            ("an answer that is not to be trained on", 1),
            ("images or other parts that are no text", 1)
        ]
    );
    assert_eq!(unread(&imported), [("prompt_id", 1), ("source", 1)]);
}

/// What a row asks, as a model is given it.
fn asked(rows: &RecordBatch, row: usize) -> String {
    let turns = Prompts::new(rows).unwrap().turns(row);
    turns.iter().map(|(role, text)| format!("{role}: {text}")).collect::<Vec<_>>().join("; ")
}

/// What is said before an answer is kept with it, whatever stands in the way of another answer of the conversation.
#[test]
fn every_answer_of_a_conversation_is_a_row() {
    let m = |role: &str, content: &str| json!({"role": role, "content": content});
    let (imported, rows) = imported(&[
        json!({"system": "s", "messages": [m("user", "a"), m("assistant", "b"), m("user", "c"),
            {"role": "assistant", "content": "d", "weight": 0}, m("user", "e"), m("assistant", "f")]}),
        json!({"messages": [m("user", "a"), m("assistant", "b"), m("user", "c"), {"role": "assistant", "content": null,
            "tool_calls": [{"id": "1"}]}, m("tool", "4"), m("assistant", "four"), m("user", "g"), m("assistant", "h")]}),
        json!({"system": "s", "messages": [m("system", "t"), m("user", "a"), m("assistant", "b")]}),
        json!({"messages": [m("assistant", "Hello."), m("user", "a"), m("assistant", "b"), m("user", "z")], "id": 7}),
    ]);
    let have: Vec<String> = (0..rows.num_rows()).map(|row| asked(&rows, row)).collect();
    let long = "system: s; user: a; assistant: b; user: c; assistant: d; user: e";
    assert_eq!(have, ["system: s; user: a", long, "user: a", "assistant: Hello.; user: a"]);
    let reasons: Vec<(&str, u64)> = imported.left_out.iter().map(|(why, rows)| (*why, *rows)).collect();
    let want = [
        ("a tool call or its result", 3),
        ("an answer that follows no question", 1),
        ("an answer that is not to be trained on", 1),
        ("two system messages", 1),
    ];
    assert_eq!(reasons, want);
    assert_eq!(unread(&imported), [("a last question without an answer", 1), ("id", 1)]);
    // A prompt's own answers are not learnt: the completion is.
    let (_, rows) = self::imported(&[json!({"prompt": [m("user", "a"), m("assistant", "b"), m("user", "c")],
        "completion": [m("assistant", "d")]})]);
    assert_eq!((rows.num_rows(), asked(&rows, 0)), (1, "user: a; assistant: b; user: c".into()));
    // What is the same as text is another conversation.
    let (_, rows) = self::imported(&[
        json!({"messages": [m("system", "s"), m("user", "u")]}),
        json!({"prompt": "system: s\n\nuser: u"}),
    ]);
    let ids = Columns(&rows).text("prompt_id").unwrap();
    let texts = Columns(&rows).text("prompt").unwrap();
    assert!(ids.value(0) != ids.value(1) && texts.value(0) == texts.value(1));
}

#[test]
fn dolly_and_prompts_with_completions() {
    let (imported, rows) =
        imported(&[json!({"instruction": "a", "context": "about b", "response": "c", "category": "qa"})]);
    assert_eq!(
        (imported.format, pairs(&rows, ["prompt", "response"])),
        (FormatDef::by_name("alpaca"), vec![["a\n\nabout b".into(), "c".into()]])
    );
    assert_eq!(unread(&imported), [("category", 1)]);
    let m = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let (_, rows) = self::imported(&[
        json!({"prompt": "p", "completion": "c"}),
        json!({"prompt": m("user", "p2"), "completion": m("assistant", "c2")}),
    ]);
    assert_eq!(pairs(&rows, ["prompt", "response"]), [["p", "c"], ["p2", "c2"]]);
}

#[test]
fn preferences_keep_the_system_prompt_and_the_question() {
    let m = |role: &str, content: &str| json!({"role": role, "content": content});
    let (imported, rows) = imported(&[
        // Intel's orca_dpo_pairs; both answers begin alike, which is no prompt.
        json!({"system": "Be brief.", "question": "u?", "chosen": "It is a.", "rejected": "It is b.", "score_chosen": "8.5", "score_rejected": "low"}),
        json!({"instruction": "u", "input": "v", "chosen": "a", "rejected": "b"}),
        // LLaMA-Factory.
        json!({"conversations": [{"from": "human", "value": "u"}], "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}),
        json!({"prompt": "u", "chosen": [m("user", "u"), m("assistant", "a")], "rejected": [m("user", "u"), m("assistant", "b")],
            "messages": [m("user", "u"), m("assistant", "a")], "other-chosen": "x"}),
        json!({"prompt": "u", "chosen": "a", "rejected": "b", "tools": [{"name": "f"}]}),
    ]);
    assert_eq!(turns(&rows, "prompt", 0), "system: Be brief.; user: u?");
    assert_eq!(
        (turns(&rows, "chosen", 0), turns(&rows, "rejected", 0)),
        ("assistant: It is a.".into(), "assistant: It is b.".into())
    );
    assert_eq!((turns(&rows, "prompt", 1), turns(&rows, "prompt", 2)), ("user: u\n\nv".into(), "user: u".into()));
    assert_eq!((turns(&rows, "chosen", 2), rows.num_rows()), ("assistant: a".into(), 4));
    assert_eq!(Columns(&rows).float("chosen_score").unwrap().value(0), 8.5);
    assert_eq!(unread(&imported), [("other-chosen", 1), ("score_rejected (not a number)", 1)]);
    assert_eq!(imported.left_out.get("tools"), Some(&1));
    // Messages that are written as text are no answers.
    let encoded = |text: &str| json!({"question": "u", "chosen": text, "rejected": "b"});
    for text in [
        r#"[{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]"#,
        "[{'role': 'user', 'content': 'u'}]",
    ] {
        let error = refused(&[encoded(text)]);
        assert!(error.contains("line 1") && error.contains("messages that are written as text"), "{error}");
    }
}

#[test]
fn nested_keys_are_listed_with_their_path() {
    let rated = json!({"instruction": "i", "models": ["a", "b"], "completions": [
        {"response": "x", "overall_score": 1.0, "model": "a", "custom_system_prompt": "Lie."},
        {"response": "y", "overall_score": 2.0, "model": "b"}, {"response": "z"}]});
    let (imported, rows) = imported(&[rated]);
    assert_eq!(rows.num_rows(), 2);
    let want = [
        ("completions without a score", 1),
        ("completions[].custom_system_prompt", 1),
        ("completions[].model", 1),
        ("models", 1),
    ];
    assert_eq!(unread(&imported), want);
}

#[test]
fn the_first_bad_row_is_told_as_well_as_the_second() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.jsonl");
    let good = r#"{"prompt": "good", "chosen": "yes", "rejected": "no"}"#;
    let utf16: Vec<u8> =
        [vec![0xff, 0xfe], good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()].concat();
    let deep = format!(
        "{{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", \"x\": {}{}}}",
        "[".repeat(200),
        "]".repeat(200)
    );
    let cases: [(&[u8], &str); 8] = [
        (&utf16, "UTF-16"),
        (b"{\"prompt\": \"caf\xe9\", \"chosen\": \"a\", \"rejected\": \"b\"}", "byte 0xe9 at column 16"),
        (br#"{"prompt": "a", "chosen": "a", "rejected": "b", "score_chosen": NaN}"#, "NaN at column 65"),
        (br#"{"prompt": "a", "chosen": "a", "rejected": "b", "score_chosen": -Infinity}"#, "Infinity at column 66"),
        (br#"{"prompt": "a", "chosen": "a", "rejected": "b",}"#, "trailing comma"),
        (deep.as_bytes(), "nested more than 127 deep"),
        (b"{", "each line has to hold a whole row"),
        (br#"{"prompt": "a\ud83d", "chosen": "a", "rejected": "b"}"#, "is not JSON"),
    ];
    for (row, why) in cases {
        for (lines, line) in [(row.to_vec(), 1), ([good.as_bytes(), b"\n", row].concat(), 2)] {
            std::fs::write(&path, &lines).unwrap();
            for schema in [None, Some("ift")] {
                if schema.is_some() && line == 2 {
                    continue;
                }
                let schema = schema.and_then(|name| reflux::data::SCHEMAS.iter().copied().find(|s| s.name == name));
                let error =
                    import(&path, &ImportOptions { schema, ..ImportOptions::default() }).unwrap_err().to_string();
                assert!(error.contains(&format!("x.jsonl` line {line} ")) && error.contains(why), "{why}: {error}");
            }
        }
        std::fs::write(&path, row).unwrap();
        let error = import(&path, &ImportOptions { skip_bad: true, ..ImportOptions::default() }).unwrap_err();
        assert!(error.help_text().unwrap().contains("the first: "), "{error} {:?}", error.help_text());
    }
}

/// A format is recognised by the same keys in JSON and in Parquet, also where it reads fewer.
#[test]
fn rows_of_a_schema_are_not_taken_for_a_public_format() {
    let turn = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let prompt = json!({"prompt_id": "p", "prompt": "a", "origin": "synthesized", "parents": ["q"], "model": "M1"});
    let pair = json!({"prompt_id": "p", "prompt": turn("user", "a"), "chosen": turn("assistant", "b"),
        "rejected": turn("assistant", "c"), "chosen_id": "1", "rejected_id": "2", "chosen_score": 2.0, "rejected_score": 1.0});
    for (row, schema) in [(prompt, "prompts"), (pair, "preferences")] {
        let temp = tempfile::tempdir().unwrap();
        let made = import(&write_json_lines(temp.path(), "x.jsonl", &[row]), &ImportOptions::default()).unwrap();
        assert_eq!((made.format, made.schema, made.unread.len()), (None, schema, 0));
        let error = import(&made.path, &ImportOptions::default()).unwrap_err().to_string();
        assert!(error.contains(&format!("follows the schema `{schema}` already")), "{error}");
    }
}

#[test]
fn parquet_columns_beside_are_listed_and_not_read() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.parquet");
    let text = |texts: [&str; 2]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
    let mut votes = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
    for key in [1, 2] {
        votes.keys().append_value(key);
        votes.values().append_value("x");
        votes.append(true).unwrap();
    }
    let at = TimestampMicrosecondArray::from(vec![Some(1), None]).with_timezone("UTC");
    let binary = BinaryArray::from(vec!["caf\u{e9}".as_bytes(), b"b"]);
    let rows = RecordBatch::try_from_iter_with_nullable([
        ("prompt", Arc::new(binary) as ArrayRef, true),
        ("chosen", text(["yes", "ja"]), true),
        ("rejected", text(["no", "nein"]), true),
        ("at", Arc::new(at) as ArrayRef, true),
        ("votes", Arc::new(votes.finish()) as ArrayRef, true),
    ])
    .unwrap();
    reflux::store::write_parquet(&path, &rows).unwrap();
    let imported = import(&path, &ImportOptions::default()).unwrap();
    assert_eq!(unread(&imported), [("at", 1), ("votes", 2)]);
    let made = read_parquet(&imported.path).unwrap();
    assert_eq!(
        (turns(&made, "prompt", 0), turns(&made, "chosen", 1)),
        ("user: caf\u{e9}".into(), "assistant: ja".into())
    );

    // Bytes that are no text are told with their row, and the others are read.
    let binary = BinaryArray::from(vec![b"\xff\x00".as_slice(), b"b"]);
    let rows = RecordBatch::try_from_iter([
        ("prompt", Arc::new(binary) as ArrayRef),
        ("chosen", text(["yes", "ja"])),
        ("rejected", text(["no", "nein"])),
    ])
    .unwrap();
    reflux::store::write_parquet(&path, &rows).unwrap();
    let error = import(&path, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("x.parquet` row 1") && error.contains("column `prompt`"), "{error}");
    let imported = import(&path, &ImportOptions { skip_bad: true, ..ImportOptions::default() }).unwrap();
    assert_eq!((imported.written.rows, imported.bad), (1, 1));
}

#[test]
fn every_codec_is_read() {
    use parquet::arrow::ArrowWriter;
    use parquet::basic::Compression;
    use parquet::file::properties::WriterProperties;
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("x.parquet");
    let texts: Vec<String> = (0..500).map(|i| format!("text {i}")).collect();
    let column = || Arc::new(StringArray::from(texts.clone())) as ArrayRef;
    let rows = RecordBatch::try_from_iter([("prompt", column()), ("completion", column())]).unwrap();
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::BROTLI(Default::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(Default::default()),
    ] {
        let properties = WriterProperties::builder().set_compression(codec).build();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        let imported = import(&path, &ImportOptions::default()).unwrap();
        assert_eq!(imported.written.rows, 500, "{codec}");
    }
}

/// An output goes to the end of a link; what is no regular file is neither replaced nor read.
#[cfg(unix)]
#[test]
fn links_are_followed_and_pipes_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let input = write_json_lines(dir, "x.jsonl", &[json!({"instruction": "a", "output": "b"})]);
    let (link, target, pipe) = (dir.join("link.parquet"), dir.join("there/target.parquet"), dir.join("pipe"));
    std::fs::create_dir(dir.join("there")).unwrap();
    std::os::unix::fs::symlink("there/target.parquet", &link).unwrap();
    // The link may lead to a file that is still to be made.
    for _ in 0..2 {
        let made = import(&input, &ImportOptions { out: Some(link.clone()), ..ImportOptions::default() }).unwrap();
        assert_eq!((made.path, made.written.rows), (target.clone(), 1));
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(std::fs::symlink_metadata(&target).unwrap().is_file());
    }
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink(&pipe, dir.join("to-pipe")).unwrap();
    for out in [pipe.clone(), dir.join("to-pipe"), "/dev/null".into(), dir.to_owned()] {
        let error = import(&input, &ImportOptions { out: Some(out), ..ImportOptions::default() }).unwrap_err();
        assert!(error.to_string().contains("cannot be written as a file"), "{error}");
    }
    std::os::unix::fs::symlink("loop", dir.join("loop")).unwrap();
    assert!(output_target(&dir.join("loop")).unwrap_err().to_string().contains("leads back to itself"));
    // As an input it would wait for ever.
    for name in ["pipe", "to-pipe", "/dev/zero"] {
        let error = import(&dir.join(name), &ImportOptions::default()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
