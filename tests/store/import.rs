//! Public formats into Parquet: small files of each, as their publishers write them, and the ways in which they go wrong.

use std::path::Path;
use std::process::Command;

use crate::common::rows::write_json_lines;
use arrow::array::{Array, RecordBatch};
use reflux::data::{Columns, Prompts, named};
use reflux::error::ErrorKind;
use reflux::store::{Dataset, FormatDef, ImportOptions, Imported, Turns, import, read_parquet};
use serde_json::{Value, json};

fn made(path: &Path, how: &ImportOptions) -> (Imported, RecordBatch) {
    let imported = import(path, how).unwrap();
    let rows = read_parquet(&imported.path).unwrap();
    assert_eq!(rows.num_rows() as u64, imported.written.rows);
    (imported, rows)
}
fn texts(rows: &RecordBatch, columns: &[&str]) -> Vec<Vec<String>> {
    let columns: Vec<_> = columns.iter().map(|c| Columns(rows).text(c).unwrap()).collect();
    (0..rows.num_rows()).map(|i| columns.iter().map(|c| c.value(i).to_owned()).collect()).collect()
}
fn english() -> ImportOptions {
    ImportOptions { language: Some("en".into()), ..ImportOptions::default() }
}

/// Three trees: a good one, a German one, and one whose answers are not ranked.
fn trees() -> Vec<Value> {
    let message = |id: &str, parent: Value, role: &str, text: &str, lang: &str, rank: Value| {
        json!({
            "message_id": id, "parent_id": parent, "user_id": "u", "created_date": "2023-02-05T12:23:50+00:00",
            "text": text, "role": role, "lang": lang, "review_count": 3, "review_result": true, "deleted": false,
            "rank": rank, "synthetic": false, "model_name": null, "emojis": {"+1": 2}, "labels": {"spam": {"value": 0.0, "count": 3}},
        })
    };
    let with = |mut m: Value, replies: Vec<Value>| {
        m["replies"] = replies.into();
        m
    };
    let a = |id: &str, of: &str, text: &str, lang: &str, rank: Value| {
        with(message(id, of.into(), "assistant", text, lang, rank), Vec::new())
    };
    let mut deleted = a("a4", "t1", "gone", "en", json!(1));
    deleted["deleted"] = true.into();
    let follow = with(
        message("p2", "a1".into(), "prompter", "And more?", "en", Value::Null),
        vec![a("a9", "p2", "No.", "en", json!(0))],
    );
    let best = with(message("a1", "t1".into(), "assistant", "The Danube.", "en", json!(0)), vec![follow]);
    let first = vec![a("a2", "t1", "A river.", "en", json!(2)), best, a("a3", "t1", "Donau", "de", json!(1)), deleted];
    let tree = |root: Value| json!({ "message_tree_id": root["message_id"], "tree_state": "ready_for_export", "prompt": root });
    vec![
        tree(with(message("t1", Value::Null, "prompter", "Name a river.", "en", Value::Null), first)),
        tree(with(
            message("t2", Value::Null, "prompter", "Nenne einen Fluss.", "de", Value::Null),
            vec![a("b1", "t2", "Rhein", "de", json!(0))],
        )),
        tree(with(
            message("t3", Value::Null, "prompter", "Name a hill.", "en", Value::Null),
            vec![a("c1", "t3", "Any.", "en", Value::Null)],
        )),
    ]
}

/// The messages of trees, as the hub's files list them: each tree's one after the other.
fn messages() -> Vec<Value> {
    fn walk(tree: &Value, mut m: Value, all: &mut Vec<Value>) {
        let replies = m.as_object_mut().unwrap().remove("replies");
        m["message_tree_id"] = tree["message_tree_id"].clone();
        m["tree_state"] = tree["tree_state"].clone();
        all.push(m);
        for r in replies.iter().flat_map(|r| r.as_array().unwrap()) {
            walk(tree, r.clone(), all);
        }
    }
    let mut all = Vec::new();
    trees().iter().for_each(|t| walk(t, t["prompt"].clone(), &mut all));
    all
}

