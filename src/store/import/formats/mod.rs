//! The public formats. A format is a file here, with its description, its keys and its conversion, and its line in
//! [`FORMATS`].

mod alpaca;
mod format;
mod llmbar;
mod mt_bench;
mod oasst;
mod preferences;
mod prompts;
mod self_instruct;
mod sharegpt;
mod ultrafeedback;

use std::sync::LazyLock;

use super::record::{Object, Record};
use crate::store::datasets::context::{CONTEXT_KEYS, SYSTEM_KEYS};

pub use format::FormatDef;
pub(super) use format::{RowConverter, RowOptions};

/// Every format, in the order of recognition: a row has the first format that recognises it.
pub static FORMATS: &[&FormatDef] = &[
    &oasst::DEF,
    &mt_bench::DEF,
    &llmbar::DEF,
    &self_instruct::DEF,
    &ultrafeedback::DEF,
    &preferences::DEF,
    &alpaca::DEF,
    &sharegpt::DEF,
    &prompts::DEF,
];

/// All top-level keys of any format, and those of a row's context. Only these columns of a Parquet file are decoded.
pub(super) static KEYS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let context = CONTEXT_KEYS.iter().map(|(key, _)| *key).chain(SYSTEM_KEYS);
    let mut keys: Vec<&str> = FORMATS.iter().flat_map(|format| format.keys).copied().chain(context).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
});

impl FormatDef {
    /// The format with this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.name == name).copied()
    }

    /// Detects the format of a row by its keys.
    pub(super) fn of_row(row: Object) -> Option<&'static Self> {
        let record = Record::new(row, &KEYS);
        FORMATS.iter().find(|format| (format.recognises)(&record)).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn formats_have_distinct_names_and_a_target() {
        let names: BTreeSet<&str> = FORMATS.iter().map(|format| format.name).collect();
        assert_eq!(names.len(), FORMATS.len());
        for format in FORMATS {
            assert_eq!(FormatDef::by_name(format.name), Some(*format));
            assert!(!["auto", "reflux"].contains(&format.name), "{format:?} is a name of `--format` already");
            assert!(!format.targets.is_empty(), "{format:?}");
        }
    }
}
