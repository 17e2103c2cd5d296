//! A prompt's whole life: `reflux trace`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::looked_at::{finished, lines, of, reflux, stored, text};
use crate::common::rows::texts;
use crate::common::{RunOptions, run, script, small_loop};
use reflux::data::Columns;
use reflux::store::Run;
use serde_json::Value;

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
    assert!(people.lines().all(|l| reflux::report::inspect::show::width(l) <= 90), "{people}");
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
        run(&file, &dir, &RunOptions::default()).0.unwrap();
        let stopped = temp.path().join("stopped");
        for stop_after in [Some(7), Some(9), None] {
            let ended = run(&file, &stopped, &RunOptions { stop_after, workers: 2, ..RunOptions::default() }).0;
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
    run(&text_of, &dir, &RunOptions::default()).0.unwrap();
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
    assert!(code == Some(2) && err.contains("is a prompt, and only responses have judgements"), "{err}");
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
    run(&text_of, &dir, &RunOptions::default()).0.unwrap();
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