#[test]
fn open_assistant_in_every_form() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let flat = write_json_lines(dir, "messages.jsonl", &messages());
    // The hub's form: Parquet with structs, floats for ranks, and nulls.
    let parquet = dir.join("messages.parquet");
    let mut reader = {
        let file = std::fs::File::open(&flat).unwrap();
        let (schema, _) =
            arrow::json::reader::infer_json_schema(std::io::BufReader::new(file.try_clone().unwrap()), None).unwrap();
        let file = std::fs::File::open(&flat).unwrap();
        arrow::json::ReaderBuilder::new(schema.into()).build(std::io::BufReader::new(file)).unwrap()
    };
    reflux::store::write_parquet(&parquet, &reader.next().unwrap().unwrap()).unwrap();
    let files = [
        write_json_lines(dir, "trees.jsonl", &trees()),
        write_json_lines(dir, "trees.jsonl.gz", &trees()),
        flat,
        write_json_lines(dir, "messages.jsonl.gz", &messages()),
        parquet,
    ];
    for file in &files {
        let out = |name: &str| ImportOptions { out: Some(dir.join(name)), ..english() };
        let (imported, rows) = made(file, &out("ift.parquet"));
        assert_eq!((imported.format, imported.schema), (FormatDef::by_name("oasst"), "ift"), "{file:?}");
        let talk = "user: Name a river.\n\nassistant: The Danube.\n\nuser: And more?";
        let want = [["Name a river.", "The Danube."], [talk, "No."]];
        assert_eq!(texts(&rows, &["prompt", "response"]), want, "{file:?}");
        let prompts = Prompts::new(&rows).unwrap();
        assert_eq!(prompts.conversation(0), None);
        let turns = [("user", "Name a river."), ("assistant", "The Danube."), ("user", "And more?")];
        assert_eq!(prompts.conversation(1).unwrap(), turns);
        let left_out = |imported: &Imported| -> Vec<(&str, u64)> {
            imported.left_out.iter().map(|(why, rows)| (*why, *rows)).collect()
        };
        let want = [
            ("an answer without a rank", 1),
            ("another language", 2),
            ("deleted or failed in review", 1),
            ("no answer of rank 0", 1),
        ];
        assert_eq!(left_out(&imported), want, "{file:?}");
        let (imported, rows) = made(file, &ImportOptions { turns: Turns::First, ..out("first.parquet") });
        assert_eq!(texts(&rows, &["prompt", "response"]), [["Name a river.", "The Danube."]], "{file:?}");
        assert_eq!(left_out(&imported), want);
        assert_eq!(imported.unread["turns after the first answer"], 1);
        let (imported, rows) = made(file, &ImportOptions { schema: Some(&named::RANKED), ..out("ranked.parquet") });
        let want = [["t1", "Name a river.", "a1", "The Danube."], ["t1", "Name a river.", "a2", "A river."]];
        assert_eq!(texts(&rows, &["prompt_id", "prompt", "response_id", "response"]), want, "{file:?}");
        assert_eq!(Columns(&rows).uint("rank").unwrap().values(), &[0, 2]);
        assert_eq!(imported.left_out["fewer than two ranked answers"], 2);
        let all = ImportOptions { schema: Some(&named::RANKED), language: None, ..out("all.parquet") };
        assert_eq!(Columns(&made(file, &all).1).uint("rank").unwrap().values(), &[0, 1, 2]);
    }
    // Answers that were torn from their prompt are told, not joined to another.
    let mut torn = messages();
    torn.remove(0);
    let file = write_json_lines(dir, "torn.jsonl", &torn);
    let e = import(&file, &english()).unwrap_err();
    assert!(e.help_text().unwrap().contains("does not stand beside"), "{e} {:?}", e.help_text());
}

