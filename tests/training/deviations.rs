//! Where reflux deviates from TRL, transformers, scipy or rouge-score on purpose: what they give, what reflux gives, and
//! that the two differ. `docs/deviations.md` has the reasons; the goldens are made by `goldens/deviations/make.py`.

use std::path::Path;

use crate::support::{against, policy};
use candle_core::{DType, Device};
use reflux::eval::bootstrap::{Bootstrap, ClusterSum};
use reflux::eval::reward::{RankedAnswer, rank_kendall, rank_spearman};
use reflux::eval::rouge::{NearCopies, rouge_l, words};
use reflux::model::backprop::{self, ForwardOptions, Gradient, Gradients, PackedRows, Pool};
use reflux::model::ops::Segment;
use reflux::model::{Message, Model, Tokenizer};
use reflux::train::{DpoConfig, Objective, Quiet, Scored, dpo};
use serde_json::{Value, json};

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/deviations/golden.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The tokens of the goldens' question, and of an answer to it. The tokenizer is the goldens' one: its last merge is one of
/// two newlines, as real vocabularies have it.
fn encoded(answer: &str) -> (Tokenizer, Scored) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model/smollm2");
    let merging = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, merging.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = merging.path().join("tokenizer.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let last = file["model"]["merges"].as_array_mut().unwrap().last_mut().unwrap();
    let parts: Vec<String> = serde_json::from_value(std::mem::replace(last, json!(["\u{10a}", "\u{10a}"]))).unwrap();
    let vocabulary = file["model"]["vocab"].as_object_mut().unwrap();
    let id = vocabulary.remove(&parts.concat()).unwrap();
    vocabulary.insert("\u{10a}\u{10a}".into(), id);
    std::fs::write(&path, file.to_string()).unwrap();
    let model = Model::load(merging.path(), &Device::Cpu, DType::F32, false).unwrap();
    let question = golden()["answers"]["prompt"].as_str().unwrap().to_owned();
    let completion = vec![Message::new("assistant", answer)];
    let scored = Scored::encode(&model.tokenizer, &[Message::new("user", question)], &[completion]).unwrap();
    (model.tokenizer, scored)
}

/// transformers encodes the conversation as one text, so white space at the start of an answer may merge with the newline
/// before it, and the tokens of the prompt change. Here an answer follows the very tokens that it is sampled after.
#[test]
fn white_space_at_the_start_of_an_answer_is_encoded_apart_from_the_prompt() {
    let golden = &golden()["answers"];
    let answer = golden["white_space"]["answer"].as_str().unwrap();
    let (tokenizer, scored) = encoded(answer);
    let whole = ids(&golden["white_space"]["whole"]);
    assert_eq!(scored.prompt, ids(&golden["head"]), "the prompt is what sampling has");
    assert!(!whole.starts_with(&scored.prompt), "transformers' prompt is another when this answer follows");
    assert_eq!(tokenizer.decode(&scored.completions[0]), answer, "nothing is lost");
    // Where nothing merges, the ids are those of the whole conversation, white space or not.
    let question = golden["prompt"].as_str().unwrap();
    for plain in ["Eight.", " Eight.", "\tEight."] {
        let (tokenizer, scored) = encoded(plain);
        let turns = [Message::new("user", question), Message::new("assistant", plain)];
        let whole = tokenizer.encode_chat(&turns, false).unwrap();
        let ours = [&scored.prompt[..], &scored.completions[0]].concat();
        assert!(whole.starts_with(&ours) && ours.len() + 1 >= whole.len(), "{plain:?}: {ours:?} {whole:?}");
    }
}

/// transformers reads a special token out of a text that spells it, so an answer can end its own turn. Here it is letters.
#[test]
fn text_that_spells_a_special_token_is_letters() {
    let golden = &golden()["answers"];
    let (answer, end) = (golden["special"]["answer"].as_str().unwrap(), golden["end"].as_u64().unwrap() as u32);
    let (tokenizer, scored) = encoded(answer);
    let count = |tokens: &[u32]| tokens.iter().filter(|t| **t == end).count();
    let theirs = &ids(&golden["special"]["whole"])[scored.prompt.len()..];
    assert_eq!(count(theirs), 2, "transformers ends the turn within the answer, and after it");
    assert_eq!(count(&scored.completions[0]), 1, "only the template ends the turn");
    assert_eq!(tokenizer.decode(&scored.completions[0]), answer);
}

