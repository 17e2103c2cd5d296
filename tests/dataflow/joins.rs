//! Steps that put the rows of two other steps together: by key, whatever microbatches they are in and however slow one is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::common::rows::texts_or_dashes;
use crate::common::{SCORES_TO_DPO, ends, outcome, script};
use arrow::array::{Array, RecordBatch};
use reflux::data::Columns;
use reflux::store::Run;

fn rows(dir: &Path, step: &str, iteration: Option<u32>) -> RecordBatch {
    Run::open(dir).unwrap().read_step(step, iteration).unwrap().unwrap()
}

/// Code and row of everything that a step left out, sorted.
fn errors(dir: &Path, step: &str) -> Vec<(String, String)> {
    let run = Run::open(dir).unwrap();
    let mut all = Vec::new();
    for entry in run.files(step) {
        let Some(rows) = run.left_out(&entry).unwrap() else { continue };
        all.extend(std::iter::zip(texts_or_dashes(&rows, "code"), texts_or_dashes(&rows, "row")));
    }
    all.sort();
    all
}

fn write(dir: &Path, name: &str, lines: impl IntoIterator<Item = String>) -> String {
    let path = dir.join(name);
    std::fs::write(&path, lines.into_iter().map(|l| l + "\n").collect::<String>()).unwrap();
    path.display().to_string()
}

/// Two steps of the loop, two observers, and an observer and a step of before the loop, each compared with each other; of
/// each two the second is slow. The window is smaller than the number of microbatches.
fn race(dir: &Path) -> String {
    let (fast, slow) = (script(dir, 0), script(dir, 25));
    let seeds =
        write(dir, "seed.jsonl", (0..6).map(|n| format!("{{\"prompt\":\"Tell me of {n}\",\"response\":\"x\"}}")));
    let exam = write(dir, "exam.jsonl", (0..10).map(|n| format!("{{\"prompt\":\"Question {n}\",\"response\":\"x\"}}")));
    format!(
        r#"
[pipeline]
name = "race"
iterations = 2
microbatch = 2
window = 2
[model.script]
script = {fast:?}
[model.slow]
script = {slow:?}
[model.tiny]
init = "pipelines/listworld/model"
[step.seed]
op = "read"
dataset = {seeds:?}
schema = "ift"
[step.exam]
op = "read"
dataset = {exam:?}
schema = "ift"
[loop]
policy = "tiny"
next = "dpo"
[step.prompts]
op = "synthesize"
from = "seed"
model = "script"
per_iteration = 12
shots = {{ seed = 2, generated = 0 }}
reject = {{ rouge_l = 1.0 }}
[step.responses]
op = "generate"
from = "prompts"
model = "policy"
samples = 2
sampling = {{ max_tokens = 3 }}
{SCORES_TO_DPO}
batch_size = 32
[step.base]
op = "generate"
from = "prompts"
model = "slow"
samples = 2
sampling = {{ max_tokens = 4 }}
[step.in_loop]
op = "compare"
from = ["responses", "base"]
model = "script"
[step.answers]
op = "generate"
from = "exam"
model = "policy"
samples = 1
sampling = {{ max_tokens = 3 }}
[step.marks]
op = "judge"
from = "answers"
model = "script"
samples = 1
[step.slow_marks]
op = "judge"
from = "answers"
model = "slow"
samples = 1
[step.observed]
op = "compare"
from = ["marks", "slow_marks"]
by = "score"
[step.fixed]
op = "generate"
from = "exam"
model = "slow"
samples = 1
sampling = {{ max_tokens = 4 }}
[step.against_fixed]
op = "compare"
from = ["answers", "fixed"]
model = "script"
"#
    )
}

#[test]
fn an_input_of_the_loop_is_read_when_its_iteration_is_complete() {
    let temp = tempfile::tempdir().unwrap();
    let text = race(temp.path());
    let mut first: Option<BTreeMap<String, Vec<u8>>> = None;
    for n in 0..10 {
        let dir = temp.path().join(format!("run-{n}"));
        ends(&text, &dir, if n % 2 == 0 { 1 } else { 3 });
        for step in ["in_loop", "observed", "against_fixed"] {
            let partnerless = errors(&dir, step).into_iter().filter(|(code, _)| code == "no_partner").count();
            assert_eq!(partnerless, 0, "run {n}, `{step}`");
        }
        for iteration in [1, 2] {
            assert_eq!(
                rows(&dir, "in_loop", Some(iteration)).num_rows(),
                rows(&dir, "responses", Some(iteration)).num_rows()
            );
        }
        for (step, iteration) in [("observed", 1), ("observed", 3), ("against_fixed", 1), ("against_fixed", 3)] {
            assert_eq!(rows(&dir, step, Some(iteration)).num_rows(), 10, "{step}");
        }
        let made = outcome(&dir);
        match &first {
            None => first = Some(made),
            Some(first) => assert!(*first == made, "run {n} differs"),
        }
    }
}

