//! The inputs that fuzzing found worth keeping (fuzz/corpus), through the same functions: each is read or refused, and takes
//! no memory beyond its size.

mod store_inputs;

use std::fs;
use std::path::Path;

#[test]
fn every_kept_input_is_survived() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, run) in [("manifest", store_inputs::manifest as fn(&[u8])), ("parquet", store_inputs::parquet)] {
        let mut paths: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        assert!(paths.len() > 20, "{name}: {} inputs", paths.len());
        for path in paths {
            // Printed by a failing test: a panic does not say which input it was.
            println!("{}", path.display());
            run(&fs::read(&path).unwrap());
        }
    }
}
