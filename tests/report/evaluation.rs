//! `reflux eval` as people use it, on scripted models: what it prints, and what its figures are.

use std::path::{Path, PathBuf};

use crate::common::program::reflux;
use crate::common::{self, FAIR_JUDGE, RunOptions, small_loop};
use reflux::store::{load_answers, load_prompts};
use serde_json::{Value, json};

fn eval(args: &[&str]) -> Value {
    let (code, out, err) = reflux(&[&["eval"], args, &["--json", "-q"]].concat());
    assert_eq!((code, err.as_str()), (Some(0), ""), "{args:?}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}
fn fails(args: &[&str], what: &[&str]) {
    let (code, out, err) = reflux(&[&["eval"], args].concat());
    assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {err}");
    assert!(what.iter().all(|w| err.contains(w)), "{args:?}: {err}");
}

struct Files(tempfile::TempDir);
impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn put(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }
    fn rows(&self, name: &str, rows: &[Value]) -> String {
        self.put(name, &rows.iter().map(|r| format!("{r}\n")).collect::<String>())
    }
}

/// Stored answers in two forms, and in another order: a win, a loss, a tie by indifference, one by disagreement, a null.
fn stored(files: &Files) -> (String, String) {
    let answers = ["good", "bad", "plain", "good", "mute"];
    let rows: Vec<Value> =
        answers.iter().enumerate().map(|(i, a)| json!({"prompt": format!("p{i}"), "response": a})).collect();
    let ours = files.rows("ours.jsonl", &rows);
    let answers = ["bad", "good", "plain", "good", "good"];
    let output =
        |(i, a): (usize, &&str)| json!({"instruction": format!("p{i}"), "output": a, "generator": "b", "dataset": "d"});
    let mut outputs: Vec<Value> = answers.iter().enumerate().map(output).collect();
    outputs.reverse();
    (ours, files.put("theirs.json", &json!(outputs).to_string()))
}

#[test]
fn stored_answers_head_to_head() {
    let files = Files::new();
    let (ours, theirs) = stored(&files);
    let judge = files.put("judge.toml", FAIR_JUDGE);
    let into = files.path("kept").display().to_string();
    let args = ["win-rate", &ours, &theirs, "--judge", &judge, "--resamples", "200", "--into", &into];
    let figures = eval(&args);
    let value = |name: &str| figures["comparisons"][name]["value"].as_f64().unwrap();
    // One win, one loss, two ties; the null does not count.
    assert_eq!(
        ["win_rate", "wins", "ties", "losses", "nulls", "order_agreement"].map(value),
        [0.5, 0.25, 0.5, 0.25, 1., 0.75]
    );
    assert_eq!(figures["comparisons"]["win_rate"]["n"], 4);
    let interval = ["low", "high"].map(|end| figures["comparisons"]["win_rate"][end].as_f64().unwrap());
    assert!(interval[0] < 0.5 && interval[1] > 0.5, "{interval:?}");
    assert_eq!(figures["a"]["characters"]["value"], json!((4 + 3 + 5 + 4 + 4) as f64 / 5.));
    // The rows stay, and the same command finds them there.
    let run = files.path("kept/run");
    assert!(run.join("data/comparisons").is_dir());
    assert_eq!(eval(&args), figures);
    // The other way round the rates are, too.
    let swapped = eval(&["win-rate", &theirs, &ours, "--judge", &judge, "--resamples", "0"]);
    assert_eq!(swapped["comparisons"]["win_rate"]["value"], json!(0.5));
    assert_eq!(swapped["comparisons"]["win_rate"]["low"], Value::Null);
    // Of the prompts asked for alone.
    let two = files.put("two.txt", "p0\n\np2\n");
    let of_two = eval(&["win-rate", &ours, &theirs, "--judge", &judge, "--prompts", &two, "--resamples", "0"]);
    assert_eq!(of_two["comparisons"]["win_rate"], json!({"value": 0.75, "low": null, "high": null, "n": 2}));
    // As people read it.
    let (code, out, err) = reflux(&["eval", "win-rate", &ours, &theirs, "--judge", &judge, "--prompts", &two]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("win_rate") && out.contains("0.7500") && out.contains(" to "), "{out}");
    assert!(err.contains("3 answers to other prompts"), "{err}");
}

/// A judge of which nothing can be read is warned of, with what to do; what the names stand for is told.
#[test]
fn what_a_judge_said_in_vain_is_told() {
    let files = Files::new();
    let (ours, theirs) = stored(&files);
    let mute = files.put("mute.toml", "[[answer]]\ntext = \"I would rather not say.\"\n");
    for (mode, step) in [("pairwise", "comparisons"), ("sampled", "b_scores")] {
        let into = files.path(mode).display().to_string();
        let args = ["eval", "win-rate", &ours, &theirs, "--judge", &mute, "--mode", mode];
        let (code, out, err) = reflux(&args);
        assert_eq!(code, Some(0), "{err}");
        let warning = err.lines().find(|l| l.starts_with(&format!("warning: {step}: 5 failed ("))).unwrap_or_default();
        assert!(!warning.is_empty() && err.contains("--into DIR keeps the rows") && err.contains("--pattern"), "{err}");
        for words in [format!("a: {ours}\n"), format!("b: {theirs}\n"), format!("judge: {mute}\n")] {
            assert!(out.contains(&words), "{out}");
        }
        let nulls = out.lines().find(|l| l.contains(" nulls ")).unwrap();
        assert_eq!(nulls.split_whitespace().collect::<Vec<_>>(), ["comparisons", "nulls", "5", "5"]);
        let (_, _, err) = reflux(&[&args[..], &["--into", &into]].concat());
        assert!(err.contains(&format!("`reflux show {into}/run/errors` shows why")), "{err}");
        let (code, shown, _) = reflux(&["show", &format!("{into}/run/errors"), "--where", &format!("step={step}")]);
        assert!(code == Some(0) && shown.contains("5 of "), "{shown}");
        let (_, _, err) = reflux(&[&args[..], &["-q"]].concat());
        assert_eq!(err, "");
    }
}

/// What lies in a directory is an evaluation of these rows and settings, or the command is refused: figures of other rows are not told.
#[test]
fn another_evaluation_is_not_taken_for_this_one() {
    let files = Files::new();
    let (ours, theirs) = stored(&files);
    let judge = files.put("judge.toml", FAIR_JUDGE);
    let into = files.path("kept").display().to_string();
    let args = ["win-rate", &ours, &theirs, "--judge", &judge, "--resamples", "0", "--into", &into];
    let first = eval(&args);
    let rows: Vec<Value> = (0..5).map(|i| json!({"prompt": format!("p{i}"), "response": "good"})).collect();
    files.rows("ours.jsonl", &rows);
    fails(&args, &["holds another evaluation", "--into"]);
    fails(&[&args[..], &["--judge-tokens", "9"]].concat(), &["holds another evaluation"]);
    assert_ne!(eval(&args[..7])["comparisons"], first["comparisons"], "the other rows have other figures");
    stored(&files);
    assert_eq!(eval(&args), first, "and the first are still there");
    // Rows that are imported, too.
    let ranked =
        |best: &str, worst: &str| json!([{"input": "p", "output_1": best, "output_2": worst, "label": 1}]).to_string();
    let data = files.put("dataset.json", &ranked("good", "bad"));
    let into = files.path("ranks").display().to_string();
    let args = ["reward", &judge, "--data", &data, "--mode", "pairwise", "--resamples", "0", "--into", &into];
    assert_eq!(eval(&args)["comparisons"]["agreement"]["value"], json!(1.));
    files.put("dataset.json", &ranked("bad", "good"));
    fails(&args, &["holds another evaluation"]);
    assert_eq!(eval(&args[..8])["comparisons"]["agreement"]["value"], json!(0.));
}

#[test]
fn models_answer_and_are_compared_by_verdict_or_score() {
    let files = Files::new();
    let judge = files.put(
        "judge.toml",
        &format!("[[answer]]\nmatch = \"Response: weak\"\ntext = \"Score: 1\"\n{}", FAIR_JUDGE.trim_start()),
    );
    let good = files.put("good.toml", "[[answer]]\ntext = \"good\"\n");
    let bad = files.put("bad.toml", "[[answer]]\ntext = \"bad\"\n");
    let prompts = files
        .rows("prompts.jsonl", &[json!({"prompt": "p0"}), json!({"turns": ["p1", "more"]}), json!({"prompt": "p0"})]);
    let figures =
        eval(&["win-rate", &good, &bad, "--prompts", &prompts, "--judge", &judge, "-n", "2", "--resamples", "0"]);
    assert_eq!(figures["comparisons"]["win_rate"]["value"], json!(1.));
    assert_eq!(figures["comparisons"]["win_rate"]["n"], 4, "two prompts, the third comes again; two answers to each");
    assert_eq!(figures["a"]["tokens"]["value"].as_f64().map(|t| t >= 1.), Some(true));
    // A model against answers that are there: its prompts are theirs.
    let (_, theirs) = stored(&files);
    let figures = eval(&["win-rate", &good, &theirs, "--judge", &judge, "--resamples", "0"]);
    let value = |name: &str| figures["comparisons"][name]["value"].as_f64().unwrap();
    assert_eq!(["wins", "ties", "losses"].map(value), [0.4, 0.6, 0.]);
    // By score.
    let scores = files
        .put("scores.toml", "[[answer]]\nmatch = \"good\"\ntext = \"Score: 4\"\n[[answer]]\ntext = \"Score: 2\"\n");
    let figures = eval(&["win-rate", &good, &theirs, "--judge", &scores, "--mode", "sampled", "--resamples", "0"]);
    let value = |name: &str| figures["comparisons"][name]["value"].as_f64().unwrap();
    assert_eq!(["wins", "ties", "losses"].map(value), [0.4, 0.6, 0.]);
    assert_eq!(figures["a_scores"]["score"]["value"], json!(4.));
    assert_eq!(figures["b_scores"]["score"]["value"], json!(3.2));
}

#[test]
fn a_judge_against_ranks() {
    let files = Files::new();
    let ranked = |prompt: &str, texts: &[&str]| -> Vec<Value> {
        let row = |(i, t): (usize, &&str)| json!({"prompt_id": prompt, "prompt": prompt, "response_id": format!("{prompt}{i}"), "response": t, "rank": i});
        texts.iter().enumerate().map(row).collect()
    };
    // Of three pairs in the first prompt two are right and one is tied; the second is wholly wrong.
    let rows = [ranked("p0", &["fine", "fair", "fair too"]), ranked("p1", &["weak", "fine"])].concat();
    let data = files.rows("ranked.jsonl", &rows);
    let judge = files.put(
        "judge.toml",
        "[[answer]]\nmatch = \"fine\"\ntext = \"Score: 5\"\n[[answer]]\nmatch = \"fair\"\ntext = \"Score: 3\"\n[[answer]]\ntext = \"Score: 1\"\n",
    );
    let figures = eval(&["reward", &judge, "--data", &data, "--judgements", "1", "--resamples", "100"]);
    let value = |name: &str| figures["scores"][name]["value"].as_f64().unwrap();
    assert_eq!(["pairwise_accuracy", "pairwise_tied", "five_best", "exact_match"].map(value), [0.5, 0.25, 0.5, 0.]);
    // scipy.stats.spearmanr([0, -1, -2], [5, 3, 3]) = 0.8660254, kendalltau = 0.8164966; both are -1 for the second prompt.
    assert!((value("spearman") - (0.866_025_403_784_438_7 - 1.) / 2.).abs() < 1e-9);
    assert!((value("kendall") - (0.816_496_580_927_726 - 1.) / 2.).abs() < 1e-9);
    assert_eq!(figures["scores"]["pairwise_accuracy"]["n"], 4);
    // LLMBar as it is published, pair by pair: one right, one wrong, one in which the judge only likes what it reads first.
    let pairs = json!([
        {"input": "a", "output_1": "good", "output_2": "bad", "label": 1},
        {"input": "b", "output_1": "good", "output_2": "bad", "label": 2},
        {"input": "c", "output_1": "good", "output_2": "good", "label": 1},
    ]);
    let llmbar = files.put("dataset.json", &pairs.to_string());
    let judge = files.put("pairs.toml", FAIR_JUDGE);
    let figures = eval(&["reward", &judge, "--data", &llmbar, "--mode", "pairwise", "--resamples", "0"]);
    let value = |name: &str| figures["comparisons"][name]["value"].as_f64().unwrap();
    let near = |name: &str, want: f64| assert!((value(name) - want).abs() < 1e-12, "{name}: {}", value(name));
    near("agreement", 1. / 3.);
    near("agreement_first", 2. / 3.);
    near("agreement_second", 1. / 3.);
}

#[test]
fn alpaca_evals_files() {
    let files = Files::new();
    let set = json!([
        {"instruction": " Name a river.", "dataset": "helpful_base", "output": "x", "generator": "base"},
        {"instruction": "Name a hill.", "dataset": "koala", "output": "y", "generator": "base"},
    ]);
    let set = files.put("alpaca_eval.json", &set.to_string());
    let model = files.put("m.toml", "[[answer]]\nmatch = \"river\"\ntext = \"Rhine\"\n[[answer]]\ntext = \"Hermon\"\n");
    let out = files.path("outputs.json").display().to_string();
    let (code, said, err) =
        reflux(&["eval", "alpaca", "export", &model, "--prompts", &set, "-o", &out, "--generator", "M2"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(said.contains("2 outputs"), "{said}");
    let read = |path: &str| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    // The instruction to the letter: the package finds the baseline's answer by it.
    let want = json!([
        {"instruction": " Name a river.", "output": "Rhine", "generator": "M2", "dataset": "helpful_base"},
        {"instruction": "Name a hill.", "output": "Hermon", "generator": "M2", "dataset": "koala"},
    ]);
    assert_eq!(read(&out), want);
    let answers = files.rows("a.jsonl", &[json!({"prompt": "Name a hill.", "text": "Nebo"})]);
    let args = ["eval", "alpaca", "export", &answers, "--prompts", &set, "-o", &out];
    let (code, _, err) = reflux(&args);
    assert!(code == Some(0) && err.contains("1 of 2 prompts have no answer"), "{err}");
    assert_eq!(reflux(&[&args[..], &["-q"]].concat()), (Some(0), String::new(), String::new()));
    assert_eq!(
        (&read(&out)[0]["output"], &read(&out)[1]["output"], &read(&out)[1]["generator"]),
        (&json!(""), &json!("Nebo"), &json!("a"))
    );

    // A directory is called by its whole name.
    std::fs::create_dir(files.path("m1.5")).unwrap();
    std::fs::copy("datasets/ift/ift.parquet", files.path("m1.5/ift.parquet")).unwrap();
    let dir = files.path("m1.5").display().to_string();
    let (code, _, err) =
        reflux(&["eval", "alpaca", "export", &dir, "--prompts", "datasets/ift/ift.parquet", "-o", &out, "-q"]);
    assert_eq!((code, &read(&out)[0]["generator"]), (Some(0), &json!("m1.5")), "{err}");

    // The package's own figures, from the golden that was made by it.
    let golden: Vec<Value> = serde_json::from_str(include_str!("../goldens/alpaca/golden.json")).unwrap();
    let file = files.put("annotations.json", &golden[0]["annotations"].to_string());
    for (args, glm) in [
        (vec!["--gamed", "tests/goldens/alpaca/gamed.csv"], "length_controlled_v1"),
        (vec!["--glm", "noreg", "--gamed", "tests/goldens/alpaca/gamed.csv"], "length_controlled_noreg"),
        (vec![], "length_controlled_minimal"),
    ] {
        let got = eval(&[&["alpaca", "win-rate", &file][..], &args[..]].concat());
        let want = &golden[0]["glm"][glm]["exact"];
        assert_eq!(got["glm"], glm);
        for key in ["win_rate", "standard_error", "n_wins", "n_total", "length_controlled_winrate", "lc_standard_error"]
        {
            let (got, want) = (got[key].as_f64().unwrap(), want[key].as_f64().unwrap());
            assert!((got - want).abs() < 1e-5, "{glm} {key}: {got}, {want}");
        }
    }
    fails(&["alpaca", "win-rate", &file, "--glm", "v1"], &["df_gamed.csv"]);
    let broken = files.put("broken.json", "[{\"instruction\": \"i\"}]");
    fails(&["alpaca", "win-rate", &broken], &["broken.json", "row 1", "output_1"]);
    fails(&["alpaca", "win-rate", "no/such.json"], &["no/such.json"]);
}

#[test]
fn a_runs_drift() {
    let files = Files::new();
    let dir = files.path("run");
    common::run(&small_loop(files.0.path()), &dir, &RunOptions::default()).0.unwrap();
    let name = dir.display().to_string();
    let rounds = eval(&["drift", &name, "--resamples", "0"]);
    let rounds = rounds.as_array().unwrap();
    assert!(rounds.iter().any(|r| r["step"] == "scores"), "{rounds:?}");
    for round in rounds.iter().filter(|r| r.get("length_growth").is_some()) {
        let of = |name: &str| round[name]["value"].as_f64();
        let (Some(length), Some(score)) = (of("length_growth"), of("score_growth")) else { continue };
        assert_eq!(round["warning"].is_string(), length >= 0.1 && score < length, "{round}");
    }
    let scores: Vec<&Value> = rounds.iter().filter(|r| r["step"] == "scores").collect();
    assert_eq!(scores.iter().map(|r| r["iteration"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert!(scores[0].get("score_shift").is_none() && scores[1]["score_shift"]["value"].is_f64());
    // The means are those of the rows.
    let run = reflux::store::Run::open(&dir).unwrap();
    for round in &scores {
        let iteration = round["iteration"].as_u64().unwrap() as u32;
        let rows = run.read_step("scores", Some(iteration)).unwrap().unwrap();
        let c = reflux::data::Columns(&rows);
        let score = c.float("score").unwrap();
        let known: Vec<f64> = score.iter().flatten().map(f64::from).collect();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        assert!((round["score"]["value"].as_f64().unwrap() - mean).abs() < 1e-9);
        let tokens = c.tokens("response_tokens").unwrap();
        let total: usize = (0..rows.num_rows()).map(|i| tokens.row(i).len()).sum();
        assert!((round["tokens"]["value"].as_f64().unwrap() - total as f64 / rows.num_rows() as f64).abs() < 1e-9);
        assert_eq!(round["answers"], rows.num_rows());
    }
    let (code, out, _) = reflux(&["eval", "drift", &name, "--step", "responses"]);
    assert!(code == Some(0) && out.contains("distinct_1") && !out.contains("scores"), "{out}");
    fails(&["drift", &name, "--step", "nothing"], &["no step `nothing`", "responses"]);
    // Answers of a run, of one iteration.
    let of = |suffix: &str| load_answers(Path::new(&format!("{name}/responses{suffix}")));
    let (one, two) = (of("@1").unwrap().rows.len(), of("@2").unwrap().rows.len());
    assert_eq!(of("").map(|g| g.rows.len()).unwrap_or(one + two), one + two);
    assert!(of("@7").unwrap_err().to_string().contains("iteration 7"));
}

#[test]
fn bad_input_is_named() {
    let files = Files::new();
    let judge = files.put("judge.toml", FAIR_JUDGE);
    let good = files.rows("good.jsonl", &[json!({"prompt": "p0", "response": "good"})]);
    let with = |a: &str, b: &str, more: &[&str], what: &[&str]| {
        fails(&[&["win-rate", a, b, "--judge", &judge][..], more].concat(), what)
    };
    let bad =
        |name: &str, line: &str| files.put(name, &format!("{{\"prompt\": \"p0\", \"response\": \"x\"}}\n{line}\n"));
    for (line, what) in [
        ("{\"prompt\": \"p\"}", "has no answer"),
        ("{\"response\": \"p\"}", "has no `prompt`"),
        ("{\"prompt\": \" \", \"response\": \"p\"}", "empty prompt"),
        ("{\"prompt\": 3, \"response\": \"p\"}", "`prompt` is the number 3"),
        ("{\"prompt\": \"p\", \"response\": \"p\", \"sample\": -1}", "`sample` is"),
        (
            "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": \"b\"}], \"response\": \"p\"}",
            "2 messages",
        ),
        ("{", "is not JSON"),
    ] {
        with(&bad("bad.jsonl", line), &good, &[], &["bad.jsonl` line 2", what]);
    }
    let twice = files.rows(
        "twice.jsonl",
        &[json!({"prompt": "p", "response": "a", "sample": 0}), json!({"prompt": "p", "response": "b", "sample": 0})],
    );
    with(&good, &twice, &[], &["line 2 is a second answer to its prompt"]);
    with("no/such.jsonl", &good, &[], &["no/such.jsonl"]);
    with(
        &good,
        &files.rows("other.jsonl", &[json!({"prompt": "q", "response": "a"})]),
        &[],
        &["no answer in", "to one of 1 prompt"],
    );
    with(&judge, &judge, &[], &["need prompts"]);
    with(&judge, &judge, &["--prompts", &files.put("none.txt", "\n \n")], &["none.txt` holds no prompt"]);
    with(&good, &good, &["--prompts", &files.put("plain", "Name a river.\n")], &["plain` line 1", ".txt"]);
    fails(&["win-rate", &good, &good, "--judge", "no/judge"], &["judge `no/judge` not found"]);
    fails(&["reward", &judge, "--data", &good], &["good.jsonl"]);
    fails(&["reward", &judge, "--data", "datasets/ift"], &["datasets/ift", "`ranked`", "missing", "`rank`"]);
    fails(&["drift", "no/run"], &["no/run"]);
    fails(&["drift", "no/run", "--growth", "nan"], &["--growth", "a share of 0 or more"]);
    let same_id = [json!({"prompt_id": "1", "prompt": "a"}), json!({"prompt_id": "1", "prompt": "b"})];
    let e = load_prompts(Path::new(&files.rows("ids.jsonl", &same_id))).unwrap_err().to_string();
    assert!(e.contains("ids.jsonl` line 2") && e.contains("prompt_id `1`"), "{e}");
}

#[test]
fn every_help_has_examples() {
    for command in [&["win-rate"][..], &["reward"], &["alpaca", "export"], &["alpaca", "win-rate"], &["drift"], &[]] {
        let (code, out, _) = reflux(&[&["eval"], command, &["--help"]].concat());
        assert!(code == Some(0) && out.contains("Examples:\n  reflux eval "), "{command:?}: {out}");
    }
}
