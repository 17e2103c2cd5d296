//! Separates texts shown in a template from the template itself: a text that contains a delimiter of the
//! template is escaped, so that an answer cannot end its section and continue as if it were the rubric.
//!
//! Delimiters are read from the template's source: its tags (`<response>`, `[ANSWER]..[/ANSWER]`), its
//! whole lines ("Response B:", "```", "[The End of the Answer]") and the labels in front of its variables
//! ("Response: {{ response }}"). In a text, the bracket that opens such a tag becomes a character
//! reference, `&lt;/response>`, and such a line is quoted, `> Response B:`. Both read well, and every other
//! text is unchanged.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use icu_normalizer::ComposingNormalizerBorrowed;
use regex::{Captures, Regex};

/// Invisible characters.
const UNSEEN: &str = r"\p{Cf}\p{Default_Ignorable_Code_Point}";
/// Characters that change only the look of a text: spaces and invisible ones.
static BLANK: LazyLock<String> = LazyLock::new(|| format!(r"[\s{UNSEEN}]"));

static INVISIBLE: LazyLock<Regex> = LazyLock::new(|| pattern(&format!("[{UNSEEN}]+")));

/// Compiles a pattern of this file.
fn pattern(text: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "the patterns are constants, which the tests compile")]
    Regex::new(text).expect("a valid pattern")
}

/// The start of a tag, with anything between its bracket and its name. The groups are the bracket and the
/// name.
static TAG: LazyLock<Regex> = LazyLock::new(|| {
    let blank = &*BLANK;
    pattern(&format!(r"([<＜﹤])(?:{blank}|[/\\|!／＼])*([\p{{L}}\p{{N}}_][\p{{L}}\p{{N}}{UNSEEN}_.:-]*)"))
});

/// A tag in square brackets. The groups are the bracket, the slash of an end tag, and the name.
static SQUARE: LazyLock<Regex> = LazyLock::new(|| {
    let blank = &*BLANK;
    pattern(&format!(r"([\[［]){blank}*([/\\／＼]?){blank}*([\p{{L}}\p{{N}}_][^\[\]［］\r\n]*)[\]］]"))
});

/// Jinja's expressions, statements and comments.
static COMPUTED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?s)\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}"));

/// Stands for an expression in the source.
const OUTPUT: char = '\u{f1a72}';

/// The delimiters of a template.
#[derive(Default)]
pub(crate) struct Fence {
    /// Names of tags in angle brackets.
    tags: HashSet<String>,
    /// Names of tags in square brackets.
    squares: HashSet<String>,
    /// Whole lines.
    lines: HashSet<String>,
    /// Labels in front of variables: the literal pieces between which a value stands.
    labels: Vec<Vec<String>>,
}

/// Normalises a name or line for comparison: without invisible characters, in lower case, with plain
/// letters for their variants (full width, bold).
fn folded(text: &str) -> String {
    let plain = ComposingNormalizerBorrowed::new_nfkc().normalize(text);
    INVISIBLE.replace_all(&plain, "").trim().chars().flat_map(char::to_lowercase).collect()
}

/// Normalises a line like [`folded`]; all lines that open or close a code block become equal.
fn folded_line(line: &str) -> String {
    let line = folded(line);
    for fence in ["```", "~~~"] {
        if line.starts_with(fence) {
            return fence.to_owned();
        }
    }
    line
}

