//! The inputs that fuzzing found worth keeping (fuzz/corpus), through the same functions: each ends with a model or an error
//! that the user can act on, and takes no memory beyond its size.
//!
//! A binary of its own: the test measures the memory that its process has mapped.

mod fuzzing;
mod loader_inputs;

use std::fs;

/// The most memory that this process ever had mapped, in MiB; nothing where the system does not tell.
fn most_mapped() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}

#[test]
fn every_kept_input_is_survived() {
    let targets = [
        ("gguf", loader_inputs::gguf as fn(&[u8])),
        ("safetensors", loader_inputs::safetensors),
        ("tokenizer", loader_inputs::tokenizer),
        ("chat_template", loader_inputs::chat_template),
    ];
    // The first load starts threads, whose stacks count.
    loader_inputs::safetensors(b"");
    let before = most_mapped();
    for (name, run) in targets {
        for (path, bytes) in fuzzing::kept(name) {
            let started = most_mapped();
            // Printed by a failing test: a panic does not say which input it was.
            println!("{path}");
            run(&bytes);
            if let (Some(started), Some(now)) = (started, most_mapped()) {
                assert!(now - started < 128, "{path}: {} MiB more", now - started);
            }
        }
    }
    if let (Some(before), Some(now)) = (before, most_mapped()) {
        println!("{} MiB more for all", now - before);
    }
}
