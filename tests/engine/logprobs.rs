//! `reflux logprobs`: against transformers, and what it makes of files as people have them.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const MODEL: &str = "pipelines/listworld/m0";

fn run(args: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").arg("logprobs").args(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // A command that stops early closes its end.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}
fn rows(out: &str) -> Vec<Value> {
    out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn the_numbers_are_those_of_transformers() {
    let golden: Value = serde_json::from_str(include_str!("../goldens/logprobs/golden.json")).unwrap();
    for (name, golden) in golden.as_object().unwrap() {
        let model = format!("tests/goldens/model/{name}");
        let (code, out, err) = run(&[&model, "tests/goldens/logprobs/rows.jsonl", "-q"], "");
        assert_eq!((code, err.as_str()), (Some(0), ""), "{name}");
        let rows = rows(&out);
        let golden = golden.as_array().unwrap();
        assert_eq!(rows.len(), golden.len());
        for (i, (row, golden)) in rows.iter().zip(golden).enumerate() {
            assert_eq!(row["line"], json!(i + 1));
            assert_eq!(row.as_object().unwrap().len(), golden.as_object().unwrap().len() + 1, "{row}");
            for (key, value) in golden.as_object().unwrap() {
                match value.as_u64() {
                    Some(count) => assert_eq!(row[key].as_u64(), Some(count), "{name} {key} of {row}"),
                    None => {
                        let (ours, theirs) = (row[key].as_f64().unwrap(), value.as_f64().unwrap());
                        let near = (ours - theirs).abs() < 1e-4;
                        assert!(near, "{name}: {key} of line {} is {ours}, transformers has {theirs}", i + 1);
                    }
                }
            }
        }
    }
}

/// The weights are rounded to the type and all else is f32, so the numbers are those of transformers in f32 on the rounded
/// weights. What transformers gives in the type itself is near.
#[test]
fn half_precision_is_computed_in_f32() {
    let golden: Value = serde_json::from_str(include_str!("../goldens/logprobs/half.json")).unwrap();
    let mut compared = 0;
    for (name, types) in golden.as_object().unwrap() {
        for (dtype, golden) in types.as_object().unwrap() {
            let model = format!("tests/goldens/model/{name}");
            let (code, out, err) = run(&[&model, "tests/goldens/logprobs/rows.jsonl", "-q", "--dtype", dtype], "");
            assert_eq!((code, err.as_str()), (Some(0), ""), "{name} in {dtype}");
            for (row, golden) in rows(&out).iter().zip(golden.as_array().unwrap()) {
                for (key, value) in golden.as_object().unwrap() {
                    let of = |what: &str| value[what].as_f64().unwrap();
                    let (ours, exact, torchs) = (row[key].as_f64().unwrap(), of("exact"), of("torch"));
                    assert!((ours - exact).abs() < 1e-3, "{name} in {dtype}, {row}: {key} is {exact}");
                    assert!(
                        (ours - torchs).abs() < 0.01 * torchs.abs(),
                        "{name} in {dtype}, {row}: torch has {torchs}"
                    );
                    compared += 1;
                }
            }
        }
    }
    assert!(compared >= 20, "{compared} numbers were compared");
}

const PAIR: &str = r#"{"prompt": "name three animals", "chosen": "cat dog fox .", "rejected": "cat cat cat ."}"#;

#[test]
fn threads_and_batches_change_nothing() {
    let more: Vec<String> = ["ape bear .", "yes", "fig grape kiwi lemon mango .", "no no no no"]
        .iter()
        .map(|a| format!(r#"{{"prompt": "list two fruits", "completion": "{a}"}}"#))
        .collect();
    let text = format!("{PAIR}\n{}\n{PAIR}\n", more.join("\n"));
    let of = |args: &[&str]| {
        let (code, out, err) = run(&[&[MODEL, "-", "-q"], args].concat(), &text);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        out
    };
    let one = of(&["--threads", "1"]);
    assert_eq!(one, of(&["--threads", "3"]));
    assert_eq!(one, of(&["--batch-tokens", "1"]));
    let one = rows(&one);
    assert_eq!(one.len(), 6);
    assert_eq!(one[0]["chosen_logprob"], one[5]["chosen_logprob"]);
    assert!(one[0]["chosen_logprob"].as_f64().unwrap() > one[0]["rejected_logprob"].as_f64().unwrap());
    assert_eq!(one[0]["chosen_tokens"], json!(5), "four words and the end");
}

#[test]
fn a_bad_row_leaves_the_others_alone() {
    let long = "cat ".repeat(300);
    let text = [
        PAIR,
        "{\"prompt\": ",
        &format!(r#"{{"prompt": "name three animals", "chosen": "{long}", "rejected": "cat"}}"#),
        "",
        r#"{"prompt": "name", "chosen": "cat"}"#,
        r#"{"prompt": "name three animals", "completion": "cat dog fox ."}"#,
        r#"{"prompt": [{"role": "us er", "content": "a"}], "completion": "cat"}"#,
    ]
    .join("\n");
    let (code, out, err) = run(&[MODEL, "-"], &text);
    assert_eq!(code, Some(2), "{err}");
    let rows = rows(&out);
    let lines: Vec<u64> = rows.iter().map(|r| r["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [1, 2, 3, 5, 6, 7]);
    assert_eq!(rows[0]["chosen_logprob"], rows[4]["completion_logprob"]);
    for (row, why) in [
        (1, "line 2 is not JSON"),
        (2, "line 3: prompt and completion have 306 tokens, at most 256 fit"),
        (3, "line 5 lacks the key `rejected`; there are: prompt, chosen"),
        (5, "line 7: a message has the role"),
    ] {
        let error = rows[row]["error"].as_str().unwrap();
        assert!(error.starts_with(why) && err.contains(&format!("`standard input` {error}")), "{error}\n{err}");
    }
    assert!(err.contains("4 of 6 rows could not be scored"), "{err}");
    // The limit may be lowered, and a row at the limit fits.
    let limited = |most: &str| run(&[MODEL, "-", "--max-length", most], PAIR);
    assert_eq!(limited("10").0, Some(0));
    let (code, out, _) = limited("9");
    assert!(code == Some(2) && out.contains("have 10 tokens, at most 9 fit"), "{out}");
}

#[test]
fn mistakes() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("empty.jsonl");
    std::fs::write(&file, "\n").unwrap();
    for (args, why) in [
        (vec!["no/model", "tests/goldens/logprobs/rows.jsonl"], "no/model"),
        (vec![MODEL, "no/such.jsonl"], "no/such.jsonl"),
        (vec![MODEL, "tests"], "is a directory"),
        (vec![MODEL, file.to_str().unwrap()], "holds no row"),
        (vec![MODEL, "-", "--batch-tokens", "0"], "--batch-tokens"),
        (vec![MODEL, "-", "--device", "abacus"], "abacus"),
        (vec![MODEL], "<FILE>"),
    ] {
        let (code, out, err) = run(&args, PAIR);
        assert!(code == Some(2) && out.is_empty() && err.contains(why), "{args:?}: {code:?} {out} {err}");
    }
}
