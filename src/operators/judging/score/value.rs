//! Reads the value where a score is expected: a number with its unit and scale, or a sum.

use super::tokens::{ScoreToken, ScoreTokenKind};
use super::words::{
    CORRECTING, CORRECTIONS, DEDUCTIONS, FILLERS, FOLLOWERS, NUMBER_WORDS, OPEN_ENDED, TAGS, UNITS, VAGUE,
};

/// A value as a judge states it.
#[derive(Clone, Debug)]
pub(super) struct StatedValue {
    pub score: f32,
    /// The highest score that it names.
    pub of: Option<f32>,
    /// Whether it is exactly one number: not a range, not hedged, not corrected.
    pub certain: bool,
    /// The token of the number.
    pub token: usize,
    /// The token after the value.
    pub end: usize,
}

/// Marks of emphasis, quotation and brackets that may precede a value.
const OPENERS: &str = "\"'*_`[(<{$\\“‘«";
/// Marks that may follow it.
const CLOSERS: &str = "\"'*_`])}>$\\”’»";
/// Marks that join one number to another.
const JOINING: &str = "-–—−~+±/×→=&";
/// Marks that may directly follow a score. Any other changes its meaning: "4‰".
const PUNCTUATION: &str = ".,;:!…|()[]{}<>*_\"'`“”‘’«»#$\\。，；！、（）】」-–—−=+/?~±×→&★⭐☆";

/// Parses a number in digits or as a word.
fn number(token: &ScoreToken) -> Option<f32> {
    let word = |w: &str| NUMBER_WORDS.iter().position(|n| *n == w).map(|n| n as f32);
    token.number().or_else(|| token.word().and_then(word))
}

/// Reads a value that is the whole text: "4/5", or "4/5 - clear" if it names its scale.
pub(super) fn alone(tokens: &[ScoreToken]) -> Option<StatedValue> {
    let value = value(tokens, 0, 0)?;
    tokens[value.token].number()?;
    let rest = tokens[value.end..].iter().all(|t| t.is_newline() || t.is_mark(".!"));
    (rest || (value.of.is_some() && value.certain)).then_some(value)
}

/// Reads the value that begins at token `at`, after up to `newlines` line ends; `None` if no value is
/// there.
pub(super) fn value(tokens: &[ScoreToken], at: usize, newlines: usize) -> Option<StatedValue> {
    let (at, vague, below) = start(tokens, at, newlines)?;
    if let Some(mut sum) = sum(tokens, at) {
        sum.certain &= !vague;
        return Some(sum);
    }
    let mut value = single(tokens, at)?;
    // "1. It is relevant" below a heading is a list and not a score.
    let listed = below
        && value.end == value.token + 1
        && tokens.get(value.end).is_some_and(|t| t.is_mark(".)") && !t.spaced)
        && tokens.get(value.end + 1).is_some_and(|t| t.spaced);
    value.certain &= !vague && !listed && certain_after(tokens, &value);
    Some(value)
}

/// Skips marks and filler words before a number. Returns the number's token, whether words or marks before
/// it make it vague, and whether it is on a line of its own below.
fn start(tokens: &[ScoreToken], mut at: usize, newlines: usize) -> Option<(usize, bool, bool)> {
    let (mut vague, mut lines) = (false, 0);
    let from = at;
    for _ in 0..16 {
        let token = tokens.get(at)?;
        match &token.kind {
            _ if number(token).is_some() => {
                // "<4>" is in brackets, but "<4" is a bound.
                let around = &tokens[from..tokens.len().min(at + 4)];
                let opened = |mark| tokens[from..at].iter().any(|t| t.is_mark(mark));
                let bound = opened("<") && !around.iter().any(|t| t.is_mark(">"));
                // "$4$" is a formula, but "$4" is money.
                let bound = bound || (opened("$") && !tokens[at..].iter().take(4).any(|t| t.is_mark("$")));
                return Some((at, vague || bound, lines > 0));
            }
            ScoreTokenKind::Newline if lines < newlines => lines += 1,
            ScoreTokenKind::Mark('<') if tag_end(tokens, at).is_some() => at = tag_end(tokens, at)?,
            ScoreTokenKind::Mark(c) if OPENERS.contains(*c) => {}
            ScoreTokenKind::Mark('~' | '≈' | '≥' | '≤' | '>') => vague = true,
            ScoreTokenKind::Word(w) if FILLERS.contains(&w.as_str()) => {}
            ScoreTokenKind::Word(w) if VAGUE.contains(&w.as_str()) => vague = true,
            ScoreTokenKind::Word(w) if vague && matches!(w.as_str(), "to" | "than" | "least" | "most") => {}
            _ => return None,
        }
        at += 1;
    }
    None
}