fn ift(dir: &Path, name: &str, count: usize) -> String {
    write(
        dir,
        &format!("{name}.jsonl"),
        (0..count).map(|n| format!("{{\"prompt\":\"{name} {n}\",\"response\":\"x\"}}")),
    )
}

fn concat(dir: &Path, a: usize, b: usize, more: &str) -> String {
    let (a, b) = (ift(dir, "a", a), ift(dir, "b", b));
    format!(
        "[pipeline]\nname = \"c\"\nmicrobatch = 4\n[step.a]\nop = \"read\"\ndataset = {a:?}\nschema = \"ift\"\n\
         [step.b]\nop = \"read\"\ndataset = {b:?}\nschema = \"ift\"\n\
         [step.both]\nop = \"concat\"\nfrom = \"a\"\nwith = \"b\"\n{more}"
    )
}

#[test]
fn concat_has_every_row_of_both_steps() {
    let temp = tempfile::tempdir().unwrap();
    for (a, b) in [(3, 40), (40, 3), (9, 9), (0, 5), (5, 0)] {
        for workers in [1, 3] {
            let dir = temp.path().join(format!("{a}-{b}-{workers}"));
            ends(&concat(temp.path(), a, b, ""), &dir, workers);
            let mut got = texts_or_dashes(&rows(&dir, "both", None), "prompt");
            let mut want: Vec<String> =
                (0..a).map(|n| format!("a {n}")).chain((0..b).map(|n| format!("b {n}"))).collect();
            got.sort();
            want.sort();
            assert_eq!(got, want, "{a} rows with {b}");
            assert_eq!(errors(&dir, "both"), []);
        }
    }
    // What may not be there because of `max_share` is told row by row.
    let dir = temp.path().join("share");
    ends(&concat(temp.path(), 9, 20, "max_share = 0.5\n"), &dir, 1);
    let left_out = errors(&dir, "both");
    assert_eq!(rows(&dir, "both", None).num_rows() + left_out.len(), 29);
    assert!(left_out.iter().all(|(code, _)| code == "over_share"));
    assert_eq!(rows(&dir, "both", None).num_rows(), 18);
}

/// Answers with scores: five prompts with three answers each, as `ranked` rows.
fn scored(dir: &Path, name: &str, order: &[usize], score: impl Fn(usize, usize) -> f32) -> String {
    let line = |prompt: usize, answer: usize| {
        format!(
            "{{\"prompt_id\":\"p{prompt}\",\"prompt\":\"q {prompt}\",\"response_id\":\"p{prompt}r{answer}\",\
             \"response\":\"answer {prompt}.{answer}\",\"rank\":{answer},\"score\":{}}}",
            score(prompt, answer)
        )
    };
    let lines = order.iter().flat_map(|&prompt| (0..3).map(move |answer| line(prompt, answer)));
    write(dir, &format!("{name}.jsonl"), lines.collect::<Vec<_>>())
}

