//! Scored answers drawn at random, with ties, answers without a score and answers that are the same.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, StringArray, UInt32Array};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use reflux::data::{List, hash_hex, named};
use reflux::store::write_parquet;

/// An answer: prompt, name, tokens, score, the judge's scores.
pub type Answer = (String, String, Vec<u32>, Option<f32>, Vec<f32>);

pub fn write_scores(path: &Path, answers: &[Answer]) {
    let text = |of: &dyn Fn(&Answer) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(answers.iter().map(of)))
    };
    let tokens: Vec<Vec<u32>> = answers.iter().map(|a| a.2.clone()).collect();
    let logprobs: Vec<Vec<f32>> = tokens.iter().map(|t| vec![-1.; t.len()]).collect();
    let judged = |a: &Answer| a.4.iter().map(|s| (format!("Score: {s}"), "score".to_owned(), Some(*s))).collect();
    let rows = named::SCORES
        .batch(vec![
            text(&|a| a.0.clone()),
            text(&|a| format!("say {}", a.0)),
            text(&|a| a.1.clone()),
            Arc::new(UInt32Array::from_iter_values(0..answers.len() as u32)),
            text(&|a| format!("{:?}", a.2)),
            text(&|_| "stop".into()),
            List::of_tokens(&vec![vec![1, 2]; answers.len()]),
            List::of_tokens(&tokens),
            List::of_floats(&logprobs),
            text(&|_| "writer".into()),
            Arc::new(Float32Array::from_iter(answers.iter().map(|a| a.3))),
            List::of_judgements(&answers.iter().map(judged).collect::<Vec<_>>()),
            text(&|_| "judge".into()),
        ])
        .unwrap();
    write_parquet(path, &rows).unwrap();
}

/// Below `n`.
pub fn draw(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    rng.next_u64() % n
}

pub fn score(rng: &mut ChaCha8Rng) -> Option<f32> {
    // Few values, so that there are ties; sometimes none; sometimes one that differs by less than a thousandth.
    match draw(rng, 12) {
        0 => None,
        1 => Some(3.0001),
        2 => Some(-0.0),
        n => Some((n % 6) as f32),
    }
}

pub fn answers(rng: &mut ChaCha8Rng, prompts: usize) -> Vec<Answer> {
    let mut all = Vec::new();
    for p in 0..prompts {
        for a in 0..draw(rng, 5) + 1 {
            // Some answers are the same text.
            let tokens = (0..draw(rng, 4) + 1).map(|t| t as u32).collect();
            let judged = (0..3).map(|_| draw(rng, 6) as f32).collect();
            // Ids of ours and of a stranger's make, in either spelling.
            let id = |what: String| match p % 3 {
                0 => what,
                1 => hash_hex([what]),
                _ => hash_hex([what]).to_uppercase(),
            };
            all.push((id(format!("p{p:03}")), id(format!("p{p:03}-{a}")), tokens, score(rng), judged));
            // A stranger's dataset may have an answer twice.
            if draw(rng, 15) == 0 {
                let twice = all[all.len() - 1].clone();
                all.push((twice.0, twice.1, vec![9], score(rng), twice.4));
            }
        }
    }
    all
}
