//! Compact form of a manifest line. A run holds one per committed microbatch in memory, and a long run must
//! not need more memory than a short one.

use super::entry::{FileEntry, Stored};
use super::paths::data_path;
use crate::data::Epoch;

/// A [`FileEntry`] without its step and epoch, in a fraction of its memory.
#[derive(Debug)]
pub(crate) struct CompactEntry {
    /// `None` for the default path, which follows from step and epoch.
    path: Option<Box<str>>,
    rows: u64,
    bytes: u64,
    hash: Name,
    errors: Option<Box<Stored>>,
    unused: Box<[(Box<str>, u64)]>,
    lineage: Box<[Name]>,
}

/// A hash, or the name of a model, which stands for the hash in the lineage of its rows.
#[derive(Debug)]
enum Name {
    /// Written as 64 lower-case hex digits.
    Hash([u8; 32]),
    Text(Box<str>),
}

impl CompactEntry {
    pub fn new(entry: &FileEntry) -> Self {
        let usual = entry.path == data_path(&entry.step, entry.epoch());
        Self {
            path: (!usual).then(|| entry.path.as_str().into()),
            rows: entry.rows,
            bytes: entry.bytes,
            hash: Name::new(&entry.hash),
            errors: entry.errors.clone().map(Box::new),
            unused: entry.unused.iter().map(|(reason, rows)| (reason.as_str().into(), *rows)).collect(),
            lineage: entry.lineage.iter().map(|name| Name::new(name)).collect(),
        }
    }

    pub fn entry(&self, step: &str, epoch: Epoch) -> FileEntry {
        FileEntry {
            step: step.to_owned(),
            iteration: epoch.iteration,
            microbatch: epoch.microbatch,
            path: self.path.as_ref().map_or_else(|| data_path(step, epoch), |path| path.to_string()),
            rows: self.rows,
            bytes: self.bytes,
            hash: self.hash.text(),
            errors: self.errors.as_deref().cloned(),
            lineage: self.lineage.iter().map(Name::text).collect(),
            unused: self.unused.iter().map(|(reason, rows)| (reason.to_string(), *rows)).collect(),
        }
    }
}

impl Name {
    fn new(text: &str) -> Self {
        // `from_hex` accepts upper case too, which would come back as lower case.
        match blake3::Hash::from_hex(text).ok().filter(|hash| hash.to_hex().as_str() == text) {
            Some(hash) => Self::Hash(hash.into()),
            None => Self::Text(text.into()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Hash(bytes) => blake3::Hash::from_bytes(*bytes).to_hex().to_string(),
            Self::Text(text) => text.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What comes out is what went in, whatever the names are.
        #[test]
        fn an_entry_comes_back(
            names in prop::collection::vec(prop_oneof![".{0,20}", "[0-9a-f]{64}", "[0-9A-F]{64}"], 2..8),
            (usual, failed, rows, bytes, iteration, microbatch) in any::<(bool, bool, u64, u64, u32, u32)>(),
        ) {
            let errors = failed.then(|| Stored { path: names[1].clone(), rows: bytes, bytes: rows, hash: names[0].clone() });
            let (path, hash, lineage) = (names[0].clone(), names[1].clone(), names[2..].to_vec());
            prop_assume!(!path.is_empty());
            let step = "answers".to_owned();
            let path = if usual { data_path(&step, Epoch::new(iteration, microbatch)) } else { path };
            let unused = names.iter().cloned().zip([rows, bytes]).collect();
            let entry = FileEntry { step, iteration, microbatch, path, rows, bytes, hash, errors, lineage, unused };
            prop_assert_eq!(CompactEntry::new(&entry).entry("answers", entry.epoch()), entry);
        }
    }
}
