//! The inputs of fuzz/corpus that are texts, and inputs made of them by chance, through the same functions: each is understood or
//! refused.

mod text_inputs;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

type Target = (&'static str, fn(&[u8]) -> bool);
const TARGETS: [Target; 2] = [("pipeline", text_inputs::pipeline), ("score", text_inputs::score)];

/// Longest that one input may take. A build for tests on a machine with other work is slow; what hangs takes for ever.
const LONGEST: Duration = Duration::from_secs(20);

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
        let mut understood = 0;
        for (path, bytes) in corpus(name) {
            // Printed by a failing test: a panic does not say which input it was.
            println!("{path}");
            let began = Instant::now();
            understood += usize::from(run(&bytes));
            assert!(began.elapsed() < LONGEST, "{path} took {:?}", began.elapsed());
        }
        // Inputs that all are refused would look into nothing.
        assert!(understood >= 15, "{name}: {understood} of the inputs are understood");
    }
}

/// A text cut where its words, numbers and signs begin.
fn pieces(text: &[u8]) -> Vec<&[u8]> {
    let kind = |b: u8| match b {
        b'0'..=b'9' => 0,
        b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => 1,
        _ => 2 + u16::from(b),
    };
    text.chunk_by(|a, b| kind(*a) == kind(*b)).collect()
}

/// Numbers that are at the edge of something.
const EDGES: [&str; 12] = [
    "0",
    "-1",
    "1e308",
    "-0.0",
    "nan",
    "inf",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "0.1",
    "1e-320",
];

/// A few changes: pieces gone, twice, from elsewhere or put in another's place, lines of others, numbers at the edge, and bytes.
fn mutated(rng: &mut ChaCha8Rng, seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut below = |n: usize| (rng.next_u64() % n.max(1) as u64) as usize;
    let mut bytes = seeds[below(seeds.len())].1.clone();
    for _ in 0..=below(5) {
        let other = &seeds[below(seeds.len())].1;
        let mut parts = pieces(&bytes);
        let at = below(parts.len());
        match below(8) {
            0 if !parts.is_empty() => drop(parts.drain(at..(at + 1 + below(4)).min(parts.len()))),
            1 if !parts.is_empty() => {
                let copy = parts[at..(at + 1 + below(12)).min(parts.len())].to_vec();
                parts.splice(at..at, copy);
            }
            2 | 3 if !parts.is_empty() => {
                let theirs = pieces(other);
                if !theirs.is_empty() {
                    parts[at] = theirs[below(theirs.len())];
                }
            }
            4 => {
                let lines: Vec<&[u8]> = other.split_inclusive(|b| *b == b'\n').collect();
                let from = below(lines.len());
                let starts = parts.iter().enumerate().filter(|(_, p)| p.contains(&b'\n')).map(|(i, _)| i + 1);
                let starts: Vec<usize> = starts.chain([0]).collect();
                let to = starts[below(starts.len())];
                parts.splice(to..to, lines[from..(from + 1 + below(6)).min(lines.len())].to_vec());
            }
            5 | 6 => {
                let numbers = parts.iter().enumerate().filter(|(_, p)| p[0].is_ascii_digit()).map(|(i, _)| i);
                let numbers: Vec<usize> = numbers.collect();
                if !numbers.is_empty() {
                    parts[numbers[below(numbers.len())]] = EDGES[below(EDGES.len())].as_bytes();
                }
            }
            _ if !parts.is_empty() => {
                let mut whole = parts.concat();
                let place = below(whole.len());
                whole[place] = [0, b'\n', b'"', b'\'', b'[', b'}', b'=', 0xff, 0xcc, b'.'][below(10)];
                bytes = whole;
                continue;
            }
            _ => {}
        }
        bytes = parts.concat();
    }
    bytes
}

/// Some hundred inputs; for as many seconds for each target as REFLUX_FUZZ_SECONDS says, where it is set. What fails is
/// written to the temporary directory.
#[test]
fn mutated_inputs_are_survived() {
    let seconds = std::env::var("REFLUX_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).map(Duration::from_secs);
    let first: u64 = std::env::var("REFLUX_FUZZ_FIRST").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    for (name, run) in TARGETS {
        let seeds = corpus(name);
        let began = Instant::now();
        let mut tried = first;
        while seconds.map_or(tried - first < 400, |s| began.elapsed() < s) {
            let bytes = mutated(&mut ChaCha8Rng::seed_from_u64(tried), &seeds);
            let here = Instant::now();
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&bytes))) {
                let kept = std::env::temp_dir().join(format!("reflux-{name}-{tried}"));
                fs::write(&kept, &bytes).unwrap();
                println!("{name} input {tried}, kept as {}", kept.display());
                std::panic::resume_unwind(panic);
            }
            assert!(here.elapsed() < LONGEST, "{name} input {tried} took {:?}", here.elapsed());
            tried += 1;
        }
        println!("{name}: {} inputs in {:.1} s", tried - first, began.elapsed().as_secs_f64());
    }
}
