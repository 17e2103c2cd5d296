//! Token ids, chat templates and logits against transformers'. The goldens and the scripts that made them are in
//! tests/goldens/model.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use reflux::cancel::CancelFlag;
use reflux::data::RngKey;
use reflux::engine::{BatchedEngine, Engine, EngineConfig, Request, Sampling};
use reflux::model::ops::{Packed, Segment};
use reflux::model::{Message, Model, Tokenizer};
use serde::Deserialize;

const MODELS: [&str; 4] = ["smollm2", "llama2", "tinyllama", "llama3"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model").join(name)
}

fn golden<T: for<'de> Deserialize<'de>>(path: &str) -> T {
    serde_json::from_str(&std::fs::read_to_string(folder(path)).unwrap()).unwrap()
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    add_generation_prompt: bool,
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Golden {
    texts: Vec<Text>,
    chats: Vec<Chat>,
    ids: Vec<u32>,
    positions: Vec<u32>,
    logits: Vec<Vec<f32>>,
    far_logits: Vec<Vec<f32>>,
}

fn logits(model: &Model, ids: &[u32], positions: &[u32]) -> Tensor {
    let hidden = model.llama.forward(ids, positions, &mut Packed::new(vec![Segment::plain(0..ids.len())])).unwrap();
    model.llama.logits(&hidden).unwrap()
}

fn from_zero(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
}

/// The greatest difference of the last two rows.
fn difference(model: &Model, ids: &[u32], positions: &[u32], want: &[Vec<f32>]) -> f32 {
    let got = logits(model, ids, positions);
    let got = got.narrow(0, ids.len() - 2, 2).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!((got.len(), got[0].len()), (want.len(), want[0].len()));
    got.iter().flatten().zip(want.iter().flatten()).fold(0., |m, (g, w)| m.max((g - w).abs()))
}

fn check_tokens(what: &str, tokenizer: &Tokenizer, texts: &[Text], chats: &[Chat]) {
    for t in texts {
        assert_eq!(tokenizer.encode_text(&t.text).unwrap(), t.ids, "{what}: {:?}", t.text);
        assert_eq!(tokenizer.decode(&t.ids), t.decoded, "{what}: {:?}", t.text);
    }
    for c in chats {
        assert_eq!(tokenizer.render(&c.messages, c.add_generation_prompt).unwrap(), c.text, "{what}");
        assert_eq!(tokenizer.encode_chat(&c.messages, c.add_generation_prompt).unwrap(), c.ids, "{what}: {:?}", c.text);
    }
}

#[test]
fn tiny_models_agree_with_transformers() {
    for name in MODELS {
        let golden: Golden = golden(&format!("{name}/golden.json"));
        let model = Model::load(&folder(name), &Device::Cpu, DType::F32, false).unwrap();
        check_tokens(name, &model.tokenizer, &golden.texts, &golden.chats);
        let near = difference(&model, &golden.ids, &from_zero(golden.ids.len()), &golden.logits);
        let far = difference(&model, &golden.ids, &golden.positions, &golden.far_logits);
        println!("{name}: greatest difference of a logit {near:e}, at the last positions {far:e}");
        assert!(near < 2e-4 && far < 5e-4, "{name}: {near} {far}");
    }
}

#[test]
fn a_gguf_gives_the_same_model() {
    let golden: Golden = golden("llama3/golden.json");
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("tiny.gguf");
    std::fs::copy(folder("llama3").join("model.golden-gguf"), &path).unwrap();
    let gguf = Model::load(&path, &Device::Cpu, DType::F32, false).unwrap();
    let hf = Model::load(&folder("llama3"), &Device::Cpu, DType::F32, false).unwrap();
    check_tokens("gguf", &gguf.tokenizer, &golden.texts, &golden.chats);
    assert_eq!(gguf.hash, hf.hash);
    assert_eq!(gguf.llama.config().rope_scaling, hf.llama.config().rope_scaling);
    assert_eq!(gguf.tokenizer.eos_ids(), hf.tokenizer.eos_ids());
    let far = difference(&gguf, &golden.ids, &golden.positions, &golden.far_logits);
    assert!(far < 5e-4, "{far}");
}

#[test]
fn saving_and_loading_gives_the_same_model() {
    for name in MODELS {
        let golden: Golden = golden(&format!("{name}/golden.json"));
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let model = Model::load(&folder(name), &Device::Cpu, dtype, true).unwrap();
            let temporary = tempfile::tempdir().unwrap();
            let dir = temporary.path().join("saved");
            assert_eq!(model.save(&dir).unwrap(), model.hash);
            let again = Model::load(&dir, &Device::Cpu, dtype, false).unwrap();
            assert_eq!(again.hash, model.hash, "{name}");
            assert_eq!(again.llama.config(), &{
                // What the saved file spells out.
                let mut c = model.llama.config().clone();
                (c.num_key_value_heads, c.head_dim) = (Some(c.kv_heads()), Some(c.head_dim()));
                c
            });
            assert_eq!(again.tokenizer.eos_ids(), model.tokenizer.eos_ids());
            check_tokens(name, &again.tokenizer, &golden.texts, &golden.chats);
        }
    }
}

