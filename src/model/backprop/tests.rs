//! Compares the fused pass with candle's graph, whose operations are themselves compared with finite
//! differences. Also checks what must not affect the result.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::model::config::Config;
use crate::model::nn::init;
use crate::model::nn::lora::LoraConfig;
use crate::model::ops::{Dropout, Segment};

fn config(tied: bool) -> Config {
    let text = format!(
        r#"{{"vocab_size": 37, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "tie_word_embeddings": {tied}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn model(tied: bool) -> Llama {
    let config = config(tied);
    let mut weights = init::normal(&config, 0.3, 5, &Device::Cpu).unwrap();
    for (name, w) in &mut weights {
        if name.contains("norm") {
            // Not all ones, so that a missing factor shows.
            let n = w.dim(0).unwrap();
            *w = Tensor::from_vec((0..n).map(|i| 0.7 + i as f32 / n as f32).collect::<Vec<_>>(), n, &Device::Cpu)
                .unwrap();
        }
    }
    Llama::trainable(&config, &weights).unwrap()
}

fn with_lora(llama: Llama) -> Llama {
    let lora = LoraConfig { rank: 3, alpha: 5., dropout: 0., targets: vec!["q_proj", "v_proj", "o_proj", "down_proj"] };
    let mut adapter = lora.init(llama.config(), 3, &Device::Cpu).unwrap();
    for (i, w) in adapter.values_mut().enumerate() {
        // B is initially zero, which would leave A without a gradient.
        let n = w.elem_count();
        let more: Vec<f32> = (0..n).map(|j| ((j * 31 + i * 7) % 23) as f32 / 50. - 0.2).collect();
        *w = (&*w + Tensor::from_vec(more, w.shape(), &Device::Cpu).unwrap()).unwrap();
    }
    llama.with_lora(&lora, &adapter).unwrap()
}

/// A pair and a plain sequence, with more rows than a tile.
fn rows() -> PackedRows {
    let segment = |prefix, rows| Segment { prefix, rows };
    let lengths = [0..9, 9..30, 30..35, 35..60];
    let n = 60;
    let positions = (0..9).chain(9..30).chain(9..14).chain(0..25).collect();
    PackedRows {
        ids: (0..n).map(|i| (i * 5 + 1) % 37).collect(),
        positions,
        segments: vec![
            segment(0..0, lengths[0].clone()),
            segment(0..9, lengths[1].clone()),
            segment(0..9, lengths[2].clone()),
            segment(0..0, lengths[3].clone()),
        ],
        from: std::iter::once(8).chain(9..30).chain([8]).chain(30..35).chain(40..60).collect(),
        targets: (0..48).map(|i| (i * 11 + 3) % 37).collect(),
        keys: (0..u64::from(n)).map(|i| i * 977).collect(),
    }
}

fn slopes(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 13) % 17) as f32 / 17. - 0.4).collect()
}

type Gradient = BTreeMap<String, Vec<f32>>;

fn numbers(gradients: &Gradients) -> Gradient {
    let all = gradients.iter().map(|(name, g)| {
        let numbers = match g {
            super::Gradient::Numbers(n) => n.clone(),
            super::Gradient::Tensor(t) => t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap(),
        };
        (name.clone(), numbers)
    });
    all.collect()
}

fn fused(llama: &Llama, options: ForwardOptions) -> (Vec<f32>, Gradient) {
    let (rows, mut pool, mut gradients) = (rows(), Pool::default(), Gradients::default());
    let recorded = record(llama, &rows, options, &mut pool).unwrap();
    assert!(matches!(recorded.tape, Tape::Fused(_)));
    let log_probs = recorded.log_probs().to_vec();
    recorded.backward(&slopes(log_probs.len()), &mut gradients, &mut pool).unwrap();
    (log_probs, numbers(&gradients))
}

fn composed(llama: &Llama, options: ForwardOptions) -> (Vec<f32>, Gradient) {
    let (rows, mut gradients) = (rows(), Gradients::default());
    let (log_probs, tape) = super::composed::record(llama, &rows, options).unwrap();
    tape.backward(&slopes(log_probs.len()), &mut gradients).unwrap();
    (log_probs, numbers(&gradients))
}

