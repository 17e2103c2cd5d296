//! Python's classes of characters.

/// Python's white space: Unicode's, and four control characters.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Python's `str.isprintable` of one character. Rust's escaping has the same list, but also escapes combining marks
/// at a text's start, which the letter before avoids.
pub(super) fn is_printable(c: char) -> bool {
    let mut buffer = [b'a', 0, 0, 0, 0];
    let length = c.encode_utf8(&mut buffer[1..]).len();
    let escaped = std::str::from_utf8(&buffer[..1 + length]).map_or(0, |text| text.escape_debug().count());
    matches!(c, '\'' | '"' | '\\') || escaped == 2
}

/// Python's `islower` and `isupper`: at least one letter of the wanted case, and none of the other.
pub(super) fn is_cased(text: &str, other: fn(char) -> bool, wanted: fn(char) -> bool) -> bool {
    !text.chars().any(other) && text.chars().any(wanted)
}