/// The judge of one file finds the scores in the order of the answers, so both judges agree wherever both have judged.
#[test]
fn consistency_is_of_the_same_answers() {
    let temp = tempfile::tempdir().unwrap();
    let judge = temp.path().join("judge.toml");
    let numbers: Vec<String> = (0..8)
        .flat_map(|p| (0..3).map(move |a| format!("[[answer]]\nmatch = \"answer {p}.{a}\"\ntext = \"Score: {a}\"\n")))
        .collect();
    std::fs::write(&judge, numbers.concat()).unwrap();
    let ours = scored(temp.path(), "ours", &[0, 1, 2, 3, 4, 5, 6, 7], |_, a| a as f32);
    // Another order, and a prompt less.
    let theirs = scored(temp.path(), "theirs", &[7, 5, 3, 1, 0, 4, 6], |_, a| a as f32);
    let text = format!(
        "[pipeline]\nname = \"c\"\nmicrobatch = 4\n[model.j]\nscript = {judge:?}\n\
         [step.q]\nop = \"read\"\ndataset = {ours:?}\nschema = \"ranked\"\n[step.r]\nop = \"read\"\ndataset = {theirs:?}\nschema = \"ranked\"\n\
         [step.one]\nop = \"judge\"\nfrom = \"q\"\nmodel = \"j\"\nsamples = 1\n[step.two]\nop = \"judge\"\nfrom = \"r\"\nmodel = \"j\"\nsamples = 1\n\
         [step.pairs]\nop = \"select\"\nfrom = \"one\"\nconsistency = \"two\"\n\
         [step.back]\nop = \"select\"\nfrom = \"two\"\nconsistency = \"one\"\n"
    );
    let mut made = Vec::new();
    for workers in [1, 3] {
        let dir = temp.path().join(format!("{workers}"));
        ends(&text, &dir, workers);
        let of = |step: &str| -> BTreeMap<String, f32> {
            let pairs = rows(&dir, step, None);
            let c = Columns(&pairs).float("consistency").unwrap().clone();
            texts_or_dashes(&pairs, "prompt_id").into_iter().zip(c.values().to_vec()).collect()
        };
        let all = |ids: &[usize]| ids.iter().map(|n| (format!("p{n}"), 1f32)).collect::<BTreeMap<_, _>>();
        let mut want = all(&[0, 1, 2, 3, 4, 5, 6, 7]);
        want.insert("p2".into(), 0.5);
        assert_eq!(of("pairs"), want);
        assert_eq!(of("back"), all(&[0, 1, 3, 4, 5, 6, 7]));
        // The answers that one judge lacks are told on either side.
        let lacking: Vec<(String, String)> = (0..3).map(|a| ("no_partner".into(), format!("p2r{a}"))).collect();
        assert_eq!(errors(&dir, "pairs"), lacking);
        assert_eq!(errors(&dir, "back"), lacking);
        made.push(outcome(&dir));
    }
    assert!(made[0] == made[1]);
}

#[test]
fn comparisons_meet_by_prompt_whatever_the_order_of_either_step() {
    let temp = tempfile::tempdir().unwrap();
    let ours = scored(temp.path(), "ours", &[0, 1, 2, 3, 4], |_, _| 2.);
    let theirs = scored(temp.path(), "theirs", &[9, 4, 3, 1, 0, 8], |_, _| 1.);
    let text = format!(
        "[pipeline]\nname = \"c\"\nmicrobatch = 3\n[step.ours]\nop = \"read\"\ndataset = {ours:?}\nschema = \"ranked\"\n\
         [step.theirs]\nop = \"read\"\ndataset = {theirs:?}\nschema = \"ranked\"\n\
         [step.met]\nop = \"compare\"\nfrom = [\"ours\", \"theirs\"]\nby = \"score\"\n"
    );
    let dir = temp.path().join("run");
    ends(&text, &dir, 2);
    let met = rows(&dir, "met", None);
    let outcomes: BTreeSet<(String, String)> =
        std::iter::zip(texts_or_dashes(&met, "prompt_id"), texts_or_dashes(&met, "outcome")).collect();
    let want = ["win", "win", "null", "win", "win"].iter().enumerate().map(|(n, o)| (format!("p{n}"), (*o).to_owned()));
    assert_eq!(outcomes, want.collect());
    assert_eq!(met.num_rows(), 15);
    let told = |p: usize| (0..3).map(move |a| ("no_partner".to_owned(), format!("p{p}/{a}")));
    assert_eq!(errors(&dir, "met"), [2, 8, 9].into_iter().flat_map(told).collect::<Vec<_>>());
}

