//! Comparing answers and measuring them through whole pipelines.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::rows::texts_or_dashes;
use crate::common::{self, FAIR_JUDGE, RunOptions, outcome, run};
use arrow::array::{Array, RecordBatch};
use reflux::data::Columns;
use reflux::store::Run;

/// The judge likes what it reads first.
const VAIN: &str = "[[answer]]\ntext = \"[[A]]\"\n";

/// Answers as JSON lines: prompt, answer, score.
fn answers(dir: &Path, name: &str, rows: &[(&str, &str, Option<f32>)]) -> String {
    let line = |(i, (prompt, text, score)): (usize, &(&str, &str, Option<f32>))| {
        let score = score.map_or("null".to_owned(), |s| s.to_string());
        format!(
            "{{\"prompt_id\":\"id of {prompt}\",\"prompt\":\"{prompt}\",\"response_id\":\"{name} {i}\",\"response\":\"{text}\",\"rank\":{i},\"score\":{score}}}\n"
        )
    };
    let path = dir.join(format!("{name}.jsonl"));
    std::fs::write(&path, rows.iter().enumerate().map(line).collect::<String>()).unwrap();
    path.display().to_string()
}

const OURS: [(&str, &str, Option<f32>); 5] = [
    ("p0", "good", Some(4.)),
    ("p1", "bad", Some(1.)),
    ("p2", "plain", Some(2.2)),
    ("p3", "mute", None),
    ("p4", "good", Some(5.)),
];
const THEIRS: [(&str, &str, Option<f32>); 4] =
    [("p3", "good", Some(3.)), ("p0", "bad", Some(2.)), ("p1", "good", Some(3.)), ("p2", "plain", Some(2.))];

/// A pipeline that reads two files of ranked answers, and what follows.
fn two(dir: &Path, judge: &str, rest: &str) -> String {
    let script = dir.join("judge.toml");
    std::fs::write(&script, judge).unwrap();
    let (ours, theirs) = (answers(dir, "ours", &OURS), answers(dir, "theirs", &THEIRS));
    format!(
        "[pipeline]\nname = \"c\"\nseed = 5\nmicrobatch = 2\n[model.judge]\nscript = {script:?}\n\
         [step.ours]\nop = \"read\"\ndataset = {ours:?}\nschema = \"ranked\"\n[step.theirs]\nop = \"read\"\ndataset = {theirs:?}\nschema = \"ranked\"\n{rest}"
    )
}
const COMPARED: &str = "[step.met]\nop = \"compare\"\nfrom = [\"ours\", \"theirs\"]\n";
const MEASURED: &str = "[step.figures]\nop = \"measure\"\nfrom = \"met\"\nresamples = 500\n";

fn rows(dir: &Path, step: &str) -> RecordBatch {
    Run::open(dir).unwrap().read_step(step, None).unwrap().unwrap()
}
/// A value, and its interval where there is one.
type Figure = (Option<f64>, Option<(f64, f64)>);
fn figures(dir: &Path, step: &str) -> BTreeMap<String, Figure> {
    let rows = rows(dir, step);
    let c = Columns(&rows);
    let [value, low, high] = ["value", "low", "high"].map(|n| c.double(n).unwrap());
    let name = c.text("name").unwrap();
    let of = |i: usize| {
        let interval = low.is_valid(i).then(|| (low.value(i), high.value(i)));
        (name.value(i).to_owned(), (value.is_valid(i).then(|| value.value(i)), interval))
    };
    (0..rows.num_rows()).map(of).collect()
}
fn codes(dir: &Path, step: &str) -> BTreeMap<String, String> {
    let run = Run::open(dir).unwrap();
    let mut all = BTreeMap::new();
    for entry in run.files(step) {
        let Some(rows) = run.left_out(&entry).unwrap() else { continue };
        all.extend(std::iter::zip(texts_or_dashes(&rows, "row"), texts_or_dashes(&rows, "code")));
    }
    all
}