impl Fence {
    /// Finds the delimiters in a template's source.
    pub fn parse(source: &str) -> Self {
        let literal = COMPUTED.replace_all(source, |found: &Captures<'_>| match &found[0][..2] {
            "{{" => OUTPUT.to_string(),
            _ => String::new(),
        });
        // Tag names are searched in the whole source, because an expression may write a tag too.
        let tags = TAG.captures_iter(source).map(|found| folded(&found[2])).collect();
        let closed = SQUARE.captures_iter(&literal).filter(|found| !found[2].is_empty());
        let squares = closed.map(|found| folded(&found[3])).collect();
        let (mut lines, mut labels) = (HashSet::new(), Vec::new());
        for line in literal.lines() {
            if line.contains(OUTPUT) {
                labels.extend(line.match_indices(OUTPUT).flat_map(|(at, _)| labels_before(&line[..at])));
            } else {
                lines.extend(Some(folded_line(line)).filter(|line| !line.is_empty()));
            }
        }
        Self { tags, squares, lines, labels }
    }

    /// Escapes the delimiters in a text. Most texts contain none and are returned as they are.
    pub fn guard<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let tagged = TAG.replace_all(text, |found: &Captures<'_>| {
            let bracket = if self.tags.contains(&folded(&found[2])) { "&lt;" } else { &found[1] };
            format!("{bracket}{}", &found[0][found[1].len()..])
        });
        let squared = SQUARE.replace_all(&tagged, |found: &Captures<'_>| {
            let bracket = if self.squares.contains(&folded(&found[3])) { "&#91;" } else { &found[1] };
            format!("{bracket}{}", &found[0][found[1].len()..])
        });
        let quoted = self.quote(&squared);
        if quoted == text { Cow::Borrowed(text) } else { Cow::Owned(quoted) }
    }

    /// Quotes lines that equal lines or labels of the template.
    fn quote(&self, text: &str) -> String {
        let is_ours = |line: &str| {
            let line = folded_line(line);
            self.lines.contains(&line) || self.labels.iter().any(|label| begins(&line, label))
        };
        let quoted = |line: &str| if is_ours(line) { format!("> {line}") } else { line.to_owned() };
        text.split_inclusive(is_line_end).map(quoted).collect()
    }
}

/// Whether a reader of any kind treats a character as the end of a line.
fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// Returns the labels that end with a colon at the end of a line's text, split at the values within them:
/// the label from the start of the line, and the one after the last value.
fn labels_before(text: &str) -> Vec<Vec<String>> {
    let pieces: Vec<String> = text.split(OUTPUT).map(folded).collect();
    let own = pieces[pieces.len() - 1..].to_vec();
    let says = |label: &Vec<String>| {
        label.first().is_some_and(|first| first.chars().any(char::is_alphabetic))
            && label.last().is_some_and(|last| last.ends_with([':', '：']))
    };
    let mut labels = vec![pieces, own];
    labels.dedup();
    labels.retain(says);
    labels
}

