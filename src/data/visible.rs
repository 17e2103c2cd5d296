//! Safe printing of text from files and models: characters that control a terminal are escaped.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character controls the terminal or the layout instead of being displayed: control characters
/// (C0, DEL, C1), marks of writing direction, and line and paragraph separators.
pub fn is_terminal_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}')
}

/// Escapes text of several lines: line ends and tabs stay, other control characters become `\u{1b}` and the
/// like.
pub fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && c != '\t')
}

/// Escapes text for a single line: line ends and tabs are escaped too.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| true)
}

/// Escapes control characters in JSON without changing its meaning: within strings `\u009b` is the same as
/// the character. Controls below U+0020 are escaped in JSON anyway; those outside of strings are line ends.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    let is_terminal_control = |c: char| c > '\u{7e}' && is_terminal_control(c);
    if !json.contains(is_terminal_control) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_terminal_control(c) {
            // Writing to a String cannot fail. All these characters have four hex digits.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn escaped(text: &str, also: impl Fn(char) -> bool) -> Cow<'_, str> {
    let obeyed = |c: char| is_terminal_control(c) && also(c);
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // Where line ends stay, `\r\n` becomes `\n`.
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
            assert!(!safe.contains(|c: char| is_terminal_control(c) && c != '\n'), "{safe}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
    }
}
