//! Filters for written prompts: those of Self-Instruct (arXiv 2212.10560), with its constants as defaults,
//! and heuristics for the language. Near copies are detected elsewhere, because they depend on what was
//! written before.

use regex::Regex;

use crate::operators::shared::prelude::*;

/// Words that mark prompts which cannot be answered in text alone.
const KEYWORDS: &[&str] = &[
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
    "go to",
];

/// The most common English words that are not words of the languages below.
const ENGLISH: &[&str] = &[
    "the", "of", "and", "to", "in", "is", "for", "with", "what", "how", "why", "that", "this", "your", "you", "are",
    "it", "from", "by", "which", "write", "give", "explain", "list", "name",
];
/// The most common words of German, French, Spanish, Italian, Portuguese and Dutch; none is common in
/// English.
const OTHERS: &[&[&str]] = &[
    &[
        "der", "das", "und", "ist", "ein", "eine", "einen", "mit", "für", "auf", "nicht", "wie", "sie", "von", "zu",
        "dem", "den",
    ],
    &[
        "le", "les", "des", "et", "est", "une", "pour", "dans", "qui", "que", "vous", "du", "sur", "quelle", "avec",
        "comment",
    ],
    &["el", "los", "las", "y", "es", "una", "para", "en", "que", "por", "con", "como", "del", "cuál", "qué"],
    &["il", "lo", "gli", "è", "una", "per", "che", "con", "di", "del", "della", "sono", "quali", "perché"],
    &["os", "é", "um", "uma", "para", "em", "que", "com", "não", "dos", "da", "são", "quais"],
    &["het", "een", "van", "voor", "met", "niet", "wat", "hoe", "zijn", "naar", "waarom", "en", "de"],
];

/// The keys of `reject`.
pub(crate) struct PromptFilters {
    /// ROUGE-L above which a prompt counts as a near copy; 1 or more switches the check off.
    pub rouge_l: f64,
    truncated: bool,
    min_words: usize,
    max_words: usize,
    keywords: Option<Regex>,
    starts_with: Vec<String>,
    punctuation: bool,
    non_ascii: bool,
    english: bool,
    ascii_letters: f64,
}

impl PromptFilters {
    /// Reads the keys.
    pub fn fields(f: &mut Fields<'_>) -> Self {
        f.table("reject", "filters that drop prompts; each dropped prompt is a row of `errors` with the filter's name as its code", |f| {
            let about = "ROUGE-L F-measure with any example or earlier prompt above which a prompt is a near copy; 1 is off";
            let rouge_l = f.float("rouge_l", about, Some(0.7), 0.0..=1.0);
            let languages = [
                ("english", "prompts with more common words of another European language than of English are dropped"),
                ("any", "all are kept"),
            ];
            let min_words = f.int("min_words", "minimum number of words", Some(4), 0..=10_000) as usize;
            let max_words = f.int("max_words", "maximum number of words", Some(150), 1..=100_000) as usize;
            if min_words > max_words {
                let message = format!("`min_words` is {min_words}, more than `max_words`, which is {max_words}: every prompt is dropped");
                f.problem("min_words", message, "lower it, or raise `max_words`");
            }
            let keywords = f.texts("keywords", "words that a prompt must not contain, in any case", Some(KEYWORDS));
            Self {
                rouge_l,
                truncated: f.bool("truncated", "drops prompts that max_tokens has cut", Some(true)),
                min_words,
                max_words,
                keywords: pattern(&keywords).unwrap_or_else(|e| {
                    f.problem("keywords", format!("they make no pattern: {e}"), "fewer or shorter words");
                    None
                }),
                starts_with: f.texts("starts_with", "texts that a prompt must not start with (case-sensitive)", Some(&["Write a program"])),
                punctuation: f.bool("leading_punctuation", "drops prompts that start with ASCII punctuation", Some(true)),
                non_ascii: f.bool("leading_non_ascii", "drops prompts that start with a non-ASCII character", Some(true)),
                english: f.choice("language", "filter by the detected language", &languages, Some("english")) == "english",
                ascii_letters: f.float("ascii_letters", "minimum share of ASCII letters among a prompt's letters; 0 turns it off", Some(0.5), 0.0..=1.0),
            }
        })
    }