#[test]
fn a_judge_reads_both_orders() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    let text = two(temp.path(), FAIR_JUDGE, &format!("{COMPARED}model = \"judge\"\n{MEASURED}"));
    run(&text, &dir, &RunOptions::default()).0.unwrap();
    let met = rows(&dir, "met");
    assert_eq!(texts_or_dashes(&met, "outcome"), ["win", "loss", "tie", "null", "null"]);
    assert_eq!(texts_or_dashes(&met, "first_shown_first"), ["win", "loss", "tie", "-", "-"]);
    assert_eq!(texts_or_dashes(&met, "second_shown_first"), ["win", "loss", "tie", "-", "-"]);
    assert_eq!(texts_or_dashes(&met, "second"), ["bad", "good", "plain", "good", "-"]);
    let shares = |column: &str| -> Vec<Option<f32>> {
        let said = Columns(&met).judgements(column).unwrap();
        (0..3).map(|i| said.whole(i)[0].score).collect()
    };
    // The first answer's share, whichever was read first.
    assert_eq!(shares("judgements_first"), [Some(1.), Some(0.), Some(0.5)]);
    assert_eq!(shares("judgements_second"), [Some(1.), Some(0.), Some(0.5)]);
    assert_eq!(
        codes(&dir, "met"),
        [("id of p3/0", "no_match"), ("id of p4/0", "no_partner")].map(|(a, b)| (a.into(), b.into())).into()
    );
    let figures = figures(&dir, "figures");
    let value = |name: &str| figures[name].0.unwrap();
    assert_eq!([value("win_rate"), value("nulls"), value("order_agreement")], [0.5, 2., 1.]);
    for share in ["wins", "ties", "losses"] {
        assert!((value(share) - 1. / 3.).abs() < 1e-12, "{share}: {}", value(share));
    }
    let (low, high) = figures["win_rate"].1.unwrap();
    assert!((0. ..0.5).contains(&low) && high > 0.5 && high <= 1., "{low} {high}");
    assert!(figures["nulls"].1.is_none());
}

#[test]
fn orders_that_disagree_tie() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    let text = two(temp.path(), VAIN, &format!("{COMPARED}model = \"judge\"\n{MEASURED}"));
    run(&text, &dir, &RunOptions::default()).0.unwrap();
    let met = rows(&dir, "met");
    assert_eq!(texts_or_dashes(&met, "outcome"), ["tie", "tie", "tie", "tie", "null"]);
    assert_eq!(texts_or_dashes(&met, "first_shown_first")[..4], ["win"; 4]);
    assert_eq!(texts_or_dashes(&met, "second_shown_first")[..4], ["loss"; 4]);
    let figures = figures(&dir, "figures");
    assert_eq!(figures["order_agreement"].0, Some(0.));
    // All the same: the interval has no width.
    assert_eq!(figures["win_rate"], (Some(0.5), Some((0.5, 0.5))));
}

#[test]
fn scores_decide_beyond_a_margin() {
    let temp = tempfile::tempdir().unwrap();
    for (margin, third) in [("", "win"), ("margin = 0.5\n", "tie")] {
        let dir = temp.path().join(third);
        let text = two(temp.path(), FAIR_JUDGE, &format!("{COMPARED}by = \"score\"\n{margin}"));
        run(&text, &dir, &RunOptions::default()).0.unwrap();
        let met = rows(&dir, "met");
        assert_eq!(texts_or_dashes(&met, "outcome"), ["win", "loss", third, "null", "null"]);
        assert_eq!(texts_or_dashes(&met, "judge"), ["score"; 5]);
        assert_eq!(texts_or_dashes(&met, "first_shown_first"), ["-"; 5]);
    }
}

/// Of one dataset every two answers of a prompt meet, and what the ranks ask for stands beside.
#[test]
fn ranks_say_what_was_expected() {
    let temp = tempfile::tempdir().unwrap();
    let rows_of =
        [("p0", "good", None), ("p0", "bad", None), ("p1", "bad", None), ("p1", "good", None), ("p2", "x", None)];
    let script = temp.path().join("judge.toml");
    std::fs::write(&script, FAIR_JUDGE).unwrap();
    let text = format!(
        "[pipeline]\nname = \"c\"\n[model.judge]\nscript = {script:?}\n[step.pairs]\nop = \"read\"\ndataset = {:?}\nschema = \"ranked\"\n\
         [step.met]\nop = \"compare\"\nfrom = \"pairs\"\nmodel = \"judge\"\n{MEASURED}",
        answers(temp.path(), "pairs", &rows_of)
    );
    let dir = temp.path().join("run");
    run(&text, &dir, &RunOptions::default()).0.unwrap();
    let met = rows(&dir, "met");
    assert_eq!(texts_or_dashes(&met, "outcome"), ["win", "loss"]);
    assert_eq!(texts_or_dashes(&met, "expected"), ["win", "win"]);
    let figures = figures(&dir, "figures");
    for name in ["agreement", "agreement_first", "agreement_second"] {
        assert_eq!(figures[name].0, Some(0.5), "{name}");
    }
}