/// Returns the closing bracket of an HTML tag that begins at a token: `<b>`, `</b>`.
fn tag_end(tokens: &[ScoreToken], at: usize) -> Option<usize> {
    let name = at + 1 + usize::from(tokens.get(at + 1)?.is_mark("/"));
    let known = TAGS.contains(&tokens.get(name)?.word()?);
    (known && tokens.get(name + 1)?.is_mark(">")).then_some(name + 1)
}

/// Reads a number with its unit and scale.
fn single(tokens: &[ScoreToken], at: usize) -> Option<StatedValue> {
    let first = tokens.get(at)?;
    let mut score = number(first)?;
    let mut end = at + 1;
    let mut certain = true;
    let word_at = |i: usize| tokens.get(i).and_then(ScoreToken::word);
    if first.word().is_some() {
        // "one sentence is missing" begins with a word that is not a score.
        let goes_on = tokens.get(end).and_then(ScoreToken::word);
        let allowed = goes_on.is_none_or(|w| {
            UNITS.contains(&w)
                || w == "out"
                || w == "and"
                || (w == "of" && tokens.get(end + 1).and_then(number).is_some())
        });
        if !allowed && !tokens.get(end).is_some_and(|t| t.capital) {
            return None;
        }
    } else if let Some(glued) = tokens.get(end).filter(|t| !t.spaced).and_then(ScoreToken::word) {
        // "4th" and "2x" are not scores, but "4pts" is.
        certain &= UNITS.contains(&glued);
    }
    if let Some((part, after)) = mixed_fraction(tokens, end) {
        (score, end) = (score + part, after);
    } else if word_at(end) == Some("and") && word_at(end + 1) == Some("a") && word_at(end + 2) == Some("half") {
        (score, end) = (score + 0.5, end + 3);
    }
    let mut of = None;
    for _ in 0..6 {
        let from = end;
        while tokens.get(end).is_some_and(|t| t.is_mark(CLOSERS)) {
            end += 1;
        }
        if tokens.get(end).is_some_and(|t| t.is_mark("%")) {
            (of, end) = (Some(100.), end + 1);
        }
        if matches!(word_at(end), Some("possible" | "available")) && of.is_some() {
            end += 1;
        }
        // "four (4)" repeats the number.
        if let Some([open, again, close]) = tokens.get(end..end + 3)
            && open.is_mark("(")
            && close.is_mark(")")
            && number(again).is_some_and(|n| n == score || of == Some(n))
        {
            end += 3;
        }
        if word_at(end).is_some_and(|w| UNITS.contains(&w)) || tokens.get(end).is_some_and(|t| t.is_mark("★⭐☆")) {
            end += 1;
        }
        if let Some((scale, after)) = out_of(tokens, end) {
            certain &= of.is_none_or(|of: f32| of == scale);
            (of, end) = (Some(scale), after);
        }
        if end == from {
            break;
        }
    }
    Some(StatedValue { score, of, certain, token: at, end })
}

/// Reads "1/2" after a whole number: "3 1/2".
fn mixed_fraction(tokens: &[ScoreToken], at: usize) -> Option<(f32, usize)> {
    let [over, bar, under] = tokens.get(at..at + 3)? else { return None };
    let (over_n, under_n) = (over.number()?, under.number()?);
    let glued = over.spaced && bar.is_mark("/") && !bar.spaced && !under.spaced;
    (glued && over_n < under_n && over_n >= 1. && under_n <= 10.).then_some((over_n / under_n, at + 3))
}

