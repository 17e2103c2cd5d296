//! How likely answers are to go on with given texts, against transformers and against what sampling records.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use reflux::cancel::CancelFlag;
use reflux::data::RngKey;
use reflux::engine::{AnswerPrefix, ChoiceRequest, Engine, EngineConfig, Message, Request, Sampling, open, scripted};
use reflux::model::Tokenizer;
use reflux::model::families::InferenceModel;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    model: String,
    prompt: String,
    lead: String,
    /// Whether the candidates begin with a blank.
    blank: bool,
    chances: Vec<f64>,
}

fn engine(folder: &str) -> Arc<dyn Engine> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(folder);
    let config = EngineConfig { kv_memory: 64 << 20, ..EngineConfig::default() }.with_threads(Some(1)).unwrap();
    open(&dir, &Device::Cpu, DType::F32, config).unwrap()
}

fn choice(prompt: &str, prefix: AnswerPrefix, candidates: &[String]) -> ChoiceRequest {
    ChoiceRequest { messages: vec![Message::new("user", prompt)], prefix, candidates: candidates.into() }
}

#[test]
fn chances_are_those_of_transformers() {
    let text = include_str!("../goldens/choice/choice.json");
    let goldens: Vec<Golden> = serde_json::from_str(text).unwrap();
    assert!(goldens.len() >= 8);
    for golden in goldens {
        let candidates: Vec<String> = (0..=10).map(|n| format!("{}{n}", if golden.blank { " " } else { "" })).collect();
        let engine = engine(&golden.model);
        let ask = || choice(&golden.prompt, AnswerPrefix::Text(golden.lead.clone()), &candidates);
        // Alone, and among others: to the bit the same.
        let alone = engine.choose(vec![ask()], &CancelFlag::new()).unwrap().remove(0).unwrap();
        let other = choice("Another?", AnswerPrefix::Text("x".into()), &candidates[..3]);
        let among = engine.choose(vec![other.clone(), ask(), other], &CancelFlag::new()).unwrap().remove(1).unwrap();
        assert_eq!(alone, among);
        for (got, want) in std::iter::zip(&alone, &golden.chances) {
            let near = (got - want).abs() <= 1e-4 * want.abs() + 1e-9;
            assert!(near, "{}: {:?} is {alone:?}, transformers has {:?}", golden.model, golden.prompt, golden.chances);
        }
    }
}

#[test]
fn a_choice_within_an_answer_is_what_sampling_recorded() {
    for folder in ["model/smollm2", "families/qwen2"] {
        let engine = engine(folder);
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(folder);
        let tokenizer = match folder {
            "model/smollm2" => Tokenizer::load(&dir).unwrap(),
            _ => InferenceModel::load(&dir, &Device::Cpu, DType::F32).unwrap().tokenizer,
        };
        let sampling = Sampling { max_tokens: 12, ..Sampling::default() };
        let messages = vec![Message::new("user", "Say something.")];
        let request =
            |n| Request { messages: messages.clone(), sampling: sampling.clone(), key: RngKey::new(3, "t", 0, "", n) };
        let (mut asked, mut recorded) = (Vec::new(), Vec::new());
        for answer in engine.generate((0..16).map(request).collect(), &CancelFlag::new()).unwrap() {
            let answer = answer.unwrap();
            for i in 0..answer.tokens.len() {
                let (before, with) = (tokenizer.decode(&answer.tokens[..i]), tokenizer.decode(&answer.tokens[..=i]));
                let Some(own) =
                    with.strip_prefix(before.as_str()).filter(|own| !own.is_empty() && !own.contains('\u{fffd}'))
                else {
                    continue;
                };
                if !answer.text.starts_with(&with) || tokenizer.encode_later(own).unwrap() != answer.tokens[i..=i] {
                    continue;
                }
                let other = if own.starts_with('9') { "8" } else { "9" }.to_owned();
                let prefix = AnswerPrefix::Tokens(answer.tokens.clone(), before.len());
                asked.push(choice("Say something.", prefix, &[own.to_owned(), other]));
                recorded.push(answer.logprobs[i]);
            }
        }
        assert!(asked.len() >= 20, "{folder}: only {} tokens can be asked for", asked.len());
        let chances = engine.choose(asked, &CancelFlag::new()).unwrap();
        for (chance, logprob) in std::iter::zip(chances, recorded) {
            let got = chance.unwrap()[0].ln();
            assert!((got - f64::from(logprob)).abs() < 1e-4, "{folder}: {got} is not {logprob}");
        }
    }
}

#[test]
fn faults_are_answers_of_their_own() {
    let engine = engine("model/smollm2");
    let (one, two) = (["1".to_owned(), "2".to_owned()], ["1".to_owned(), "1".to_owned()]);
    let good = || choice("Grade.", AnswerPrefix::Text("Score: ".into()), &one);
    let long = choice(&"word ".repeat(5000), AnswerPrefix::Text("Score: ".into()), &one);
    let asked = vec![
        good(),
        choice("Grade.", AnswerPrefix::Text("Score: ".into()), &two),
        choice(" ", AnswerPrefix::Text("S".into()), &one),
        long,
        good(),
    ];
    let got = engine.choose(asked, &CancelFlag::new()).unwrap();
    let codes: Vec<&str> = got.iter().map(|c| c.as_ref().map_or_else(|e| e.code, |_| "fine")).collect();
    assert_eq!(codes, ["fine", "template", "empty_prompt", "prompt_too_long", "fine"]);
    assert_eq!(got[0], got[4]);
    let cancel = CancelFlag::new();
    cancel.set();
    assert_eq!(engine.choose(vec![good()], &cancel).unwrap_err().kind(), reflux::error::ErrorKind::Cancelled);
}

#[test]
fn a_script_says_its_chances() {
    let engine = scripted("[[answer]]\nmatch = \"Grade\"\ntext = \"x\"\nchances = { \"1\" = 0.25, \"2\" = 0.5 }\n[[answer]]\ntext = \"y\"\n").unwrap();
    let candidates = ["1".to_owned(), "2".to_owned(), "3".to_owned()];
    let ask = |prompt| choice(prompt, AnswerPrefix::Text("Score: ".into()), &candidates);
    let got = engine.choose(vec![ask("Grade this"), ask("Else")], &CancelFlag::new()).unwrap();
    assert_eq!(got[0].as_ref().unwrap(), &[0.25, 0.5, 0.]);
    assert_eq!(got[1].as_ref().unwrap_err().code, "no_answer");
    assert!(scripted("[[answer]]\ntext = \"x\"\nchances = { \"1\" = 0.9, \"2\" = 0.5 }\n").is_err());
}