/// The oracle ranked the answers, so its own scores agree with the ranks in everything; a judge that has one score for all in nothing.
#[test]
fn reward_modelling_of_the_oracle_and_of_a_flatterer() {
    let temp = tempfile::tempdir().unwrap();
    let script = temp.path().join("judge.toml");
    std::fs::write(&script, "[[answer]]\ntext = \"Score: 5\"\n").unwrap();
    let text = format!(
        "[pipeline]\nname = \"c\"\nseed = 3\nmicrobatch = 32\n[model.judge]\nscript = {script:?}\n[step.ranked]\nop = \"listworld\"\ndata = \"ranked\"\nrows = 120\n\
         [step.truth]\nop = \"oracle\"\nfrom = \"ranked\"\n[step.flattered]\nop = \"judge\"\nfrom = \"ranked\"\nmodel = \"judge\"\nsamples = 1\n\
         [step.figures]\nop = \"measure\"\nfrom = \"truth\"\nranked = \"ranked\"\nresamples = 100\n\
         [step.flattery]\nop = \"measure\"\nfrom = \"flattered\"\nranked = \"ranked\"\nresamples = 0\n"
    );
    let dir = temp.path().join("run");
    run(&text, &dir, &RunOptions::default()).0.unwrap();
    let oracle = figures(&dir, "figures");
    for (name, value) in
        [("pairwise_accuracy", 1.), ("pairwise_tied", 0.), ("exact_match", 1.), ("spearman", 1.), ("kendall", 1.)]
    {
        let got = oracle[name].0.unwrap();
        assert!((got - value).abs() < 1e-9, "{name}: {got}");
    }
    let flattery = figures(&dir, "flattery");
    assert_eq!(flattery["pairwise_tied"].0, Some(1.));
    assert_eq!(flattery["pairwise_accuracy"].0, Some(0.));
    assert_eq!(flattery["score"], (Some(5.), None));
}

/// Figures are those of the rows, and of no one's pace.
#[test]
fn workers_change_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let text = two(temp.path(), FAIR_JUDGE, &format!("{COMPARED}model = \"judge\"\n{MEASURED}"));
    let made: Vec<_> = [1, 3]
        .map(|workers| {
            let dir = temp.path().join(format!("with {workers}"));
            run(&text, &dir, &RunOptions { workers, ..RunOptions::default() }).0.unwrap();
            outcome(&dir)
        })
        .into();
    assert!(made[0] == made[1] && made[0].keys().any(|name| name.starts_with("data/figures")));
}

#[test]
fn answers_to_other_prompts_do_not_compare() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    let text = two(temp.path(), FAIR_JUDGE, &format!("{COMPARED}by = \"score\"\n{MEASURED}"));
    answers(temp.path(), "theirs", &[("q", "good", Some(1.))]);
    run(&text, &dir, &RunOptions::default()).0.unwrap();
    // Five answers of the first step, and the one of the other.
    assert!(codes(&dir, "met").len() == 6 && codes(&dir, "met").values().all(|code| code == "no_partner"));
    // Nothing counts, so there is no rate; that is not a rate of nothing.
    assert_eq!(figures(&dir, "figures")["win_rate"], (None, None));
}

/// From the second iteration on there is one before to compare with.
#[test]
fn an_iteration_is_set_against_the_one_before() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    let text = format!(
        "{}\n[step.drift]\nop = \"measure\"\nfrom = \"scores\"\nresamples = 0\n",
        common::small_loop(temp.path())
    );
    run(&text, &dir, &RunOptions::default()).0.unwrap();
    let run = Run::open(&dir).unwrap();
    let names = |iteration| texts_or_dashes(&run.read_step("drift", Some(iteration)).unwrap().unwrap(), "name");
    let changes = ["score_shift", "score_variation", "length_growth", "score_growth"];
    assert!(changes.iter().all(|c| !names(1).iter().any(|n| n == c)));
    assert!(changes.iter().all(|c| names(2).iter().any(|n| n == c)), "{:?}", names(2));
}
