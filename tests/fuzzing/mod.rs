//! The inputs of fuzz/corpus, and inputs made of them by chance, given to the functions that fuzzing drives.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// A folder of the corpus, and what reads its inputs and says whether one was understood and not refused.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// The inputs of a target, with their paths.
pub type Seeds = [(String, Vec<u8>)];

/// Longest that one input may take. A build for tests on a machine with other work is slow; what hangs takes for ever.
const MAX_LENGTH: Duration = Duration::from_secs(20);

/// The inputs of fuzz/corpus.
pub fn kept(name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 20, "{name}: {} inputs", paths.len());
    paths.into_iter().map(|p| (p.display().to_string(), fs::read(&p).unwrap())).collect()
}

/// Gives every kept input to its target. Inputs that all are refused would look into nothing: `least` of them are understood.
pub fn every_kept(targets: &[Target], least: usize) {
    for (name, run) in targets {
        let mut understood = 0;
        for (path, bytes) in kept(name) {
            // Printed by a failing test: a panic does not say which input it was.
            println!("{path}");
            let began = Instant::now();
            understood += usize::from(run(&bytes));
            assert!(began.elapsed() < MAX_LENGTH, "{path} took {:?}", began.elapsed());
        }
        assert!(understood >= least, "{name}: {understood} of the inputs are understood");
    }
}

/// Gives `some` inputs to each target that `mutate` makes of the kept ones; for as many seconds as REFLUX_FUZZ_SECONDS says, where it
/// is set, and from the input of number REFLUX_FUZZ_FIRST on; REFLUX_FUZZ_TARGET names one target. What fails is written to the
/// temporary directory. The longest time of an input and the most memory of the process are printed.
pub fn mutated(targets: &[Target], some: u64, mutate: fn(&mut ChaCha8Rng, &Seeds) -> Vec<u8>) {
    let number = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let seconds = number("REFLUX_FUZZ_SECONDS").map(Duration::from_secs);
    let first = number("REFLUX_FUZZ_FIRST").unwrap_or(0);
    let only = std::env::var("REFLUX_FUZZ_TARGET").ok();
    for (name, run) in targets.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
        let (seeds, mut longest) = (kept(name), (Duration::ZERO, first));
        let began = Instant::now();
        let mut tried = first;
        while seconds.map_or(tried - first < some, |s| began.elapsed() < s) {
            let bytes = mutate(&mut ChaCha8Rng::seed_from_u64(tried), &seeds);
            let here = Instant::now();
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(&bytes))) {
                let kept = std::env::temp_dir().join(format!("reflux-{name}-{tried}"));
                fs::write(&kept, &bytes).unwrap();
                println!("{name} input {tried}, kept as {}", kept.display());
                std::panic::resume_unwind(panic);
            }
            assert!(here.elapsed() < MAX_LENGTH, "{name} input {tried} took {:?}", here.elapsed());
            longest = longest.max((here.elapsed(), tried));
            tried += 1;
        }
        let (seconds, (time, input)) = (began.elapsed().as_secs_f64(), longest);
        println!("{name}: {} inputs in {seconds:.1} s; the longest, {input}, took {time:.2?}", tried - first);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    }
}