fn close(what: &str, a: &(Vec<f32>, Gradient), b: &(Vec<f32>, Gradient), near: f32) {
    assert!(a.0.iter().zip(&b.0).all(|(a, b)| (a - b).abs() <= near), "{what}: log-probabilities");
    assert_eq!(a.1.keys().collect::<Vec<_>>(), b.1.keys().collect::<Vec<_>>(), "{what}");
    for (name, a) in &a.1 {
        let most = a.iter().map(|x| x.abs()).fold(0f32, f32::max);
        assert!(most > 0., "{what}: {name} has no gradient");
        let off = a.iter().zip(&b.1[name]).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(off <= near * most.max(1.), "{what}: {name} is off by {off} of {most}");
    }
}

#[test]
fn the_fused_pass_is_candles_graph() {
    let dropout = ForwardOptions { dropout: Dropout { rate: 0.2 }, ..ForwardOptions::default() };
    for tied in [false, true] {
        let (plain, lora) = (model(tied), with_lora(model(tied)));
        for (what, llama) in [("plain", &plain), ("lora", &lora)] {
            for options in [ForwardOptions::default(), dropout] {
                let (by_hand, by_graph) = (fused(llama, options), composed(llama, options));
                close(&format!("{what}, tied {tied}, {options:?}"), &by_hand, &by_graph, 2e-5);
                assert_eq!(by_hand.1.len(), llama.variables().len(), "every variable gets a gradient, no other weight");
            }
        }
        assert_ne!(fused(&plain, dropout).0, fused(&plain, ForwardOptions::default()).0);
        assert_eq!(
            log_probs(&plain, &rows(), &mut Pool::default()).unwrap(),
            fused(&plain, ForwardOptions::default()).0
        );
    }
}

#[test]
fn checkpointed_activations_are_stored_ones_to_the_bit() {
    let llama = model(true);
    for rate in [0., 0.3] {
        let stored = ForwardOptions { checkpoint: false, dropout: Dropout { rate } };
        let checkpointed = ForwardOptions { checkpoint: true, ..stored };
        assert_eq!(fused(&llama, stored), fused(&llama, checkpointed));
        close("candle's graph", &composed(&llama, stored), &composed(&llama, checkpointed), 2e-5);
    }
}

#[test]
fn threads_and_used_memory_do_not_show() {
    let (llama, rows) = (with_lora(model(false)), rows());
    let mut seen = Vec::new();
    for threads in [1, 2, 3] {
        let workers = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut pool, mut gradients) = (Pool::default(), Gradients::default());
        for _ in 0..2 {
            // The second pass reuses the memory of the first.
            gradients.clear(&mut pool);
            workers.install(|| {
                let recorded = record(&llama, &rows, ForwardOptions::default(), &mut pool).unwrap();
                recorded.backward(&slopes(48), &mut gradients, &mut pool).unwrap();
            });
            seen.push(numbers(&gradients));
        }
    }
    assert!(seen.iter().all(|g| *g == seen[0]));
}

#[test]
fn gradients_add_up() {
    let (llama, rows, mut pool) = (model(true), rows(), Pool::default());
    let mut gradients = Gradients::default();
    for _ in 0..2 {
        let recorded = record(&llama, &rows, ForwardOptions::default(), &mut pool).unwrap();
        recorded.backward(&slopes(48), &mut gradients, &mut pool).unwrap();
    }
    let once = fused(&llama, ForwardOptions::default());
    let half: Gradient =
        numbers(&gradients).into_iter().map(|(k, g)| (k, g.iter().map(|x| x / 2.).collect())).collect();
    close("twice", &once, &(once.0.clone(), half), 1e-5);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (llama, mut pool) = (model(true), Pool::default());
    let broken: [fn(&mut PackedRows); 5] = [
        |r| r.ids[3] = 37,
        |r| r.targets[3] = 37,
        |r| r.from[3] = 60,
        |r| r.positions[3] = 64,
        |r| r.segments[1].rows.end -= 1,
    ];
    for spoil in broken {
        let mut rows = rows();
        spoil(&mut rows);
        assert!(record(&llama, &rows, ForwardOptions::default(), &mut pool).is_err());
        assert!(log_probs(&llama, &rows, &mut pool).is_err());
    }
    let frozen = Llama::frozen(llama.config(), llama.weights()).unwrap();
    assert!(record(&frozen, &rows(), ForwardOptions::default(), &mut pool).is_err());
    let dropout = ForwardOptions { dropout: Dropout { rate: 0.1 }, ..ForwardOptions::default() };
    assert!(record(&llama, &PackedRows { keys: Vec::new(), ..rows() }, dropout, &mut pool).is_err());
}
