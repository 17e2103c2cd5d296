//! The engine through its public interface: random tiny models, random schedules, faults, cancelling, the script.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use reflux::cancel::CancelFlag;
use reflux::data::RngKey;
use reflux::engine::{
    Answer, BatchedEngine, Codec, Completion, Engine, EngineConfig, Finish, Message, Request, Sampling,
};
use reflux::error::{Error, ErrorKind, Result};
use reflux::model::{self, Llama};

const EOS: u32 = 3;
const VOCAB: usize = 128;

/// Bytes of ASCII as tokens, with a token that decoding panics on.
#[derive(Default)]
struct Bytes {
    fatal: Option<u32>,
}
impl Codec for Bytes {
    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let text: String = messages.iter().map(|m| format!("\x01{}\x02", m.content)).collect();
        if text.contains("refuse") {
            Err(Error::user("the template refused"))
        } else {
            Ok(text.bytes().map(u32::from).collect())
        }
    }
    fn encode_more(&self, text: &str) -> Result<Vec<u32>> {
        Ok(text.bytes().map(u32::from).collect())
    }
    fn decode(&self, tokens: &[u32]) -> String {
        assert!(self.fatal.is_none_or(|t| !tokens.contains(&t)), "a decoder that panics");
        tokens.iter().map(|&t| char::from(t as u8)).collect()
    }
    fn eos_ids(&self) -> &[u32] {
        &[EOS]
    }
}

fn config(positions: usize) -> model::Config {
    model::Config {
        vocab_size: VOCAB,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        head_dim: None,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.,
        rope_scaling: None,
        max_position_embeddings: positions,
        tie_word_embeddings: true,
        bos_token_id: None,
        eos_token_id: None,
    }
}

/// Weights from a fixed recipe. `favoured`'s logit is so large that it wins every draw or none, by the state's sign.
fn plain(positions: usize, favoured: Option<u32>) -> Llama {
    of_type(positions, favoured, DType::F32)
}

fn of_type(positions: usize, favoured: Option<u32>, dtype: DType) -> Llama {
    let config = config(positions);
    let mut state = 1u64;
    let weights: BTreeMap<String, Tensor> = config
        .weights()
        .into_iter()
        .map(|(name, shape)| {
            let n = shape.iter().product();
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.5
            };
            let mut w: Vec<f32> = (0..n).map(|_| if name.contains("norm") { 1. + next() } else { next() }).collect();
            if let Some(id) = favoured.filter(|_| name.contains("embed")) {
                w[id as usize * 64..][..64].fill(40.);
            }
            (name, Tensor::from_vec(w, shape, &device()).unwrap().to_dtype(dtype).unwrap())
        })
        .collect();
    Llama::frozen(&config, &weights).unwrap()
}

/// The same, laid out as the engine runs it.
fn llama(positions: usize, favoured: Option<u32>) -> Arc<Llama> {
    Arc::new(plain(positions, favoured).for_inference().unwrap())
}

fn engine(llama: &Arc<Llama>, config: &EngineConfig) -> BatchedEngine {
    BatchedEngine::with_codec(llama.clone(), Arc::<Bytes>::default(), "test".into(), config).unwrap()
}

fn small() -> EngineConfig {
    EngineConfig { max_rows: 64, prefill_chunk: 64, kv_memory: 1 << 20, date: None, pool: None }
        .with_threads(Some(1))
        .unwrap()
}

fn request(text: &str, key: u32, sampling: Sampling) -> Request {
    Request { messages: vec![Message::new("user", text)], sampling, key: RngKey::new(1, "t", 0, "", key) }
}

fn ask(engine: &BatchedEngine, requests: Vec<Request>) -> Vec<Answer> {
    engine.generate(requests, &CancelFlag::new()).unwrap()
}

/// Where the tests run: REFLUX_TEST_DEVICE, or the CPU.
fn device() -> Device {
    model::device(&std::env::var("REFLUX_TEST_DEVICE").unwrap_or_else(|_| "cpu".into())).unwrap()
}