/// transformers gives the padding token's embedding no gradient, even where the token stands in the text. Nothing is
/// padded here, so it is a token like any other.
#[test]
fn the_padding_token_is_trained_where_it_stands_in_the_text() {
    let golden = &golden()["pad"];
    let tokens: Vec<u32> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let llama = policy("start");
    let n = tokens.len() - 1;
    let rows = PackedRows {
        ids: tokens[..n].to_vec(),
        positions: (0..n as u32).collect(),
        segments: vec![Segment::plain(0..n)],
        from: (0..n as u32).collect(),
        targets: tokens[1..].to_vec(),
        keys: Vec::new(),
    };
    let (mut pool, mut gradients) = (Pool::default(), Gradients::default());
    let recorded = backprop::record(&llama, &rows, ForwardOptions::default(), &mut pool).unwrap();
    recorded.backward(&vec![-1. / n as f32; n], &mut gradients, &mut pool).unwrap();
    let all = match gradients.get("model.embed_tokens.weight").unwrap() {
        Gradient::Numbers(numbers) => numbers.clone(),
        Gradient::Tensor(t) => t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap(),
    };
    let width = llama.config().hidden_size;
    let ours = &all[2 * width..3 * width];
    let theirs = |key: &str| -> Vec<f32> { serde_json::from_value(golden[key].clone()).unwrap() };
    assert!(theirs("padding_idx").iter().all(|x| *x == 0.));
    for (ours, torchs) in ours.iter().zip(theirs("none")) {
        assert!((ours - torchs).abs() < 1e-4 * torchs.abs().max(1.), "{ours}, torch without padding_idx {torchs}");
    }
}

/// TRL averages the batches of an accumulated step, so a pair of a short batch counts more. Here every pair of the step
/// counts the same, and for `nll_weight` every token.
#[test]
fn an_accumulated_step_is_the_mean_over_its_pairs_and_tokens() {
    let golden = &golden()["accumulation"];
    let config = DpoConfig {
        objective: Objective { nll_weight: 0.5, ..Objective::default() },
        batch_size: 2,
        accumulation: 2,
        shuffle: false,
        ..DpoConfig::default()
    };
    let trained = dpo(&policy("start"), &against("reference")[..3], &[], &config, &mut Quiet).unwrap();
    let [step] = &trained.metrics[..] else { panic!("{} steps", trained.metrics.len()) };
    let of = |what: &str, over: &str| golden[what][over].as_f64().unwrap();
    let nll = step.nll_loss.unwrap();
    let preference = step.loss - 0.5 * nll;
    assert!((preference - of("loss", "pairs")).abs() < 1e-4, "the loss is {preference}");
    assert!((nll - of("nll", "tokens")).abs() < 1e-4, "the NLL is {nll}");
    assert!((of("loss", "batches") - of("loss", "pairs")).abs() > 1e-3, "TRL's mean is another");
    assert!((of("nll", "batches") - of("nll", "tokens")).abs() > 1e-3, "TRL's mean is another");
}

/// scipy's correlations are NaN where a judge gives all answers one score. Such a prompt counts 0: the judge told no order.
#[test]
fn a_judge_that_tells_no_order_has_no_correlation() {
    let golden = &golden()["constant"];
    assert!(golden["kendall"].is_null() && golden["spearman"].is_null(), "scipy says NaN");
    let judged = |scores: [f64; 4]| -> Vec<RankedAnswer> {
        let with_rank = scores.iter().enumerate();
        with_rank.map(|(i, score)| RankedAnswer { rank: i as f64 + 1., score: Some(*score) }).collect()
    };
    let prompts = [judged([4., 3., 2., 1.]), judged([3., 3., 3., 3.])];
    let few = Bootstrap { resamples: 10, ..Bootstrap::default() };
    type OfPrompt = fn(&[RankedAnswer]) -> ClusterSum;
    let figures: [(&str, OfPrompt); 2] = [("spearman", rank_spearman), ("kendall", rank_kendall)];
    for (name, of) in figures {
        let figure = few.ratio(&prompts.iter().map(|answers| of(answers)).collect::<Vec<_>>()).unwrap();
        assert!((figure.value - 0.5).abs() < 1e-12 && figure.n == 2, "{name}: {figure:?}, the mean of 1 and 0");
    }
}

/// rouge-score computes the F-measure from precision and recall, and gives 0.7000000000000001 or 0.7 for the same share of
/// common words, by how they lie in the two texts. Here it is one division, and 0.7 is not above 0.7.
#[test]
fn rouge_l_at_the_threshold_is_not_above_it() {
    let golden = &golden()["rouge"];
    let above = golden["above"].as_array().unwrap();
    assert!(above.len() >= 8);
    for case in above {
        let of = |key: &str| case[key].as_u64().unwrap();
        assert!(case["f"].as_f64().unwrap() > 0.7, "rouge-score calls them near copies");
        let text = |own: &str, n: u64| -> String {
            let common = (0..of("lcs")).map(|i| format!("word{i}"));
            common.chain((of("lcs")..n).map(|i| format!("{own}{i}"))).collect::<Vec<_>>().join(" ")
        };
        let (a, b) = (text("first", of("a")), text("second", of("b")));
        assert_eq!(rouge_l(&words(&a), &words(&b)), 0.7);
        let mut copies = NearCopies::new(0.7);
        copies.insert(&a);
        assert_eq!(copies.first(&b), None, "{case}");
        // One common word more is above.
        assert!(copies.first(&format!("{b} first{}", of("lcs"))).is_some() || of("a") == of("lcs"), "{case}");
    }
}