/// A judge that does not answer at its first attempt is asked again; what it says then is part of the trial.
#[test]
fn retried_judgements_are_trials() {
    let temp = tempfile::tempdir().unwrap();
    let judge = temp.path().join("judge.toml");
    let text = "[[answer]]\nmatch = \"excellent\"\ntext = [\"Good.\\nScore: 5\", \"I would rather not say.\"]\n\
                [[answer]]\nmatch = \"terrible\"\ntext = [\"Bad.\\nScore: 1\", \"I would rather not say.\"]\n";
    std::fs::write(&judge, text).unwrap();
    let row = |p: usize, a: usize, word: &str| {
        format!(
            "{{\"prompt_id\":\"p{p}\",\"prompt\":\"q {p}\",\"response_id\":\"p{p}r{a}\",\"response\":\"{word} {p}\",\"rank\":{a}}}"
        )
    };
    let lines = (0..40).flat_map(|p| [row(p, 0, "excellent"), row(p, 1, "terrible")]);
    // One that nobody judged: it is ranked only.
    let ranked = write(temp.path(), "ranked.jsonl", lines.clone());
    let more = write(temp.path(), "more.jsonl", lines.chain([row(99, 0, "excellent")]));
    let text = format!(
        "[pipeline]\nname = \"c\"\nmicrobatch = 8\n[model.j]\nscript = {judge:?}\n\
         [step.ranked]\nop = \"read\"\ndataset = {ranked:?}\nschema = \"ranked\"\n[step.more]\nop = \"read\"\ndataset = {more:?}\nschema = \"ranked\"\n\
         [step.scores]\nop = \"judge\"\nfrom = \"ranked\"\nmodel = \"j\"\nsamples = 1\nretries = 2\n\
         [step.eft]\nop = \"build_eft\"\nfrom = \"scores\"\nranks = \"more\"\nbalance = 0\n"
    );
    let dir = temp.path().join("run");
    ends(&text, &dir, 1);
    let scores = rows(&dir, "scores", None);
    let score = Columns(&scores).float("score").unwrap();
    let readable = texts_or_dashes(&scores, "prompt_id").into_iter().enumerate().filter(|(i, _)| score.is_valid(*i));
    let mut both: BTreeMap<String, usize> = BTreeMap::new();
    readable.for_each(|(_, prompt)| *both.entry(prompt).or_default() += 1);
    let whole = both.values().filter(|n| **n == 2).count();
    let said = Columns(&scores).judgements("judgements").unwrap();
    let retried = (0..scores.num_rows()).filter(|&i| said.whole(i).len() > 1 && score.is_valid(i)).count();
    assert!(retried > 10 && whole > 20, "{retried} retried, {whole} prompts with both scores");
    assert_eq!(rows(&dir, "eft", None).num_rows(), 2 * whole);
    let told = errors(&dir, "eft");
    assert_eq!(told.iter().filter(|(code, _)| code == "unreadable").count(), 40 - whole);
    assert!(told.contains(&("not_judged".into(), "p99r0".into())), "{told:?}");
}

/// Answers that no model of the run sampled have no tokens: they are the same where their texts are.
#[test]
fn given_answers_make_pairs() {
    let temp = tempfile::tempdir().unwrap();
    let judge = temp.path().join("judge.toml");
    std::fs::write(&judge, "[[answer]]\nmatch = \"good\"\ntext = \"Score: 5\"\n[[answer]]\ntext = \"Score: 1\"\n")
        .unwrap();
    let row = |p: usize, a: usize, text: &str| {
        format!(
            "{{\"prompt_id\":\"p{p}\",\"prompt\":\"q\",\"response_id\":\"p{p}r{a}\",\"response\":\"{text}\",\"rank\":{a}}}"
        )
    };
    // More answers than a microbatch has rows, and those of a prompt apart from each other.
    let answers = (0..5).map(|a| row(0, a, if a == 3 { "good" } else { "poor" }));
    let apart = [row(1, 0, "good"), row(2, 0, "poor"), row(1, 1, "poor"), row(2, 1, "good one")];
    let data = write(temp.path(), "given.jsonl", answers.chain(apart));
    let text = format!(
        "[pipeline]\nname = \"c\"\nmicrobatch = 2\n[model.j]\nscript = {judge:?}\n\
         [step.q]\nop = \"read\"\ndataset = {data:?}\nschema = \"ranked\"\n[step.scores]\nop = \"judge\"\nfrom = \"q\"\nmodel = \"j\"\nsamples = 1\n\
         [step.pairs]\nop = \"select\"\nfrom = \"scores\"\n"
    );
    let dir = temp.path().join("run");
    ends(&text, &dir, 1);
    assert_eq!(errors(&dir, "pairs"), []);
    assert_eq!(texts_or_dashes(&rows(&dir, "pairs", None), "prompt_id"), ["p0", "p1", "p2"]);
    assert_eq!(texts_or_dashes(&rows(&dir, "pairs", None), "chosen_id"), ["p0r3", "p1r0", "p2r1"]);
    let run = Run::open(&dir).unwrap();
    let of_prompt = run.batches("q", None).map(|b| texts_or_dashes(&b.unwrap().1, "prompt_id"));
    let of_prompt: Vec<BTreeSet<String>> = of_prompt.map(|ids| ids.into_iter().collect()).collect();
    assert_eq!(of_prompt.len(), 3, "a microbatch for each prompt: {of_prompt:?}");
}
