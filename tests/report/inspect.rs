//! Looking at runs: `reflux ls` and `reflux show`.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use crate::common::looked_at::{command, finished, lines, of, reflux, stored, text};
use crate::common::rows::texts;
use crate::common::{self, RunOptions, run, script, small_loop};
use arrow::array::RecordBatch;
use reflux::data::{Columns, Epoch};
use reflux::store::{Run, read_parquet};
use serde_json::Value;

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
        assert!(rows.by_ref().all(|l| reflux::report::inspect::show::width(l) <= width), "{width}\n{table}");
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
    said(&["show", &of("pirs")], &["no step `pirs`", "did you mean `pairs`"]);
    said(&["show", &of("metrics/pairs")], &["no metrics of `pairs`", "metrics/dpo"]);
    said(&["show", &of("errors/pears")], &["no step `pears`"]);
    said(&["show", &of("pairs"), "--columns", "margn"], &["column `margn` not found", "did you mean `margin`"]);
    said(&["show", &of("pairs"), "--where", "margn=1"], &["column `margn` not found"]);
    said(&["show", &of("pairs"), "--where", "margin=big"], &["`margin` holds numbers"]);
    said(&["show", &of("pairs"), "--where", "margin"], &["is not a condition"]);
    said(&["show", "no/such"], &["`no/such` not found"]);
    said(&["ls", "no/such"], &["no run found at `no/such`"]);
    for command in [&["ls"][..], &["verify"], &["eval", "drift"]] {
        said(&[command, &["Cargo.toml"]].concat(), &["no run found at `Cargo.toml`"]);
    }
    said(&["trace", "Cargo.toml", "0"], &["no run found at `Cargo.toml`"]);
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
    let (result, _) = run(&small_loop(temp.path()), &dir, &RunOptions { stop_after: Some(3), ..RunOptions::default() });
    assert!(result.is_err());
    assert!(text(&["ls", dir.to_str().unwrap()]).contains("unfinished"));
    let writing = Run::open(&dir).unwrap().pipeline_text().unwrap();
    let held = Run::create_or_open(&dir, &writing, 5, false).unwrap();
    let told = text(&["ls", dir.to_str().unwrap()]);
    let running = format!("running, process {}", std::process::id());
    assert!(told.contains(&running), "{told}");
    let summary = text(&["summary", dir.to_str().unwrap()]);
    assert_eq!(summary.lines().last().unwrap(), format!("{running}: {}", dir.display()));
    let runs = ["ls", "--runs", temp.path().to_str().unwrap(), "--json"];
    let listed: Value = serde_json::from_str(&text(&runs)).unwrap();
    assert_eq!((&listed[0]["state"], &listed[0]["writer"]), (&"running".into(), &std::process::id().into()));
    drop(held);
    assert!(text(&["ls", dir.to_str().unwrap()]).contains("unfinished"));
    let summary = text(&["summary", dir.to_str().unwrap()]);
    assert!(summary.lines().last().unwrap().starts_with("unfinished: "), "{summary}");
}

/// Figures by iteration stand in its place, also where there is none; what is not known, and where was not looked, is said.
#[test]
fn runs_side_by_side_line_up_and_say_what_is_not_known() {
    let temp = tempfile::tempdir().unwrap();
    let runs = temp.path().join("runs");
    let plan = common::plan(&small_loop(temp.path()));
    let one = stored("scores", Some(1)).slice(0, 1);
    let with_score = |score: Option<f32>| {
        let mut columns = one.columns().to_vec();
        let at = one.schema().index_of("score").unwrap();
        columns[at] = Arc::new(arrow::array::Float32Array::from(vec![score]));
        RecordBatch::try_new(one.schema(), columns).unwrap()
    };
    let (run, _) = Run::create_or_open(&runs.join("a"), &plan.resolved, plan.seed, false).unwrap();
    for (iteration, score) in [(1, None), (2, Some(4.))] {
        let errors = reflux::data::named::ERRORS.empty();
        run.commit("scores", Epoch::new(iteration, 0), &with_score(score), &errors, &[]).unwrap();
    }
    drop(run);
    common::copy(finished(), &runs.join("b"));
    std::fs::write(runs.join("b/pipeline.toml"), "no pipeline").unwrap();
    std::fs::create_dir_all(runs.join("c/d/e/f")).unwrap();
    std::os::unix::fs::symlink(runs.join("b"), runs.join("link")).unwrap();

    let args = ["ls", "--runs", runs.to_str().unwrap()];
    let people = text(&args);
    let line = |name: &str| people.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{people}"));
    let cells: Vec<&str> = line("a ").split_whitespace().collect();
    assert_eq!(cells[..5], ["a", "unfinished", "2", "-", "4.00"], "{people}");
    let metrics = Run::open(finished()).unwrap().metrics();
    let cells: Vec<&str> = line("b ").split_whitespace().collect();
    assert!(cells.starts_with(&["b", "finished"]) && cells[3..5] == ["?", "?"], "{people}");
    assert!(!metrics.is_empty() && cells[5].parse::<f64>().is_ok() && cells[6].parse::<f64>().is_ok(), "{people}");
    assert!(line("b: ").contains("pipeline.toml cannot be read"), "{people}");
    assert_eq!(people.lines().last().unwrap(), "not searched: c/d/e (too deep), link (a link)");

    let (code, json, err) = reflux(&[&args[..], &["--json"]].concat());
    let listed: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((code, &listed[0]["scores"]), (Some(0), &serde_json::json!([null, 4.0])));
    assert!(listed[1]["scores"].is_null() && listed[1]["loss"].is_f64(), "{listed}");
    assert!(err.contains("not searched: c/d/e (too deep), link (a link)"), "{err}");
}

/// The column that a table proposes to show is shown when that is typed, whatever its name.
#[test]
fn a_column_that_is_not_shown_can_be_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("t.parquet");
    let column =
        || -> arrow::array::ArrayRef { Arc::new(arrow::array::StringArray::from(vec!["a text of some length"])) };
    let names = ["prompt", "a,b", "two words\u{1b}", "last"];
    let rows = RecordBatch::try_from_iter(names.map(|name| (name, column()))).unwrap();
    reflux::store::write_parquet(&file, &rows).unwrap();
    let shown = command(&["show", file.to_str().unwrap()]).env("COLUMNS", "24").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let told = shown.lines().last().unwrap();
    assert!(told.starts_with("not shown: a,b, two words\u{fffd}, last; --columns "), "{told}");
    let columns = told.split_once("--columns ").unwrap().1.split_once(" shows one").unwrap().0;
    let typed = format!("{} show {} --columns {columns}", env!("CARGO_BIN_EXE_reflux"), file.display());
    let output = std::process::Command::new("bash").args(["-c", &typed]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && shown.starts_with("two words\u{fffd}"), "{typed}: {shown}");
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
    run(&text, &a, &RunOptions::default()).0.unwrap();
    run(&text, &b, &RunOptions { workers: 2, ..RunOptions::default() }).0.unwrap();
    let (code, json, people) = diff(&a, &b);
    assert_eq!((code, &json["same"]), (Some(0), &true.into()), "{people}");
    assert!(people.contains("are the same"), "{people}");

    // Another beta: the first difference is in the metrics of the first DPO, for whose first step both are the same.
    let c = temp.path().join("c");
    run(&text.replace("op = \"dpo\"", "op = \"dpo\"\nbeta = 0.5"), &c, &RunOptions::default()).0.unwrap();
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
        people.contains("dpo, iteration 1, metrics, row") && people.contains("\n\nmodels that differ: M2, M3"),
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
