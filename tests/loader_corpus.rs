//! The inputs that fuzzing found worth keeping (fuzz/corpus), through the same functions: each ends with a model or an error
//! that the user can act on, and takes no memory beyond its size.

mod loader_inputs;

use std::fs;
use std::path::Path;

/// The most memory that this process ever had mapped, in MiB; nothing where the system does not tell.
fn most_mapped() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}

#[test]
fn every_kept_input_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
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
        let mut paths: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() > 20, "{name}: {} inputs", paths.len());
        for path in paths {
            let started = most_mapped();
            // Printed by a failing test: a panic does not say which input it was.
            println!("{}", path.display());
            run(&fs::read(&path).unwrap());
            if let (Some(started), Some(now)) = (started, most_mapped()) {
                assert!(now - started < 128, "{}: {} MiB more", path.display(), now - started);
            }
        }
    }
    if let (Some(before), Some(now)) = (before, most_mapped()) {
        println!("{} MiB more for all", now - before);
    }
}
