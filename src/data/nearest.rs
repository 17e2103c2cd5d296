//! Suggestions for misspelt words and paths.

use std::path::{Component, Path, PathBuf};

/// Maximum length of compared words, because the cost is quadratic.
const MAX_LENGTH: usize = 64;

/// Normal form for comparisons: letters and digits in lower case, so that `Learning-Rate` equals
/// `learning_rate`.
fn plain(word: &str) -> String {
    word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The candidate most similar to `word`, the first of equals; never the word itself.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = plain(word);
    if typed.is_empty() || word.len() > MAX_LENGTH {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates.into_iter().filter(|c| c.len() <= MAX_LENGTH && *c != word) {
        let known = plain(candidate);
        let length = known.chars().count();
        // A swap of neighbours counts as one edit.
        let edits = strsim::osa_distance(&typed, &known);
        // At most one edit in a short word, or a third of a longer one.
        let allowed = (typed.chars().count().max(length) / 3).max(1);
        if edits <= allowed && edits < length && best.is_none_or(|(least, _)| edits < least) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Maximum number of listed names.
const MAX_NAMES: usize = 32;

/// Joins names with commas. Long lists and very long names are truncated.
pub fn join_some(names: &[impl AsRef<str>]) -> String {
    let short = |name: &str| match name.char_indices().nth(MAX_LENGTH) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    };
    let shown: Vec<String> = names.iter().take(MAX_NAMES).map(|name| short(name.as_ref())).collect();
    let more = names.len() - shown.len();
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

/// Advice for an unknown word: "did you mean `x`? ", if a known word is similar, and the list of known words.
pub fn did_you_mean(word: &str, there_are: &str, known: &[&str]) -> String {
    let near = nearest(word, known.iter().copied()).map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
    format!("{near}{there_are}: {}", join_some(known))
}

/// Maximum number of directory entries to compare.
const MAX_ENTRIES: usize = 10_000;

/// The existing path most similar to a missing one: each missing name is replaced by the most similar one in
/// its folder.
pub fn nearest_path(path: &Path) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for part in path.components() {
        let next = found.join(part);
        if next.exists() || !matches!(part, Component::Normal(_)) {
            found = next;
            continue;
        }
        let folder = if found.as_os_str().is_empty() { Path::new(".") } else { &found };
        let entries = std::fs::read_dir(folder).ok()?.take(MAX_ENTRIES).flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        found.push(nearest(part.as_os_str().to_str()?, names.iter().map(String::as_str))?);
    }
    (found != path && found.exists()).then_some(found)
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
        assert_eq!(nearest("from", keys), None, "what was typed is no suggestion");
        assert_eq!(nearest("zzz", keys), None);
        assert_eq!(nearest("", keys), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest(&"a".repeat(1 << 20), keys), None);
        assert_eq!(did_you_mean("bata", "its keys", &keys[..2]), "did you mean `beta`? its keys: learning_rate, beta");
        assert_eq!(did_you_mean("zzz", "its keys", &keys[..2]), "its keys: learning_rate, beta");
        let many: Vec<String> = (0..40_000).map(|n| format!("{n:0>70}")).collect();
        let help = did_you_mean("zzz", "its keys", &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(help.len() < 3000 && help.ends_with("… and 39968 more"), "{help}");
    }

    #[test]
    fn finds_the_file_that_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("models/small/config.json");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "").unwrap();
        for typed in ["models/smal/config.json", "model/small/config.jsn", "modles/small/config.json"] {
            assert_eq!(nearest_path(&dir.path().join(typed)).as_deref(), Some(file.as_path()), "{typed}");
        }
        for typed in ["models/small/config.json", "models/other/config.json", "models/small/tokenizer.json"] {
            assert_eq!(nearest_path(&dir.path().join(typed)), None, "{typed}");
        }
    }
}
