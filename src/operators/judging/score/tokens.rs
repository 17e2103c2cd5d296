//! Splits a judge's text into tokens: numbers, words, marks and line ends with their places, and marks
//! quotations.

use std::ops::Range;

/// Kind of a token.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum ScoreTokenKind {
    /// A number in digits of any script, with its fraction: "4", "-1", "4.5", "4,5", "4½".
    Number(f32),
    /// Letters in lower case.
    Word(String),
    /// Any other character.
    Mark(char),
    /// The end of a line.
    Newline,
}

/// One token.
#[derive(Clone, Debug)]
pub(super) struct ScoreToken {
    pub kind: ScoreTokenKind,
    /// Bytes of the text.
    pub place: Range<usize>,
    /// Whether white space precedes it on its line.
    pub spaced: bool,
    /// Whether a word begins with a capital letter.
    pub capital: bool,
    /// Number of the quotation that contains it, from 1; 0 outside of quotations.
    pub quote: u32,
    /// Whether it is in a code fence.
    pub fenced: bool,
}

impl ScoreToken {
    pub fn number(&self) -> Option<f32> {
        if let ScoreTokenKind::Number(n) = self.kind { Some(n) } else { None }
    }
    pub fn word(&self) -> Option<&str> {
        if let ScoreTokenKind::Word(w) = &self.kind { Some(w) } else { None }
    }
    pub fn is_mark(&self, marks: &str) -> bool {
        matches!(self.kind, ScoreTokenKind::Mark(c) if marks.contains(c))
    }
    pub fn is_newline(&self) -> bool {
        self.kind == ScoreTokenKind::Newline
    }
}

/// The digit zero of each script that a judge may use.
const ZEROS: [u32; 19] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50, 0xed0, 0xf20, 0x1040,
    0x17e0, 0x1810, 0xff10,
];

/// Returns the value of a digit of any of the scripts.
pub(super) fn digit(c: char) -> Option<u32> {
    let other = || ZEROS.iter().find_map(|&zero| (c as u32).checked_sub(zero).filter(|d| *d < 10));
    c.to_digit(10).or_else(other)
}

/// Returns the value of a one-character fraction.
fn fraction(c: char) -> Option<f32> {
    Some(match c {
        '½' => 0.5,
        '¼' => 0.25,
        '¾' => 0.75,
        '⅓' => 1. / 3.,
        '⅔' => 2. / 3.,
        '⅕' => 0.2,
        '⅖' => 0.4,
        '⅗' => 0.6,
        '⅘' => 0.8,
        _ => return None,
    })
}

/// Tags around a judge's reasoning or a copy of the answer.
const REASONING: [&str; 4] = ["think", "thinking", "reasoning", "thought"];
const COPIES: [&str; 5] = ["response", "answer_to_judge", "assistant", "prompt", "question"];

/// Returns the bounds of the text after a judge's reasoning: after the last `</think>`, or before an
/// unclosed `<think>`.
pub(super) fn after_reasoning(text: &str) -> Range<usize> {
    let mut range = 0..text.len();
    for tag in REASONING {
        if let Some(at) = text[range.clone()].rfind(&format!("</{tag}>")) {
            range.start += at + tag.len() + 3;
        }
    }
    for tag in REASONING {
        if let Some(at) = text[range.clone()].find(&format!("<{tag}>")) {
            range.end = range.start + at;
        }
    }
    range
}

/// Returns the tokens of `text[range]`, with places in `text`.
pub(super) fn tokens(text: &str, range: Range<usize>) -> Vec<ScoreToken> {
    let mut out: Vec<ScoreToken> = Vec::new();
    let (mut at, mut spaced) = (range.start, false);
    while let Some(c) = text[at..range.end].chars().next() {
        if c == '\n' {
            out.push(token(ScoreTokenKind::Newline, at..at + 1, spaced));
            (at, spaced) = (at + 1, false);
            continue;
        }
        if c.is_whitespace() || c == '\u{200b}' || c == '\u{fe0f}' {
            (at, spaced) = (at + c.len_utf8(), true);
            continue;
        }
        let rest = &text[at..range.end];
        let (kind, length) = number_at(rest, out.last(), spaced)
            .or_else(|| word_at(rest))
            .unwrap_or((ScoreTokenKind::Mark(c), c.len_utf8()));
        let mut next = token(kind, at..at + length, spaced);
        next.capital = c.is_uppercase();
        out.push(next);
        (at, spaced) = (at + length, false);
    }
    mark_quotations(text, &mut out);
    mark_fences(&mut out);
    out
}

fn token(kind: ScoreTokenKind, place: Range<usize>, spaced: bool) -> ScoreToken {
    ScoreToken { kind, place, spaced, capital: false, quote: 0, fenced: false }
}

/// Reads a word at the beginning of a text. An underscore ends a word, so `final_score` is two words.
fn word_at(rest: &str) -> Option<(ScoreTokenKind, usize)> {
    if !rest.chars().next()?.is_alphabetic() {
        return None;
    }
    let inside = |c: char| c.is_alphanumeric() && digit(c).is_none_or(|_| c.is_ascii_digit());
    let mut length = 0;
    let mut chars = rest.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let apostrophe = matches!(c, '\'' | '’') && chars.peek().is_some_and(|(_, next)| next.is_alphabetic());
        if !inside(c) && !apostrophe {
            break;
        }
        length = at + c.len_utf8();
    }
    Some((ScoreTokenKind::Word(rest[..length].to_lowercase().replace('’', "'")), length))
}

