//! Counts of the keys and columns that nobody read.

use std::collections::BTreeMap;

/// Keys or columns that were not read, with the number of rows that have a value there.
pub(crate) type Unread = BTreeMap<String, u64>;

/// Different keys that are listed; all others are counted together.
pub(crate) const MAX_UNREAD: usize = 256;

/// Counts a key that was not read in `rows` rows.
pub(crate) fn count_unread(unread: &mut Unread, key: &str, rows: u64) {
    let listed = unread.len() < MAX_UNREAD || unread.contains_key(key);
    *unread.entry(if listed { key } else { "other keys" }.to_owned()).or_default() += rows;
}