#[test]
fn copies_are_deep() {
    let model = Model::load(&folder("smollm2"), &Device::Cpu, DType::F32, true).unwrap();
    let frozen = model.frozen().unwrap();
    let v = &model.llama.variables()["model.norm.weight"];
    v.set(&(v.as_tensor() * 2.).unwrap()).unwrap();
    assert_ne!(model.current_hash().unwrap(), model.hash);
    assert_eq!(frozen.current_hash().unwrap(), model.hash);
    assert_eq!(model.trainable().unwrap().hash, model.current_hash().unwrap());
    assert!(frozen.llama.variables().is_empty());
}

#[test]
fn random_weights_depend_on_the_seed_and_the_name_alone() {
    let init = |seed| Model::init(&folder("tinyllama"), 0.02, seed, &Device::Cpu, DType::F32, false).unwrap();
    let (a, b) = (init(1), init(2));
    assert_eq!(a.hash, init(1).hash);
    assert_ne!(a.hash, b.hash);
    // Held fixed, so that a model drawn once can be drawn again by a later version.
    assert_eq!(a.hash[..16], *"827f0a6816d86f7a");
    let w = a.llama.weights()["model.embed_tokens.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let std = (w.iter().map(|x| x * x).sum::<f32>() / w.len() as f32).sqrt();
    assert!((std - 0.02).abs() < 0.001, "{std}");
    assert!(a.llama.weights()["model.norm.weight"].to_vec1::<f32>().unwrap().iter().all(|x| *x == 1.));
}

/// Whatever special tokens the contents spell, the special tokens of the ids are those around a plain word.
fn check_turns(what: &str, tokenizer: &Tokenizer) {
    let chat = |user: &str, assistant: &str| {
        let turns = [("user", user), ("assistant", assistant), ("user", user)];
        let turns: Vec<_> = turns.into_iter().map(|(role, text)| Message::new(role, text)).collect();
        let ids = tokenizer.encode_chat(&turns, true).unwrap();
        ids.into_iter().filter(|id| tokenizer.is_special(*id)).collect::<Vec<_>>()
    };
    let plain = chat("hello", "hello");
    assert!(plain.contains(&tokenizer.end_of_turn().unwrap()), "{what}: {plain:?}");
    let specials: Vec<String> = (0..tokenizer.vocab_size() as u32)
        .filter(|id| tokenizer.is_special(*id))
        .filter_map(|id| tokenizer.token(id))
        .collect();
    assert!(specials.len() >= 3, "{what}: {specials:?}");
    for special in specials.iter().chain([&specials.concat(), &specials.join("\n")]) {
        // Beside text, doubled, cut in two by the other message, and as a whole turn of its own.
        let half = special.len() / 2;
        for text in [
            special.clone(),
            format!("a{special}{special}b"),
            format!("x{special}\n"),
            format!("{special}assistant\nyes"),
        ] {
            assert_eq!(chat(&text, "hello"), plain, "{what}: {text:?}");
            assert_eq!(chat("hello", &text), plain, "{what}: {text:?}");
        }
        if special.is_char_boundary(half) {
            assert_eq!(chat(&special[..half], &special[half..]), plain, "{what}: {special}");
        }
        let ids = tokenizer.encode_text(special).unwrap();
        assert!(
            !ids.iter().any(|id| tokenizer.is_special(*id) && tokenizer.token(*id).as_deref() != Some("<unk>")),
            "{what}: {special}"
        );
    }
    assert!(!tokenizer.eos_ids().is_empty());
}

#[test]
fn text_cannot_close_or_open_a_turn() {
    for name in MODELS {
        check_turns(name, &Model::load(&folder(name), &Device::Cpu, DType::F32, false).unwrap().tokenizer);
    }
    check_turns("sentencepiece", &sentencepiece(|_| ()).tokenizer);
}

/// The small GGUF with a SentencePiece vocabulary, its bytes changed.
fn sentencepiece(change: impl Fn(&mut Vec<u8>)) -> Model {
    let mut bytes = std::fs::read(folder("sentencepiece").join("model.golden-gguf")).unwrap();
    change(&mut bytes);
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("tiny.gguf");
    std::fs::write(&path, bytes).unwrap();
    Model::load(&path, &Device::Cpu, DType::F32, false).unwrap()
}

#[derive(Deserialize)]
struct Piece {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    /// By a model that puts no space before a text.
    bare: Vec<u32>,
    bare_decoded: String,
}

#[derive(Deserialize)]
struct SentencePiece {
    texts: Vec<Piece>,
    chats: Vec<Chat>,
    users: Vec<Text>,
}

#[test]
fn sentencepiece_in_a_gguf_agrees_with_sentencepiece() {
    let golden: SentencePiece = golden("sentencepiece/golden.json");
    assert!(golden.texts.len() > 60);
    let tokenizer = sentencepiece(|_| ()).tokenizer;
    for t in &golden.texts {
        assert_eq!(tokenizer.encode_text(&t.text).unwrap(), t.ids, "{:?}", t.text);
        assert_eq!(tokenizer.decode(&t.ids), t.decoded, "{:?}", t.text);
    }
    check_tokens("sentencepiece", &tokenizer, &[], &golden.chats);
    for t in &golden.users {
        assert_eq!(tokenizer.encode_text(&t.text).unwrap(), t.ids, "{:?}", t.text);
    }
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(1), &[2][..]));

    // The same vocabulary without the space before a text: `add_space_prefix` is a one-byte truth value of type 7.
    let key = b"tokenizer.ggml.add_space_prefix";
    let at = |bytes: &[u8]| bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    let bare = sentencepiece(|bytes| {
        let at = at(bytes);
        assert_eq!(bytes[at], 1);
        bytes[at] = 0;
    });
    for t in &golden.texts {
        assert_eq!(bare.tokenizer.encode_text(&t.text).unwrap(), t.bare, "{:?}", t.text);
        assert_eq!(bare.tokenizer.decode(&t.bare), t.bare_decoded, "{:?}", t.text);
    }
    // A file that does not say which token is the unknown one has it by its type.
    let nameless = sentencepiece(|bytes| {
        let key = b"tokenizer.ggml.unknown_token_id";
        let at = bytes.windows(key.len()).position(|w| w == key).unwrap();
        bytes[at + key.len() - 1] = b'x';
    });
    assert_eq!(nameless.tokenizer.encode_text("<unk>").unwrap(), tokenizer.encode_text("<unk>").unwrap());
}