/// Reads "/5", "out of a possible 5", "of 5", "(max 5)", "(0-5)", "on a scale of 0 to 5", "on a 5-point
/// scale": the highest score and the token after it.
pub(super) fn out_of(tokens: &[ScoreToken], at: usize) -> Option<(f32, usize)> {
    let mut i = at;
    let bracket = tokens.get(i).is_some_and(|t| t.is_mark("(["));
    i += usize::from(bracket);
    let word_at = |i: usize| tokens.get(i).and_then(ScoreToken::word);
    let number_at = |i: usize| tokens.get(i).and_then(number);
    let skip = |mut i: usize, words: &[&str]| {
        while word_at(i).is_some_and(|w| words.contains(&w)) || tokens.get(i).is_some_and(|t| t.is_mark("*_:.`")) {
            i += 1;
        }
        i
    };
    const SCALE: [&str; 10] = ["a", "an", "the", "possible", "maximum", "max", "total", "of", "full", "maximal"];
    let (scale, mut end) = if tokens.get(i).is_some_and(|t| t.is_mark("/")) {
        let i = skip(i + 1, &[]);
        (number_at(i)?, i + 1)
    } else if word_at(i) == Some("out") && word_at(i + 1) == Some("of") {
        let i = skip(i + 2, &SCALE);
        (number_at(i)?, i + 1)
    } else if word_at(i) == Some("of") {
        let i = skip(i + 1, &SCALE);
        (number_at(i)?, i + 1)
    } else if word_at(i) == Some("on") {
        on_a_scale(tokens, i + 1)?
    } else if bracket && word_at(i).is_some_and(|w| w.starts_with("max")) {
        let i = skip(i + 1, &SCALE);
        (number_at(i)?, i + 1)
    } else if bracket {
        bracketed_scale(tokens, i)?
    } else {
        return None;
    };
    if bracket {
        end = (end..tokens.len().min(end + 6)).find(|&i| tokens[i].is_mark(")]"))? + 1;
    }
    Some((scale, end))
}

/// Reads "a scale of 0 to 5", "a scale from 0-5", "a 5-point scale" after "on".
fn on_a_scale(tokens: &[ScoreToken], at: usize) -> Option<(f32, usize)> {
    let line = tokens[at..].iter().take(10).take_while(|t| !t.is_newline() && !t.is_mark(";("));
    let line: Vec<&ScoreToken> = line.collect();
    let named = line.iter().position(|t| t.word() == Some("scale"))?;
    if let Some(points) = line[..named].iter().rposition(|t| number(t).is_some()) {
        return Some((number(line[points])?, at + named + 1));
    }
    let mut last = None;
    for (i, token) in line.iter().enumerate().skip(named + 1) {
        match &token.kind {
            ScoreTokenKind::Number(n) => last = Some((*n, at + i + 1)),
            ScoreTokenKind::Word(w) if matches!(w.as_str(), "of" | "from" | "to") => {}
            ScoreTokenKind::Mark('-' | '–' | '—') => {}
            _ => break,
        }
    }
    last
}

/// Reads "0-5)" or "5 max)" after an opening bracket.
fn bracketed_scale(tokens: &[ScoreToken], at: usize) -> Option<(f32, usize)> {
    let first = tokens.get(at)?.number()?;
    let next = tokens.get(at + 1)?;
    if next.word().is_some_and(|w| w.starts_with("max") || w == "possible") {
        return Some((first, at + 2));
    }
    let joined = next.is_mark("-–—") || next.word() == Some("to");
    let second = tokens.get(at + 2)?.number()?;
    (joined && first < second).then_some((second, at + 3))
}

