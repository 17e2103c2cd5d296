//! Pairs that carry token ids of another tokenizer than the policy's: refused, or tokenised again; never trained on as they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{RunOptions, run};
use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray};
use reflux::data::{Columns, List, named};
use reflux::model::{Message, Tokenizer};
use reflux::store::{Run, write_parquet};
use reflux::train::Scored;

const ROWS: [(&str, &str, &str); 3] = [
    ("the cat", "sat on the mat.", "and the dog"),
    ("one two", "three", "it's 4444"),
    ("What is it?", "a cat", "a dog"),
];

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model").join(name)
}

fn texts(of: &dyn Fn(usize) -> String) -> ArrayRef {
    Arc::new(StringArray::from_iter_values((0..ROWS.len()).map(of)))
}
fn messages(role: &str, of: &dyn Fn(usize) -> &'static str) -> ArrayRef {
    List::of_messages(&(0..ROWS.len()).map(|i| vec![(role.to_owned(), of(i).to_owned())]).collect::<Vec<_>>())
}
fn numbers(value: f32) -> ArrayRef {
    Arc::new(Float32Array::from(vec![value; ROWS.len()]))
}

/// The columns that `pairs` and `preferences` share.
fn shared() -> Vec<ArrayRef> {
    vec![
        texts(&|i| format!("p{i}")),
        messages("user", &|i| ROWS[i].0),
        messages("assistant", &|i| ROWS[i].1),
        messages("assistant", &|i| ROWS[i].2),
        texts(&|i| format!("c{i}")),
        texts(&|i| format!("r{i}")),
        numbers(4.),
        numbers(1.),
    ]
}

/// The pairs with the token ids of a model, and with the hash of its tokenizer if asked for.
fn pairs(name: &str, hashed: bool) -> RecordBatch {
    let tokenizer = Tokenizer::load(&model(name)).unwrap();
    let encode = |i: usize| {
        let answers = [ROWS[i].1, ROWS[i].2].map(|text| vec![Message::new("assistant", text)]);
        Scored::encode(&tokenizer, &[Message::new("user", ROWS[i].0)], &answers).unwrap()
    };
    let scored: Vec<Scored> = (0..ROWS.len()).map(encode).collect();
    let ids = |of: &dyn Fn(&Scored) -> Vec<u32>| List::of_tokens(&scored.iter().map(of).collect::<Vec<_>>());
    let logprobs =
        |of: &dyn Fn(&Scored) -> usize| List::of_floats(&scored.iter().map(|s| vec![-1.; of(s)]).collect::<Vec<_>>());
    let mut columns = shared();
    columns.extend([
        numbers(3.),
        ids(&|s| s.prompt.clone()),
        ids(&|s| s.completions[0].clone()),
        ids(&|s| s.completions[1].clone()),
        logprobs(&|s| s.completions[0].len()),
        logprobs(&|s| s.completions[1].len()),
        texts(&|_| "somebody".into()),
    ]);
    if hashed {
        columns.push(Arc::new(Float32Array::new_null(ROWS.len())));
        columns.push(texts(&|_| tokenizer.hash().to_owned()));
    }
    let batch = named::PAIRS.batch(columns).unwrap();
    // What an earlier version wrote has neither column.
    if hashed { batch } else { batch.project(&(0..15).collect::<Vec<_>>()).unwrap() }
}

/// Log-probabilities of the reference in a training of a model on the rows of a file: its weights before the first step.
fn train(dir: &Path, name: &str, rows: &RecordBatch, keys: &str) -> Result<Vec<Vec<f32>>, String> {
    let (given, place) = (dir.join("given.parquet"), dir.join("run"));
    let _ = std::fs::remove_dir_all(&place);
    let _ = std::fs::remove_file(&given);
    write_parquet(&given, rows).unwrap();
    let text = format!(
        "[pipeline]\nname = \"given\"\n[model.m]\npath = {:?}\n[step.given]\nop = \"read\"\ndataset = {given:?}\n\
         [step.tuned]\nop = \"dpo\"\nfrom = \"given\"\nmodel = \"m\"\n{keys}\n",
        model(name)
    );
    if let Err(e) = run(&text, &place, &RunOptions::default()).0 {
        return Err(format!("{e} | {}", e.help_text().unwrap_or_default()));
    }
    let run = Run::open(&place).unwrap();
    let reference = run.read_step("tuned.reference", Some(0)).unwrap().unwrap();
    let columns = Columns(&reference);
    let (chosen, rejected) = (columns.floats("chosen_logprobs").unwrap(), columns.floats("rejected_logprobs").unwrap());
    Ok((0..reference.num_rows()).flat_map(|i| [chosen.row(i).to_vec(), rejected.row(i).to_vec()]).collect())
}

