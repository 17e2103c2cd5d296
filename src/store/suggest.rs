//! Did-you-mean for column names.

/// Names that other people's datasets give to the same thing.
const ALIASES: &[(&str, &[&str])] = &[
    ("prompt", &["instruction", "question", "query", "input", "user"]),
    ("response", &["output", "answer", "completion", "assistant", "reply"]),
    ("judgement", &["judgment", "critique", "rationale", "feedback", "evaluation"]),
    ("score", &["rating", "grade", "reward", "label"]),
    ("text", &["content", "document", "body"]),
];

/// The name among `have` that `want` most likely is: an alias, or the nearest spelling.
pub(super) fn nearest<'a>(want: &str, have: &[&'a str]) -> Option<&'a str> {
    let aliases = ALIASES.iter().find(|(name, _)| *name == want).map_or(&[][..], |(_, aliases)| aliases);
    let alias = aliases.iter().find_map(|a| have.iter().find(|h| h.eq_ignore_ascii_case(a)));
    alias.copied().or_else(|| {
        let near = |h: &&&str| distance(&want.to_lowercase(), &h.to_lowercase());
        have.iter().min_by_key(near).filter(|h| near(h) <= want.chars().count() / 3 + 1).copied()
    })
}

/// Levenshtein distance, of names of at most 64 characters.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_aliases_and_misspellings() {
        assert_eq!(nearest("prompt", &["id", "Instruction"]), Some("Instruction"));
        assert_eq!(nearest("response", &["id", "responce"]), Some("responce"));
        assert_eq!(nearest("score", &["zebra"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