/// Whether nothing after a value makes it a range, a bound, a question, a correction or a part of something
/// else.
fn certain_after(tokens: &[ScoreToken], value: &StatedValue) -> bool {
    let mut at = value.end;
    // A remark in brackets may correct the value, or add up to another one.
    if tokens.get(at).is_some_and(|t| t.is_mark("([")) {
        match remark(tokens, at, value.score) {
            Some(end) => at = end,
            None => return false,
        }
    }
    let Some(next) = tokens.get(at) else { return true };
    let number_at = |i: usize| tokens.get(i).and_then(ScoreToken::number);
    if next.is_newline() {
        return true;
    }
    // A closing tag, a model's own end mark, or a rule.
    let tag = next.is_mark("<") && tokens.get(at + 1).is_some_and(|t| t.is_mark("/|"))
        || tokens.get(at + 2).is_some_and(|t| t.is_mark(">"));
    let rule = tokens.get(at..at + 3).is_some_and(|three| three.iter().all(|t| t.is_mark("-")));
    if (next.is_mark("<") && tag) || rule {
        return true;
    }
    if next.is_mark("?±~<") || next.number().is_some() {
        return false;
    }
    if next.is_mark(JOINING) {
        let mut after = at + 1;
        while tokens.get(after).is_some_and(|t| t.is_mark(JOINING) || t.is_mark(">*_`\"")) {
            after += 1;
        }
        // A dash before words begins an explanation; "+" and "/" do not.
        // "3-ish" is one word.
        let hyphen =
            next.is_mark("-") && !next.spaced && tokens.get(at + 1).is_some_and(|t| !t.spaced && t.word().is_some());
        if hyphen {
            return false;
        }
        let comment = next.is_mark("/") && tokens.get(at + 1).is_some_and(|t| t.is_mark("/"));
        let dash = next.is_mark("-–—−=") && tokens.get(after).is_some_and(|t| !t.is_newline());
        return (dash || comment) && number_at(after).is_none() && !corrected(tokens, after);
    }
    if matches!(next.kind, ScoreTokenKind::Mark(c) if !next.spaced && !PUNCTUATION.contains(c)) {
        return false;
    }
    if next.is_mark(",;:|") && (number_at(at + 1).is_some() || corrected(tokens, at + 1)) {
        return false;
    }
    if next.is_mark(".…!") {
        let mut after = at + 1;
        while tokens.get(after).is_some_and(|t| t.is_mark(".…!*")) {
            after += 1;
        }
        let glued = tokens.get(after).is_some_and(|t| !t.spaced && t.number().is_some());
        return !glued && !corrected(tokens, after);
    }
    let Some(word) = next.word() else { return true };
    if next.capital {
        return !corrected(tokens, at);
    }
    if corrected(tokens, at) || DEDUCTIONS.contains(&word) {
        return false;
    }
    if word == "x"
        || (matches!(word, "to" | "and") && number_at(at + 1).is_some())
        || (word == "and" && tokens.get(at + 1).and_then(ScoreToken::word).is_some_and(|w| OPEN_ENDED.contains(&w)))
    {
        return false;
    }
    if word == "for" && partial_credit(tokens, value, at) {
        return false;
    }
    FOLLOWERS.contains(&word)
}

/// Whether other points follow a value on its line: "2 points for this, 1 point for that".
fn partial_credit(tokens: &[ScoreToken], value: &StatedValue, at: usize) -> bool {
    let has_unit = tokens[value.token..value.end].iter().any(|t| t.word().is_some_and(|w| UNITS.contains(&w)));
    let line = tokens[at..].iter().take(60).take_while(|t| !t.is_newline());
    // "1 for this, 1 for that".
    let end = at + line.clone().count();
    let again =
        (at..end).any(|i| tokens[i].number().is_some() && tokens.get(i + 1).and_then(ScoreToken::word) == Some("for"));
    again || line.clone().any(|t| t.is_mark("+") || (has_unit && number(t).is_some()))
}

/// Whether words at a token announce a correction: "wait", "on second thought".
pub(super) fn announces_correction(tokens: &[ScoreToken], at: usize) -> bool {
    let word_at = |i: usize| tokens.get(i).and_then(ScoreToken::word);
    let phrase = |words: &&[&str]| words.iter().enumerate().all(|(i, w)| word_at(at + i) == Some(w));
    word_at(at).is_some_and(|w| CORRECTIONS.contains(&w)) || CORRECTING.iter().any(phrase)
}

/// Whether the text at a token corrects an earlier value: "no: 3", "wait, 3", "actually it should be 3".
pub(super) fn corrected(tokens: &[ScoreToken], at: usize) -> bool {
    if !announces_correction(tokens, at) {
        return false;
    }
    let clause = tokens[at..].iter().take(16).take_while(|t| !t.is_newline());
    match tokens[at].word() {
        Some("or") => true,
        // "not 5" explains why the score is lower.
        Some("not") => false,
        _ => clause.into_iter().skip(1).any(|t| number(t).is_some()),
    }
}