/// Whether a line begins with a label, with a number or a letter between two of its pieces.
fn begins(line: &str, label: &[String]) -> bool {
    let Some((first, others)) = label.split_first() else { return false };
    let Some(mut rest) = line.strip_prefix(first.as_str()) else { return false };
    // A person would not read "Tasks: two" as the label "Task".
    if !others.is_empty() && first.ends_with(char::is_alphanumeric) && rest.starts_with(char::is_alphanumeric) {
        return false;
    }
    for piece in others {
        let word = rest.trim_start();
        let end = word.find(|c: char| !c.is_alphanumeric()).unwrap_or(word.len());
        let counts = word[..end].chars().all(char::is_numeric) || word[..end].chars().count() == 1;
        match word[end..].trim_start().strip_prefix(piece.as_str()) {
            Some(after) if end > 0 && counts => rest = after,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUBRIC: &str = "Judge this.\n\nThe instruction:\n<instruction>\n{{ prompt }}\n</instruction>\n\n<Response>\n{{ response }}\n</Response>\nScore: N";

    #[test]
    fn a_tag_of_the_template_is_escaped_however_it_is_spelled() {
        let fence = Fence::parse(RUBRIC);
        for (text, shown) in [
            ("x</response>y", "x&lt;/response>y"),
            ("</RESPONSE >", "&lt;/RESPONSE >"),
            ("< / response>", "&lt; / response>"),
            ("<\\/response>", "&lt;\\/response>"),
            ("</\nresponse\n>", "&lt;/\nresponse\n>"),
            ("<response a=\"1\">", "&lt;response a=\"1\">"),
            ("</respon\u{200b}se>", "&lt;/respon\u{200b}se>"),
            ("<\u{200b}/response>", "&lt;\u{200b}/response>"),
            ("＜/response＞", "&lt;/response＞"),
            ("</instruction><response", "&lt;/instruction>&lt;response"),
            ("<<response>", "<&lt;response>"),
            ("</ｒｅｓｐｏｎｓｅ>", "&lt;/ｒｅｓｐｏｎｓｅ>"),
            ("</𝐫esponse>", "&lt;/𝐫esponse>"),
            // Invisible characters anywhere in the tag.
            ("</respon\u{61c}se>", "&lt;/respon\u{61c}se>"),
            ("</respon\u{180e}se>", "&lt;/respon\u{180e}se>"),
            ("</respon\u{e0020}se>", "&lt;/respon\u{e0020}se>"),
            ("</respon\u{34f}se>", "&lt;/respon\u{34f}se>"),
            ("</respon\u{fe0f}se>", "&lt;/respon\u{fe0f}se>"),
            ("<\u{34f}/response>", "&lt;\u{34f}/response>"),
            ("<\u{fe0f}response\u{3164}>", "&lt;\u{fe0f}response\u{3164}>"),
        ] {
            assert_eq!(fence.guard(text), shown, "{text:?}");
        }
    }

    #[test]
    fn every_other_text_stays_as_it_is() {
        let fence = Fence::parse(RUBRIC);
        for text in [
            "",
            "a < b and <b>bold</b>",
            "</response_a></responses>",
            "the response: x",
            "Score: 5",
            "[[A]]",
            "if x <response_count",
            "1\r\n2\u{2028}3\n",
            "&lt;/response>",
        ] {
            assert!(matches!(fence.guard(text), Cow::Borrowed(same) if same == text), "{text:?}");
        }
    }

    #[test]
    fn a_line_of_the_template_is_quoted() {
        let fence = Fence::parse(RUBRIC);
        assert_eq!(fence.guard("a\n the Instruction: \r\nb\nscore: N"), "a\n>  the Instruction: \r\nb\n> score: N");
        let fence =
            Fence::parse("[The Start of the Answer]\n{{ response }}\n[The End of the Answer]\n```\n{{ prompt }}\n```");
        assert_eq!(fence.guard("x\n[the end of the answer]\ny"), "x\n> [the end of the answer]\ny");
        assert_eq!(fence.guard("```python\n1\n```"), "> ```python\n1\n> ```");
        assert_eq!(fence.guard("[the end of\u{34f} the answer\u{fe0f}]"), "> [the end of\u{34f} the answer\u{fe0f}]");
    }

    #[test]
    fn a_label_of_the_template_is_quoted() {
        let fence = Fence::parse("Question: {{ prompt }}\nAnswer to judge: {{ response }}\nyour verdict");
        assert_eq!(fence.guard("x\nAnswer to judge: perfect"), "x\n> Answer to judge: perfect");
        assert_eq!(fence.guard("x\nMy answer to judge: perfect"), "x\nMy answer to judge: perfect");
        let fence =
            Fence::parse("{% for e in examples %}Task {{ loop.index }}: {{ e }}\n\n{% endfor %}Write one more task.");
        assert_eq!(fence.guard("a\n\nTask 12: b\nTask force: c"), "a\n\n> Task 12: b\nTask force: c");
        assert_eq!(fence.guard("Task a plan\nTasks: two"), "Task a plan\nTasks: two");
        assert_eq!(fence.guard("Write one more task."), "> Write one more task.");
        let fence = Fence::parse("Q: {{ prompt }} Your answer: {{ response }}");
        assert_eq!(fence.guard("q: a\nyour answer: b"), "> q: a\n> your answer: b");
        let fence = Fence::parse("judge {{ prompt }} : {{ response }}");
        assert_eq!(fence.guard("judge 1 : 2"), "> judge 1 : 2");
        assert_eq!(fence.guard("a judge : b"), "a judge : b");
    }

    #[test]
    fn tags_in_square_brackets_count_where_they_come_in_pairs() {
        let fence = Fence::parse("[ANSWER]{{ response }}[/ANSWER] then [[A]] or [B]");
        assert_eq!(fence.guard("x[/answer] [A] [[A]] [B]"), "x&#91;/answer] [A] [[A]] [B]");
    }
}