/// Reads a number at the beginning of a text: a sign, digits, a decimal part and a fraction. A sign belongs
/// to the number unless it follows a number or letters, where it is a dash.
fn number_at(rest: &str, before: Option<&ScoreToken>, spaced: bool) -> Option<(ScoreTokenKind, usize)> {
    let first = rest.chars().next()?;
    if let Some(part) = fraction(first) {
        return Some((ScoreTokenKind::Number(part), first.len_utf8()));
    }
    let mut plain = String::new();
    let mut length = 0;
    if matches!(first, '-' | '\u{2212}') {
        let behind_number = before.is_some_and(|t| t.number().is_some());
        let behind_word = !spaced && before.is_some_and(|t| t.word().is_some());
        if behind_number || behind_word {
            return None;
        }
        plain.push('-');
        length = first.len_utf8();
    }
    let digits = |from: usize, plain: &mut String| {
        let mut end = from;
        for c in rest[from..].chars() {
            let Some(d) = digit(c) else { break };
            plain.push(char::from_digit(d, 10).unwrap_or('0'));
            end += c.len_utf8();
        }
        end
    };
    let whole = digits(length, &mut plain);
    if whole == length {
        return None;
    }
    length = whole;
    let separator = rest[length..].chars().next().filter(|c| matches!(c, '.' | ','));
    if let Some(separator) = separator {
        let mut part = String::new();
        let end = digits(length + 1, &mut part);
        // Three digits after a comma are thousands; other counts are a decimal part.
        if end > length + 1 {
            if separator == '.' || part.len() != 3 {
                plain.push('.');
            }
            plain.push_str(&part);
            length = end;
        }
    }
    let mut number: f32 = plain.parse().ok()?;
    let gap = rest[length..].len() - rest[length..].trim_start_matches(' ').len();
    if let Some(part) = rest[length + gap.min(1)..].chars().next().filter(|_| gap <= 1).and_then(fraction) {
        number += part;
        length += gap + rest[length + gap..].chars().next().map_or(0, char::len_utf8);
    }
    Some((ScoreTokenKind::Number(number), length))
}

/// Numbers the quotations: text between double or typographic quotation marks of one paragraph, between
/// single ones that are not apostrophes, lines that begin with `>`, and copies of the answer between their
/// tags.
fn mark_quotations(text: &str, tokens: &mut [ScoreToken]) {
    let mut next = 0;
    let mut open: Option<(char, u32)> = None;
    let mut block = None;
    let mut line_start = true;
    for i in 0..tokens.len() {
        let blank_line = tokens[i].is_newline() && i > 0 && tokens[i - 1].is_newline();
        if blank_line {
            open = None;
        }
        if let ScoreTokenKind::Mark(c) = tokens[i].kind {
            if line_start && c == '>' {
                next += 1;
                block = Some(next);
            }
            match open {
                Some((closing, _)) if c == closing && closes(text, &tokens[i]) => open = None,
                None => {
                    if let Some(closing) = closing_quote(text, &tokens[i]) {
                        next += 1;
                        open = Some((closing, next));
                    }
                }
                _ => {}
            }
        }
        tokens[i].quote = block.or(open.map(|(_, id)| id)).unwrap_or(0);
        line_start = tokens[i].is_newline();
        if line_start {
            block = None;
        }
    }
    for tag in COPIES {
        let (from, to) = (format!("<{tag}>"), format!("</{tag}>"));
        let mut at = 0;
        while let Some(start) = text[at..].find(&from) {
            let start = at + start;
            let end = text[start..].find(&to).map_or(text.len(), |e| start + e);
            next += 1;
            let first = tokens.partition_point(|t| t.place.start < start);
            for t in tokens[first..].iter_mut().take_while(|t| t.place.start < end) {
                t.quote = next;
            }
            at = end.max(start + from.len());
        }
    }
}

/// Returns the mark that closes a quotation opened by this one; `None` if it opens none.
fn closing_quote(text: &str, token: &ScoreToken) -> Option<char> {
    match token.kind {
        ScoreTokenKind::Mark('"') => Some('"'),
        ScoreTokenKind::Mark('“') => Some('”'),
        ScoreTokenKind::Mark('«') => Some('»'),
        ScoreTokenKind::Mark('‘') => Some('’'),
        ScoreTokenKind::Mark('\'') => {
            let before = text[..token.place.start].chars().next_back();
            let after = text[token.place.end..].chars().next();
            let opens = before.is_none_or(|c| !c.is_alphanumeric()) && after.is_some_and(char::is_alphanumeric);
            opens.then_some('\'')
        }
        _ => None,
    }
}

/// Whether a closing mark closes: a single quotation mark between letters is an apostrophe.
fn closes(text: &str, token: &ScoreToken) -> bool {
    let after = text[token.place.end..].chars().next();
    !matches!(token.kind, ScoreTokenKind::Mark('\'' | '’')) || after.is_none_or(|c| !c.is_alphanumeric())
}

/// Marks the tokens between lines of three backquotes.
fn mark_fences(tokens: &mut [ScoreToken]) {
    let mut fenced = false;
    let mut i = 0;
    while i < tokens.len() {
        let fence = tokens.len() - i >= 3 && tokens[i..i + 3].iter().all(|t| t.is_mark("`"));
        if fence {
            fenced = !fenced;
            i += 3;
            continue;
        }
        tokens[i].fenced = fenced;
        i += 1;
    }
}