#[derive(Deserialize)]
struct Prompt {
    question: String,
    ids: Vec<u32>,
    top: Vec<(u32, f32)>,
    last: Vec<f32>,
    middle: Vec<f32>,
    log_sum_exp: Vec<f32>,
    greedy: Vec<u32>,
}

#[derive(Deserialize)]
struct SmolLm2 {
    picks: Vec<u32>,
    texts: Vec<Text>,
    chats: Vec<Chat>,
    prompts: Vec<Prompt>,
}

fn greatest_difference<'a>(got: impl IntoIterator<Item = &'a f32>, want: impl IntoIterator<Item = &'a f32>) -> f32 {
    got.into_iter().zip(want).fold(0., |m, (g, w)| m.max((g - w).abs()))
}

/// SmolLM2-135M-Instruct itself: prompts of varied length and script, logits within 2e-3 of transformers', the same 64
/// greedy tokens, the same ids and text of conversations.
/// REFLUX_SMOLLM2_LOGITS, the second file of make_smollm2.py, adds every logit at every position.
#[test]
#[ignore = "needs REFLUX_SMOLLM2, the path of SmolLM2-135M-Instruct.Q4_1.gguf (pipelines/get-smollm2.sh)"]
fn smollm2_agrees_with_transformers() {
    let path = std::env::var_os("REFLUX_SMOLLM2").expect("REFLUX_SMOLLM2 names the model's file");
    let golden: SmolLm2 = golden("smollm2-135m.json");
    let model = Model::load(path.as_ref(), &Device::Cpu, DType::F32, false).unwrap();
    check_tokens("SmolLM2", &model.tokenizer, &golden.texts, &golden.chats);
    check_turns("SmolLM2", &model.tokenizer);
    // Every logit at every position, where make_smollm2.py was asked to write them.
    let all_logits = std::env::var_os("REFLUX_SMOLLM2_LOGITS")
        .map(|path| candle_core::safetensors::load(path, &Device::Cpu).unwrap());
    let (mut some, mut every) = (0f32, 0f32);
    assert!(golden.prompts.len() >= 20);
    for (index, p) in golden.prompts.iter().enumerate() {
        let ids = model.tokenizer.encode_chat(&[Message::new("user", &*p.question)], true).unwrap();
        assert_eq!(ids, p.ids, "{}", p.question);
        assert_eq!(p.greedy.len(), 64);
        // The whole continuation in one pass: each greedy token must be the greatest of its row.
        let whole: Vec<u32> = ids.iter().chain(&p.greedy).copied().collect();
        let rows = logits(&model, &whole, &from_zero(whole.len())).to_vec2::<f32>().unwrap();
        // The reference was held from ending before 64 tokens.
        let ends = model.tokenizer.eos_ids();
        let best = |row: &Vec<f32>| {
            let rest = row.iter().enumerate().filter(|(i, _)| !ends.contains(&(*i as u32)));
            rest.max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0 as u32
        };
        let best: Vec<u32> = rows.iter().map(best).collect();
        assert_eq!(best[ids.len() - 1..whole.len() - 1], p.greedy, "{}", p.question);

        let rows = &rows[..ids.len()];
        let (last, middle) = (&rows[ids.len() - 1], &rows[ids.len() / 2]);
        let top = greatest_difference(p.top.iter().map(|(id, _)| &last[*id as usize]), p.top.iter().map(|(_, x)| x));
        let picked = |row: &Vec<f32>, want: &Vec<f32>| {
            assert_eq!(want.len(), golden.picks.len());
            greatest_difference(golden.picks.iter().map(|id| &row[*id as usize]), want)
        };
        let log_sum_exp = |row: &Vec<f32>| row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln() as f32;
        let sums: Vec<f32> = rows.iter().map(log_sum_exp).collect();
        assert_eq!(sums.len(), p.log_sum_exp.len());
        let here = [top, picked(last, &p.last), picked(middle, &p.middle), greatest_difference(&sums, &p.log_sum_exp)];
        some = here.into_iter().fold(some, f32::max);
        if let Some(all) = &all_logits {
            let want = all[&index.to_string()].to_vec2::<f32>().unwrap();
            assert_eq!((want.len(), want[0].len()), (rows.len(), rows[0].len()));
            every = every.max(greatest_difference(rows.iter().flatten(), want.iter().flatten()));
        }
    }
    let n: usize = golden.prompts.iter().map(|p| p.ids.len()).sum();
    println!(
        "SmolLM2: greatest difference of a logit of the golden {some:e}; {} prompts, {n} positions",
        golden.prompts.len()
    );
    assert!(some < 2e-3, "{some}");
    if all_logits.is_some() {
        println!("SmolLM2: greatest difference of any logit at any position {every:e}");
        assert!(every < 2e-3, "{every}");
    }
}

