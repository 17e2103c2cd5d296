//! Text of files and models made safe to print: characters that steer a terminal are shown instead of obeyed.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a terminal or the reader's eye obeys a character instead of showing it: control characters (C0, DEL, C1),
/// marks that turn the direction of writing, and separators of lines and paragraphs.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}')
}

/// Text of several lines: line ends and tabs stay, all else that steers is escaped as `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && c != '\t')
}

/// Text that is to stay on its line: line ends and tabs are escaped too.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| true)
}

/// JSON text of the same meaning in which nothing steers: within its strings `\u009b` says the same as the character.
/// Controls below U+0020 are escaped in JSON anyway; those outside of strings are its line ends.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    let steers = |c: char| c > '\u{7e}' && steers(c);
    if !json.contains(steers) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if steers(c) {
            // Writing to a String cannot fail. All of them have four digits.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn escaped(text: &str, also: impl Fn(char) -> bool) -> Cow<'_, str> {
    let obeyed = |c: char| steers(c) && also(c);
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // A line end of Windows is a line end, where line ends stay.
            '\r' if chars.peek() == Some(&'\n') && !also('\n') => {}
            c if !obeyed(c) => out.push(c),
            '\n' | '\r' | '\t' => out.extend(c.escape_default()),
            c => out.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_shown() {
        let text = "a\u{1b}[31m\tb\r\nc\rd\u{7f}\u{9b}2J\u{202e}\u{200f}\u{2028}\u{e9}";
        let all = "a\\u{1b}[31m\\tb\\r\\nc\\rd\\u{7f}\\u{9b}2J\\u{202e}\\u{200f}\\u{2028}\u{e9}";
        assert_eq!(one_line(text), all);
        assert_eq!(visible(text), "a\\u{1b}[31m\tb\nc\\rd\\u{7f}\\u{9b}2J\\u{202e}\\u{200f}\\u{2028}\u{e9}");
        // Letters, joiners of emoji and combining marks are text.
        let plain = "na\u{ef}ve \u{1f469}\u{200d}\u{1f680} e\u{301} \u{5e9}\u{5dc}\u{5d5}\u{5dd}\n\tx";
        assert!(matches!(visible(plain), Cow::Borrowed(same) if same == plain));
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "k\u{9b}": "\u{1b}[2J\u{7f}\u{202e}\u{e9}\u{1f680}\n", "list": [1, 2] });
        for text in [value.to_string(), format!("{value:#}")] {
            let safe = visible_json(&text);
            assert!(!safe.contains(|c: char| steers(c) && c != '\n'), "{safe}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
    }
}
