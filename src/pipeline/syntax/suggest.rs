//! Suggestions for misspelt names, and user text made safe to print.

use crate::data::{nearest, one_line};

/// Returns "did you mean `x`?", or else the list of valid names.
pub fn help<'a>(word: &str, what: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = nearest(word, candidates.clone()) {
        return Some(format!("did you mean `{}`?", show(near)));
    }
    let all: Vec<String> = candidates.into_iter().map(show).collect();
    match all.len() {
        0 => None,
        1..=40 => Some(format!("{what}: {}", all.join(", "))),
        n => Some(format!("{what}: {}, and {} more", all[..40].join(", "), n - 40)),
    }
}

/// Makes user text safe for a message: one line of bounded length, without terminal control characters.
pub fn show(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == 80 {
            out.push('…');
            break;
        }
        out.push(c);
    }
    one_line(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_text_is_tame() {
        assert_eq!(show("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(show(&"é".repeat(100)).chars().count(), 81);
    }
}
