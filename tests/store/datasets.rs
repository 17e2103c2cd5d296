//! The shipped data: the Parquet files equal their twins, and hold what the README of `datasets/` says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reflux::data::{Columns, named};
use reflux::store::{ImportOptions, import, read_parquet};

fn twin(name: &str) -> (arrow::array::RecordBatch, Vec<serde_json::Value>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets").join(name);
    let stored = dir.join(format!("{name}.parquet"));
    let json = dir.join(format!("{name}.jsonl"));
    let temp = tempfile::tempdir().unwrap();
    let again = temp.path().join("again.parquet");
    import(&json, &ImportOptions { out: Some(again.clone()), ..ImportOptions::default() }).unwrap();
    let same = std::fs::read(&stored).unwrap() == std::fs::read(&again).unwrap();
    assert!(same, "{name}.parquet is not what `reflux import datasets/{name}/{name}.jsonl` makes");
    let text = std::fs::read_to_string(&json).unwrap();
    (read_parquet(&stored).unwrap(), text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
}

#[test]
fn ift_is_what_it_says() {
    let (rows, json) = twin("ift");
    assert!(rows.num_rows() >= 200 && rows.num_rows() == json.len());
    let (prompts, responses) = (Columns(&rows).text("prompt").unwrap(), Columns(&rows).text("response").unwrap());
    let categories = Columns(&rows).text("category").unwrap();
    let distinct: BTreeSet<&str> = prompts.iter().flatten().collect();
    assert_eq!(distinct.len(), rows.num_rows(), "every prompt is there once");
    assert!(categories.iter().flatten().collect::<BTreeSet<_>>().len() >= 10);
    for (i, row) in json.iter().enumerate() {
        assert_eq!(
            (row["prompt"].as_str(), row["response"].as_str()),
            (Some(prompts.value(i)), Some(responses.value(i)))
        );
        assert!(!prompts.value(i).trim().is_empty() && !responses.value(i).trim().is_empty());
    }
}

#[test]
fn eft_is_what_it_says() {
    let (rows, json) = twin("eft");
    assert!(rows.num_rows() >= 120 && rows.num_rows() == json.len());
    let (judgements, scores) = (Columns(&rows).text("judgement").unwrap(), Columns(&rows).float("score").unwrap());
    let mut by_score: BTreeMap<u32, usize> = BTreeMap::new();
    for i in 0..rows.num_rows() {
        let score = scores.value(i);
        *by_score.entry(score as u32).or_default() += 1;
        assert_eq!(judgements.value(i).lines().last(), Some(format!("Score: {score}").as_str()), "row {i}");
        assert_eq!(judgements.value(i).matches("Score:").count(), 1, "row {i}: one score only");
    }
    assert_eq!(by_score.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(by_score.values().all(|&n| n >= 15), "{by_score:?}");
}

/// `ranked` and `preferences` are the answers of `eft`, as `datasets/derive.py` puts them.
#[test]
fn what_is_made_of_eft_follows_its_scores() {
    let ((eft, _), (ranked, _), (preferences, _)) = (twin("eft"), twin("ranked"), twin("preferences"));
    let (prompts, responses) = (Columns(&eft).text("prompt").unwrap(), Columns(&eft).text("response").unwrap());
    let scores = Columns(&eft).float("score").unwrap();
    let mut known: BTreeMap<&str, BTreeMap<&str, f32>> = BTreeMap::new();
    for i in 0..eft.num_rows() {
        known.entry(prompts.value(i)).or_default().insert(responses.value(i), scores.value(i));
    }
    assert_eq!(ranked.num_rows(), eft.num_rows());
    let text = |name: &str| Columns(&ranked).text(name).unwrap();
    let (ids, prompts, answers) = (text("prompt_id"), text("prompt"), text("response"));
    let (ranks, scores) = (Columns(&ranked).uint("rank").unwrap(), Columns(&ranked).float("score").unwrap());
    let mut groups: Vec<&str> = Vec::new();
    for i in 0..ranked.num_rows() {
        let of_prompt = &known[prompts.value(i)];
        let score = of_prompt[answers.value(i)];
        let better: BTreeSet<u32> = of_prompt.values().filter(|s| **s > score).map(|s| *s as u32).collect();
        assert_eq!((ranks.value(i) as usize, scores.value(i)), (better.len(), score), "row {i}");
        if groups.last() != Some(&ids.value(i)) {
            groups.push(ids.value(i));
        }
    }
    assert_eq!(groups.len(), known.len(), "rows of a prompt stand together, under an id of its own");
    let of = |name: &str| Columns(&preferences).messages(name).unwrap();
    let (prompts, chosen, rejected) = (of("prompt"), of("chosen"), of("rejected"));
    let expected: usize = known
        .values()
        .map(|a| a.values().flat_map(|x| a.values().map(move |y| x - y)).filter(|d| *d >= 2.).count())
        .sum();
    assert_eq!(preferences.num_rows(), expected);
    for i in 0..preferences.num_rows() {
        let one = |m: &reflux::data::Messages<'_>| m.row(i).map(|t| t.1.to_owned()).collect::<Vec<_>>().concat();
        let of_prompt = &known[one(&prompts).as_str()];
        assert!(of_prompt[one(&chosen).as_str()] >= of_prompt[one(&rejected).as_str()] + 2., "row {i}");
    }
}

#[test]
fn the_parquet_crates_own_reader_reads_them() {
    let file = std::fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/eft/eft.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let names: Vec<String> = reader.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, named::EFT.columns.iter().map(|c| c.name).collect::<Vec<_>>());
    let rows: usize = reader.build().unwrap().map(|b| b.unwrap().num_rows()).sum();
    assert!(rows >= 120);
}
