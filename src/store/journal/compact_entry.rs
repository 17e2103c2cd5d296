//! Compact form of a manifest line. A run holds one per committed microbatch in memory, and a long run must
//! not need more memory than a short one.

use super::entry::{FileEntry, Stored};
use super::paths::data_path;
use crate::data::Epoch;

/// A [`FileEntry`] without its step and epoch, in about an eighth of its memory.
#[derive(Debug)]
pub(crate) struct CompactEntry {
    rows: u64,
    bytes: u64,
    /// Packed fields: path (empty if it is the default one), hash, whether rows failed and then their path,
    /// hash, rows and bytes, unused rows, lineage.
    rest: Box<[u8]>,
}

impl CompactEntry {
    pub fn new(entry: &FileEntry) -> Self {
        let mut rest = Vec::new();
        // The default path is not stored, because it follows from step and epoch.
        put(&mut rest, if entry.path == data_path(&entry.step, entry.epoch()) { "" } else { &entry.path });
        put(&mut rest, &entry.hash);
        rest.push(u8::from(entry.errors.is_some()));
        if let Some(Stored { path, rows, bytes, hash }) = &entry.errors {
            put(&mut rest, path);
            put(&mut rest, hash);
            rest.extend([rows.to_le_bytes(), bytes.to_le_bytes()].concat());
        }
        rest.extend((entry.unused.len() as u32).to_le_bytes());
        for (reason, rows) in &entry.unused {
            put(&mut rest, reason);
            rest.extend(rows.to_le_bytes());
        }
        for name in &entry.lineage {
            put(&mut rest, name);
        }
        Self { rows: entry.rows, bytes: entry.bytes, rest: rest.into_boxed_slice() }
    }

    pub fn entry(&self, step: &str, epoch: Epoch) -> FileEntry {
        let mut rest = &*self.rest;
        let path = Some(name(&mut rest)).filter(|p| !p.is_empty()).unwrap_or_else(|| data_path(step, epoch));
        let hash = name(&mut rest);
        let errors = (take(&mut rest) == [1]).then(|| {
            let (path, hash) = (name(&mut rest), name(&mut rest));
            Stored { path, hash, rows: u64::from_le_bytes(take(&mut rest)), bytes: u64::from_le_bytes(take(&mut rest)) }
        });
        let reasons = u32::from_le_bytes(take(&mut rest));
        let unused = (0..reasons).map(|_| (name(&mut rest), u64::from_le_bytes(take(&mut rest)))).collect();
        let lineage = std::iter::from_fn(|| (!rest.is_empty()).then(|| name(&mut rest))).collect();
        let Epoch { iteration, microbatch } = epoch;
        let (rows, bytes) = (self.rows, self.bytes);
        FileEntry { step: step.to_owned(), iteration, microbatch, path, rows, bytes, hash, errors, lineage, unused }
    }
}

/// Length prefix that marks a hash. Other names begin with their length in bytes, which is smaller.
const HASH: u32 = u32::MAX;

/// Appends a name: four bytes of length and the text, or the 32 bytes of a name of 64 hex digits.
fn put(names: &mut Vec<u8>, name: &str) {
    match blake3::Hash::from_hex(name) {
        // `from_hex` accepts upper case too, which would be unpacked as lower case.
        Ok(hash) if hash.to_hex().as_str() == name => {
            names.extend(HASH.to_le_bytes());
            names.extend(hash.as_bytes());
        }
        _ => {
            names.extend((name.len() as u32).to_le_bytes());
            names.extend(name.as_bytes());
        }
    }
}

/// Takes the next bytes that [`CompactEntry::new`] has packed.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (head, tail) = rest.split_first_chunk().expect("it reads what it has written");
    *rest = tail;
    *head
}

/// Takes the next name that [`put`] has packed.
fn name(rest: &mut &[u8]) -> String {
    match u32::from_le_bytes(take(rest)) {
        HASH => blake3::Hash::from_bytes(take(rest)).to_hex().to_string(),
        length => {
            let (head, tail) = rest.split_at(length as usize);
            *rest = tail;
            String::from_utf8_lossy(head).into_owned()
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
