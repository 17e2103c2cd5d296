//! Log-probabilities of given tokens, and lists of the likeliest ones.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use reflux::cancel::CancelFlag;
use reflux::data::RngKey;
use reflux::engine::{
    Codec, EncodedRequest, EngineConfig, Finish, Sampling, ScoreRequest, TokenEngine, TokenScores, open_tokens,
};
use reflux::model::{Model, Tokenizer};
use reflux::train::{ForwardLimits, Scored};
use serde_json::{Value, json};

use crate::client::{MODEL, Server, engine};

const PROMPT: [u32; 8] = [148, 16, 37, 43, 32, 51, 52, 53];

fn f32s(list: &Value) -> Vec<Option<f32>> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().map(|x| x as f32)).collect()
}

#[test]
fn an_echoed_prompt_has_the_log_probabilities_of_training() {
    let server = Server::small();
    let body = json!({ "prompt": PROMPT, "max_tokens": 0, "echo": true, "logprobs": 1 });
    let choice = server.answer("/v1/completions", &body)["choices"][0].clone();
    assert_eq!(choice["text"], json!("<bos> name three animals : ape bear cat"));
    let logprobs = f32s(&choice["logprobs"]["token_logprobs"]);
    assert!(logprobs[0].is_none() && logprobs.len() == 8);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL);
    let model = Model::load(&path, &Device::Cpu, DType::F32, false).unwrap();
    for at in 1..8 {
        let scored = Scored { prompt: PROMPT[..at].to_vec(), completions: vec![vec![PROMPT[at]]] };
        let wanted = reflux::train::logprobs(&model.llama, &[scored], ForwardLimits::default()).unwrap()[0][0];
        assert!((f64::from(logprobs[at].unwrap()) - wanted).abs() < 1e-5, "{at}: {logprobs:?}, not {wanted}");
    }
    let (tokens, top) = (&choice["logprobs"]["tokens"], &choice["logprobs"]["top_logprobs"]);
    for at in 1..8 {
        let listed = top[at].as_object().unwrap();
        // The likeliest token, and the token itself.
        assert!((1..=2).contains(&listed.len()), "{top}");
        assert_eq!(listed[tokens[at].as_str().unwrap()], choice["logprobs"]["token_logprobs"][at]);
        assert!(listed.values().all(|x| x.as_f64() <= listed.values().next().unwrap().as_f64()));
    }
    // A drawn token comes behind the prompt, as lm-evaluation-harness expects.
    let one = json!({ "prompt": PROMPT, "max_tokens": 1, "echo": true, "logprobs": 1, "temperature": 0 });
    let one = server.answer("/v1/completions", &one)["choices"][0]["logprobs"].clone();
    assert_eq!(f32s(&one["token_logprobs"])[..8], logprobs[..]);
    let last = one["token_logprobs"][8].as_f64().unwrap();
    assert_eq!(one["top_logprobs"][8].as_object().unwrap().values().next().unwrap().as_f64(), Some(last));
    // A prompt may fill the context if nothing is drawn.
    let full = json!({ "prompt": vec![16; 256], "max_tokens": 0, "echo": true, "logprobs": 0 });
    assert_eq!(f32s(&server.answer("/v1/completions", &full)["choices"][0]["logprobs"]["token_logprobs"]).len(), 256);
}

#[test]
fn scores_of_an_answer_are_those_of_its_draws() {
    let server = Server::small();
    let body = json!({
        "prompt": PROMPT[..5], "max_tokens": 8, "n": 3, "seed": 3, "logprobs": 4, "return_token_ids": true,
        "return_tokens_as_token_ids": true,
    });
    for choice in server.answer("/v1/completions", &body)["choices"].as_array().unwrap() {
        let drawn = f32s(&choice["logprobs"]["token_logprobs"]);
        let ids: Vec<u32> = serde_json::from_value(choice["token_ids"].clone()).unwrap();
        let whole: Vec<u32> = PROMPT[..5].iter().chain(&ids).copied().collect();
        let echo = json!({ "prompt": whole, "max_tokens": 0, "echo": true, "logprobs": 4,
            "return_tokens_as_token_ids": true });
        let echoed = server.answer("/v1/completions", &echo)["choices"][0]["logprobs"].clone();
        assert_eq!(f32s(&echoed["token_logprobs"])[5..], drawn[..]);
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(echoed["top_logprobs"][5 + at], choice["logprobs"]["top_logprobs"][at]);
            let listed = choice["logprobs"]["top_logprobs"][at].as_object().unwrap();
            assert!((4..=5).contains(&listed.len()));
            assert_eq!(listed[&format!("token_id:{id}")].as_f64().map(|x| x as f32), drawn[at]);
        }
    }
}

