//! Looking at runs: `reflux ls` and `reflux show`.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use arrow::array::RecordBatch;
use common::{How, run, script, small_loop};
use reflux::data::Columns;
use reflux::store::{Run, read_parquet};
use serde_json::Value;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").args(args);
    command
}
fn reflux(args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let Output { status, stdout, stderr } = command(args).output().unwrap();
    (status.code(), stdout, String::from_utf8(stderr).unwrap())
}
/// What a command that works prints.
fn text(args: &[&str]) -> String {
    let (code, out, err) = reflux(args);
    assert_eq!(code, Some(0), "{args:?}: {err}");
    String::from_utf8(out).unwrap()
}
fn lines(args: &[&str]) -> Vec<Value> {
    text(args).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// A finished run of two iterations that all tests look at.
fn finished() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap().keep();
        let dir = temp.join("small");
        common::run(&small_loop(&temp), &dir, &How::default()).0.unwrap();
        let text = Run::open(&dir).unwrap().pipeline_text().unwrap();
        Run::create_or_open(&dir, &text, 5, false).unwrap().0.finish().unwrap();
        dir
    })
}
fn of(what: &str) -> String {
    finished().join(what).to_str().unwrap().to_owned()
}
fn stored(step: &str, iteration: Option<u32>) -> RecordBatch {
    Run::open(finished()).unwrap().read_step(step, iteration).unwrap().unwrap()
}
fn texts(rows: &RecordBatch, column: &str) -> Vec<String> {
    Columns(rows).text(column).unwrap().iter().map(|t| t.unwrap().to_owned()).collect()
}

