//! The inputs that fuzzing found worth keeping (fuzz/corpus), and inputs made of them by chance, through the same functions:
//! each is read or refused.

use crate::fuzzing::{self, Seeds, Target};
use crate::store_inputs;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// These do not tell what they refuse.
const TARGETS: [Target; 2] = [
    ("manifest", |bytes| {
        store_inputs::manifest(bytes);
        true
    }),
    ("parquet", |bytes| {
        store_inputs::parquet(bytes);
        true
    }),
];

#[test]
fn every_kept_input_is_survived() {
    fuzzing::every_kept(&TARGETS, 0);
}

/// A few changes at places by chance: what a failing disk, a bad copy or ill will would do.
fn mutated(rng: &mut ChaCha8Rng, seeds: &Seeds) -> Vec<u8> {
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

#[test]
fn mutated_inputs_are_survived() {
    fuzzing::mutated(&TARGETS, 200, mutated);
}
