//! Checksums of manifest lines. A damaged line is found whatever it says, and one wrong bit is corrected.
//!
//! The checksum is the first key of a line, so that the rest of the line is what it was before there were
//! checksums: `{"sum":"0123456789abcdef","kind":"file",…}`.

use std::borrow::Cow;

const START: &[u8] = b"{\"sum\":\"";

/// Number of hex digits of a checksum.
const DIGITS: usize = 16;

/// Maximum length of a line whose damaged bit is searched for. The search hashes the line once per bit, and
/// longer lines are rare.
const MAX_SEARCHED: usize = 16 << 10;

/// The first digits of the blake3 of a line's bytes after the checksum, without the line end.
fn checksum(rest: &[u8]) -> String {
    let mut sum = blake3::hash(rest).to_hex().to_string();
    sum.truncate(DIGITS);
    sum
}

/// Inserts the checksum into a JSON object without a line end. Returns `None` if it is not an object.
pub(crate) fn with_checksum(object: &[u8]) -> Option<Vec<u8>> {
    let rest = object.strip_prefix(b"{")?;
    Some([START, checksum(rest).as_bytes(), b"\",", rest].concat())
}

/// Checks a line without its line end, and returns it without its checksum. A line of an older format has
/// none and is returned as it is.
///
/// # Errors
/// The checksum does not match, with words that follow `line N`.
pub(crate) fn without_checksum(line: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let Some(after) = line.strip_prefix(START) else { return Ok(Cow::Borrowed(line)) };
    let Some((sum, rest)) = after.split_at_checked(DIGITS) else { return Err("is not JSON".to_owned()) };
    let rest = rest.strip_prefix(b"\",").ok_or("is not JSON")?;
    if checksum(rest).as_bytes() != sum {
        return Err("does not match its checksum".to_owned());
    }
    Ok(Cow::Owned([b"{", rest].concat()))
}

/// The line that was written, if exactly one bit of it is wrong now.
pub(crate) fn restore(line: &[u8]) -> Option<Vec<u8>> {
    if line.len() > MAX_SEARCHED {
        return None;
    }
    let mut tried = line.to_vec();
    for at in 0..line.len() {
        for bit in 0..8 {
            tried[at] ^= 1 << bit;
            // Only a match of the checksum proves that this was the bit.
            if tried.starts_with(START) && without_checksum(&tried).is_ok() {
                return Some(tried);
            }
            tried[at] ^= 1 << bit;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &[u8] = br#"{"kind":"dropped","step":"answers"}"#;

    #[test]
    fn every_single_bit_is_found_and_corrected() {
        let line = with_checksum(OBJECT).unwrap();
        assert_eq!(*without_checksum(&line).unwrap(), *OBJECT);
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut damaged = line.clone();
                damaged[at] ^= 1 << bit;
                // Damage before the checksum makes another key of it, which the parser of entries refuses.
                let found = without_checksum(&damaged);
                assert!(found.is_err() || at < START.len(), "bit {bit} of byte {at}");
                assert!(found.is_err() || serde_json::from_slice::<super::super::entry::Entry>(&damaged).is_err());
                assert_eq!(restore(&damaged).unwrap(), line, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn two_wrong_bits_are_not_corrected() {
        let mut line = with_checksum(OBJECT).unwrap();
        line[30] ^= 1;
        line[40] ^= 1;
        assert!(restore(&line).is_none() && without_checksum(&line).is_err());
        assert!(restore(OBJECT).is_none(), "nothing says what a line without a checksum was");
        assert!(restore(&vec![b'x'; MAX_SEARCHED + 1]).is_none());
        assert!(with_checksum(b"[]").is_none());
    }
}
