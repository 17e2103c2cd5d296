//! What the fuzz targets share: what is done with an input, and which panics are no finding.

#[path = "../../tests/loader_inputs/mod.rs"]
pub mod loader_inputs;
#[path = "../../tests/store_inputs/mod.rs"]
pub mod store_inputs;
#[path = "../../tests/text_inputs/mod.rs"]
pub mod text_inputs;

/// libFuzzer's hook ends the process at any panic. reflux catches those of the tokenizer library, and those of decoding a Parquet
/// file, and makes errors of them, so these go by in silence; a panic of theirs that is not caught still ends the process, and so
/// does any other.
pub fn spare_guarded_panics() {
    let strict = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let file = panic.location().map_or("", |place| place.file());
        if reflux::store::decoding() {
            return;
        }
        if !["/tokenizers-", "/spm_precompiled-"].iter().any(|library| file.contains(library)) {
            strict(panic);
        }
    }));
}