/// Reads a remark in brackets after a value: its end, or `None` if it makes the value uncertain.
fn remark(tokens: &[ScoreToken], at: usize, score: f32) -> Option<usize> {
    let end = (at + 1..tokens.len().min(at + 60)).find(|&i| tokens[i].is_mark(")]") || tokens[i].is_newline())?;
    if tokens[end].is_newline() {
        return None;
    }
    let inside = &tokens[at + 1..end];
    let corrects = inside.iter().enumerate().any(|(i, t)| {
        let next_is_number = inside.get(i + 1).and_then(number).is_some();
        // "(not 5, as ..)" explains; "(clear or short)" lists.
        announces_correction(inside, i) && t.word() != Some("not") && (t.word() != Some("or") || next_is_number)
    });
    if corrects && inside.iter().any(|t| number(t).is_some()) {
        return None;
    }
    if let Some(terms) = terms(inside) {
        return (terms.len() < 2 || same(terms.iter().sum(), score)).then_some(end + 1);
    }
    Some(end + 1)
}

fn same(a: f32, b: f32) -> bool {
    (a - b).abs() < 1e-3
}

/// Returns the numbers of "1 (relevant) + 1 for style - 1", with their signs. Brackets are remarks, other
/// words are units. Returns `None` if a sign is missing between two numbers, or no number is there.
fn terms(tokens: &[ScoreToken]) -> Option<Vec<f32>> {
    let (mut out, mut sign, mut depth) = (Vec::new(), Some(1.0_f32), 0_i32);
    for (i, token) in tokens.iter().enumerate() {
        match &token.kind {
            // "(1) + (1)": brackets around a number alone are not a remark.
            ScoreTokenKind::Mark('(' | '[') => {
                let alone = tokens.get(i + 1).is_some_and(|t| t.number().is_some())
                    && tokens.get(i + 2).is_some_and(|t| t.is_mark(")]"));
                depth += i32::from(!alone || depth > 0);
            }
            ScoreTokenKind::Mark(')' | ']') => depth = (depth - 1).max(0),
            _ if depth > 0 => {}
            ScoreTokenKind::Mark('+') => sign = Some(1.),
            ScoreTokenKind::Mark('-' | '–' | '−') if !out.is_empty() => sign = Some(-1.),
            ScoreTokenKind::Number(n) => out.push(sign.take()? * n),
            _ => {}
        }
    }
    (!out.is_empty()).then_some(out)
}

/// Reads "1 + 1 + 1 = 3", "3 = 1 + 1 + 1", "5 - 2 = 3": parts between equals signs with equal totals. A sum
/// with a missing or wrong total is not certain.
fn sum(tokens: &[ScoreToken], at: usize) -> Option<StatedValue> {
    let length = tokens[at..].iter().take(200).take_while(|t| !t.is_newline()).count();
    let line = &tokens[at..at + length];
    let plus = line.iter().position(|t| t.is_mark("+"));
    let equals = line.iter().position(|t| t.is_mark("="))?;
    let joined = plus.is_some() || line[..equals].iter().any(|t| t.is_mark("-−"));
    if !joined {
        return None;
    }
    let left = terms(&line[..equals])?;
    let right_at = at + equals + 1;
    let (number_at, ..) = start(tokens, right_at, 0)?;
    // The total is on the right, or the terms are.
    let right_end = line[equals + 1..].iter().position(|t| t.is_mark("=")).map_or(length, |e| equals + 1 + e);
    let right = terms(&line[equals + 1..right_end]);
    let total: f32 = left.iter().sum();
    if left.len() == 1 {
        let mut value = single(tokens, at)?;
        let right = right.filter(|r| r.len() >= 2)?;
        value.certain &= same(right.iter().sum(), total);
        value.end = at + right_end;
        return Some(value);
    }
    let mut value = single(tokens, number_at)?;
    value.certain &= same(value.score, total) && certain_after(tokens, &value);
    Some(value)
}