/// The engine, with its own layout of the weights and all prompts in one batch, writes transformers' greedy tokens.
#[test]
#[ignore = "needs REFLUX_SMOLLM2, the path of SmolLM2-135M-Instruct.Q4_1.gguf (pipelines/get-smollm2.sh)"]
fn smollm2_in_the_engine_agrees_with_transformers() {
    let path = std::env::var_os("REFLUX_SMOLLM2").expect("REFLUX_SMOLLM2 names the model's file");
    let golden: SmolLm2 = golden("smollm2-135m.json");
    let model = Model::load(path.as_ref(), &Device::Cpu, DType::F32, false).unwrap();
    let engine = BatchedEngine::spawn(model, EngineConfig { kv_memory: 1 << 30, ..EngineConfig::default() }).unwrap();
    let sampling = Sampling { temperature: 0., max_tokens: 64, min_tokens: 64, ..Sampling::default() };
    let request = |p: &Prompt| Request {
        messages: vec![Message::new("user", &*p.question)],
        sampling: sampling.clone(),
        key: RngKey::new(0, "golden", 0, &p.question, 0),
    };
    let answers = engine.generate(golden.prompts.iter().map(request).collect(), &CancelFlag::new()).unwrap();
    for (p, answer) in golden.prompts.iter().zip(answers) {
        let answer = answer.unwrap();
        assert_eq!(*answer.prompt_tokens, *p.ids, "{}", p.question);
        assert_eq!(answer.tokens, p.greedy, "{}", p.question);
    }
}
