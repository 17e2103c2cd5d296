//! Did-you-mean: the nearest of a few known words, and user text made fit to print.

use crate::data::one_line;

/// Words longer than this are not compared: the cost is quadratic and nobody mistypes that much.
const LONGEST: usize = 64;

/// Edits (insert, delete, replace, swap of neighbours) from one word to the other: the optimal string alignment distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Letters and digits only, in lower case: `Learning-Rate` and `learning_rate` are the same word.
fn plain(word: &str) -> Vec<char> {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The candidate that `word` was probably meant to be; the first of equals.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let typed = plain(word);
    if typed.is_empty() {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates.into_iter().filter(|c| c.len() <= LONGEST) {
        let known = plain(candidate);
        let edits = distance(&typed, &known);
        // One edit in a short word, a third of a longer one: more than that is another word.
        let allowed = (typed.len().max(known.len()) / 3).max(1);
        if edits <= allowed && edits < known.len() && best.is_none_or(|(least, _)| edits < least) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", or else the list of what there is.
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

/// User text fit for a message: one line, nothing that steers a terminal, not endless.
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
    fn finds_what_was_meant() {
        let keys = ["learning_rate", "beta", "batch", "op", "from"];
        assert_eq!(nearest("learnign_rate", keys), Some("learning_rate"));
        assert_eq!(nearest("LearningRate", keys), Some("learning_rate"));
        assert_eq!(nearest("learning-rate", keys), Some("learning_rate"));
        assert_eq!(nearest("bata", keys), Some("beta"));
        assert_eq!(nearest("form", keys), Some("from"));
        assert_eq!(nearest("zzz", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest(&"a".repeat(1 << 20), keys), None);
    }

    #[test]
    fn shown_text_is_tame() {
        assert_eq!(show("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(show(&"é".repeat(100)).chars().count(), 81);
    }
}
