#![no_main]
#[allow(dead_code)] // each target runs one of them
#[path = "../../tests/loader_inputs/mod.rs"]
mod loader_inputs;

libfuzzer_sys::fuzz_target!(init: reflux_fuzz::spare_guarded_panics(), |bytes: &[u8]| loader_inputs::gguf(bytes));