#[test]
fn instruction_sets() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let alpaca = [
        json!({"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}),
        json!({"instruction": "Say hello.", "input": "", "output": "Hello!"}),
        json!({"instruction": "Say nothing.", "input": "", "output": ""}),
    ];
    let want = [["Add the numbers.\n\n1, 2", "3"], ["Say hello.", "Hello!"]];
    let array = dir.join("alpaca_data.json");
    std::fs::write(&array, serde_json::to_string_pretty(&alpaca).unwrap()).unwrap();
    for file in [array, write_json_lines(dir, "alpaca.jsonl", &alpaca)] {
        let (imported, rows) = made(&file, &ImportOptions::default());
        assert_eq!((imported.format, imported.left_out["an empty answer"]), (FormatDef::by_name("alpaca"), 1));
        assert_eq!(texts(&rows, &["prompt", "response"]), want);
        assert!(imported.path.to_string_lossy().ends_with(".ift.parquet"));
        assert_eq!(Dataset::open(&imported.path, &named::IFT).unwrap().rows(), Some(2));
    }
    let seeds = [
        json!({"id": "seed_task_0", "name": "a", "instruction": "Name a tree.", "instances": [{"input": "", "output": "Oak"}], "is_classification": false}),
        json!({"id": "seed_task_1", "name": "b", "instruction": "Which is it?", "instances": [{"input": "2 + 2", "output": "4"}, {"input": "3", "output": "3"}], "is_classification": true}),
    ];
    let (imported, rows) = made(&write_json_lines(dir, "seed_tasks.jsonl", &seeds), &ImportOptions::default());
    assert_eq!(imported.format, FormatDef::by_name("self-instruct"));
    let want = [["Name a tree.", "Oak"], ["Which is it?\n\n2 + 2", "4"], ["Which is it?\n\n3", "3"]];
    assert_eq!(texts(&rows, &["prompt", "response"]), want);
    let chats = [
        json!({"id": "x", "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Ho."}, {"from": "human", "value": "z"}]}),
        json!({"id": "y", "conversations": [{"from": "gpt", "value": "I begin."}, {"from": "human", "value": "So?"}]}),
        json!({"id": "z", "conversations": [{"from": "system", "value": "Be a pirate."}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
        json!({"id": "w", "conversations": []}),
    ];
    let (imported, rows) = made(&write_json_lines(dir, "sharegpt.jsonl", &chats), &ImportOptions::default());
    assert_eq!(imported.format, FormatDef::by_name("sharegpt"));
    let pirate = "system: Be a pirate.\n\nuser: a";
    assert_eq!(texts(&rows, &["prompt", "response"]), [["Hi?", "Ho."], [pirate, "b"]]);
    assert_eq!(Prompts::new(&rows).unwrap().turns(1), [("system", "Be a pirate."), ("user", "a")]);
    assert_eq!(imported.left_out["no question with an answer"], 2);
    assert_eq!(imported.unread["a last question without an answer"], 1);
    let rated = [json!({"source": "s", "instruction": "Why?", "models": ["a", "b", "c"], "completions": [
        {"model": "a", "response": "So.", "overall_score": 6.5}, {"model": "b", "response": "Because.", "overall_score": 8.0},
        {"model": "c", "response": "Eh.", "overall_score": 6.5}]})];
    let (imported, rows) = made(&write_json_lines(dir, "ultra.jsonl", &rated), &ImportOptions::default());
    assert_eq!((imported.format, imported.schema), (FormatDef::by_name("ultrafeedback"), "ranked"));
    assert_eq!(texts(&rows, &["response"]), [["Because."], ["So."], ["Eh."]]);
    assert_eq!(Columns(&rows).uint("rank").unwrap().values(), &[0, 1, 1]);
    assert_eq!(Columns(&rows).float("score").unwrap().values(), &[8., 6.5, 6.5]);
}

#[test]
fn evaluation_sets() {
    let temp = tempfile::tempdir().unwrap();
    let questions = [
        json!({"question_id": 81, "category": "writing", "turns": ["Write a post.", "Now every sentence with an A."]}),
        json!({"question_id": 101, "category": "math", "turns": ["What is 2 + 2? ", "And 3 + 3?"], "reference": ["4", "6"]}),
        json!({"question_id": 102, "category": "math", "turns": ["Alone?"], "reference": null}),
        json!({"question_id": 103, "category": "math", "turns": ["", "b"]}),
    ];
    let (imported, rows) =
        made(&write_json_lines(temp.path(), "question.jsonl", &questions), &ImportOptions::default());
    assert_eq!((imported.format, imported.schema), (FormatDef::by_name("mt-bench"), "prompts"));
    assert_eq!(imported.left_out["an empty first turn"], 1);
    assert_eq!(imported.extra, ["question_id", "category", "turn_2", "reference"]);
    let want = [
        ["Write a post.", "mt-bench", "81", "writing"],
        ["What is 2 + 2?", "mt-bench", "101", "math"],
        ["Alone?", "mt-bench", "102", "math"],
    ];
    assert_eq!(texts(&rows, &["prompt", "origin", "question_id", "category"]), want);
    let held = |column: &str| -> Vec<Option<String>> {
        let column = Columns(&rows).text(column).unwrap();
        column.iter().map(|t| t.map(str::to_owned)).collect()
    };
    let text = |t: &str| Some(t.to_owned());
    assert_eq!(held("turn_2"), [text("Now every sentence with an A."), text("And 3 + 3?"), None]);
    assert_eq!(held("reference"), [None, text("4"), None]);
    // What comes after the schema's columns is in nobody's way.
    assert_eq!(Dataset::open(&imported.path, &named::PROMPTS).unwrap().rows(), Some(3));

    let pairs = [
        json!({"input": "Why?", "output_1": "No.", "output_2": "Because.", "label": 2}),
        json!({"input": "Why?", "output_1": "So it is.", "output_2": "Eh.", "label": 1}),
    ];
    let array = temp.path().join("dataset.json");
    std::fs::write(&array, serde_json::to_string_pretty(&pairs).unwrap()).unwrap();
    let (imported, rows) = made(&array, &ImportOptions::default());
    assert_eq!((imported.format, imported.schema), (FormatDef::by_name("llmbar"), "ranked"));
    assert_eq!(texts(&rows, &["response"]), [["Because."], ["No."], ["So it is."], ["Eh."]]);
    assert_eq!(Columns(&rows).uint("rank").unwrap().values(), &[0, 1, 0, 1]);
    let ids = Columns(&rows).text("prompt_id").unwrap();
    assert!(ids.value(0) == ids.value(1) && ids.value(1) != ids.value(2), "one instruction, two comparisons");
    for (format, row, why) in [
        ("llmbar", json!({"input": "a", "output_1": "b", "output_2": "c", "label": 3}), "`label` is the number 3"),
        ("llmbar", json!({"input": "a", "output_1": "b", "output_2": "c"}), "`label` is missing"),
        ("mt-bench", json!({"question_id": 1, "turns": "a"}), "`turns` is"),
        ("mt-bench", json!({"turns": ["a"]}), "lacks `question_id`"),
        ("mt-bench", json!({"question_id": 1, "turns": ["a", "b", "c"]}), "more than two turns"),
    ] {
        let file = write_json_lines(temp.path(), "bad.jsonl", &[row]);
        let e = import(&file, &ImportOptions { format: FormatDef::by_name(format), ..ImportOptions::default() })
            .unwrap_err()
            .to_string();
        assert!(e.contains("bad.jsonl` line 1") && e.contains(why), "{e}");
    }
}

#[test]
fn preferences_in_every_form() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let m = |role: &str, content: &str| json!({"role": role, "content": content});
    let (u, a, b) = (m("user", "u?"), m("assistant", "a."), m("assistant", "b."));
    let rows = [
        json!({"prompt": "u?", "chosen": "a.", "rejected": "b."}),
        json!({"prompt": [u], "chosen": [a], "rejected": [b]}),
        json!({"chosen": [u, a], "rejected": [u, b]}),
        // UltraFeedback, binarized.
        json!({"prompt": "u?", "prompt_id": "7f", "chosen": [u, a], "rejected": [u, b], "messages": [u, a], "score_chosen": 8.5, "score_rejected": 4.0}),
        json!({"prompt": null, "chosen": "\n\nHuman: u?\n\nAssistant: a.", "rejected": "\n\nHuman: u?\n\nAssistant: b."}),
        json!({"chosen": "u? a.", "rejected": "u? b."}),
        json!({"prompt": "u?", "chosen": "a.", "rejected": "a."}),
    ];
    let jsonl = write_json_lines(dir, "prefs.jsonl", &rows);
    let (imported, rows) = made(&jsonl, &ImportOptions::default());
    assert_eq!(
        (imported.format, imported.left_out["both answers are the same"]),
        (FormatDef::by_name("preferences"), 1)
    );
    let of = |name: &str, i: usize| {
        let turns: Vec<String> =
            Columns(&rows).messages(name).unwrap().row(i).map(|(r, c)| format!("{r}: {c}")).collect();
        turns.join("; ")
    };
    for i in 0..6 {
        // TRL leaves the blank between a prompt and its answers to the answers where both are one text.
        let (chosen, rejected) =
            if i == 5 { ("assistant:  a.", "assistant:  b.") } else { ("assistant: a.", "assistant: b.") };
        assert_eq!(
            (of("prompt", i).as_str(), of("chosen", i).as_str(), of("rejected", i).as_str()),
            ("user: u?", chosen, rejected),
            "row {i}"
        );
    }
    let scores = Columns(&rows).float("chosen_score").unwrap();
    assert_eq!(
        (0..6).map(|i| scores.is_valid(i).then(|| scores.value(i))).collect::<Vec<_>>(),
        [None, None, None, Some(8.5), None, None]
    );
    assert_eq!(Columns(&rows).text("prompt_id").unwrap().value(3), "7f");
    let ids = Columns(&rows).text("chosen_id").unwrap();
    assert_eq!(ids.value(0), ids.value(1), "the same conversation, the same id");
    assert_ne!(ids.value(0), Columns(&rows).text("rejected_id").unwrap().value(0));
}

#[test]
fn bad_rows_are_refused_or_told() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("bad.jsonl");
    let good = r#"{"instruction": "Say hello.", "input": null, "output": "Hello!"}"#;
    let lines = [
        good,
        "",
        "{\"instruction\": ",
        r#"{"instruction": 3, "output": "x"}"#,
        r#"{"instruction": "no output"}"#,
        "[1]",
        good,
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let e = import(&file, &ImportOptions::default()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::User);
    assert!(e.to_string().contains("bad.jsonl` line 3") && e.help_text().unwrap().contains("--bad-rows skip"), "{e}");
    assert!(!temp.path().join("bad.ift.parquet").exists(), "nothing is left behind");
    let (imported, rows) = made(&file, &ImportOptions { skip_bad: true, ..ImportOptions::default() });
    assert_eq!((rows.num_rows(), imported.bad), (2, 4));
    for (told, what) in imported.bad_rows.iter().zip([
        "line 3 is not JSON",
        "line 4 `instruction` is the number 3",
        "line 5 lacks `output`",
        "line 6 is a list",
    ]) {
        assert!(told.contains(what), "{told}");
    }
    // Deep nesting, which could exhaust the stack.
    std::fs::write(&file, format!("{good}\n{}{}\n", "{\"a\":".repeat(100_000), "1")).unwrap();
    assert_eq!(made(&file, &ImportOptions { skip_bad: true, ..ImportOptions::default() }).0.bad, 1);
    let only = write_json_lines(temp.path(), "empty.jsonl", &[json!({"instruction": "x", "output": ""})]);
    let e = import(&only, &ImportOptions::default()).unwrap_err();
    assert!(e.to_string().contains("no row") && e.help_text().unwrap().contains("an empty answer"), "{e}");
    let e = import(
        &file,
        &ImportOptions {
            schema: Some(&named::PAIRS),
            format: FormatDef::by_name("alpaca"),
            ..ImportOptions::default()
        },
    )
    .unwrap_err();
    assert!(e.to_string().contains("does not become `pairs`") && e.help_text().unwrap().contains("ift"), "{e}");
}

#[test]
fn nothing_is_imported_over_its_source() {
    let temp = tempfile::tempdir().unwrap();
    let rows = [json!({"prompt": "a", "chosen": "x", "rejected": "y"})];
    let file = write_json_lines(temp.path(), "p.jsonl", &rows);
    let before = std::fs::read(&file).unwrap();
    let over = temp.path().join("../").join(temp.path().file_name().unwrap()).join("p.jsonl");
    let refused = |input: &Path, out: &Path| {
        let error = import(input, &ImportOptions { out: Some(out.into()), ..ImportOptions::default() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::User);
        assert!(error.to_string().contains("written over what is imported"), "{error}");
    };
    refused(&file, &over);
    let eft = write_json_lines(temp.path(), "eft.jsonl", &[json!({"prompt": "a", "response": "b"})]);
    refused(&eft, &eft);
    assert_eq!(std::fs::read(&file).unwrap(), before);
    // A folder's own file would be read the next time.
    let folder = temp.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let one = write_json_lines(&folder, "one.jsonl", &rows);
    refused(&folder, &one);
    assert_eq!(std::fs::read(&one).unwrap(), before);
}

#[test]
fn files_without_a_row_to_import_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let skip = || ImportOptions { skip_bad: true, schema: Some(&named::IFT), ..ImportOptions::default() };
    let fails = |path: &Path, how: &ImportOptions, words: &[&str]| {
        let error = import(path, how).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::User, "{error}");
        let told = format!("{error} {}", error.help_text().unwrap_or_default());
        assert!(words.iter().all(|w| told.contains(w)), "{told}");
        assert!(!path.with_extension("parquet").exists() || path.extension().unwrap() == "parquet");
    };
    let empty = temp.path().join("empty.jsonl");
    std::fs::write(&empty, "\n \n").unwrap();
    fails(&empty, &ImportOptions::default(), &["holds no row"]);
    fails(&empty, &skip(), &["holds no row"]);
    // The first row decides what columns there are; it is those after it that can be bad.
    let bad = temp.path().join("bad.jsonl");
    std::fs::write(&bad, "{\"prompt\": 3, \"response\": \"x\"}\n").unwrap();
    fails(&bad, &ImportOptions::default(), &["fit no schema", "also needs `prompt` as text"]);
    // What follows a schema already.
    let ready = made(
        &write_json_lines(temp.path(), "ok.jsonl", &[json!({"prompt": "a", "response": "b"})]),
        &ImportOptions::default(),
    )
    .0
    .path;
    fails(&ready, &ImportOptions::default(), &["follows the schema `ift` already", "`read` takes it"]);
}