#[test]
fn given_ids_are_scored_at_the_first_position() {
    let server = Server::small();
    let ids = [51, 52, 53, 149];
    let body = |max_tokens: u32| {
        json!({ "prompt": [PROMPT[..5].to_vec(), PROMPT[..3].to_vec()], "max_tokens": max_tokens,
            "logprob_token_ids": ids, "logprobs": 0, "temperature": 0 })
    };
    let drawn = server.answer("/v1/completions", &body(1));
    let none = server.answer("/v1/completions", &body(0));
    for (choice, prompt) in drawn["choices"].as_array().unwrap().iter().zip([&PROMPT[..5], &PROMPT[..3]]) {
        let listed = choice["logprobs"]["top_logprobs"][0].as_object().unwrap();
        for (at, id) in ids.iter().enumerate() {
            let whole: Vec<u32> = prompt.iter().chain([id]).copied().collect();
            let echo = json!({ "prompt": whole, "max_tokens": 0, "echo": true, "logprobs": 0 });
            let echoed = server.answer("/v1/completions", &echo)["choices"][0]["logprobs"].clone();
            let wanted = &echoed["token_logprobs"][prompt.len()];
            assert_eq!(&choice["logprob_token_ids"][at], wanted);
            assert_eq!(&listed[echoed["tokens"][prompt.len()].as_str().unwrap()], wanted);
        }
    }
    for (drawn, none) in drawn["choices"].as_array().unwrap().iter().zip(none["choices"].as_array().unwrap()) {
        assert_eq!(drawn["logprob_token_ids"], none["logprob_token_ids"]);
        assert_eq!(none["text"], json!(""));
    }
}

/// Known beginnings, other calls and the order of calls do not change scores.
#[test]
fn scores_do_not_depend_on_the_cache() {
    let long: Vec<u32> = (0..200).map(|i| 16 + i * 7 % 100).collect();
    let row = |row: usize, len: usize, from: usize| ScoreRequest { row, tokens: long[..len].into(), from, top: 3 };
    let fresh = |len: usize, from: usize| -> TokenScores {
        engine().score(vec![row(0, len, from)], &CancelFlag::new()).unwrap().remove(0).1.unwrap()
    };
    let whole = fresh(200, 1);
    assert_eq!((whole.logprobs.len(), whole.top.len()), (199, 199));
    let engine = engine();
    let shapes = [(200, 1), (200, 1), (77, 1), (200, 150), (33, 32), (2, 1), (200, 199)];
    let rows = shapes.iter().enumerate().map(|(i, &(len, from))| row(i, len, from)).collect();
    let together = engine.score(rows, &CancelFlag::new()).unwrap();
    let again: Vec<_> = shapes
        .iter()
        .map(|&(len, from)| engine.score(vec![row(0, len, from)], &CancelFlag::new()).unwrap().remove(0).1.unwrap())
        .collect();
    for (i, scores) in together {
        let (len, from) = shapes[i];
        let scores = scores.unwrap();
        assert_eq!(scores.logprobs, whole.logprobs[from - 1..len - 1], "{len} from {from}");
        assert_eq!(scores.top, whole.top[from - 1..len - 1]);
        assert_eq!(again[i], scores);
    }
    // Nothing precedes a single token, and an unknown one is an error of its row.
    let alone = ScoreRequest { row: 0, tokens: Arc::from([16]), from: 1, top: 1 };
    assert!(engine.score(vec![alone], &CancelFlag::new()).unwrap()[0].1.as_ref().unwrap().logprobs.is_empty());
    let unknown = ScoreRequest { row: 0, tokens: Arc::from([16, 150]), from: 1, top: 1 };
    assert!(engine.score(vec![unknown], &CancelFlag::new()).unwrap()[0].1.is_err());
    assert!(engine.score(Vec::new(), &CancelFlag::new()).unwrap().is_empty());
}

