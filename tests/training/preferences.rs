//! DPO on somebody else's preferences, which are texts: the same training as on the same pairs with their tokens as sampled.

use std::path::Path;
use std::sync::Arc;

use crate::common::{RunOptions, files, run};
use arrow::array::{BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use candle_core::{DType, Device};
use reflux::data::{Columns, named};
use reflux::error::ErrorKind;
use reflux::model::Model;
use reflux::store::{Run, read_parquet, write_parquet};

/// A model of the small world that answers requests, with pairs of its answers.
const SAMPLED: &str = r#"
[pipeline]
name = "sampled"
seed = 3
microbatch = 16
[model.m0]
path = "pipelines/listworld/m0"
[step.ift]
op = "listworld"
data = "ift"
rows = 200
[step.m1]
op = "sft"
from = "ift"
model = "m0"
batch_tokens = 512
learning_rate = 1e-3
[step.requests]
op = "listworld"
data = "requests"
rows = 40
[step.answers]
op = "generate"
from = "requests"
model = "m1"
samples = 4
sampling = { temperature = 1.0, top_p = 1.0, max_tokens = 12 }
[step.truth]
op = "oracle"
from = "answers"
[step.pairs]
op = "select"
from = "truth"
"#;

/// The training of `model` on the rows of `given`.
fn tuning(model: &Path, given: &Path, more: &str) -> String {
    format!(
        r#"
[pipeline]
name = "tuning"
seed = 8
microbatch = 8
[model.m1]
path = {model:?}
[step.given]
op = "read"
dataset = {given:?}
[step.train]
op = "split"
from = "given"
part = "train"
[step.heldout]
op = "split"
from = "given"
part = "held-out"
[step.tuned]
op = "dpo"
from = "train"
model = "m1"
learning_rate = 1e-3
batch_size = 4
validation = "heldout"
validate_every = 3
{more}
"#
    )
}

/// Pairs whose answers the model ended itself, and the same as preferences.
fn given(dir: &Path) -> (RecordBatch, RecordBatch) {
    run(SAMPLED, &dir.join("sampled"), &RunOptions::default()).0.unwrap();
    let run = Run::open(&dir.join("sampled")).unwrap();
    let pairs = run.read_step("pairs", Some(0)).unwrap().unwrap();
    let model = Model::load(&dir.join("sampled/models/m1"), &Device::Cpu, DType::F32, false).unwrap();
    let columns = Columns(&pairs);
    let (chosen, rejected) = (columns.tokens("chosen_tokens").unwrap(), columns.tokens("rejected_tokens").unwrap());
    let ended = |tokens: &[u32]| tokens.last().is_some_and(|t| model.tokenizer.eos_ids().contains(t));
    let whole: BooleanArray =
        (0..pairs.num_rows()).map(|i| Some(ended(chosen.row(i)) && ended(rejected.row(i)))).collect();
    let pairs = filter_record_batch(&pairs, &whole).unwrap();
    assert!(pairs.num_rows() >= 16, "{} pairs", pairs.num_rows());
    // Someone else's weights: what they recorded is not used.
    let place = pairs.schema().index_of("model").unwrap();
    let mut all = pairs.columns().to_vec();
    all[place] = Arc::new(StringArray::from(vec!["another"; pairs.num_rows()]));
    let pairs = RecordBatch::try_new(pairs.schema(), all).unwrap();
    let texts = named::PREFERENCES.columns.iter().map(|c| pairs.column_by_name(c.name).unwrap().clone()).collect();
    (pairs, named::PREFERENCES.batch(texts).unwrap())
}

#[test]
fn texts_train_as_their_pairs_do() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let (pairs, preferences) = given(dir);
    let model = dir.join("sampled/models/m1");
    let mut outcomes = Vec::new();
    for (name, rows, workers) in
        [("pairs", &pairs, 1), ("preferences", &preferences, 1), ("preferences", &preferences, 2)]
    {
        let file = dir.join(format!("{name}.parquet"));
        write_parquet(&file, rows).unwrap();
        let out = dir.join(format!("{name}-{workers}"));
        run(&tuning(&model, &file, ""), &out, &RunOptions { workers, ..RunOptions::default() }).0.unwrap();
        let mut made = files(&out);
        made.retain(|f, _| {
            ["models/tuned/model.safetensors", "metrics/", "data/tuned.reference/"].iter().any(|p| f.starts_with(p))
        });
        outcomes.push(made);
        // It learnt something, from a loss of ln 2 on.
        let metrics = Run::open(&out).unwrap().metrics();
        let metrics = read_parquet(&out.join(&metrics[0].path)).unwrap();
        let loss = Columns(&metrics).double("loss").unwrap();
        assert!(
            (loss.value(0) - std::f64::consts::LN_2).abs() < 1e-5 && loss.values().iter().any(|l| *l < 0.6),
            "{loss:?}"
        );
        assert!(Columns(&metrics).double("eval_loss").unwrap().iter().flatten().count() >= 2);
        let reference = Run::open(&out).unwrap().read_step("tuned.reference", Some(0)).unwrap().unwrap();
        let source = Columns(&reference).text("source").unwrap();
        assert!(reference.num_rows() >= 8 && source.iter().all(|s| s == Some("computed")));
    }
    assert!(outcomes[0].len() >= 4, "{:?}", outcomes[0].keys());
    assert!(outcomes[0] == outcomes[1], "the same weights, measurements and references, to the byte");
    assert!(outcomes[1] == outcomes[2], "one worker and two");
}

