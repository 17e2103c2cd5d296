//! What readers of other people's files say and do about rows that are not as the first, or not as the file's name says.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use reflux::data::{Columns, Prompts as PromptsOf, conversations, named};
use reflux::error::{Error, ErrorKind};
use reflux::store::{
    Dataset, ImportOptions, OnBadRow, PromptReader, Rename, guess, import, load_prompts, read_parquet, write_parquet,
};
use serde_json::json;

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn gz(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text.as_ref()).unwrap();
    gz.finish().unwrap()
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<String> {
    Columns(rows).text(column).unwrap().iter().map(|text| text.unwrap_or("(null)").to_owned()).collect()
}

fn rename(pairs: &[&str]) -> Rename {
    Rename::parse(&pairs.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
}

fn reflux(args: &[&str], dir: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    let output = command.args(args).current_dir(dir).env("NO_COLOR", "1").env("COLUMNS", "400").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Any row may lack a key, the first one too.
#[test]
fn a_renamed_key_is_looked_for_in_every_row() {
    let temp = tempfile::tempdir().unwrap();
    let how = |pairs: &[&str], skip_bad| ImportOptions { rename: rename(pairs), skip_bad, ..ImportOptions::default() };
    // In a format of others: the first row has none of the keys, the second is what was meant.
    let rows = [json!({"note": "x"}), json!({"q": "Why?", "a": "So."})].map(|row| row.to_string()).join("\n");
    let path = write(temp.path(), "x.jsonl", rows);
    let error = import(&path, &how(&["q=instruction", "a=output"], false)).unwrap_err().to_string();
    assert!(error.contains("line 1 lacks `instruction`"), "{error}");
    let made = import(&path, &how(&["q=instruction", "a=output"], true)).unwrap();
    assert_eq!((made.written.rows, made.bad, made.schema), (1, 1, "ift"));
    // Rows of ours: columns that may be null, each there in one row only.
    let row =
        |key: &str, value: &str| json!({"prompt_id": key, "prompt": "p", "origin": "o", "parents": [], key: value});
    let bare = json!({"prompt_id": "z", "prompt": "p", "origin": "o", "parents": []});
    let path = write(temp.path(), "y.jsonl", format!("{bare}\n{}\n", row("by", "m")));
    let made = import(&path, &how(&["by=model"], false)).unwrap();
    assert_eq!(texts(&read_parquet(&made.path).unwrap(), "model"), ["(null)", "m"]);
    let dataset = Dataset::open_as(&path, &named::PROMPTS, &[("model".into(), "by".into())]).unwrap();
    let rows = dataset.batches(8).next().unwrap().unwrap();
    assert_eq!(texts(&rows, "model"), ["(null)", "m"]);
    // A key that no row has is a slip.
    let error = import(&path, &how(&["bye=model"], false)).unwrap_err();
    assert!(error.to_string().contains("has the key `bye`"), "{error}");
    let error = Dataset::open_as(&path, &named::PROMPTS, &[("model".into(), "bye".into())]).unwrap_err();
    assert!(error.to_string().contains("missing: `bye`"), "{error}");
}

/// What a message of a bad row or a misspelt column proposes is typed as it stands, and works.
#[test]
fn what_is_proposed_for_a_file_works() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let text = |texts: [Option<&str>; 3]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
    let table = RecordBatch::try_from_iter([
        ("q", text([Some("a"), None, Some("c")])),
        ("response", text([Some("x"), Some("y"), Some("z")])),
        ("note", text([Some("n"), None, None])),
    ]);
    write_parquet(&dir.join("x.parquet"), &table.unwrap()).unwrap();
    write(
        dir,
        "y.jsonl",
        "{\"q\": \"a\", \"response\": \"x\"}\n{\"q\": 1, \"response\": \"y\"}\n{\"q\": \"c\", \"response\": \"z\"}\n",
    );
    for (file, made) in [("x.parquet", "x.ift.parquet"), ("y.jsonl", "y.parquet")] {
        let renamed = [("prompt".to_owned(), "q".to_owned())];
        let error = Dataset::open_as(&dir.join(file), &named::IFT, &renamed).unwrap().batches(8).find_map(Result::err);
        let help = error.unwrap().help_text().unwrap().to_owned();
        let command = help.split('`').find(|part| part.starts_with("reflux import")).unwrap();
        assert!(command.contains("--rename q=prompt"), "{command}");
        let typed: Vec<&str> = command.split_whitespace().skip(1).collect();
        let (code, out, err) = reflux(&typed, dir);
        assert!(
            code == Some(0) && err.contains("left out:") && out.contains("2 rows of `ift`"),
            "{command}: {out}{err}"
        );
        assert_eq!(texts(&read_parquet(&dir.join(made)).unwrap(), "prompt"), ["a", "c"]);
        // Without bad rows there is nothing more to do.
        assert_eq!(Dataset::open(&dir.join(made), &named::IFT).unwrap().batches(8).count(), 1);
    }
    // A column of another name is proposed as import takes it.
    write(dir, "z.jsonl", "{\"promt\": \"p\", \"response\": \"a\"}\n");
    let (code, _, err) = reflux(&["import", "z.jsonl", "--schema", "ift"], dir);
    let flag = err.split("did you mean ").nth(1).unwrap().split('?').next().unwrap();
    assert_eq!((code, flag), (Some(2), "--rename promt=prompt"), "{err}");
    let typed = [&["import", "z.jsonl", "--schema", "ift"][..], &flag.split(' ').collect::<Vec<_>>()].concat();
    assert_eq!(reflux(&typed, dir).0, Some(0));
}

#[test]
fn csv_is_read_by_the_schemas_types_and_loses_no_row() {
    let temp = tempfile::tempdir().unwrap();
    let skip = ImportOptions { skip_bad: true, ..ImportOptions::default() };
    // Numbers, nulls and lists.
    let csv = "prompt,response,judgement,score,prompt_messages\np,a,j,3,\nq,b,k,4.5,\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"q\"\"}]\"\nr,c,l,high,\n";
    let path = write(temp.path(), "eft.csv", csv);
    assert_eq!(guess(&path).unwrap().name, "eft");
    let mut batches = Dataset::open(&path, &named::EFT).unwrap().on_bad_row(OnBadRow::Collect).batches(8);
    let rows = batches.next().unwrap().unwrap();
    assert_eq!(Columns(&rows).float("score").unwrap().values().to_vec(), [3., 4.5]);
    let bad = batches.take_bad_rows();
    assert!(bad.len() == 1 && bad[0].row == 4 && bad[0].message.contains("`score` is the text \"high\""), "{bad:?}");
    let made = import(&path, &skip).unwrap();
    assert_eq!((made.written.rows, made.bad, made.schema), (2, 1, "eft"));
    let path = write(
        temp.path(),
        "ift.csv",
        "prompt,response,prompt_messages\np,a,\n\"user: x\n\nassistant: y\n\nuser: z\",b,\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"x\"\"},{\"\"role\"\":\"\"assistant\"\",\"\"content\"\":\"\"y\"\"},{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"z\"\"}]\"\n",
    );
    let mut batches = Dataset::open(&path, &named::IFT).unwrap().batches(8);
    let rows = batches.next().unwrap().unwrap();
    let asked = PromptsOf::new(&rows).unwrap();
    assert_eq!((asked.conversation(0), asked.turns(1).len(), batches.unread().len()), (None, 3, 0));
    // An open quotation mark takes in what follows it: the file is refused, whatever is done about bad rows.
    let path = write(temp.path(), "open.csv", "prompt,response\na,b\n\"c,d\ne,f\ng,h\n");
    let list = write(temp.path(), "list.csv", "prompt\na\n\"b\nc\nd\n");
    for (path, how) in [(&path, ImportOptions::default()), (&path, skip.clone()), (&list, ImportOptions::default())] {
        let error = import(path, &how).unwrap_err();
        let why = "the row that begins on line 3 has a quotation mark that is never closed";
        assert!(error.kind() == ErrorKind::User && error.to_string().contains(why), "{error}");
    }
    // Columns that are made up may be empty.
    let list = write(temp.path(), "ids.csv", "prompt_id,prompt,origin,parents\n,a,,\nmine,b,there,\"[\"\"x\"\"]\"\n");
    let rows = Dataset::open(&list, &named::PROMPTS).unwrap().batches(8).next().unwrap().unwrap();
    assert_eq!(
        (texts(&rows, "origin"), texts(&rows, "prompt_id").remove(1)),
        (vec!["given".into(), "there".into()], "mine".into())
    );
    // A row that is no UTF-8 is a bad row like others.
    let path = write(temp.path(), "latin.csv", b"prompt,response\na,b\nna\xefve,c\nd,e\n");
    let error = import(&path, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("line 3 is not UTF-8 text"), "{error}");
    let made = import(&path, &skip).unwrap();
    assert_eq!((made.written.rows, made.bad), (2, 1));
    assert!(made.bad_rows[0].contains("line 3 is not UTF-8 text"));
}

/// What a packed file holds is what the rest of its name says.
#[test]
fn packed_files_are_what_their_names_say() {
    let temp = tempfile::tempdir().unwrap();
    let csv = "prompt\r\nHi\r\n\"a, b\"\r\n";
    let lists = [
        write(temp.path(), "a.txt.gz", gz("Hi\n\na, b\n")),
        write(temp.path(), "b.csv.gz", gz(csv)),
        write(temp.path(), "c.jsonl.gz", gz("{\"prompt\": \"Hi\"}\n{\"prompt\": \"a, b\"}\n")),
        write(temp.path(), "d.json.gz", gz("[{\"prompt\": \"Hi\"}, {\"prompt\": \"a, b\"}]")),
        write(temp.path(), "e.csv", gz(csv)),
    ];
    for path in lists {
        let place = path.display().to_string();
        let rows = Dataset::open(&path, &named::PROMPTS).unwrap().batches(8).next().unwrap().unwrap();
        assert_eq!(texts(&rows, "prompt"), ["Hi", "a, b"], "{place}");
        assert_eq!(read_parquet(&import(&path, &ImportOptions::default()).unwrap().path).unwrap(), rows, "{place}");
        assert_eq!(load_prompts(&path).unwrap().rows.len(), 2, "{place}");
        assert_eq!(PromptReader::open(&path).unwrap().filter(|prompt| prompt.as_ref().unwrap().1.is_ok()).count(), 2);
    }
    assert!(temp.path().join("a.prompts.parquet").is_file() && temp.path().join("b.prompts.parquet").is_file());
    let path = write(temp.path(), "x.parquet.gz", gz("PAR1"));
    assert!(import(&path, &ImportOptions::default()).unwrap_err().to_string().contains("is a packed Parquet file"));
}

/// A damaged file is the user's, and no fault of the machine.
#[test]
fn a_damaged_packed_file_is_an_error_of_the_file() {
    let temp = tempfile::tempdir().unwrap();
    let rows: Vec<serde_json::Value> =
        (0..20_000).map(|i| json!({"prompt": format!("p{}", i * 7919 % 20_011), "response": "r"})).collect();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let array = serde_json::Value::from(rows).to_string();
    let csv: String = (0..20_000).map(|i| format!("p{}\n", i * 7919 % 20_011)).collect();
    let fails = |path: &Path| -> Error {
        let read = || -> reflux::error::Result<()> {
            Dataset::open(path, &named::IFT)?.batches(8).try_for_each(|rows| rows.map(drop))
        };
        let errors = [
            read().unwrap_err(),
            import(path, &ImportOptions { skip_bad: true, ..ImportOptions::default() }).unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.kind() == ErrorKind::User), "{errors:?}");
        errors.into_iter().next_back().unwrap()
    };
    for (name, text) in
        [("x.jsonl.gz", lines), ("x.json.gz", array), ("x.csv.gz", format!("prompt\n{csv}")), ("x.txt.gz", csv)]
    {
        let whole = gz(text);
        let error = fails(&write(temp.path(), name, &whole[..whole.len() / 2])).to_string();
        assert!(error.contains(name) && error.contains("is cut short"), "{error}");
        let mut damaged = whole.clone();
        let middle = whole.len() / 2;
        damaged[middle..middle + 64].fill(0xff);
        fails(&write(temp.path(), name, &damaged));
    }
    let path = write(temp.path(), "y.jsonl.gz", &gz("{\"prompt\": \"a\", \"response\": \"b\"}\n")[..25]);
    let (code, _, err) = reflux(&["import", &path.display().to_string()], temp.path());
    assert!(code == Some(2) && err.contains("its gzip data is cut short; get the file again"), "{err}");
}

