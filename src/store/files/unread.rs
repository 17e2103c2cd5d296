//! Counts of keys and columns that were not read.

use std::collections::BTreeMap;

/// Unread keys or columns, with the number of rows that have a value there.
pub(crate) type Unread = BTreeMap<String, u64>;

/// Maximum number of listed keys. All others are counted together.
pub(crate) const MAX_UNREAD: usize = 256;

/// Counts an unread key for `rows` rows.
pub(crate) fn count_unread(unread: &mut Unread, key: &str, rows: u64) {
    let listed = unread.len() < MAX_UNREAD || unread.contains_key(key);
    *unread.entry(if listed { key } else { "other keys" }.to_owned()).or_default() += rows;
}
