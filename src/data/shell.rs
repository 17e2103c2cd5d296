//! Quoting of words in commands that a user can paste into a shell.

use super::visible::is_terminal_control;

/// Quotes a word for the shell. Characters that control a terminal are escaped in bash's syntax.
pub fn quoted(word: &str) -> String {
    if word.contains(is_terminal_control) {
        let escaped = |c: char| match c {
            '\'' | '\\' => format!("\\{c}"),
            c if is_terminal_control(c) => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        };
        return format!("$'{}'", word.chars().map(escaped).collect::<String>());
    }
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_by_the_shell_as_they_are() {
        for (word, typed) in [
            ("runs/a-b_1", "runs/a-b_1"),
            ("a b", "'a b'"),
            ("a'b", r"'a'\''b'"),
            ("", "''"),
            ("a\u{1b}'\\", r"$'a\u001b\'\\'"),
        ] {
            assert_eq!(quoted(word), typed);
        }
    }
}