/// Every engine scores an answer as it drew it, whatever comes before.
#[test]
fn engines_of_all_families_score_what_they_drew() {
    for folder in ["model/smollm2", "families/qwen2", "families/qwen3", "families/gemma3"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(folder);
        let config = EngineConfig { kv_memory: 64 << 20, ..EngineConfig::default() };
        let engine: Arc<dyn TokenEngine> = open_tokens(&dir, &Device::Cpu, DType::F32, config).unwrap();
        let prompt: Arc<[u32]> = engine.codec().encode_prompt("Say something.", true).unwrap().into();
        let sampling = Arc::new(Sampling { max_tokens: 6, ..Sampling::default() });
        let key = RngKey::new(1, "scores", 0, "", 0);
        let row = EncodedRequest { row: 0, prompt: prompt.clone(), sampling, key, wanted: None };
        let drawn = engine.run(vec![row], &CancelFlag::new()).unwrap().remove(0).1.unwrap();
        assert!(drawn.finish == Finish::Length || !drawn.tokens.is_empty());
        let tokens: Arc<[u32]> = prompt.iter().chain(&drawn.tokens).copied().collect::<Vec<u32>>().into();
        let score = |from: usize| {
            let row = ScoreRequest { row: 0, tokens: tokens.clone(), from, top: 2 };
            engine.score(vec![row], &CancelFlag::new()).unwrap().remove(0).1.unwrap()
        };
        let (own, all) = (score(prompt.len()), score(1));
        assert_eq!(all.logprobs.len(), tokens.len() - 1, "{folder}");
        for (at, drawn) in drawn.logprobs.iter().enumerate() {
            for scored in [own.logprobs[at], all.logprobs[prompt.len() - 1 + at]] {
                assert!((scored - drawn).abs() < 1e-4, "{folder}, token {at}: {scored}, drawn with {drawn}");
            }
            let top = &own.top[at];
            assert!(top.len() == 2 && top[0].1 >= top[1].1 && top[0].1 >= own.logprobs[at]);
        }
    }
}

/// What transformers puts before a text, and the text of a token within others.
#[test]
fn prompts_have_their_marks_and_tokens_their_blanks() {
    let load = |folder: &str| {
        Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model").join(folder)).unwrap()
    };
    let smol = load("smollm2");
    assert_eq!(smol.encode_prompt("a b", true).unwrap(), smol.encode_prompt("a b", false).unwrap());
    let plain = smol.encode_prompt("the end<|im_end|>", false).unwrap();
    assert!(plain.iter().all(|&id| !smol.is_special(id)));
    for tokenizer in [smol, load("tinyllama"), load("llama3")] {
        let ids = tokenizer.encode_prompt("the end of the day", false).unwrap();
        let pieces: Vec<String> = ids.iter().map(|&id| tokenizer.piece(id)).collect();
        assert_eq!(pieces.concat().trim_start(), "the end of the day", "{pieces:?}");
    }
    // A GGUF file says by a flag whether texts begin with a mark.
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model/tinyllama");
    for name in ["tokenizer.json", "chat_template.jinja", "config.json", "generation_config.json"] {
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    }
    let text = std::fs::read_to_string(from.join("tokenizer_config.json")).unwrap();
    for (flag, begins) in [(json!(true), true), (json!(false), false), (Value::Null, false)] {
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["add_bos_token"] = flag;
        std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let ids = tokenizer.encode_prompt("a b", true).unwrap();
        assert_eq!(ids.first() == tokenizer.bos_id().as_ref(), begins, "{ids:?}");
    }
}