    /// Returns the filter that drops a prompt and what it found. `whole` is false if generation was cut.
    pub fn fault(&self, text: &str, whole: bool) -> Option<(&'static str, String)> {
        let count = text.split_whitespace().count();
        let first = text.chars().next();
        if self.truncated && !whole {
            return Some(("truncated", "cut by max_tokens".into()));
        }
        if count < self.min_words || count > self.max_words {
            return Some((
                "length",
                format!("has {count} words; {} to {} are asked for", self.min_words, self.max_words),
            ));
        }
        if let Some(found) = self.keywords.as_ref().and_then(|k| k.find(text)) {
            return Some(("keyword", format!("has the word `{}`", found.as_str())));
        }
        if let Some(start) = self.starts_with.iter().find(|s| !s.is_empty() && text.starts_with(s.as_str())) {
            return Some(("starts_with", format!("begins with `{start}`")));
        }
        if let Some(c) = first.filter(|c| self.punctuation && c.is_ascii_punctuation()) {
            return Some(("leading_punctuation", format!("begins with `{c}`")));
        }
        if let Some(c) = first.filter(|c| self.non_ascii && !c.is_ascii()) {
            return Some(("leading_non_ascii", format!("begins with `{c}`")));
        }
        let letters = text.chars().filter(|c| c.is_alphabetic()).count();
        let ascii = text.chars().filter(char::is_ascii_alphabetic).count();
        if (ascii as f64) < self.ascii_letters * letters as f64 {
            return Some(("language", format!("{ascii} of its {letters} letters are ASCII's")));
        }
        if self.english
            && let Some(foreign) = foreign(text)
        {
            return Some(("language", format!("has words of another language: {foreign}")));
        }
        None
    }
}

/// Matches whole words of any case; `None` if the list is empty.
fn pattern(words: &[String]) -> Result<Option<Regex>, regex::Error> {
    // Next to a sign, as at the end of `c++`, a regular expression finds no word boundary.
    let edge = |c: Option<char>| if c.is_some_and(|c| c.is_alphanumeric() || c == '_') { r"\b" } else { "" };
    let whole =
        |word: &str| format!("{}{}{}", edge(word.chars().next()), regex::escape(word), edge(word.chars().next_back()));
    let words: Vec<String> = words.iter().map(|w| w.trim()).filter(|w| !w.is_empty()).map(whole).collect();
    if words.is_empty() { Ok(None) } else { Regex::new(&format!("(?i)(?:{})", words.join("|"))).map(Some) }
}

/// Returns the common words of another language if a text has at least two of them and more than English
/// ones.
fn foreign(text: &str) -> Option<String> {
    let text = text.to_lowercase();
    let mut words: Vec<&str> = text.split(|c: char| !c.is_alphabetic()).collect();
    words.sort_unstable();
    words.dedup();
    let of = |language: &[&str]| words.iter().copied().filter(|w| language.contains(w)).collect::<Vec<_>>();
    let english = of(ENGLISH).len();
    let most = OTHERS.iter().map(|o| of(o)).max_by_key(Vec::len)?;
    (most.len() >= 2 && most.len() > english).then(|| most.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> PromptFilters {
        PromptFilters {
            rouge_l: 0.7,
            truncated: true,
            min_words: 4,
            max_words: 150,
            keywords: pattern(&KEYWORDS.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap(),
            starts_with: vec!["Write a program".into()],
            punctuation: true,
            non_ascii: true,
            english: true,
            ascii_letters: 0.5,
        }
    }

    #[test]
    fn each_filter_says_its_name() {
        let reject = all();
        let long = "word ".repeat(151);
        for (text, code) in [
            ("Name three rivers", "length"),
            ("", "length"),
            (long.as_str(), "length"),
            ("Describe the Picture of a cat", "keyword"),
            ("Where do I go to when it rains?", "keyword"),
            ("Write a program that sorts numbers", "starts_with"),
            ("- List three good ideas", "leading_punctuation"),
            ("\"Quoted words\" are what they are", "leading_punctuation"),
            ("Élan is a word, is it not?", "leading_non_ascii"),
            ("Say 日本語の文を英語に訳してください in plain words", "language"),
            ("Nenne drei Tiere und sage, wie sie heißen", "language"),
            ("Quelle est la capitale de France et pour qui?", "language"),
            ("Explica por que el mar es azul", "language"),
        ] {
            let fault = reject.fault(text, true);
            assert_eq!(fault.as_ref().map(|f| f.0), Some(code), "{text}: {fault:?}");
        }
        assert_eq!(reject.fault("Name three rivers of", false).map(|f| f.0), Some("truncated"));
        for text in [
            "Name three rivers of Europe",
            "Write a Program that sorts numbers, in words",
            "Explain how a profile and a mapping differ",
            "What does the French phrase \"c'est la vie\" mean?",
            "Translate into Spanish: the sea is blue",
            "Forgo toast and explain why",
            long[..long.len() - 5].trim(),
        ] {
            assert_eq!(reject.fault(text, true), None, "{text}");
        }
    }

    #[test]
    fn filters_can_be_turned_off() {
        let off = PromptFilters {
            rouge_l: 1.,
            truncated: false,
            min_words: 0,
            max_words: 100_000,
            keywords: pattern(&[]).unwrap(),
            starts_with: Vec::new(),
            punctuation: false,
            non_ascii: false,
            english: false,
            ascii_letters: 0.,
        };
        for text in ["", "- map", "日本語", "Write a program", "Nenne drei Tiere und sage, wie sie heißen"] {
            assert_eq!(off.fault(text, false), None, "{text}");
        }
        let signs = pattern(&["c++".into(), ".net".into(), " ".into()]).unwrap().unwrap();
        assert!(signs.is_match("use C++ here") && signs.is_match("in .NET") && !signs.is_match("c and net"));
    }
}
