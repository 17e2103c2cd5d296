#![no_main]

libfuzzer_sys::fuzz_target!(init: reflux_fuzz::spare_guarded_panics(), |bytes: &[u8]| reflux_fuzz::store_inputs::parquet(bytes));
