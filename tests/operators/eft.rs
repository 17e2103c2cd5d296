//! Evaluation data out of ranked answers: `pipelines/build-eft.toml` in small, on the embedded small world.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::common::{RunOptions, outcome, run};
use arrow::array::{AsArray, RecordBatch};
use reflux::data::Columns;
use reflux::store::{Run, read_parquet};

fn table(dir: &Path, step: &str) -> Vec<RecordBatch> {
    let run = Run::open(dir).unwrap();
    run.files(step).iter().map(|f| read_parquet(&dir.join(&f.path)).unwrap()).collect()
}
fn texts(rows: &[RecordBatch], column: &str) -> Vec<String> {
    rows.iter().flat_map(|r| Columns(r).text(column).unwrap().iter().flatten().map(str::to_owned)).collect()
}

#[test]
fn judgements_that_agree_with_the_ranks_become_rows() {
    let temp = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/build-eft.toml");
    let text = std::fs::read_to_string(file).unwrap().replace("rows = 900", "rows = 300");
    let (whole, broken) = (temp.path().join("whole"), temp.path().join("broken"));
    run(&text, &whole, &RunOptions::default()).0.unwrap();

    // What the judge said of each answer, and where people ranked it.
    let (ranked, scores, eft) = (table(&whole, "ranked"), table(&whole, "scores"), table(&whole, "eft"));
    let ids = texts(&ranked, "response_id");
    let ranks: Vec<u32> = ranked.iter().flat_map(|r| Columns(r).uint("rank").unwrap().values().to_vec()).collect();
    let rank: BTreeMap<&String, u32> = ids.iter().zip(ranks).collect();
    let mut said: BTreeSet<(String, String, String)> = BTreeSet::new();
    for rows in &scores {
        let (prompts, responses) = (Columns(rows).text("prompt").unwrap(), Columns(rows).text("response").unwrap());
        let list = rows.column_by_name("judgements").unwrap().as_list::<i32>();
        for i in 0..rows.num_rows() {
            let judgements = list.value(i);
            for text in judgements.as_struct().column_by_name("text").unwrap().as_string::<i32>().iter().flatten() {
                said.insert((prompts.value(i).into(), responses.value(i).into(), text.trim().into()));
            }
        }
    }
    let (prompts, responses, judgements) = (texts(&eft, "prompt"), texts(&eft, "response"), texts(&eft, "judgement"));
    let values: Vec<f32> = eft.iter().flat_map(|r| Columns(r).float("score").unwrap().values().to_vec()).collect();
    assert!(values.len() > 30, "{} rows", values.len());
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for (i, &score) in values.iter().enumerate() {
        assert!(
            said.contains(&(prompts[i].clone(), responses[i].clone(), judgements[i].clone())),
            "row {i} is the judge's"
        );
        assert!(judgements[i].ends_with(&format!("score {score}")), "{}", judgements[i]);
        *counts.entry(score as u32).or_default() += 1;
    }
    let mut sizes: Vec<usize> = counts.values().copied().collect();
    sizes.sort_unstable();
    assert!(sizes.len() >= 2 && sizes[sizes.len() - 1] <= sizes[sizes.len() - 2], "balanced: {counts:?}");

    // Every prompt of the training part is there or is told; those held out are in neither.
    let errors = Run::open(&whole).unwrap().files("eft")[0].errors.clone().unwrap();
    let errors = read_parquet(&whole.join(errors.path)).unwrap();
    let (kinds, codes) = (Columns(&errors).text("kind").unwrap(), Columns(&errors).text("code").unwrap());
    // An answer whose judgements nobody could read has no score, and so no place in its prompt's ranking: it is told by
    // its own id.
    let scored: BTreeSet<String> = texts(&scores, "response_id").into_iter().collect();
    for i in 0..errors.num_rows() {
        let id = Columns(&errors).text("row").unwrap().value(i).to_owned();
        match codes.value(i) {
            "not_judged" => assert!(kinds.value(i) == "failed" && rank.contains_key(&id) && !scored.contains(&id)),
            _ => assert_eq!(kinds.value(i), "dropped"),
        }
    }
    let dropped: BTreeSet<String> = (0..errors.num_rows())
        .filter(|&i| !matches!(codes.value(i), "over_common" | "not_judged"))
        .map(|i| Columns(&errors).text("row").unwrap().value(i).to_owned())
        .collect();
    let thinned = codes.iter().flatten().filter(|c| *c == "over_common").count();
    let judged: BTreeSet<String> = texts(&scores, "prompt_id").into_iter().collect();
    assert!(dropped.is_subset(&judged) && !dropped.is_empty());
    assert_eq!(values.len() + thinned, 3 * (judged.len() - dropped.len()));
    let held: BTreeSet<String> = texts(&table(&whole, "heldout"), "prompt").into_iter().collect();
    assert!(!held.is_empty() && held.is_disjoint(&texts(&scores, "prompt").into_iter().collect()));
    assert_eq!(
        judged.len() + texts(&table(&whole, "heldout"), "prompt_id").into_iter().collect::<BTreeSet<_>>().len(),
        100
    );
    assert!(rank.values().all(|r| *r < 3));

    // However it is run.
    for workers in [2, 1, 2, 1, 2] {
        match run(&text, &broken, &RunOptions { workers, stop_after: Some(4), ..RunOptions::default() }).0 {
            Ok(()) => break,
            Err(e) => assert_eq!(e.kind(), reflux::error::ErrorKind::Cancelled, "{e}"),
        }
    }
    run(&text, &broken, &RunOptions { workers: 2, ..RunOptions::default() }).0.unwrap();
    assert_eq!(outcome(&whole), outcome(&broken));
}