#[test]
fn what_cannot_be_trained_on_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    // A model whose template knows no system turn, as Gemma's.
    let model = dir.join("m0");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir("pipelines/listworld/m0").unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let config = model.join("tokenizer_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let refuses =
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('system turns are not supported') }}{% endif %}";
    let changed = text.replacen("{{ bos_token }}", &format!("{refuses}{{{{ bos_token }}}}"), 1);
    assert_ne!(text, changed);
    std::fs::write(&config, changed).unwrap();

    let row = |id: &str, system: bool, chosen: &str, scores: &str| {
        let system = if system { r#"{"role": "system", "content": "list"}, "# } else { "" };
        format!(
            r#"{{"prompt_id": "p{id}", "prompt": [{system}{{"role": "user", "content": "list two animals"}}], "chosen": [{{"role": "assistant", "content": "{chosen}"}}], "rejected": [{{"role": "assistant", "content": "cat cat"}}], "chosen_id": "c{id}", "rejected_id": "r{id}"{scores}}}"#
        )
    };
    let scored = r#", "chosen_score": 5, "rejected_score": 1"#;
    let given = dir.join("given.jsonl");
    let keys = |loss: &str| {
        tuning(&model, &given, &format!("loss = {loss:?}"))
            .replace("[step.train]\nop = \"split\"\nfrom = \"given\"\npart = \"train\"\n", "")
            .replace("from = \"train\"", "from = \"given\"")
            .replace("validation = \"heldout\"\nvalidate_every = 3\n", "")
    };
    let errors = |dir: &Path| -> Vec<(String, String)> {
        let run = Run::open(dir).unwrap();
        let errors = run.files("tuned")[0].errors.clone().unwrap();
        let rows = read_parquet(&dir.join(errors.path)).unwrap();
        let (row, code) = (Columns(&rows).text("row").unwrap(), Columns(&rows).text("code").unwrap());
        (0..rows.num_rows()).map(|i| (row.value(i).into(), code.value(i).into())).collect()
    };
    let pair = |id: &str, code: &str| (format!("c{id}>r{id}"), code.to_owned());

    // The fourth has the ids of the third and other texts; the fifth is the third again.
    let rows = [row("1", true, "cat dog", scored), row("2", false, "cat dog", ""), row("3", false, "dog cat", scored)];
    let again = [row("3", false, "dog dog", scored), row("3", false, "dog cat", scored)];
    std::fs::write(&given, [&rows[..], &again[..]].concat().join("\n")).unwrap();
    run(&keys("sigmoid"), &dir.join("sigmoid"), &RunOptions::default()).0.unwrap();
    assert_eq!(errors(&dir.join("sigmoid")), [pair("1", "no_template"), pair("3", "id_taken")]);
    // A loss that aims at the difference of scores needs them.
    run(&keys("rpo_sq"), &dir.join("scored"), &RunOptions::default()).0.unwrap();
    // What lacks a column is told before anything is tokenised.
    assert_eq!(errors(&dir.join("scored")), [pair("2", "no_score"), pair("1", "no_template"), pair("3", "id_taken")]);

    // Nothing left is an error that says why.
    std::fs::write(&given, [row("1", true, "cat dog", ""), row("2", true, "dog cat", "")].join("\n")).unwrap();
    let error = run(&keys("sigmoid"), &dir.join("none"), &RunOptions::default()).0.unwrap_err();
    let words = error.to_string();
    assert_eq!(error.kind(), ErrorKind::User, "{words}");
    assert!(
        ["none of the 2 rows of `given`", "c1>r1", "system turns are not supported"].iter().all(|w| words.contains(w)),
        "{words}"
    );
}
