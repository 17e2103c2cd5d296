#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    reflux_fuzz::text_inputs::template(bytes);
});
