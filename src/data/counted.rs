//! Numbers with nouns in the singular or plural.

use std::fmt::Display;

/// `1 prompt`, `2 prompts`, `3 microbatches`, `0 entries`.
pub fn counted(n: impl TryInto<u64> + Display, noun: &str) -> String {
    let number = n.to_string();
    if n.try_into().is_ok_and(|n| n == 1) { format!("{number} {noun}") } else { format!("{number} {}", plural(noun)) }
}

/// An unread key with the number of rows that have a value there: `note (in 3 rows)`.
pub fn unread_key(key: &str, rows: u64) -> String {
    format!("{key} (in {})", counted(rows, "row"))
}

/// The plural of a regular noun.
pub fn plural(noun: &str) -> String {
    let hisses = ["s", "x", "z", "ch", "sh"].iter().any(|end| noun.ends_with(end));
    match noun.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'i', 'o', 'u']) => format!("{stem}ies"),
        _ if hisses => format!("{noun}es"),
        _ => format!("{noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nouns_follow_their_numbers() {
        let cases = [
            (0, "row", "0 rows"),
            (1, "row", "1 row"),
            (2, "row", "2 rows"),
            (1, "microbatch", "1 microbatch"),
            (3, "microbatch", "3 microbatches"),
            (2, "entry", "2 entries"),
            (2, "key", "2 keys"),
            (2, "loss", "2 losses"),
            (1, "earlier answer", "1 earlier answer"),
        ];
        for (n, noun, text) in cases {
            assert_eq!(counted(n as usize, noun), text);
        }
    }
}
