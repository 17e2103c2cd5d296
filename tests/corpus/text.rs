//! The inputs of fuzz/corpus that are texts, and inputs made of them by chance, through the same functions: each is understood or
//! refused.

use crate::fuzzing::{self, Seeds, Target};
use crate::text_inputs;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

const TARGETS: [Target; 3] =
    [("pipeline", text_inputs::pipeline), ("score", text_inputs::score), ("template", text_inputs::template)];

#[test]
fn every_kept_input_is_survived() {
    fuzzing::every_kept(&TARGETS, 15);
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
fn mutated(rng: &mut ChaCha8Rng, seeds: &Seeds) -> Vec<u8> {
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

#[test]
fn mutated_inputs_are_survived() {
    fuzzing::mutated(&TARGETS, 400, mutated);
}

/// No file makes the parser overflow the stack or take long.
#[test]
fn deep_and_long_files_are_survived() {
    // The TOML parser's own limits allow this depth by dotted keys within braces.
    let dotted = "b.".repeat(78) + "b = ";
    let deep = format!("a = {}1{}", format!("{{ {dotted}").repeat(70), " }".repeat(70));
    text_inputs::pipeline(deep.as_bytes());
    text_inputs::pipeline(format!("\n-----\n{deep}").as_bytes());
    for text in [
        "[".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}{}", "[".repeat(60), "]".repeat(60)),
        format!("a = {}", "{a=".repeat(50_000)),
        format!("a{} = 1", ".a".repeat(100_000)),
        format!("[step.{}]", "x".repeat(500_000)),
        format!("x = \"{}\"\ny = \u{1b}", "é".repeat(200_000)),
        "seed = 1\n".repeat(10_000),
        (0..20_000).map(|i| format!("k{i} = 1\n")).collect(),
        (0..5_000).map(|i| format!("[step.s{i}]\nop = \"no\"\n")).collect(),
        format!("[step.a]\nop=\"sft\"\nfrom=[{}]", "\"a\",".repeat(50_000)),
        format!("[pipeline]\nseed = {}", "9".repeat(100_000)),
        " ".repeat(2 << 20),
        "\r\n[step.a]\r\nop = \"raed\"\r\n".to_owned(),
    ] {
        text_inputs::pipeline(text.as_bytes());
    }
}