/// The rules of conversations are the same for rows of JSON and of Parquet, whatever types the columns have.
#[test]
fn conversations_of_parquet_are_held_to_the_rules() {
    let temp = tempfile::tempdir().unwrap();
    let turns = |turns: &[(&'static str, &'static str)]| Some(turns.to_vec());
    let long = [("user", "a"), ("assistant", "b"), ("user", "c")];
    let messages = [
        turns(&long),
        turns(&[("user", "alone")]),
        turns(&[("user", "a"), ("assistant", "b")]),
        turns(&[]),
        None,
        turns(&long),
    ];
    let right = "user: a\n\nassistant: b\n\nuser: c";
    let prompts = [right, "another", "x", "x", "plain", "not the transcript"];
    let text = |texts: &[&str]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
    let columns = vec![text(&prompts), text(&["r1", "r2", "r3", "r4", "r5", "r6"]), conversations(&messages).unwrap()];
    write_parquet(&temp.path().join("x.parquet"), &named::IFT.batch(columns).unwrap()).unwrap();
    let line = |row: usize| {
        let turns = messages[row].as_ref().map(|turns| {
            turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect::<Vec<_>>()
        });
        json!({"prompt": prompts[row], "response": format!("r{}", row + 1), "prompt_messages": turns}).to_string()
            + "\n"
    };
    write(temp.path(), "y.jsonl", (0..6).map(line).collect::<String>());
    for file in ["x.parquet", "y.jsonl"] {
        let dataset = Dataset::open(&temp.path().join(file), &named::IFT).unwrap().on_bad_row(OnBadRow::Collect);
        let mut batches = dataset.batches(8);
        let rows = batches.next().unwrap().unwrap();
        assert_eq!(texts(&rows, "response"), ["r1", "r2", "r5", "r6"], "{file}");
        assert_eq!(texts(&rows, "prompt"), [right, "alone", "plain", right], "{file}");
        let asked = PromptsOf::new(&rows).unwrap();
        assert_eq!(asked.turns(3), long);
        assert_eq!((asked.conversation(1), asked.conversation(2)), (None, None), "{file}");
        let bad = batches.take_bad_rows();
        assert_eq!(bad.iter().map(|bad| bad.row).collect::<Vec<_>>(), [3, 4], "{file}");
        assert!(bad[0].message.contains("ends with the assistant's turn") && bad[1].message.contains("has no turn"));
        assert_eq!(batches.unread().clone().into_iter().collect::<Vec<_>>(), [("prompt".to_owned(), 2)], "{file}");
    }
    // So do those who read prompts alone.
    write(temp.path(), "z.jsonl", [line(0), line(5)].concat());
    let mut prompts = PromptReader::open(&temp.path().join("z.jsonl")).unwrap();
    assert!(prompts.by_ref().all(|prompt| prompt.unwrap().1.unwrap().turns().len() == 3));
    let unread = prompts.unread().lock().unwrap().clone();
    assert_eq!(unread.into_iter().collect::<Vec<_>>(), [("prompt".to_owned(), 1), ("response".to_owned(), 2)]);
}