/// On the CPU two answers to one request are bit-identical. On an accelerator the order of additions depends on the batch:
/// there they agree up to where a draw fell between two tokens.
fn same(a: &Completion, b: &Completion) -> bool {
    let bits = |c: &Completion| c.logprobs.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
    if device().is_cpu() {
        return bits(a) == bits(b) && a == b;
    }
    let common = a.tokens.iter().zip(&b.tokens).take_while(|(x, y)| x == y).count();
    a.prompt_tokens == b.prompt_tokens
        && a.logprobs.iter().zip(&b.logprobs).take(common).all(|(x, y)| (x - y).abs() < 1e-2)
}

/// Prompts that share heads of varied length, or nothing.
fn prompt() -> impl Strategy<Value = String> {
    (0usize..4, 0usize..80, "[a-y ]{1,40}").prop_map(|(head, len, tail)| {
        let head = [
            "",
            "You are a careful judge of answers; here is the rubric that you go by, point by point. ",
            "abc",
            "zz",
        ][head]
            .replace('z', "y");
        format!(
            "{}{}",
            head.repeat(2).chars().take(len).collect::<String>(),
            tail.trim_start_matches(' ').to_owned() + "x"
        )
    })
}

fn sampling() -> impl Strategy<Value = Sampling> {
    (0usize..4, 0usize..3, 0usize..3, 1usize..40, 0usize..4).prop_map(|(t, p, k, max_tokens, other)| Sampling {
        temperature: [0., 0.7, 1., 1.5][t],
        top_p: [1., 0.9, 0.5][p],
        top_k: [0, 20, 3][k],
        min_p: if other == 1 { 0.05 } else { 0. },
        repetition_penalty: if other == 2 { 1.3 } else { 1. },
        max_tokens,
        min_tokens: max_tokens / 2,
        stop: if other == 3 { vec!["a".into(), "he".into()] } else { Vec::new() },
        stop_ids: if p == 1 { vec![u32::from(b'q'), 1_000_000] } else { Vec::new() },
        constraint: None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Batch invariance: tokens, log-probabilities and text are bit-identical whatever the schedule.
    #[test]
    fn an_answer_does_not_depend_on_batch_mates_chunks_cache_or_threads(
        prompts in prop::collection::vec((prompt(), sampling(), 1usize..4), 1..14),
        max_rows in 1usize..90,
        prefill_chunk in 1usize..70,
        blocks in 14u64..120,
        threads in 1usize..3,
        callers in 1usize..4,
        laid_out in any::<bool>(),
    ) {
        let llama = if laid_out { llama(256, None) } else { Arc::new(plain(256, None)) };
        let requests: Vec<Request> = prompts
            .iter()
            .flat_map(|(text, s, n)| (0..*n).map(move |i| (text, s, i)))
            .enumerate()
            .map(|(key, (text, s, _))| request(text, key as u32, s.clone()))
            .collect();
        // Alone: a new engine for each, nothing cached, nobody beside it.
        let alone: Vec<Answer> =
            requests.iter().map(|r| ask(&engine(&llama, &small()), vec![r.clone()]).remove(0)).collect();
        // 2 layers x 2 kv heads x 16 x 16 positions x keys and values x 4 bytes.
        let kv_memory = blocks * 2 * 2 * 2 * 16 * 16 * 4;
        let together = engine(&llama, &EngineConfig { max_rows, prefill_chunk, kv_memory, date: None, pool: None }.with_threads(Some(threads)).unwrap());
        for round in 0..2 {
            let answers: Vec<(usize, Answer)> = std::thread::scope(|scope| {
                let calls: Vec<_> = (0..callers)
                    .map(|c| {
                        let mine: Vec<usize> = (c..requests.len()).step_by(callers).collect();
                        let (together, requests) = (&together, &requests);
                        scope.spawn(move || {
                            let sizes = mine.chunks(3 + 4 * round);
                            sizes.flat_map(|ids| {
                                let answers = ask(together, ids.iter().map(|&i| requests[i].clone()).collect());
                                ids.iter().copied().zip(answers).collect::<Vec<_>>()
                            }).collect::<Vec<_>>()
                        })
                    })
                    .collect();
                calls.into_iter().flat_map(|c| c.join().unwrap()).collect()
            });
            prop_assert_eq!(answers.len(), requests.len());
            for (i, answer) in answers {
                let (got, want) = (answer.unwrap(), alone[i].as_ref().unwrap());
                prop_assert!(same(&got, want), "request {i} in round {round}: {got:?}, alone {want:?}");
            }
        }
        let stats = together.stats();
        let prompt_tokens: usize = alone.iter().map(|a| a.as_ref().unwrap().prompt_tokens.len()).sum();
        prop_assert_eq!(stats.prompt_tokens, 2 * prompt_tokens as u64);
    }
}

#[test]
fn greedy_answers_agree_with_the_model_run_at_once() {
    // The log-probabilities of a sampled answer are those of one pass over prompt and answer, as training makes it.
    let answers = ask(
        &engine(&llama(256, None), &small()),
        (0..4)
            .map(|i| {
                request(&"a long enough prompt ".repeat(i + 1), 0, Sampling { max_tokens: 30, ..Sampling::default() })
            })
            .collect(),
    );
    for answer in answers {
        let c = answer.unwrap();
        let ids: Vec<u32> = c.prompt_tokens.iter().chain(&c.tokens).copied().collect();
        let positions: Vec<u32> = (0..ids.len() as u32).collect();
        let segments = vec![model::ops::Segment { prefix: 0..0, rows: 0..ids.len() }];
        let llama = plain(256, None);
        let hidden = llama.forward(&ids, &positions, &mut model::ops::Packed::new(segments)).unwrap();
        let logits = llama.logits(&hidden).unwrap();
        let logps = candle_nn::ops::log_softmax(&logits, 1).unwrap().to_vec2::<f32>().unwrap();
        for (i, (&t, &got)) in c.tokens.iter().zip(&c.logprobs).enumerate() {
            let want = logps[c.prompt_tokens.len() + i - 1][t as usize];
            assert!((got - want).abs() < 1e-4, "{got}, not {want}");
        }
    }
}

#[test]
fn samples_of_one_prompt_share_its_computation() {
    let llama = llama(512, None);
    let e = engine(&llama, &small());
    let text = "a prompt of a hundred tokens or so ".repeat(3);
    let one = Sampling { max_tokens: 8, min_tokens: 8, ..Sampling::default() };
    let answers = ask(&e, (0..8).map(|i| request(&text, i, one.clone())).collect());
    let n = answers[0].as_ref().unwrap().prompt_tokens.len() as u64;
    assert!(answers.iter().any(|a| a.as_ref().unwrap().tokens != answers[0].as_ref().unwrap().tokens));
    let stats = e.stats();
    assert_eq!((stats.prompt_tokens, stats.generated_tokens, stats.requests), (8 * n, 64, 8));
    // The prompt once, and at most its last row again for those who joined after it.
    let computed = stats.prompt_tokens - stats.cached_prompt_tokens;
    assert!(computed >= n && computed < n + 8, "{computed} rows were computed for a prompt of {n}");
    assert_eq!(stats.rows, computed + 8 * 7);
    // The same again is cached but for one row.
    ask(&e, vec![request(&text, 9, one.clone())]);
    assert_eq!(e.stats().prompt_tokens - e.stats().cached_prompt_tokens, computed + 1);
    // Another tail after the same head is cached up to the last whole block.
    ask(&e, vec![request(&format!("{text}!"), 9, one)]);
    let tail = (n + 1) - (n - 1) / 16 * 16;
    assert_eq!(e.stats().prompt_tokens - e.stats().cached_prompt_tokens, computed + 1 + tail);
    assert!(e.stats().hit_rate() > 0.8);
}

#[test]
fn a_request_that_cannot_be_answered_leaves_its_mates_alone() {
    let e = engine(&llama(64, None), &small());
    let s = Sampling { max_tokens: 5, min_tokens: 5, ..Sampling::default() };
    let answers = ask(
        &e,
        vec![
            request("fine", 0, s.clone()),
            request("  ", 1, s.clone()),
            request(&"x".repeat(62), 2, s.clone()),
            request("refuse", 3, s.clone()),
            request("fine", 4, Sampling { top_p: 1.5, ..s.clone() }),
            request("fine", 5, Sampling { temperature: f32::NAN, ..s.clone() }),
            request("fine", 6, Sampling { max_tokens: 0, ..s.clone() }),
            request(&"x".repeat(59), 7, s.clone()),
            Request { messages: Vec::new(), ..request("", 8, s.clone()) },
            request("fine", 0, s),
        ],
    );
    let codes: Vec<&str> = answers.iter().map(|a| a.as_ref().map_or_else(|e| e.code, |c| c.finish.as_str())).collect();
    let want = ["length", "empty_prompt", "prompt_too_long", "template", "bad_sampling", "bad_sampling", "length"];
    assert_eq!(codes[..7], want);
    assert_eq!(codes[7..], ["length", "empty_prompt", "length"]);
    assert_eq!(answers[0], answers[9]);
    // 61 tokens of prompt leave 3 of the context's 64.
    assert_eq!(answers[7].as_ref().unwrap().tokens.len(), 3);
    assert!(answers[6].as_ref().unwrap().tokens.is_empty());
}

#[test]
fn a_request_beyond_the_budget_goes_alone_and_others_wait_for_room() {
    // 6 blocks of 16: one request of 60 + 20 tokens at a time.
    let tight = EngineConfig { kv_memory: 6 * 2 * 2 * 2 * 16 * 16 * 4, ..small() };
    let e = engine(&llama(256, None), &tight);
    let s = Sampling { max_tokens: 20, min_tokens: 20, ..Sampling::default() };
    let fits = |i: u32| request(&format!("{i}{}", "y".repeat(57)), i, s.clone());
    let mut requests: Vec<Request> = (0..5).map(fits).collect();
    requests.push(request(&"y".repeat(100), 9, s.clone()));
    // More requests come after the long one, and find the cache as it left it.
    requests.extend((5..8).map(fits));
    let answers = ask(&e, requests.clone());
    assert!(answers.iter().all(|a| a.as_ref().unwrap().tokens.len() == 20));
    // Which rows get an answer, and which one, is not the budget's to decide.
    let roomy = ask(&engine(&llama(256, None), &EngineConfig { kv_memory: 1 << 24, ..small() }), requests);
    for (i, (tight, roomy)) in answers.iter().zip(&roomy).enumerate() {
        assert!(same(tight.as_ref().unwrap(), roomy.as_ref().unwrap()), "request {i}");
    }
    let none = BatchedEngine::with_codec(
        llama(64, None),
        Arc::<Bytes>::default(),
        "t".into(),
        &EngineConfig { kv_memory: 10, ..small() },
    );
    assert_eq!(none.err().unwrap().kind(), ErrorKind::User);
}

#[test]
fn answers_end_at_the_end_token_or_a_stop_string() {
    let llama = llama(256, None);
    let e = engine(&llama, &small());
    let s = Sampling { max_tokens: 200, temperature: 1.5, ..Sampling::default() };
    let answers = ask(&e, (0..24).map(|i| request("hello", i, s.clone())).collect());
    let ended: Vec<&Completion> =
        answers.iter().map(|a| a.as_ref().unwrap()).filter(|c| c.finish == Finish::Stop).collect();
    assert!(!ended.is_empty(), "no answer of 200 tokens ended, of a vocabulary of {VOCAB}");
    for c in &ended {
        assert_eq!(c.tokens.iter().position(|&t| t == EOS), Some(c.tokens.len() - 1));
        assert_eq!(c.text.len(), c.tokens.len() - 1);
        assert_eq!(c.logprobs.len(), c.tokens.len());
    }
    let at_least = Sampling { min_tokens: 199, ..s.clone() };
    let long = ask(&e, (0..24).map(|i| request("hello", i, at_least.clone())).collect());
    assert!(long.iter().all(|a| a.as_ref().unwrap().tokens.len() >= 199));
    // Two characters of a longer answer as the stop string.
    let key = answers.iter().position(|a| a.as_ref().unwrap().tokens.len() > 50).unwrap() as u32;
    let full = answers[key as usize].as_ref().unwrap();
    let stop: String = full.text.chars().skip(40).take(2).collect();
    let both = Sampling { stop: vec!["not in it at all".into(), stop.clone()], ..s };
    let cut = ask(&e, vec![request("hello", key, both)]).remove(0).unwrap();
    assert_eq!(cut.finish, Finish::Stop);
    assert!(full.text.starts_with(&cut.text) && !cut.text.contains(&stop));
    assert_eq!(cut.tokens[..], full.tokens[..cut.tokens.len()]);
    assert_eq!(cut.text.len() + 2, cut.tokens.len());
}

#[test]
fn weights_kept_narrow_are_widened_exactly() {
    let requests: Vec<Request> = (0..6)
        .map(|i| request(&"narrow ".repeat(i + 1), i as u32, Sampling { max_tokens: 30, ..Sampling::default() }))
        .collect();
    for dtype in [DType::BF16, DType::F16] {
        let narrow = of_type(256, None, dtype);
        let wide = narrow.weights().iter().map(|(name, w)| (name.clone(), w.to_dtype(DType::F32).unwrap())).collect();
        let wide = Llama::frozen(&config(256), &wide).unwrap();
        let [narrow, wide] = [narrow, wide]
            .map(|llama| ask(&engine(&Arc::new(llama.for_inference().unwrap()), &small()), requests.clone()));
        for (narrow, wide) in narrow.iter().zip(&wide) {
            let (narrow, wide) = (narrow.as_ref().unwrap(), wide.as_ref().unwrap());
            assert!(same(narrow, wide), "{dtype:?}: {narrow:?}, in f32 {wide:?}");
        }
    }
}

#[test]
fn a_stop_id_ends_an_answer_and_is_not_of_its_text() {
    let e = engine(&llama(256, None), &small());
    let s = Sampling { max_tokens: 200, temperature: 1.5, ..Sampling::default() };
    let answers = ask(&e, (0..24).map(|i| request("hello", i, s.clone())).collect());
    let key = answers.iter().position(|a| a.as_ref().unwrap().tokens.len() > 50).unwrap();
    let full = answers[key].as_ref().unwrap();
    let id = full.tokens[40];
    let first = full.tokens.iter().position(|&t| t == id).unwrap();
    let s = Sampling { stop_ids: vec![1_000_000, id], ..s };
    let cut = ask(&e, vec![request("hello", key as u32, s.clone())]).remove(0).unwrap();
    assert_eq!(cut.tokens[..], full.tokens[..=first]);
    assert_eq!((cut.finish, cut.text.as_str()), (Finish::Stop, &full.text[..first]));
    // Before the least number of tokens it is not drawn at all.
    let later = Sampling { min_tokens: first + 5, ..s };
    let later = ask(&e, vec![request("hello", key as u32, later)]).remove(0).unwrap();
    assert!(later.tokens.len() >= first + 5 && !later.tokens[..first + 4].contains(&id));
}

#[test]
fn a_thousand_waiting_requests_keep_to_the_budget_and_change_nothing() {
    let llama = llama(256, None);
    let requests: Vec<Request> = (0..1000)
        .map(|i| {
            let text = format!("{} and {}", ["the cat", "a dog", "some birds"][i % 3], i / 4);
            request(&text, i as u32, Sampling { max_tokens: 12, ..Sampling::default() })
        })
        .collect();
    // Room for some thirty sequences: the rest wait.
    let kv_memory = 100 * 2 * 2 * 2 * 16 * 16 * 4;
    let e = engine(&llama, &EngineConfig { max_rows: 64, kv_memory, ..small() });
    let answers = ask(&e, requests.clone());
    let stats = e.stats();
    assert_eq!(stats.requests, 1000);
    assert!(stats.rows as usize <= 64 * stats.steps as usize);
    // Many are worked on at once although the cache is small.
    assert!(stats.rows > 10 * stats.steps, "{} rows in {} steps", stats.rows, stats.steps);
    for i in (0..1000).step_by(97) {
        let alone = ask(&engine(&llama, &small()), vec![requests[i].clone()]).remove(0).unwrap();
        assert!(same(answers[i].as_ref().unwrap(), &alone), "request {i}: {:?}, alone {alone:?}", answers[i]);
    }
}

#[test]
fn cancelling_returns_and_the_engine_serves_on() {
    let e = engine(&llama(100_000, None), &EngineConfig { kv_memory: 1 << 28, ..small() });
    let forever = Sampling { max_tokens: 90_000, min_tokens: 90_000, ..Sampling::default() };
    let cancel = CancelFlag::new();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| e.generate((0..3).map(|i| request("on", i, forever.clone())).collect(), &cancel));
        while e.stats().steps < 3 {
            std::thread::yield_now();
        }
        cancel.set();
        assert_eq!(call.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    });
    let s = Sampling { max_tokens: 3, min_tokens: 3, ..Sampling::default() };
    assert_eq!(ask(&e, vec![request("on", 0, s)])[0].as_ref().unwrap().tokens.len(), 3);
    assert_eq!(e.generate(vec![request("on", 0, forever)], &cancel).unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn a_panic_of_the_thread_answers_everybody() {
    let codec = Arc::new(Bytes { fatal: Some(90) });
    let e = BatchedEngine::with_codec(llama(4096, Some(90)), codec, "test".into(), &small()).unwrap();
    let s = Sampling { max_tokens: 2000, temperature: 2., stop: vec!["zz".into()], ..Sampling::default() };
    let calls: Vec<_> = std::thread::scope(|scope| {
        let spawn = |i: u32| {
            let (e, s) = (&e, &s);
            scope.spawn(move || {
                e.generate((0..4).map(|j| request("go", i * 4 + j, s.clone())).collect(), &CancelFlag::new())
            })
        };
        let calls: Vec<_> = (0..3).map(spawn).collect();
        calls.into_iter().map(|c| c.join().unwrap()).collect()
    });
    for call in calls {
        let error = call.unwrap_err();
        assert!(error.kind() == ErrorKind::Bug && error.to_string().contains("a decoder that panics"), "{error}");
    }
    assert!(ask_error(&e).contains("a decoder that panics"));
}

fn ask_error(e: &BatchedEngine) -> String {
    e.generate(vec![request("x", 0, Sampling::default())], &CancelFlag::new()).unwrap_err().to_string()
}

#[test]
fn a_model_without_finite_logits_gives_row_errors() {
    let config = config(64);
    let nan = |(name, shape): (String, Vec<usize>)| {
        let w = Tensor::full(f32::NAN, shape, &device()).unwrap().to_dtype(DType::F32).unwrap();
        (name, w)
    };
    let weights: BTreeMap<String, Tensor> = config.weights().into_iter().map(nan).collect();
    let e = engine(&Arc::new(Llama::frozen(&config, &weights).unwrap()), &small());
    assert_eq!(ask(&e, vec![request("x", 0, Sampling::default())])[0].as_ref().unwrap_err().code, "not_finite");
}