#[test]
fn ids_of_another_tokenizer_are_refused_or_the_texts_are_tokenised_again() {
    let dir = tempfile::tempdir().unwrap();
    let preferences = named::PREFERENCES.batch(shared()).unwrap();
    for policy in ["tinyllama", "smollm2"] {
        let own = train(dir.path(), policy, &preferences, "").unwrap();
        assert_eq!(own.len(), 2 * ROWS.len());
        // Their own ids are used as they are, whether a hash says so or the texts do.
        for hashed in [true, false] {
            assert_eq!(train(dir.path(), policy, &pairs(policy, hashed), "").unwrap(), own, "{policy} {hashed}");
        }
        // llama2 has tinyllama's vocabulary, and other ids for the same texts: only the hash tells.
        for (other, hashed) in
            [("tinyllama", true), ("smollm2", true), ("llama2", true), ("smollm2", false), ("tinyllama", false)]
        {
            if other == policy {
                continue;
            }
            let rows = pairs(other, hashed);
            let error = train(dir.path(), policy, &rows, "").unwrap_err();
            for word in ["`given`", "pair c0>r0", "other_tokenizer = \"encode\""] {
                assert!(error.contains(word), "{word} is not in: {error}");
            }
            let encoded = train(dir.path(), policy, &rows, "other_tokenizer = \"encode\"").unwrap();
            assert_eq!(encoded, own, "{other} into {policy}, {hashed}");
        }
    }
}

#[test]
fn answers_without_token_ids_are_tokenised() {
    let dir = tempfile::tempdir().unwrap();
    let own = train(dir.path(), "smollm2", &named::PREFERENCES.batch(shared()).unwrap(), "").unwrap();
    let rows = pairs("smollm2", true);
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| -> ArrayRef {
        match field.name().as_str() {
            name if name.ends_with("_tokens") => List::of_tokens(&vec![Vec::new(); ROWS.len()]),
            name if name.ends_with("_logprobs") => List::of_floats(&vec![Vec::new(); ROWS.len()]),
            "tokenizer" => Arc::new(StringArray::new_null(ROWS.len())),
            _ => Arc::clone(column),
        }
    });
    let rows = RecordBatch::try_new(rows.schema(), columns.collect::<Vec<_>>()).unwrap();
    assert_eq!(train(dir.path(), "smollm2", &rows, "").unwrap(), own);
}

#[test]
fn a_reference_with_another_vocabulary_of_the_same_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // The same vocabulary with two of its words exchanged.
    let twisted = dir.path().join("twisted");
    std::fs::create_dir(&twisted).unwrap();
    for file in std::fs::read_dir(model("tinyllama")).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, twisted.join(path.file_name().unwrap())).unwrap();
    }
    let path = twisted.join("tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let (a, b) = (vocab["a"].clone(), vocab["b"].clone());
    vocab.insert("a".into(), b);
    vocab.insert("b".into(), a);
    std::fs::write(&path, json.to_string()).unwrap();
    let keys = |path: &Path| format!("reference = {path:?}\n");
    let rows = pairs("tinyllama", true);
    let error = train(dir.path(), "tinyllama", &rows, &keys(&twisted)).unwrap_err();
    assert!(error.contains("another vocabulary"), "{error}");
    assert!(train(dir.path(), "tinyllama", &rows, &keys(&model("tinyllama"))).is_ok());
}