#[test]
fn ls_counts_what_the_files_hold() {
    let dir = finished().to_str().unwrap();
    let contents: Value = serde_json::from_str(&text(&["ls", dir, "--json"])).unwrap();
    assert_eq!((&contents["state"], &contents["seed"]), (&"finished".into(), &5.into()));
    let run = Run::open(finished()).unwrap();
    let steps = contents["steps"].as_array().unwrap();
    for step in steps {
        let (name, iteration) = (step["step"].as_str().unwrap(), step["iteration"].as_u64().unwrap() as u32);
        let files: Vec<_> = run.files(name).into_iter().filter(|f| f.iteration == iteration).collect();
        let read: usize = files.iter().map(|f| read_parquet(&run.dir().join(&f.path)).unwrap().num_rows()).sum();
        assert_eq!(step["rows"], read, "{step}");
        assert_eq!(step["microbatches"], files.len(), "{step}");
        let on_disk = |path: &String| std::fs::metadata(run.dir().join(path)).unwrap().len();
        let errors = files.iter().filter_map(|f| f.errors.as_ref());
        let bytes: u64 =
            files.iter().map(|f| on_disk(&f.path)).sum::<u64>() + errors.clone().map(|e| on_disk(&e.path)).sum::<u64>();
        assert_eq!(step["bytes"], bytes, "{step}");
        assert_eq!(step["left_out"], errors.map(|e| e.rows).sum::<u64>(), "{step}");
    }
    let at = |step: &str, iteration: u32| {
        steps.iter().position(|s| s["step"] == step && s["iteration"] == iteration).unwrap_or_else(|| panic!("{step}"))
    };
    assert!(at("ift", 0) < at("m1", 0) && at("m1", 0) < at("written", 1), "in the order of the dataflow");
    assert!(at("responses", 1) < at("scores", 1) && at("scores", 1) < at("dpo", 1) && at("dpo", 1) < at("written", 2));
    let names: Vec<_> = contents["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["M1", "M2", "M3"]);
    let people = text(&["ls", dir]);
    assert!(["finished", "step", "microbatches", "M3", "metrics of"].iter().all(|w| people.contains(w)), "{people}");
}

#[test]
fn json_lines_are_the_rows_in_order() {
    let shown = lines(&["show", &of("pairs"), "--format", "json"]);
    let want = stored("pairs", None);
    assert_eq!(shown.len(), want.num_rows());
    let ids: Vec<_> = shown.iter().map(|r| r["prompt_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, texts(&want, "prompt_id"));
    let margins = Columns(&want).float("margin").unwrap();
    let tokens = Columns(&want).tokens("chosen_tokens").unwrap();
    for (i, row) in shown.iter().enumerate() {
        assert_eq!(row["margin"].as_f64().unwrap() as f32, margins.value(i));
        assert_eq!(row["chosen_tokens"].as_array().unwrap().len(), tokens.row(i).len());
        assert_eq!(row["prompt"][0]["role"], "user");
    }
    assert_eq!(shown[0]["iteration"], 1);
    assert_eq!(shown.last().unwrap()["iteration"], 2);
    // The same by the folder, and of one iteration.
    assert_eq!(lines(&["show", &of("data/pairs"), "--format", "json"]), shown);
    let second = lines(&["show", &of("pairs"), "--format", "json", "--iteration", "2"]);
    assert_eq!(second.len(), stored("pairs", Some(2)).num_rows());
    assert!(!second.is_empty() && second.iter().all(|r| r["iteration"] == 2));
}

#[test]
fn conditions_and_columns_choose() {
    let scores = stored("scores", None);
    let score = Columns(&scores).float("score").unwrap();
    let high = (0..scores.num_rows()).filter(|&i| score.iter().nth(i).unwrap().is_some_and(|s| s >= 3.)).count();
    let unread = score.iter().filter(Option::is_none).count();
    assert!(high > 0 && high < scores.num_rows());
    let count = |conditions: &[&str]| {
        let mut args = vec!["show".to_owned(), of("scores"), "--format".into(), "json".into()];
        args.extend(conditions.iter().flat_map(|c| ["--where".to_owned(), (*c).to_owned()]));
        lines(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_eq!(count(&["score>=3"]).len(), high);
    assert_eq!(count(&["score<3"]).len(), scores.num_rows() - high - unread);
    assert_eq!(count(&["score=null"]).len(), unread);
    assert!(count(&["score>=3", "iteration=2"]).iter().all(|r| r["iteration"] == 2 && r["score"].as_f64() >= Some(3.)));
    assert!(!count(&["judgements~no_match"]).is_empty());
    let chosen = ["show", &of("scores"), "--format", "json", "--columns", "score,response", "--where", "sample=0"];
    let rows = lines(&chosen);
    let samples = Columns(&scores).uint("sample").unwrap();
    assert_eq!(rows.len(), samples.iter().filter(|s| *s == Some(0)).count());
    assert!(rows.iter().all(|r| r.as_object().unwrap().keys().eq(["score", "response"])), "in the order asked for");
    assert_eq!(lines(&["show", &of("scores"), "--format", "json", "--limit", "7"]).len(), 7);
}

#[test]
fn every_format_holds_the_same_rows() {
    let want = lines(&["show", &of("scores"), "--format", "json"]);
    let temp = tempfile::tempdir().unwrap();
    let (_, stream, _) = reflux(&["show", &of("scores"), "--format", "arrow"]);
    let batches = arrow::ipc::reader::StreamReader::try_new(&stream[..], None).unwrap();
    let from_arrow: Vec<RecordBatch> = batches.map(Result::unwrap).collect();
    let file = temp.path().join("scores.parquet");
    std::fs::write(&file, reflux(&["show", &of("scores"), "--format", "parquet"]).1).unwrap();
    let from_parquet = read_parquet(&file).unwrap();
    let joined = arrow::compute::concat_batches(&from_arrow[0].schema(), &from_arrow).unwrap();
    assert_eq!(joined.columns(), from_parquet.columns());
    assert_eq!(joined.num_rows(), want.len());
    assert_eq!(texts(&joined, "response_id"), texts(&stored("scores", None), "response_id"));
    // A Parquet file that is no run's is shown too, and so is a directory of them.
    for what in [file.as_path(), temp.path()] {
        assert_eq!(lines(&["show", what.to_str().unwrap(), "--format", "json"]), want);
    }
    // CSV: a field for each column, lists as JSON; a reader of it gets the same values.
    let csv = text(&["show", &of("scores"), "--format", "csv", "--columns", "score,response,response_tokens"]);
    let mut records = records(&csv).into_iter();
    assert_eq!(records.next().unwrap(), ["score", "response", "response_tokens"]);
    for (record, row) in records.by_ref().zip(&want) {
        assert_eq!(record[0], if row["score"].is_null() { String::new() } else { row["score"].to_string() });
        assert_eq!(record[1], row["response"].as_str().unwrap());
        assert_eq!(serde_json::from_str::<Value>(&record[2]).unwrap(), row["response_tokens"]);
    }
}

/// A reader of RFC 4180.
fn records(csv: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut chars = csv.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            c => field.push(c),
        }
    }
    records
}

#[test]
fn a_table_fits() {
    for width in [20, 40, 80, 200] {
        let table = text(&["show", &of("scores"), "--width", &width.to_string(), "--limit", "5"]);
        let mut rows = table.lines().take_while(|l| !l.is_empty());
        assert!(rows.by_ref().all(|l| reflux::report::show::width(l) <= width), "{width}\n{table}");
        assert_eq!(table.lines().position(str::is_empty), Some(7), "{table}");
        assert!(table.contains(&format!("5 of {} rows", stored("scores", None).num_rows())), "{table}");
        assert!(table.contains("not shown: prompt_tokens"), "{table}");
    }
    let by_columns = command(&["show", &of("scores"), "--limit", "5"]).env("COLUMNS", "40").output().unwrap().stdout;
    assert_eq!(String::from_utf8(by_columns).unwrap(), text(&["show", &of("scores"), "--width", "40", "--limit", "5"]));
    let narrow = text(&["show", &of("responses"), "--width", "60", "--columns", "prompt,response,prompt_tokens"]);
    assert!(narrow.contains('…') && narrow.starts_with("prompt"), "{narrow}");
    assert!(narrow.lines().next().unwrap().contains("prompt_tokens"), "{narrow}");
}

#[test]
fn errors_and_metrics_are_tables_too() {
    let errors = lines(&["show", &of("errors"), "--format", "json"]);
    let run = Run::open(finished()).unwrap();
    let left_out: u64 = run.entries().iter().filter_map(|f| f.errors.as_ref()).map(|e| e.rows).sum();
    assert_eq!(errors.len() as u64, left_out);
    let of_scores = lines(&["show", &of("errors/scores"), "--format", "json"]);
    assert!(!of_scores.is_empty() && of_scores.iter().all(|e| e["step"] == "scores" && e["code"].is_string()));
    assert_eq!(lines(&["show", &of("errors"), "--where", "step=scores", "--format", "json"]), of_scores);
    let metrics =
        lines(&["show", &of("metrics/dpo"), "--format", "json", "--columns", "iteration,step,rewards/margins"]);
    let rows: u64 = run.metrics().iter().filter(|m| m.step == "dpo").map(|m| m.rows).sum();
    assert_eq!(metrics.len() as u64, rows);
    assert!(metrics.iter().any(|m| m["iteration"] == 2 && m["rewards/margins"].is_f64()));
}

#[test]
fn what_is_not_there_is_said_with_what_is() {
    let said = |args: &[&str], words: &[&str]| {
        let (code, _, err) = reflux(args);
        assert_eq!(code, Some(2), "{err}");
        assert!(words.iter().all(|w| err.contains(w)), "{words:?}: {err}");
    };
    let run = finished().to_str().unwrap();
    said(&["show", run], &["is a run", "pairs", "errors", "metrics/dpo"]);
    said(&["show", &of("pears")], &["no step `pears`", "did you mean `pairs`"]);
    said(&["show", &of("metrics/pairs")], &["no metrics of `pairs`", "metrics/dpo"]);
    said(&["show", &of("errors/pears")], &["no step `pears`"]);
    said(&["show", &of("pairs"), "--columns", "margn"], &["no column `margn`", "did you mean `margin`"]);
    said(&["show", &of("pairs"), "--where", "margn=1"], &["no column `margn`"]);
    said(&["show", &of("pairs"), "--where", "margin=big"], &["`margin` holds numbers"]);
    said(&["show", &of("pairs"), "--where", "margin"], &["is no condition"]);
    said(&["show", "no/such"], &["nothing at `no/such`"]);
    said(&["ls", "no/such"], &["no run at `no/such`"]);
    for command in [&["ls"][..], &["verify"], &["eval", "drift"]] {
        said(&[command, &["Cargo.toml"]].concat(), &["no run at `Cargo.toml`"]);
    }
    said(&["trace", "Cargo.toml", "0"], &["no run at `Cargo.toml`"]);
    let file = finished().join("data/pairs/iteration=1/microbatch=00000.parquet");
    said(&["show", file.to_str().unwrap(), "--iteration", "1"], &["not a run's step"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = command(&["show", &of("scores"), "--format", "csv"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

/// Follows a run that another process writes, from before its first row to its end.
#[test]
fn a_live_run_is_followed_to_its_end() {
    let temp = tempfile::tempdir().unwrap();
    let script = script(temp.path(), 60);
    let text = format!(
        "[pipeline]\nname = \"live\"\nmicrobatch = 2\n[model.m]\nscript = {script:?}\n[step.prompts]\nop = \"listworld\"\n\
         data = \"requests\"\nrows = 12\n[step.answers]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"m\"\nsamples = 2\n"
    );
    let file = temp.path().join("live.toml");
    std::fs::write(&file, text).unwrap();
    let runs = temp.path().join("runs");
    let args = ["run", file.to_str().unwrap(), "--runs", runs.to_str().unwrap(), "-q"];
    let mut running = command(&args).spawn().unwrap();
    let dir = runs.join("live");
    while !std::fs::read_to_string(dir.join("manifest.jsonl")).is_ok_and(|m| m.contains("\"run\"")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let answers = dir.join("answers");
    let followers: Vec<_> = ["json", "csv", "arrow", "table"]
        .iter()
        .map(|format| {
            let args = ["show", answers.to_str().unwrap(), "--follow", "--format", format, "--columns", "response_id"];
            command(&args).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let outputs: Vec<Vec<u8>> = followers.into_iter().map(|f| f.wait_with_output().unwrap().stdout).collect();
    assert!(running.wait().unwrap().success());
    let run = Run::open(&dir).unwrap();
    assert!(run.finished(), "the followers ended when the run did");
    let mut want = texts(&run.read_step("answers", None).unwrap().unwrap(), "response_id");
    want.sort();
    assert_eq!(want.len(), 24);
    // Microbatches come as they are committed.
    let sorted = |mut ids: Vec<String>| {
        ids.sort();
        ids
    };
    let text = |i: usize| String::from_utf8(outputs[i].clone()).unwrap();
    let json = text(0);
    let ids =
        json.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["response_id"].as_str().unwrap().to_owned());
    assert_eq!(sorted(ids.collect()), want);
    assert_eq!(sorted(text(1).lines().skip(1).map(str::to_owned).collect()), want);
    let stream = arrow::ipc::reader::StreamReader::try_new(&outputs[2][..], None).unwrap();
    assert_eq!(sorted(stream.flat_map(|b| texts(&b.unwrap(), "response_id")).collect()), want);
    assert_eq!(sorted(text(3).lines().skip(2).take(24).map(str::to_owned).collect()), want);
}

/// While a process writes a run, and after it has died, `ls` says so.
#[test]
fn the_state_of_a_run_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("r");
    let (result, _) = run(&small_loop(temp.path()), &dir, &How { stop_after: Some(3), ..How::default() });
    assert!(result.is_err());
    assert!(text(&["ls", dir.to_str().unwrap()]).contains("unfinished"));
    let writing = Run::open(&dir).unwrap().pipeline_text().unwrap();
    let held = Run::create_or_open(&dir, &writing, 5, false).unwrap();
    let told = text(&["ls", dir.to_str().unwrap()]);
    assert!(told.contains(&format!("running, process {}", std::process::id())), "{told}");
    drop(held);
    assert!(text(&["ls", dir.to_str().unwrap()]).contains("unfinished"));
}

/// One prompt of the second iteration, followed through every dataset by what the files hold.
#[test]
fn a_prompt_is_traced_from_its_writing_to_the_training() {
    let dir = finished().to_str().unwrap();
    let pairs = stored("pairs", Some(2));
    let prompt = texts(&pairs, "prompt_id")[0].clone();
    let trace: Value = serde_json::from_str(&text(&["trace", dir, &prompt[..12], "--json"])).unwrap();
    assert_eq!((&trace["kind"], &trace["prompt_id"]), (&"prompt".into(), &prompt.as_str().into()));
    let events = trace["events"].as_array().unwrap();
    let what: Vec<(&str, &str)> =
        events.iter().map(|e| (e["step"].as_str().unwrap(), e["what"].as_str().unwrap())).collect();
    let want = [("written", "prompt"), ("prompts", "prompt")]
        .into_iter()
        .chain([("responses", "response"); 3])
        .chain([("scores", "score"); 3])
        .chain([("pairs", "pair"), ("dpo.reference", "training")]);
    assert_eq!(what, want.collect::<Vec<_>>());
    assert!(events.iter().all(|e| e["iteration"] == 2), "{events:?}");
    assert_eq!(events.last().unwrap()["made"], "M3");
    // The rows are those of the datasets, whole.
    let scores = stored("scores", Some(2));
    let of_prompt: Vec<usize> = (0..scores.num_rows()).filter(|&i| texts(&scores, "prompt_id")[i] == prompt).collect();
    let traced: Vec<&Value> = events.iter().filter(|e| e["what"] == "score").map(|e| &e["row"]).collect();
    for (row, i) in traced.iter().zip(of_prompt) {
        assert_eq!(row["response_id"], texts(&scores, "response_id")[i]);
        let judgements = Columns(&scores).judgements("judgements").unwrap().whole(i);
        assert!(judgements.len() >= 2);
        assert_eq!(row["judgements"].as_array().unwrap().len(), judgements.len());
        assert_eq!(row["judgements"][0]["text"], judgements[0].text);
    }
    assert_eq!(events[8]["row"]["chosen_id"], events[9]["row"]["chosen_id"]);
    // A response and a judgement lead to the same life.
    let response = traced[1]["response_id"].as_str().unwrap();
    for (id, kind) in [(response.to_owned(), "response"), (format!("{response}/1"), "judgement")] {
        let by: Value = serde_json::from_str(&text(&["trace", dir, &id, "--json"])).unwrap();
        assert_eq!((by["kind"].as_str(), &by["events"]), (Some(kind), &trace["events"]), "{id}");
    }
    let people = text(&["trace", dir, &prompt, "--width", "90"]);
    let words =
        [&prompt, "written, iteration 2", "sample 2", "/0 ", "preferred to", "dpo, iteration 2, made M3", "recorded"];
    assert!(words.iter().all(|w| people.contains(*w)), "{people}");
    assert!(people.lines().all(|l| reflux::report::show::width(l) <= 90), "{people}");
}

/// Which optimizer step used a pair, by what the steps themselves measured: tokens, and before the first step the reference's
/// log-probabilities. In shuffled passes with accumulation, as pairs come, with a limit, and after stops.
#[test]
fn the_optimizer_steps_of_a_pair_are_told() {
    let text_of = |temp: &Path, keys: &str| {
        let text = small_loop(temp);
        let (before, dpo) = text.split_once("[step.dpo]").unwrap();
        let (_, after) = dpo.split_once("[step.heldout]").unwrap();
        let dpo = "op = \"dpo\"\nfrom = \"pairs\"\nmodel = \"policy\"\nlearning_rate = 1e-3\nbatch_size = 2\naccumulation = 2\n\
                   checkpoint_every = 2";
        format!("{before}[step.dpo]\n{dpo}\n{keys}\n[step.heldout]{after}")
    };
    let cases = [
        ("epochs = 3", 3, None),
        ("data_schedule = \"streaming\"", 1, None),
        ("limit = 5\nshuffle = false", 1, Some(5)),
    ];
    for (keys, passes, limit) in cases {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("r");
        let file = text_of(temp.path(), keys);
        run(&file, &dir, &How::default()).0.unwrap();
        let stopped = temp.path().join("stopped");
        for stop_after in [Some(7), Some(9), None] {
            let ended = run(&file, &stopped, &How { stop_after, workers: 2, ..How::default() }).0;
            assert_eq!(ended.is_ok(), stop_after.is_none(), "{keys}");
        }
        let metrics_of = |dir: &Path| std::fs::read(dir.join("metrics/dpo/iteration=2/metrics.parquet")).unwrap();
        assert!(metrics_of(&dir) == metrics_of(&stopped), "{keys}");

        let step = dir.join("pairs");
        let of_second = ["--iteration", "2", "--format", "json"];
        let rows = |what: &str| lines(&[&["show", dir.join(what).to_str().unwrap()][..], &of_second].concat());
        let id = |r: &Value| format!("{}>{}", r["chosen_id"].as_str().unwrap(), r["rejected_id"].as_str().unwrap());
        let pairs: BTreeMap<String, Value> = rows("pairs").iter().map(|r| (id(r), r.clone())).collect();
        let reference: BTreeMap<String, Value> = rows("dpo.reference").iter().map(|r| (id(r), r.clone())).collect();
        assert_eq!(reference.len(), limit.unwrap_or(pairs.len()), "{keys}: {}", step.display());
        let mut used: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut tokens = 0.;
        let metrics = rows("metrics/dpo");
        for (i, m) in metrics.iter().enumerate() {
            let here: Vec<&str> = m["pairs"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
            let len = |r: &Value, column: &str| r[column].as_array().unwrap().len() as f64;
            let of = |p: &&str| {
                let r = &pairs[*p];
                2. * len(r, "prompt_tokens") + len(r, "chosen_tokens") + len(r, "rejected_tokens")
            };
            tokens += here.iter().map(of).sum::<f64>();
            assert_eq!(m["num_tokens"].as_f64().unwrap(), tokens, "{keys}, step {}", i + 1);
            if i == 0 {
                let known = here.iter().map(|p| reference[*p]["chosen_logprob"].as_f64().unwrap());
                let mean = known.sum::<f64>() / here.len() as f64;
                assert!((m["logps/chosen"].as_f64().unwrap() - mean).abs() < 1e-4, "{keys}");
            }
            here.iter().for_each(|p| used.entry((*p).to_owned()).or_default().push(i as u64 + 1));
        }
        assert!(
            used.keys().eq(reference.keys()) && used.values().all(|steps| steps.len() == passes),
            "{keys}: {used:?}"
        );
        if limit.is_none() {
            assert!(metrics.len() > 2 * passes, "{keys}: several steps a pass");
        }
        if passes > 1 {
            let per_pass = metrics.len() / passes;
            let first: Vec<u64> = used.values().map(|steps| (steps[1] - 1) % per_pass as u64 + 1).collect();
            assert_ne!(first, used.values().map(|steps| steps[0]).collect::<Vec<_>>(), "another order in every pass");
        }

        for (id, pair) in &pairs {
            let prompt = pair["prompt_id"].as_str().unwrap();
            let trace: Value =
                serde_json::from_str(&text(&["trace", dir.to_str().unwrap(), prompt, "--json"])).unwrap();
            let events = trace["events"].as_array().unwrap();
            let training = events.iter().find(|e| e["what"] == "training").unwrap();
            let want = used.get(id).cloned().unwrap_or_default();
            assert_eq!(training["optimizer_steps"], serde_json::json!(want), "{keys}: {training}");
            let people = text(&["trace", dir.to_str().unwrap(), prompt, "--width", "300"]);
            let said = match &want[..] {
                [] => format!("trained on pairs, on this prompt in none of its {} steps", metrics.len()),
                [step] => format!(" in step {step} of {};", metrics.len()),
                [a, b, c] => format!(" in steps {a}, {b}, {c} of {};", metrics.len()),
                _ => panic!("{want:?}"),
            };
            assert!(people.contains(&said), "{keys}: {said}\n{people}");
        }
    }
}

/// A pair that a training could not take is told with the reason.
#[test]
fn a_pair_that_a_training_left_out_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let replayed = "replay = \"eft\"\nreplay_weight = 0.5\nreplay_batch = 2\nrubric = \"pipelines/listworld/judge.jinja\"\n[step.heldout]";
    // One token less than the longest pair of the first iteration has.
    let pairs = stored("pairs", Some(1));
    let [prompt, chosen, rejected] =
        ["prompt_tokens", "chosen_tokens", "rejected_tokens"].map(|c| Columns(&pairs).tokens(c).unwrap());
    let length = |i: usize| prompt.row(i).len() + chosen.row(i).len().max(rejected.row(i).len());
    let longest = (0..pairs.num_rows()).map(length).max().unwrap();
    let text_of = small_loop(temp.path()).replace(replayed, &format!("max_length = {}\n[step.heldout]", longest - 1));
    assert!(text_of.contains("max_length"));
    let dir = temp.path().join("r");
    run(&text_of, &dir, &How::default()).0.unwrap();
    let left =
        lines(&["show", dir.join("errors/dpo").to_str().unwrap(), "--format", "json", "--where", "code=too_long"]);
    let row = left.iter().find_map(|e| e["row"].as_str()?.split_once('>')).expect("a pair that is too long");
    let people = text(&["trace", dir.to_str().unwrap(), row.0, "--width", "200"]);
    assert!(people.contains("too_long (failed): prompt and completion have"), "{people}");
    assert!(!people.contains(" used "), "{people}");
}

#[test]
fn why_there_is_no_pair_is_told() {
    let dir = finished().to_str().unwrap();
    let dropped = lines(&["show", &of("errors/pairs"), "--format", "json"]);
    let tie = dropped.first().expect("a prompt without a pair; choose another seed if there is none");
    let id = tie["row"].as_str().unwrap();
    let people = text(&["trace", dir, id]);
    assert!(people.contains(&format!(
        "{} (dropped): {}",
        tie["code"].as_str().unwrap(),
        &tie["message"].as_str().unwrap()[..20]
    )));
    assert!(!people.contains("preferred to") && !people.contains("made M"), "{people}");
    // What went wrong with one of its answers is told too.
    let failed = lines(&["show", &of("errors/scores"), "--format", "json"]);
    let trace = text(&["trace", dir, failed[0]["row"].as_str().unwrap()]);
    assert!(trace.contains("no_match (failed)"), "{trace}");
}

#[test]
fn ids_that_are_none_or_several_are_refused_with_what_there_is() {
    let dir = finished().to_str().unwrap();
    for (id, words) in [
        ("zzz", &["no", "begins with `zzz`"][..]),
        ("", &["the id is empty"]),
        ("0", &["several ids begin with `0`", "prompt 0", "response 0"]),
    ] {
        let (code, _, err) = reflux(&["trace", dir, id]);
        assert!(code == Some(2) && words.iter().all(|w| err.contains(w)), "{id}: {err}");
    }
    let prompt = &texts(&stored("scores", None), "prompt_id")[0];
    let (code, _, err) = reflux(&["trace", dir, &format!("{prompt}/0")]);
    assert!(code == Some(2) && err.contains("is a prompt, and judgements are of responses"), "{err}");
    let response = &texts(&stored("scores", None), "response_id")[0];
    let (code, _, err) = reflux(&["trace", dir, &format!("{response}/99")]);
    assert!(code == Some(2) && err.contains("has no judgement `99`") && err.contains("counted from 0"), "{err}");
}

/// Judgements that were rated against each other are traced by the ids that `meta-judge` gave them.
#[test]
fn a_rated_judgement_is_traced_to_the_answer() {
    let temp = tempfile::tempdir().unwrap();
    let script = script(temp.path(), 0);
    let text_of = format!(
        "[pipeline]\nname = \"meta\"\n[model.m]\nscript = {script:?}\n[step.prompts]\nop = \"listworld\"\ndata = \"requests\"\nrows = 3\n\
         [step.answers]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"m\"\nsamples = 2\n\
         [step.scores]\nop = \"judge\"\nfrom = \"answers\"\nmodel = \"m\"\nsamples = 3\nkeep_tokens = true\n\
         [step.rated]\nop = \"meta-judge\"\nfrom = \"scores\"\nmodel = \"m\"\n"
    );
    let dir = temp.path().join("meta");
    run(&text_of, &dir, &How::default()).0.unwrap();
    let rated = Run::open(&dir).unwrap().read_step("rated", None).unwrap().unwrap();
    let judgement = &texts(&rated, "response_id")[0];
    let dir = dir.to_str().unwrap();
    let trace: Value = serde_json::from_str(&text(&["trace", dir, judgement, "--json"])).unwrap();
    assert_eq!(trace["kind"], "judgement");
    let steps: Vec<_> = trace["events"].as_array().unwrap().iter().map(|e| e["step"].as_str().unwrap()).collect();
    assert!(["prompts", "answers", "scores", "rated"].iter().all(|s| steps.contains(s)), "{steps:?}");
    let by_prompt: Value =
        serde_json::from_str(&text(&["trace", dir, trace["prompt_id"].as_str().unwrap(), "--json"])).unwrap();
    assert_eq!(by_prompt["events"], trace["events"]);
}

/// What `reflux diff` prints and its exit code.
fn diff(first: &Path, second: &Path) -> (Option<i32>, Value, String) {
    let paths = [first.to_str().unwrap(), second.to_str().unwrap()];
    let (code, json, err) = reflux(&["diff", paths[0], paths[1], "--json"]);
    let json = serde_json::from_slice(&json).unwrap_or_else(|e| panic!("{e}: {err}"));
    let (again, people, _) = reflux(&["diff", paths[0], paths[1]]);
    assert_eq!(code, again);
    (code, json, String::from_utf8(people).unwrap())
}

#[test]
fn runs_are_compared_to_the_first_row_that_differs() {
    let temp = tempfile::tempdir().unwrap();
    let text = small_loop(temp.path());
    let (a, b) = (temp.path().join("a"), temp.path().join("b"));
    run(&text, &a, &How::default()).0.unwrap();
    run(&text, &b, &How { workers: 2, ..How::default() }).0.unwrap();
    let (code, json, people) = diff(&a, &b);
    assert_eq!((code, &json["same"]), (Some(0), &true.into()), "{people}");
    assert!(people.contains("are the same"), "{people}");

    // Another beta: the first difference is in the metrics of the first DPO, for whose first step both are the same.
    let c = temp.path().join("c");
    run(&text.replace("op = \"dpo\"", "op = \"dpo\"\nbeta = 0.5"), &c, &How::default()).0.unwrap();
    let (code, json, people) = diff(&a, &c);
    assert_eq!((code, &json["same"]), (Some(1), &false.into()));
    assert!(json["settings"].as_str().unwrap().contains("beta = 0.5"), "{json}");
    let first = &json["first_difference"];
    assert_eq!((&first["step"], &first["iteration"], &first["part"]), (&"dpo".into(), &1.into(), &"metrics".into()));
    let metrics = |dir: &Path| read_parquet(&dir.join("metrics/dpo/iteration=1/metrics.parquet")).unwrap();
    let (row, column) = (first["row"].as_u64().unwrap() as usize, first["column"].as_str().unwrap());
    for (i, dir) in [&a, &c].into_iter().enumerate() {
        let value = Columns(&metrics(dir)).double(column).unwrap().value(row);
        assert_eq!(first["values"][i].as_f64().unwrap(), value, "{column}");
    }
    for before in 0..row {
        assert_eq!(metrics(&a).slice(before, 1), metrics(&c).slice(before, 1));
    }
    assert_eq!(json["models"], serde_json::json!(["M2", "M3"]));
    assert!(
        people.contains("dpo, iteration 1, metrics, row") && people.contains("models that differ: M2, M3"),
        "{people}"
    );

    // A file that was changed by hand and committed so: the row, the column and both values.
    let d = temp.path().join("d");
    let rows = Run::open(&a).unwrap().read_step("eft", Some(0)).unwrap().unwrap();
    let (copy, _) = Run::create_or_open(&d, &Run::open(&a).unwrap().pipeline_text().unwrap(), 5, false).unwrap();
    let mut columns = rows.columns().to_vec();
    let mut scores: Vec<f32> = Columns(&rows).float("score").unwrap().iter().flatten().collect();
    scores[1] += 1.;
    columns[3] = std::sync::Arc::new(arrow::array::Float32Array::from(scores.clone()));
    let changed = RecordBatch::try_new(rows.schema(), columns).unwrap().slice(0, 8);
    let none = reflux::data::named::ERRORS.empty();
    copy.commit("eft", reflux::data::Epoch::new(0, 0), &changed, &none, &[]).unwrap();
    let (code, json, people) = diff(&d, &a);
    assert_eq!(code, Some(1));
    let first = &json["first_difference"];
    assert_eq!(
        (&first["step"], &first["row"], &first["column"]),
        (&"eft".into(), &1.into(), &"score".into()),
        "{json}"
    );
    assert_eq!(first["values"], serde_json::json!([scores[1], scores[1] - 1.]));
    assert!(people.contains("eft, iteration 0, microbatch 0, row 1, column score"), "{people}");
    let eft = json["microbatches"].as_array().unwrap().iter().find(|m| m["step"] == "eft").unwrap().clone();
    assert_eq!((&eft["differ"], &eft["only_second"], &eft["same"]), (&1.into(), &2.into(), &0.into()), "{eft}");
    assert_eq!(reflux(&["diff", a.to_str().unwrap(), "no/such"]).0, Some(2));
}
