//! `reflux generate`: prompts from everywhere, answers as text and as JSON lines, and what mistakes lead to.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use candle_core::{DType, Device};
use reflux::engine::Codec;
use reflux::model::{Message, Model};
use reflux::train::{ForwardLimits, Scored};
use serde_json::{Value, json};

const MODEL: &str = "pipelines/listworld/m0";
const ANIMALS: &str = "name three animals";

fn spawn(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").arg("generate").args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}
fn run(args: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    let mut child = spawn(args);
    // A command that stops early closes its end.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}
/// The output of a command that works.
fn answers(args: &[&str], stdin: &str) -> String {
    let (code, out, err) = run(&[&[MODEL, "-q", "-m", "12"], args].concat(), stdin);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
    out
}
fn rows(out: &str) -> Vec<Value> {
    out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn a_prompt_from_the_argument_a_file_or_a_pipe_gets_the_same_answer() {
    let temp = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = temp.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (plain, jsonl) =
        (write("a.txt", "name three animals\n"), write("a.JSONL", r#"{"prompt": "name three animals"}"#));
    let of = |args: &[&str], stdin: &str| rows(&answers(&[args, &["--json"]].concat(), stdin))[0]["token_ids"].clone();
    let wanted = of(&[ANIMALS], "");
    assert!(wanted.as_array().is_some_and(|t| !t.is_empty()));
    assert_eq!(of(&["--file", &plain], ""), wanted);
    assert_eq!(of(&["--file", &plain, "--lines"], ""), wanted);
    assert_eq!(of(&["--file", &jsonl], ""), wanted);
    assert_eq!(of(&[], "name three animals\n"), wanted);
    assert_eq!(of(&["-"], "name three animals"), wanted);
    assert_eq!(of(&["--file", "-"], "name three animals"), wanted);
    assert_eq!(of(&["--lines"], "\n\nname three animals\n"), wanted);
    assert_eq!(of(&["--jsonl"], r#"{"messages": [{"role": "user", "content": "name three animals"}]}"#), wanted);
    assert_eq!(of(&["--file", &plain, "--whole"], ""), wanted);
    // A .txt file has a prompt a line, unless the whole of it is asked for.
    let two = write("b.txt", "name three\nanimals\n");
    assert_eq!(rows(&answers(&["--json", "--file", &two], "")).len(), 2);
    assert_eq!(rows(&answers(&["--json", "--file", &two, "--whole"], ""))[0]["prompt"], json!("name three\nanimals"));
    let csv = write("a.csv", "id,prompt\n1,name three animals\n");
    assert_eq!(of(&["--file", &csv], ""), wanted);
    let (_, _, err) = run(&[MODEL, "-m", "2", "--file", &csv], "");
    assert!(err.contains("not read: id (in 1 row)"), "{err}");
    // A text of several lines is one prompt, and a .jsonl file whose lines are asked for is text.
    assert_eq!(rows(&answers(&["--json"], "name three\nanimals\n"))[0]["prompt"], json!("name three\nanimals"));
    assert_eq!(rows(&answers(&["--json", "--lines", "--file", &jsonl], ""))[0]["prompt"].as_str().unwrap().len(), 32);
    // A system message comes before conversations that have none.
    let own = r#"{"prompt": [{"role": "system", "content": "name"}, {"role": "user", "content": "three animals"}]}"#;
    assert_eq!(of(&["three animals", "--system", "name"], ""), of(&["--jsonl", "--system", "politely"], own));
}

#[test]
fn json_says_what_the_model_gives() {
    let text = "name three animals\n\nlist two fruits in alphabetical order\n";
    let out = rows(&answers(&["--json", "--lines", "--samples", "3", "--seed", "7"], text));
    assert_eq!(out.len(), 6);
    let model = Model::load(Path::new(MODEL), &Device::Cpu, DType::F32, false).unwrap();
    let mut finishes = Vec::new();
    for (i, row) in out.iter().enumerate() {
        let (prompt, sample) = (i / 3, i % 3);
        let asked = text.lines().nth(2 * prompt).unwrap();
        let place = [&row["index"], &row["line"], &row["sample"], &row["prompt"]];
        assert_eq!(place, [&json!(prompt), &json!(2 * prompt + 1), &json!(sample), &json!(asked)]);
        let ids: Vec<u32> = serde_json::from_value(row["token_ids"].clone()).unwrap();
        let logprobs: Vec<f32> = serde_json::from_value(row["logprobs"].clone()).unwrap();
        assert_eq!(row["text"], json!(model.tokenizer.decode(&ids)));
        let ended = ids.last().is_some_and(|t| model.tokenizer.eos_ids().contains(t));
        assert_eq!(row["finish"], json!(if ended { "stop" } else { "length" }));
        assert!(ended || ids.len() == 12);
        finishes.push(ended);
        let prompt = Codec::encode(&model.tokenizer, &[Message::new("user", asked)]).unwrap();
        assert_eq!(row["prompt_tokens"], json!(prompt.len()));
        // The log-probability of every head of the answer, by the code that training uses.
        assert_eq!(ids.len(), logprobs.len());
        let heads: Vec<Scored> =
            (1..=ids.len()).map(|n| Scored { prompt: prompt.clone(), completions: vec![ids[..n].to_vec()] }).collect();
        let sums = reflux::train::logprobs(&model.llama, &heads, ForwardLimits::default()).unwrap();
        let mut before = 0.;
        for (sum, logprob) in sums.iter().zip(&logprobs) {
            assert!((sum[0] - before - f64::from(*logprob)).abs() < 1e-4, "{row}");
            before = sum[0];
        }
    }
    assert!(finishes.contains(&true), "no answer ended by itself");
    let texts: Vec<&Value> = out[..3].iter().map(|r| &r["text"]).collect();
    assert!(texts[0] != texts[1] || texts[1] != texts[2], "{texts:?}");
}

#[test]
fn answers_depend_on_prompt_seed_and_occurrence_only() {
    let prompts: Vec<String> = ["animals", "fruits", "tools", "jobs", "foods", "colours"]
        .iter()
        .flat_map(|what| ["name", "list", "write"].map(|verb| format!("{verb} three {what}")))
        .collect();
    let of = |prompts: &[String], args: &[&str]| {
        let args = [&["--json", "--lines", "--samples", "2", "--temperature", "1", "--top-p", "1"], args].concat();
        let answer = |r: Value| (r["prompt"].to_string(), r["sample"].to_string(), r["token_ids"].to_string());
        rows(&answers(&args, &prompts.join("\n"))).into_iter().map(answer).collect::<Vec<_>>()
    };
    let all = of(&prompts, &["--threads", "1"]);
    assert_eq!(all, of(&prompts, &["--threads", "3", "--kv-memory", "1 MiB"]));
    let mut reversed = of(&prompts.iter().rev().cloned().collect::<Vec<_>>(), &[]);
    // Prompts are in the order of the file, and samples in theirs.
    assert!(reversed[0].0 == all[34].0 && reversed[0].1 == "0" && reversed[1].1 == "1");
    let mut sorted = all.clone();
    sorted.sort();
    reversed.sort();
    assert_eq!(sorted, reversed);
    assert_eq!(of(&prompts[4..5], &[]), all[8..10]);
    assert_ne!(of(&prompts, &["--seed", "1"]), all);
    // Prompts that come again get answers of their own, the same whatever is between them.
    let twice = |between: usize| {
        let file = [&prompts[..1], &prompts[1..1 + between], &prompts[..1]].concat();
        let answers = of(&file, &[]);
        [&answers[..2], &answers[answers.len() - 2..]].concat()
    };
    let (near, far) = (twice(0), twice(9));
    assert!(near == far && near[..2] == all[..2] && near[..2] != near[2..], "{near:?} {far:?}");
}

#[test]
fn many_prompts_stream_in_order_and_a_reader_may_leave() {
    let text: String = (0..1500).map(|i| format!("name three animals {}\n", "cat ".repeat(i % 7))).collect();
    let out = rows(&answers(&["--json", "--lines"], &text));
    assert!(out.len() == 1500 && (0..).zip(&out).all(|(i, row)| row["index"] == json!(i)));
    // The answer to the first comes while the end of the input is not in sight.
    let mut child = spawn(&[MODEL, "--lines", "--json", "-m", "2"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    for i in 0..3 {
        writeln!(stdin, "name three animals").unwrap();
        line.clear();
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains(&format!("\"index\":{i}")), "{line}");
    }
    drop(stdout);
    // It goes on until it notices that nobody reads, and takes that for the end.
    let fed = (0..100_000).find(|_| writeln!(stdin, "name three animals").is_err());
    drop(stdin);
    assert!(fed.is_some(), "it reads without end");
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !err.contains("error"), "{err}");
}

#[test]
fn text_has_headings_where_there_are_several() {
    let one = answers(&[ANIMALS, "-t", "0"], "");
    assert!(!one.contains("---") && one.ends_with('\n'), "{one}");
    let two = answers(&["-t", "1", "--seed", "3", "--samples", "2", ANIMALS], "");
    let rows = rows(&answers(&["-t", "1", "--seed", "3", "--samples", "2", "--json", ANIMALS], ""));
    let text = |i: usize| rows[i]["text"].as_str().unwrap();
    assert_eq!(two, format!("--- sample 0\n{}\n\n--- sample 1\n{}\n", text(0), text(1)));
    let lines = answers(&["-t", "0", "--lines"], "name three animals\n\nname three animals\n");
    assert_eq!(lines, format!("--- line 1\n{one}\n--- line 3\n{one}"));
}

#[test]
fn a_bad_row_leaves_the_others_alone() {
    let text = [
        r#"{"prompt": "name three animals"}"#,
        "{\"prompt\": ",
        r#"{"text": "a"}"#,
        r#"{"prompt": " "}"#,
        "",
        &format!(r#"{{"prompt": "{}"}}"#, "cat ".repeat(300)),
        r#"{"messages": [{"role": "user", "content": "name three animals"}]}"#,
    ]
    .join("\n");
    let (code, out, err) = run(&[MODEL, "--jsonl", "--json", "-n", "2"], &text);
    assert_eq!(code, Some(2), "{err}");
    let rows = rows(&out);
    let lines: Vec<u64> = rows.iter().map(|r| r["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [1, 1, 2, 3, 4, 4, 6, 6, 7, 7]);
    for (row, why) in
        [(2, "line 2 is not JSON"), (3, "line 3 lacks the key `prompt` or `messages`"), (4, "the prompt is empty")]
    {
        assert!(rows[row]["error"].as_str().unwrap().starts_with(why), "{}", rows[row]);
    }
    assert!(rows[6]["error"].as_str().unwrap().contains("302 tokens"), "{}", rows[6]);
    for said in ["`standard input` line 2 is not JSON", "line 4: the prompt is empty", "4 of 6 prompts have no answer"]
    {
        assert!(err.contains(said), "{err}");
    }
    assert!(err.contains("6 prompts, 4 answers") && err.contains("tokens/s"), "{err}");
    // As text the errors are on standard error alone.
    let (code, out, _) = run(&[MODEL, "--jsonl"], &text);
    assert!(code == Some(2) && out.matches("---").count() == 2, "{out}");
}

#[test]
fn mistakes() {
    let temp = tempfile::tempdir().unwrap();
    let plain = temp.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL).join(file), plain.join(file)).unwrap();
    }
    let plain = plain.to_str().unwrap();
    for (args, why) in [
        (vec!["no/model", ANIMALS], "no/model"),
        (vec![plain, ANIMALS], "chat template"),
        (vec![MODEL, "--file", "no/such.txt"], "no/such.txt"),
        (vec![MODEL, "--file", "tests"], "is a directory"),
        (vec![MODEL, ""], "the prompt is empty"),
        (vec![MODEL], "standard input is empty"),
        (vec![MODEL, "--lines"], "standard input holds no prompt"),
        (vec![MODEL, ANIMALS, "--lines"], "--lines"),
        (vec![MODEL, ANIMALS, "--file", "README.md"], "cannot be used with"),
        (vec![MODEL, ANIMALS, "--temperature", "-1"], "temperature is -1"),
        (vec![MODEL, ANIMALS, "--temperature", "warm"], "--temperature"),
        (vec![MODEL, ANIMALS, "--top-p", "1.5"], "top_p is 1.5"),
        (vec![MODEL, ANIMALS, "--stop", ""], "stop string is empty"),
        (vec![MODEL, ANIMALS, "--samples", "0"], "--samples"),
        (vec![MODEL, ANIMALS, "--min-tokens", "9", "--max-tokens", "8"], "min_tokens is 9"),
        (vec![MODEL, ANIMALS, "--kv-memory", "much"], "512MiB"),
        (vec![MODEL, ANIMALS, "--device", "abacus"], "abacus"),
        (vec![MODEL, &"cat ".repeat(300)], "302 tokens"),
    ] {
        let (code, out, err) = run(&args, "");
        assert!(code == Some(2) && out.is_empty() && err.contains(why), "{args:?}: {code:?} {out} {err}");
        assert_eq!(err.matches("error:").count(), 1, "{err}");
    }
}

#[test]
fn a_file_in_the_place_of_a_prompt_is_asked_about_and_both_answers_can_be_typed() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("two words.txt");
    std::fs::write(&file, "name three animals").unwrap();
    let file = file.to_str().unwrap();
    let (code, out, err) = run(&[MODEL, file, "-m", "1"], "");
    assert!(code == Some(2) && out.is_empty() && err.contains("is the name of a file"), "{err}");
    let typed = |command: String| {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command.replace("reflux generate", &format!("{} generate", env!("CARGO_BIN_EXE_reflux"))));
        let output = shell.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let flag = err.split_once("add --file: ").and_then(|(_, rest)| rest.split(';').next()).unwrap();
    let (_, want, _) = run(&[MODEL, "name three animals", "-m", "3"], "");
    // Of a .txt file every line is a prompt.
    assert_eq!(typed(format!("reflux generate {MODEL} {flag} -m 3")), format!("--- line 1\n{want}"));
    let pipe = err.split_once("standard input: ").and_then(|(_, rest)| rest.lines().next()).unwrap();
    let (_, want, _) = run(&[MODEL, "-m", "3"], file);
    assert_eq!(typed(format!("{pipe} -m 3")), want);
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_it() {
    let mut child = spawn(&[MODEL, "--lines", "--json", "-m", "2"]);
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "name three animals").unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    // It waits for a second prompt.
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("stopping") && err.contains("1 answer to 1 prompt"), "{err}");
}