#[test]
fn what_a_row_cannot_be_is_told_with_its_line() {
    let temp = tempfile::tempdir().unwrap();
    let rated = |scores: &[f64]| {
        let rows: Vec<Value> =
            scores.iter().map(|s| json!({"response": format!("r{s}"), "overall_score": s})).collect();
        json!({"instruction": "i", "completions": rows})
    };
    let file = write_json_lines(temp.path(), "u.jsonl", &[rated(&[1., 2.]), rated(&[1e300, 1.])]);
    let error = import(&file, &ImportOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::User, "{error}");
    assert!(error.to_string().contains("line 2") && error.to_string().contains("does not fit in 32 bits"), "{error}");
    // Ranks of equal scores are equal, and a row of very many is no work of their square.
    let many: Vec<f64> = (0..200_000).map(|i| f64::from(i % 1000)).collect();
    let (_, rows) = made(&write_json_lines(temp.path(), "many.jsonl", &[rated(&many)]), &ImportOptions::default());
    let (ranks, scores) = (Columns(&rows).uint("rank").unwrap(), Columns(&rows).float("score").unwrap());
    assert!(
        (0..rows.num_rows()).all(|i| ranks.value(i) as f32 == 999. - scores.value(i)) && rows.num_rows() == 200_000
    );

    // Dialogues with a mark of one kind only, a hundred thousand times; and answers that are the same to the end.
    let turns = "\n\nHuman: q".repeat(100_000);
    let rows = [
        json!({"chosen": format!("{turns}\n\nAssistant: a"), "rejected": format!("{turns}\n\nAssistant: b")}),
        json!({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: a"}),
        json!({"chosen": "a", "rejected": "a"}),
        json!({"chosen": "\n\n\nHuman: q\n\nAssistant: a", "rejected": "\n\n\nHuman: q\n\nAssistant: b"}),
        json!({"chosen": "\n\nHuman: q\n\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}),
    ];
    let (imported, rows) = made(&write_json_lines(temp.path(), "d.jsonl", &rows), &ImportOptions::default());
    assert_eq!(imported.left_out.get("both answers are the same"), Some(&2));
    let prompts = Columns(&rows).messages("prompt").unwrap();
    let lengths: Vec<usize> = (0..rows.num_rows()).map(|i| prompts.row(i).count()).collect();
    assert_eq!(lengths, [100_000, 1, 1]);
    assert_eq!(
        prompts.row(2).collect::<Vec<_>>(),
        [("user", "q")],
        "a mark begins at the last two line ends before it"
    );
}

#[test]
fn a_large_file_is_a_stream_of_the_same_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let rows: Vec<Value> =
        (0..3000).map(|i| json!({"instruction": format!("Say {i}."), "output": format!("{i}!")})).collect();
    let lines = import(&write_json_lines(temp.path(), "a.jsonl", &rows), &ImportOptions::default()).unwrap();
    let zipped = import(&write_json_lines(temp.path(), "b.jsonl.gz", &rows), &ImportOptions::default()).unwrap();
    assert_eq!((lines.written.rows, &lines.written), (3000, &zipped.written));
    let (_, table) = made(&temp.path().join("a.jsonl"), &ImportOptions::default());
    assert_eq!(Columns(&table).text("prompt").unwrap().value(2047), "Say 2047.");
}

#[test]
fn the_command_says_what_it_did() {
    let temp = tempfile::tempdir().unwrap();
    let file = write_json_lines(temp.path(), "trees.jsonl", &trees());
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_reflux")).arg("import").arg(&file).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, out, err) = run(&[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("trees.ift.parquet: 2 rows of `ift` from oasst")
            && out.contains("left out 2 with another language"),
        "{out}"
    );
    let (code, out, _) = run(&["--turns", "first"]);
    assert!(code == Some(0) && out.contains("1 row of `ift`") && out.contains("not read: turns after"), "{out}");
    let (code, out, _) = run(&["--schema", "ranked", "--language", "any"]);
    assert!(code == Some(0) && out.contains("3 rows of `ranked`"), "{out}");
    let (code, _, err) = run(&["--schema", "rankd"]);
    assert!(code == Some(2) && err.contains("schema `rankd` not found"), "{err}");
    std::fs::write(&file, "{\"instruction\": \"a\", \"output\": \"b\"}\n{\n").unwrap();
    let (code, _, err) = run(&["--bad-rows", "skip"]);
    assert!(code == Some(0) && err.contains("left out:") && err.contains("line 2"), "{err}");
}
