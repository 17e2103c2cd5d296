//! The inputs that fuzzing found worth keeping (fuzz/corpus), and inputs made of them by chance, through the same functions:
//! each is read or refused.

mod store_inputs;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

type Target = (&'static str, fn(&[u8]));
const TARGETS: [Target; 2] = [("manifest", store_inputs::manifest), ("parquet", store_inputs::parquet)];

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 20, "{name}: {} inputs", paths.len());
    paths.into_iter().map(|p| (p.display().to_string(), fs::read(&p).unwrap())).collect()
}

#[test]
fn every_kept_input_is_survived() {
    for (name, run) in TARGETS {
        for (path, bytes) in corpus(name) {
            // Printed by a failing test: a panic does not say which input it was.
            println!("{path}");
            run(&bytes);
        }
    }
}

/// A few changes at places by chance: what a failing disk, a bad copy or ill will would do.
fn mutated(rng: &mut ChaCha8Rng, seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut below = |n: usize| (rng.next_u64() % n.max(1) as u64) as usize;
    let mut bytes = seeds[below(seeds.len())].1.clone();
    for _ in 0..=below(6) {
        let at = below(bytes.len());
        match below(8) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
            2 | 3 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b'"', b'9'][below(8)],
            4 => bytes.insert(at, below(256) as u8),
            5 if !bytes.is_empty() => drop(bytes.drain(at..(at + 1 + below(16)).min(bytes.len()))),
            6 => {
                let other = &seeds[below(seeds.len())].1;
                let from = below(other.len());
                let piece = other[from..(from + below(64)).min(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            // Numbers of four or eight bytes, as lengths and counts are.
            _ => {
                let (value, size) = ([u64::MAX, 1 << 31, 1 << 32, 0][below(4)], [4, 8][below(2)]);
                let end = (at + size).min(bytes.len());
                let little = value.to_le_bytes();
                bytes[at..end].copy_from_slice(&little[..end - at]);
            }
        }
    }
    bytes
}

/// A few hundred inputs; for as many seconds for each target as REFLUX_FUZZ_SECONDS says, where it is set. What fails is
/// written to the temporary directory.
#[test]
fn mutated_inputs_are_survived() {
    let seconds = std::env::var("REFLUX_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).map(Duration::from_secs);
    for (name, run) in TARGETS {
        let seeds = corpus(name);
        let began = Instant::now();
        let mut tried = 0u64;
        while seconds.map_or(tried < 200, |s| began.elapsed() < s) {
            let bytes = mutated(&mut ChaCha8Rng::seed_from_u64(tried), &seeds);
            let here = Instant::now();
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&bytes))) {
                let kept = std::env::temp_dir().join(format!("reflux-{name}-{tried}"));
                fs::write(&kept, &bytes).unwrap();
                println!("{name} input {tried}, kept as {}", kept.display());
                std::panic::resume_unwind(panic);
            }
            assert!(here.elapsed() < Duration::from_secs(20), "{name} input {tried} took {:?}", here.elapsed());
            tried += 1;
        }
        println!("{name}: {tried} inputs in {:.1} s", began.elapsed().as_secs_f64());
    }
}
