//! Compact form of a manifest line. A run holds one per committed microbatch in memory, and a long run must
//! not need more memory than a short one.

use super::entry::{FileEntry, Stored};
use super::paths::data_path;
use crate::data::Epoch;

/// A [`FileEntry`] in a fraction of its memory.
#[derive(Debug)]
pub(crate) enum CompactEntry {
    /// Without step and epoch, which the caller knows. Boxed, because the maps of entries keep room for more
    /// of them than they hold.
    Packed(Box<Packed>),
    /// One with a hash that is not 64 lower-case hex digits.
    Whole(Box<FileEntry>),
}

#[derive(Debug)]
pub(crate) struct Packed {
    /// `None` for the default path, which follows from step and epoch.
    path: Option<Box<str>>,
    rows: u64,
    bytes: u64,
    hash: [u8; 32],
    errors: Option<Box<Stored>>,
    unused: Box<[(Box<str>, u64)]>,
    lineage: Box<[[u8; 32]]>,
}

impl CompactEntry {
    pub fn new(entry: FileEntry) -> Self {
        Packed::new(&entry).map_or_else(|| Self::Whole(Box::new(entry)), |packed| Self::Packed(Box::new(packed)))
    }

    pub fn entry(&self, step: &str, epoch: Epoch) -> FileEntry {
        match self {
            Self::Packed(packed) => packed.entry(step, epoch),
            Self::Whole(entry) => FileEntry::clone(entry),
        }
    }
}

impl Packed {
    fn new(entry: &FileEntry) -> Option<Self> {
        let usual = entry.path == data_path(&entry.step, entry.epoch());
        Some(Self {
            path: (!usual).then(|| entry.path.as_str().into()),
            rows: entry.rows,
            bytes: entry.bytes,
            hash: bytes_of(&entry.hash)?,
            errors: entry.errors.clone().map(Box::new),
            unused: entry.unused.iter().map(|(reason, rows)| (reason.as_str().into(), *rows)).collect(),
            lineage: entry.lineage.iter().map(|hash| bytes_of(hash)).collect::<Option<_>>()?,
        })
    }

    fn entry(&self, step: &str, epoch: Epoch) -> FileEntry {
        let text = |hash: &[u8; 32]| blake3::Hash::from_bytes(*hash).to_hex().to_string();
        FileEntry {
            step: step.to_owned(),
            iteration: epoch.iteration,
            microbatch: epoch.microbatch,
            path: self.path.as_ref().map_or_else(|| data_path(step, epoch), |path| path.to_string()),
            rows: self.rows,
            bytes: self.bytes,
            hash: text(&self.hash),
            errors: self.errors.as_deref().cloned(),
            lineage: self.lineage.iter().map(text).collect(),
            unused: self.unused.iter().map(|(reason, rows)| (reason.to_string(), *rows)).collect(),
        }
    }
}

/// The bytes of a hash of 64 lower-case hex digits.
fn bytes_of(hash: &str) -> Option<[u8; 32]> {
    // `from_hex` accepts upper case too, which would come back as lower case.
    let parsed = blake3::Hash::from_hex(hash).ok().filter(|parsed| parsed.to_hex().as_str() == hash);
    parsed.map(blake3::Hash::into)
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
            prop_assert_eq!(CompactEntry::new(entry.clone()).entry("answers", entry.epoch()), entry);
        }
    }
}
