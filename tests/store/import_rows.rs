//! Every row of a stranger's file becomes rows, or is counted with the reason; and none takes memory without a bound.

use crate::common::rows::write_json_lines;
use arrow::array::RecordBatch;
use reflux::data::{Columns, Prompts};
use reflux::store::{FormatDef, ImportOptions, Imported, Turns, import, read_parquet};
use serde_json::{Value, json};

fn imported_as(rows: &[Value], how: &ImportOptions) -> (Imported, RecordBatch) {
    let temp = tempfile::tempdir().unwrap();
    let imported = import(&write_json_lines(temp.path(), "x.jsonl", rows), how).unwrap();
    let rows = read_parquet(&imported.path).unwrap();
    (imported, rows)
}

fn imported(rows: &[Value]) -> (Imported, RecordBatch) {
    imported_as(rows, &ImportOptions::default())
}

fn left_out(imported: &Imported) -> Vec<(&str, u64)> {
    imported.left_out.iter().map(|(why, rows)| (*why, *rows)).collect()
}

fn unread(imported: &Imported) -> Vec<(&str, u64)> {
    imported.unread.iter().map(|(key, rows)| (key.as_str(), *rows)).collect()
}

fn m(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// A conversation of `count` turns by user and assistant.
fn conversation(first: &str, count: usize) -> Value {
    let turn = |at: usize| match at {
        0 => m("user", first),
        _ => m(["user", "assistant"][at % 2], &format!("turn {at} {}", "x".repeat(100))),
    };
    json!({"messages": (0..count).map(turn).collect::<Vec<_>>()})
}

fn asked(rows: &RecordBatch, row: usize) -> String {
    let turns = Prompts::new(rows).unwrap().turns(row);
    turns.iter().map(|(role, text)| format!("{role}: {text}")).collect::<Vec<_>>().join("; ")
}

const REPEATED: &str = "answers that would repeat more than 64 MiB of what was said before them";

/// Every answer has all that was said before it: a small file could become one of very many bytes.
#[test]
fn a_conversation_that_repeats_too_much_is_left_out() {
    let short = conversation("q", 4);
    // Of some two thousand answers each repeats a quarter of a megabyte; or a first turn of two.
    let long = [conversation("q", 4000), conversation(&"a long question ".repeat(140_000), 2062)];
    for long in &long {
        let (made, rows) = imported(&[short.clone(), long.clone(), short.clone()]);
        assert_eq!((rows.num_rows(), left_out(&made)), (4, vec![(REPEATED, 1)]));
        // One answer repeats nothing.
        let first = ImportOptions { turns: Turns::First, ..ImportOptions::default() };
        assert_eq!(imported_as(std::slice::from_ref(long), &first).1.num_rows(), 1);
    }
    // As far as the bound goes, all answers are there.
    let (made, rows) = imported(&[conversation(&"word ".repeat(10_000), 800)]);
    assert_eq!((rows.num_rows(), left_out(&made)), (400, vec![]));
    assert_eq!(Prompts::new(&rows).unwrap().turns(399).len(), 799);
}

/// The same holds of everything of which one row becomes many.
#[test]
fn rows_of_one_row_repeat_no_more_than_the_bound() {
    let large = "word ".repeat(1 << 18);
    let short = json!({"instruction": "i", "instances": [{"input": "", "output": "o"}]});
    let instances = vec![json!({"input": "", "output": "o"}); 100];
    let (made, rows) = imported(&[short, json!({"instruction": large, "instances": instances})]);
    assert_eq!((made.format, rows.num_rows()), (FormatDef::by_name("self-instruct"), 1));
    assert_eq!(left_out(&made), [(REPEATED, 1)]);

    let rated = |instruction: &str, count: usize| {
        let completions: Vec<Value> =
            (0..count).map(|at| json!({"response": format!("r{at}"), "overall_score": at})).collect();
        json!({"instruction": instruction, "completions": completions})
    };
    let (made, rows) = imported(&[rated("i", 2), rated(&large, 100)]);
    assert_eq!((rows.num_rows(), left_out(&made)), (2, vec![(REPEATED, 1)]));

    // A tree that is one conversation, and one of very many branches.
    let message = |tree: &str, id: usize, parent: Option<usize>, role: &str, text: &str| {
        let name = |id: usize| format!("{tree}{id}");
        json!({"message_tree_id": tree, "message_id": name(id), "parent_id": parent.map(name), "role": role, "text": text,
            "rank": if role == "assistant" { json!(0) } else { Value::Null }})
    };
    let chain = |tree: &str, count: usize| -> Vec<Value> {
        let role = |at: usize| ["prompter", "assistant"][at % 2];
        (0..count).map(|at| message(tree, at, at.checked_sub(1), role(at), &"x".repeat(100))).collect()
    };
    let (made, rows) = imported(&[chain("a", 4), chain("b", 3000), chain("c", 2)].concat());
    assert_eq!((made.format, rows.num_rows()), (FormatDef::by_name("oasst"), 3));
    assert_eq!(left_out(&made), [(REPEATED, 1)]);
    let (_, rows) = imported(&chain("a", 500));
    assert_eq!((rows.num_rows(), Prompts::new(&rows).unwrap().turns(249).len()), (250, 499));
}

#[test]
fn answers_and_messages_in_no_place_are_counted() {
    let (made, rows) = imported(&[
        json!({"messages": [m("user", "a"), m("assistant", "b"), m("assistant", "c"), m("user", "d"), m("assistant", "e")]}),
        json!({"messages": [m("assistant", "Hello."), m("user", "a"), m("assistant", "b")]}),
        json!({"messages": [m("assistant", "alone")]}),
        json!({"prompt": [m("user", "p"), m("assistant", "q"), m("assistant", "r"), m("user", "s")],
            "messages": [m("user", "a"), m("assistant", "b")]}),
    ]);
    assert_eq!(rows.num_rows(), 4);
    assert_eq!(left_out(&made), [("an answer that follows no question", 2), ("no question with an answer", 1)]);

    let message = |id: &str, parent: Option<&str>, role: &str| json!({"message_tree_id": "t", "message_id": id, "parent_id": parent, "role": role, "text": id, "rank": 0});
    let good = [message("a", None, "prompter"), message("b", Some("a"), "assistant")];
    let circle = ["c", "d", "e"].map(|id| {
        let parent = match id {
            "c" => "d",
            _ => "c",
        };
        message(id, Some(parent), "assistant")
    });
    let torn = [message("x", Some("?"), "assistant"), message("y", Some("?"), "assistant")];
    let (made, rows) = imported(&[&good[..], &circle, &torn].concat());
    assert_eq!((made.format, rows.num_rows()), (FormatDef::by_name("oasst"), 1));
    let reasons = [("answers whose prompt does not stand beside them", 2), ("messages whose parents form a circle", 3)];
    assert_eq!(left_out(&made), reasons);
    // A system message that belongs to no message.
    let mut with_system = good[0].clone();
    with_system["system"] = "Be brief.".into();
    let (made, rows) = imported(&[&good[..], &[with_system]].concat());
    assert_eq!(rows.num_rows(), 1);
    assert_eq!(left_out(&made), [("a system message or a history beside messages of Open Assistant", 1)]);
}

/// Prompts are read as conversations are: in the spellings that people have, with every other key counted.
#[test]
fn prompts_are_read_as_conversations_are() {
    let (made, rows) = imported(&[
        json!({"prompt": "user: a\n\nassistant: b\n\nuser: c", "prompt_messages": [m("user", "a"), m("assistant", "b"), m("user", "c")]}),
        json!({"prompt": "something else", "prompt_messages": [m("user", "d")]}),
        json!({"prompt": [{"from": "human", "value": "e"}]}),
        json!({"prompt": [m("developer", "s"), {"role": "human", "content": "f", "name": "Ada"}]}),
        json!({"prompt": [m("system", "s"), m("user", "g")], "system": "t"}),
        json!({"prompt": [m("user", "h"), m("tool", "4"), m("user", "i")]}),
        json!({"prompt": "j", "prompt_messages": null}),
        json!({"prompt_messages": [m("user", "k"), m("assistant", "l"), m("user", "m")]}),
    ]);
    assert_eq!(made.format, FormatDef::by_name("prompts"));
    let have: Vec<String> = (0..rows.num_rows()).map(|row| asked(&rows, row)).collect();
    let conversation = |turns: [&str; 3]| format!("user: {}; assistant: {}; user: {}", turns[0], turns[1], turns[2]);
    let want = [
        conversation(["a", "b", "c"]),
        "user: d".to_owned(),
        "user: e".to_owned(),
        "system: s; user: f".to_owned(),
        "user: j".to_owned(),
        conversation(["k", "l", "m"]),
    ];
    assert_eq!(have, want);
    assert_eq!(Columns(&rows).text("prompt").unwrap().value(0), "user: a\n\nassistant: b\n\nuser: c");
    assert_eq!(left_out(&made), [("a tool call or its result", 1), ("two system messages", 1)]);
    assert_eq!(unread(&made), [("prompt", 1), ("prompt[].name", 1)]);
    let temp = tempfile::tempdir().unwrap();
    let answered = json!({"prompt": [m("user", "a"), m("assistant", "b")]});
    let error = import(
        &write_json_lines(temp.path(), "x.jsonl", &[json!({"prompt": "a"}), answered]),
        &ImportOptions::default(),
    );
    assert!(error.unwrap_err().to_string().contains("line 2 `prompt` ends with the assistant's turn"));
}
