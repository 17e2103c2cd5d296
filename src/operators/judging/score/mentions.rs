//! Finds where a judge's text mentions a score, the value there, and what the sentence means by it.

use super::tokens::{ScoreToken, ScoreTokenKind};
use super::value::{self, StatedValue};
use super::words::{
    AFTER_SCORE, DESERVING, EARLIER, EXAMPLES, FINAL, FITTING, HYPOTHETICAL, JUDGING, LINE_ONLY, NEGATIONS,
    NOT_ITS_OWN, PLAIN, PLAIN_LABELS, SCORE, SCORE_ENDINGS, SPEAKERS, SPEECH, WHOLE_CRITERIA,
};

/// What a mention means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It states the score: "Score: 4" at the start of a line or sentence.
    Verdict,
    /// It states the score within a sentence: "I give it a score of 4".
    Sentence,
    /// It is about a score other than the answer's, or quotes one: "the maximum score is 5".
    Other,
}

/// The rank of a mention, from the words before "score".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rank {
    /// "Final score", "total score", a boxed number.
    Final,
    /// "Score".
    Plain,
    /// "Relevance score": of one criterion.
    Part,
}

/// A mention of a score.
#[derive(Clone, Debug)]
pub(super) struct Mention {
    /// The token of the word or mark that announces it.
    pub at: usize,
    pub value: StatedValue,
    pub standing: Standing,
    pub rank: Rank,
    /// Whether it stands in a code fence.
    pub fenced: bool,
}

/// How many tokens of a sentence are considered, so that a text of a million words is read in linear time.
const REACH: usize = 40;

/// Returns every mention of a score, in text order.
pub(super) fn mentions(tokens: &[ScoreToken]) -> Vec<Mention> {
    let mut out: Vec<Mention> = Vec::new();
    for at in 0..tokens.len() {
        let found = match &tokens[at].kind {
            ScoreTokenKind::Word(w) if is_score(w) => named(tokens, at).or_else(|| given(tokens, at)),
            ScoreTokenKind::Word(w) if LINE_ONLY.contains(&w.as_str()) && begins_line(tokens, at).is_some() => {
                line_only(tokens, at)
            }
            ScoreTokenKind::Word(w) if JUDGING.contains(&w.as_str()) || DESERVING.contains(&w.as_str()) => {
                given(tokens, at)
            }
            ScoreTokenKind::Word(w) if w == "boxed" => boxed(tokens, at),
            ScoreTokenKind::Mark('[') if tokens.get(at + 1).is_some_and(|t| t.is_mark("[")) => boxed(tokens, at + 1),
            _ => None,
        };
        // A number counts once: "final rating: [[4]]" is one mention.
        if let Some(found) = found.map(|mention| Mention { at, ..mention })
            && out.last().is_none_or(|last| last.value.token != found.value.token)
        {
            out.push(found);
        }
    }
    out
}

pub(super) fn is_score(word: &str) -> bool {
    SCORE.contains(&word) || SCORE_ENDINGS.iter().any(|ending| word.ends_with(ending))
}

/// Whether the word before "score" makes it final: "final", "total".
pub(super) fn is_final(word: &str) -> bool {
    FINAL.contains(&word)
}

/// Returns the tokens of the sentence before a token, nearest first.
fn sentence_before(tokens: &[ScoreToken], at: usize) -> impl Iterator<Item = (usize, &ScoreToken)> {
    let ends = move |i: usize| {
        let t = &tokens[i];
        let stop = t.is_mark(".!?;") && tokens.get(i + 1).is_none_or(|next| next.spaced || next.is_newline());
        t.is_newline() || stop
    };
    (at.saturating_sub(REACH)..at).rev().take_while(move |&i| !ends(i)).map(move |i| (i, &tokens[i]))
}

/// Returns the rank of a mention that begins its line, apart from marks, list numbers and neutral words.
fn begins_line(tokens: &[ScoreToken], at: usize) -> Option<Rank> {
    let mut rank = Rank::Plain;
    for (_, token) in sentence_before(tokens, at) {
        match &token.kind {
            ScoreTokenKind::Word(w) if FINAL.contains(&w.as_str()) => rank = Rank::Final,
            ScoreTokenKind::Word(w) if PLAIN.contains(&w.as_str()) => {}
            ScoreTokenKind::Word(_) => return None,
            _ => {}
        }
    }
    Some(rank)
}

/// Returns the rank of a mention within a line, from the words just before it and a label ("Clarity: Score:
/// 3").
fn rank(tokens: &[ScoreToken], at: usize) -> Rank {
    // Words about the judge itself name no criterion: "I first thought score: 2".
    let speaks = sentence_before(tokens, at).any(|(_, t)| matches!(t.word(), Some("i" | "we" | "i'd")));
    let mut adjacent = !speaks;
    for (i, token) in sentence_before(tokens, at) {
        match &token.kind {
            ScoreTokenKind::Word(w) if FINAL.contains(&w.as_str()) => return Rank::Final,
            ScoreTokenKind::Word(w) if adjacent && !PLAIN.contains(&w.as_str()) => {
                // "relevance score" and "relevance_score" name a criterion; a verb or a preposition does
                // not.
                let linked = i + 1 == at || tokens[i + 1..at].iter().all(|t| t.is_mark("_-*"));
                let label = !linked && !PLAIN_LABELS.contains(&w.as_str());
                return if (linked && !WHOLE_CRITERIA.contains(&w.as_str())) || label {
                    Rank::Part
                } else {
                    Rank::Plain
                };
            }
            ScoreTokenKind::Word(_) => adjacent = false,
            ScoreTokenKind::Number(_) if adjacent => return Rank::Part,
            ScoreTokenKind::Mark(
                ':' | '-' | '–' | '—' | '*' | '_' | '#' | '|' | '`' | '"' | '\'' | '{' | '(' | '<',
            ) => {}
            _ => adjacent = false,
        }
    }
    Rank::Plain
}

/// How "score" is joined to its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Connector {
    /// A colon, an equals sign, a dash, an arrow, a tag, a table's bar, a heading's line end.
    Colon,
    /// "is", "of".
    Word,
    /// Nothing: "Score 4/5".
    None,
}

/// The text between "score" and its value.
struct Joint {
    connector: Connector,
    /// The scale named there: "Score (0-5): 4".
    of: Option<f32>,
    /// The words there: "for this response".
    words: Vec<usize>,
    /// Where to look for the value.
    at: usize,
    /// Number of line ends allowed before the value.
    newlines: usize,
}

/// "Score: 4", "the score is 4", "a score of 4".
fn named(tokens: &[ScoreToken], at: usize) -> Option<Mention> {
    // A closing tag names no score.
    if at >= 2 && tokens[at - 1].is_mark("/") && tokens[at - 2].is_mark("<") {
        return None;
    }
    let joint = joint(tokens, at)?;
    let mut value = value::value(tokens, joint.at, joint.newlines)?;
    if joint.of.is_some() && value.of.is_none() {
        value.of = joint.of;
    }
    if value.of.is_none() {
        value.of = object_scale(tokens, at);
    }
    if value.of.is_none() {
        value.of = scale_before(tokens, at);
    }
    let nearest = sentence_before(tokens, at).filter_map(|(_, t)| t.word()).take(4);
    value.certain &= !nearest.into_iter().any(|w| EARLIER.contains(&w));
    let foreign = joint.words.first().and_then(|&i| tokens[i].word()).is_some_and(|w| !AFTER_SCORE.contains(&w));
    let line = begins_line(tokens, at);
    let standing = match joint.connector {
        Connector::None if line.is_none() => return None,
        Connector::None => {
            // "Score 0: irrelevant" begins a list that explains scores.
            let alone = value.of.is_some() || tokens.get(value.end).is_none_or(ScoreToken::is_newline);
            if alone { Standing::Verdict } else { Standing::Other }
        }
        Connector::Colon if line.is_some() || begins_clause(tokens, at) => Standing::Verdict,
        // "The last line of the response is Score: 5."
        Connector::Colon
            if sentence_before(tokens, at).any(|(_, t)| t.word().is_some_and(|w| SPEAKERS.contains(&w))) =>
        {
            Standing::Other
        }
        Connector::Colon => Standing::Sentence,
        Connector::Word if states_the_score(tokens, at, &joint, &value) => Standing::Sentence,
        Connector::Word => Standing::Other,
    };
    let standing = if is_json_key(tokens, at) {
        Standing::Verdict
    } else if foreign || is_other(tokens, at, &joint, &value) {
        Standing::Other
    } else {
        standing
    };
    let rank = line.filter(|r| *r == Rank::Final).unwrap_or_else(|| rank(tokens, at));
    let rank = if joint.connector == Connector::Word && rank == Rank::Part { Rank::Plain } else { rank };
    Some(Mention { at, fenced: tokens[at].fenced, value, standing, rank })
}

/// Whether a sentence states the answer's score: "the final score is 4", "I give it a score of 4", "it
/// deserves a score of 4", "a score of 4 is fair". Other sentences mention scores too: "her credit score is
/// 4".
fn states_the_score(tokens: &[ScoreToken], at: usize, joint: &Joint, value: &StatedValue) -> bool {
    let before: Vec<&str> = sentence_before(tokens, at).filter_map(|(_, t)| t.word()).collect();
    let determiner = before.iter().copied().find(|w| !FINAL.contains(w));
    let of = tokens[joint.at.saturating_sub(1)].word() == Some("of");
    if !of {
        return matches!(determiner, None | Some("the" | "my" | "so" | "thus" | "this" | "overall"));
    }
    let after = tokens[value.end..].iter().take(4).filter_map(ScoreToken::word);
    let fits = after.into_iter().any(|w| FITTING.contains(&w));
    let judge = before.iter().any(|w| matches!(*w, "i" | "i'd" | "i'll" | "i'm" | "we"));
    let verb = |verbs: &[&str]| before.iter().any(|w| verbs.contains(w));
    match determiner {
        None => true,
        Some("a" | "the" | "my" | "an") => (judge && verb(&JUDGING)) || (!judge && verb(&DESERVING)) || fits,
        _ => false,
    }
}

/// Whether a label, bracket or quotation mark precedes a mention: "Verdict: Score: 4", `{"score": 4}`.
fn begins_clause(tokens: &[ScoreToken], at: usize) -> bool {
    let mut before = at;
    while before > 0 && (tokens[before - 1].is_mark("*_\"'`<{(") || qualifies(&tokens[before - 1])) {
        before -= 1;
    }
    before == 0 || (tokens[before - 1].word().is_none() && tokens[before - 1].number().is_none())
}

fn qualifies(token: &ScoreToken) -> bool {
    token.word().is_some_and(|w| FINAL.contains(&w) || PLAIN.contains(&w))
}

/// Reads the text between "score" and its value.
fn joint(tokens: &[ScoreToken], at: usize) -> Option<Joint> {
    let mut joint = Joint { connector: Connector::None, of: None, words: Vec::new(), at, newlines: 0 };
    let mut i = at + 1;
    for _ in 0..16 {
        let token = tokens.get(i)?;
        let (next, spaced_next) = (tokens.get(i + 1), tokens.get(i + 1).is_some_and(|t| t.spaced || t.is_newline()));
        match &token.kind {
            ScoreTokenKind::Mark('=') if next.is_some_and(|t| t.is_mark(">")) => {
                (joint.connector, i) = (Connector::Colon, i + 1);
            }
            ScoreTokenKind::Mark(':' | '：' | '=' | '→' | '➜' | '⇒' | '➡') => {
                (joint.connector, joint.newlines) = (Connector::Colon, 2)
            }
            ScoreTokenKind::Mark('|') if next.is_some_and(|t| !t.is_newline()) => joint.connector = Connector::Colon,
            ScoreTokenKind::Mark('>') if at > 0 && tokens[at - 1].is_mark("<") => joint.connector = Connector::Colon,
            ScoreTokenKind::Mark('-' | '–' | '—') if next.is_some_and(|t| t.is_mark(">")) => {
                (joint.connector, i) = (Connector::Colon, i + 1);
            }
            ScoreTokenKind::Mark('-' | '–' | '—') if token.spaced && spaced_next && joint.words.is_empty() => {
                joint.connector = Connector::Colon;
            }
            ScoreTokenKind::Newline if joint.words.is_empty() && begins_line(tokens, at).is_some() => {
                // The line end is left to the value, which must not be the first number of a list.
                return Some(Joint { connector: Connector::Colon, newlines: 2, at: i, ..joint });
            }
            ScoreTokenKind::Word(w) if matches!(w.as_str(), "is" | "was" | "be" | "equals") => {
                joint.connector = Connector::Word
            }
            ScoreTokenKind::Word(w) if w == "of" && joint.words.is_empty() => joint.connector = Connector::Word,
            ScoreTokenKind::Word(w) if w == "out" && next.and_then(ScoreToken::word) == Some("of") => {
                joint.of = Some(tokens.get(i + 2)?.number()?);
                i += 2;
            }
            ScoreTokenKind::Mark('/') => {
                joint.of = Some(next?.number()?);
                i += 1;
            }
            ScoreTokenKind::Mark('(' | '[') => {
                let Some((of, end)) = scale_in_brackets(tokens, i) else {
                    // "Score [4]" and "Score (4)" are values in brackets.
                    joint.at = i;
                    return Some(joint);
                };
                joint.of = of.or(joint.of);
                i = end;
            }
            ScoreTokenKind::Mark('"' | '\'' | '*' | '_' | '`' | '#' | '’' | '”' | ']') => {}
            ScoreTokenKind::Word(w) if joint.words.len() < 6 && !is_score(w) => joint.words.push(i),
            ScoreTokenKind::Number(_) if joint.words.is_empty() => {
                joint.at = i;
                return Some(joint);
            }
            _ => return None,
        }
        i += 1;
        if joint.connector != Connector::None {
            // "The score is: 4".
            if joint.connector == Connector::Word && tokens.get(i).is_some_and(|t| t.is_mark(":")) {
                (joint.newlines, i) = (2, i + 1);
            }
            joint.at = i;
            return Some(joint);
        }
    }
    None
}

/// Reads "(0-5)", "[out of 5]", "(for the response)": the scale that it names, if any, and its closing
/// bracket. Returns `None` if it holds only a number.
fn scale_in_brackets(tokens: &[ScoreToken], at: usize) -> Option<(Option<f32>, usize)> {
    let end = (at + 1..tokens.len().min(at + 16)).find(|&i| tokens[i].is_mark(")]") || tokens[i].is_newline())?;
    if tokens[end].is_newline() {
        return None;
    }
    let numbers: Vec<f32> = tokens[at + 1..end].iter().filter_map(ScoreToken::number).collect();
    if numbers.len() == 1 && end == at + 2 {
        return None;
    }
    Some((numbers.into_iter().reduce(f32::max), end))
}

/// Whether "score" is a key of an object: the text before it is the value of another key and not part of
/// its sentence.
fn is_json_key(tokens: &[ScoreToken], at: usize) -> bool {
    let quoted =
        tokens.get(at + 1).is_some_and(|t| t.is_mark("\"'")) && tokens.get(at + 2).is_some_and(|t| t.is_mark(":"));
    let mut first = at;
    while first > 0 && (tokens[first - 1].is_mark("_") || tokens[first - 1].word().is_some_and(|w| FINAL.contains(&w)))
    {
        first -= 1;
    }
    quoted && first > 0 && tokens[first - 1].is_mark("\"'")
}

/// Returns the scale that the sentence names before its score: "on a scale of 1 to 10, the score is 4".
fn scale_before(tokens: &[ScoreToken], at: usize) -> Option<f32> {
    let start = at - sentence_before(tokens, at).count();
    (start..at)
        .filter(|&i| matches!(tokens[i].word(), Some("on" | "out")))
        .find_map(|i| value::out_of(tokens, i).filter(|(_, end)| *end <= at))
        .map(|(of, _)| of)
}

/// Returns the highest score named by other keys of a JSON object: `{"score": 3, "max": 10}`.
fn object_scale(tokens: &[ScoreToken], at: usize) -> Option<f32> {
    let quoted_key = at > 0 && tokens.get(at + 1).is_some_and(|t| t.is_mark("\"'"));
    if !quoted_key {
        return None;
    }
    let end = tokens[at..].iter().take(200).position(|t| t.is_mark("}")).map_or(tokens.len().min(at + 200), |e| at + e);
    let start = (at.saturating_sub(200)..at).rev().find(|&i| tokens[i].is_mark("{"))?;
    let object = &tokens[start..end];
    let key = object.iter().position(|t| {
        t.word().is_some_and(|w| w.starts_with("max") || matches!(w, "out" | "scale" | "possible" | "outof"))
    })?;
    object[key..].iter().take(8).find_map(ScoreToken::number)
}

/// Whether a mention is about another score, or quotes one.
fn is_other(tokens: &[ScoreToken], at: usize, joint: &Joint, value: &StatedValue) -> bool {
    let quote = tokens[value.token].quote;
    if quote != 0 && tokens[at].quote == quote && !is_whole(tokens, quote) {
        return true;
    }
    let hypothetical = tokens.get(value.end).and_then(ScoreToken::word).is_some_and(|w| HYPOTHETICAL.contains(&w));
    // "A score of 4 seems fair" is not hypothetical.
    let fits = tokens[value.end..].iter().take(3).any(|t| t.word().is_some_and(|w| FITTING.contains(&w)));
    let between = joint.words.iter().filter_map(|&i| tokens[i].word());
    let would = |w: &str| w == "would" && !fits && !joint.words.iter().any(|&i| tokens[i].word() == Some("i"));
    (hypothetical && !fits)
        || between.into_iter().any(|w| NOT_ITS_OWN.contains(&w) || NEGATIONS.contains(&w) || would(w))
        || spoken_of(tokens, at)
        || in_copied_paragraph(tokens, at)
}

/// Whether a paragraph begins with a label of the judge's prompt, and so copies the judged text: "Response:
/// ..".
fn in_copied_paragraph(tokens: &[ScoreToken], at: usize) -> bool {
    // Only a line of its own can be part of a copy. The search back is bounded, as for sentences.
    let from = at.saturating_sub(10 * REACH);
    let blank = |i: usize| tokens[i].is_newline() && tokens[i - 1].is_newline();
    let start = (from.max(1)..at).rev().find(|&i| blank(i)).map_or(from, |i| i + 1);
    let mut line = tokens[start..at].iter().filter(|t| !t.is_mark("*#_"));
    let label = line.next().and_then(ScoreToken::word);
    let labelled = matches!(label, Some("response" | "assistant" | "user" | "prompt" | "question"));
    labelled && line.next().is_some_and(|t| t.is_mark(":")) && line.any(ScoreToken::is_newline)
}

/// Whether the sentence before a token is about a score other than the answer's, or reports what somebody
/// says.
fn spoken_of(tokens: &[ScoreToken], at: usize) -> bool {
    let words: Vec<&str> = sentence_before(tokens, at).filter_map(|(_, t)| t.word()).collect();
    // "I would give" states the judge's own score. Words come nearest first.
    let would = words.iter().position(|w| *w == "would").is_some_and(|i| words.get(i + 1) != Some(&"i"));
    let to = words.last().is_some_and(|w| matches!(*w, "to" | "for"));
    // A negation affects only its clause: "it is not complete, the score is 3".
    let clause = sentence_before(tokens, at).take_while(|(_, t)| !t.is_mark(",")).filter_map(|(_, t)| t.word());
    let negated = clause.into_iter().any(|w| NEGATIONS.contains(&w));
    let other = negated || words.iter().any(|w| NOT_ITS_OWN.contains(w));
    let said = |words: &[&str]| words.iter().any(|w| SPEAKERS.contains(w)) && words.iter().any(|w| SPEECH.contains(w));
    would || to || other || said(&words) || introduced(tokens, at, said)
}

/// Whether a mention at the start of a line follows a line that introduces a quotation: "The response
/// reads:".
fn introduced(tokens: &[ScoreToken], at: usize, said: impl Fn(&[&str]) -> bool) -> bool {
    let start = at - sentence_before(tokens, at).count();
    let mut before = start;
    while before > 0 && (tokens[before - 1].is_newline() || tokens[before - 1].is_mark("`")) {
        before -= 1;
    }
    if before == start || before == 0 {
        return false;
    }
    let line = tokens[before.saturating_sub(REACH)..before].iter().rev().take_while(|t| !t.is_newline());
    let words: Vec<&str> = line.filter_map(ScoreToken::word).collect();
    let colon = tokens[before - 1].is_mark(":");
    // Without a colon, only an unfinished sentence leads over to the next line.
    let unfinished = colon || tokens[before - 1].word().is_some();
    let example = colon && words.iter().any(|w| EXAMPLES.contains(w));
    example || (unfinished && said(&words))
}

/// Whether a quotation covers the whole text: a judge that puts its verdict in quotation marks.
fn is_whole(tokens: &[ScoreToken], quote: u32) -> bool {
    tokens.iter().all(|t| t.quote == quote || t.is_newline() || t.is_mark("\"'“”‘’«»."))
        && !tokens[0].is_mark(">")
        && !tokens[0].is_mark("<")
}

/// "Total: 4/5", "Points: 4" at the start of a line.
fn line_only(tokens: &[ScoreToken], at: usize) -> Option<Mention> {
    let mut i = at + 1;
    let word = tokens[at].word()?;
    while tokens.get(i).is_some_and(|t| t.is_mark("*_") || matches!(t.word(), Some("points" | "verdict" | "awarded"))) {
        i += 1;
    }
    if !tokens.get(i)?.is_mark(":：=") {
        return None;
    }
    let value = value::value(tokens, i + 1, 0)?;
    let joint = Joint { connector: Connector::Colon, of: None, words: Vec::new(), at: i, newlines: 0 };
    let standing = if is_other(tokens, at, &joint, &value) { Standing::Other } else { Standing::Verdict };
    let rank = if word == "points" && begins_line(tokens, at) != Some(Rank::Final) { Rank::Part } else { Rank::Final };
    Some(Mention { at, fenced: tokens[at].fenced, value, standing, rank })
}

/// "I rate this response 4/5", "it earns 4 out of 5": only with the scale, because such sentences contain
/// other numbers too.
fn given(tokens: &[ScoreToken], at: usize) -> Option<Mention> {
    let mut i = at + 1;
    for _ in 0..8 {
        let token = tokens.get(i)?;
        match &token.kind {
            ScoreTokenKind::Number(_) => break,
            ScoreTokenKind::Word(w) if is_score(w) => return None,
            ScoreTokenKind::Word(_) | ScoreTokenKind::Mark('*' | '_' | '`' | '\'' | '"') => i += 1,
            _ => return None,
        }
    }
    let value = value::value(tokens, i, 0)?;
    value.of?;
    let word = tokens[at].word()?;
    let judge = sentence_before(tokens, at).any(|(_, t)| matches!(t.word(), Some("i" | "i'd" | "i'll" | "i'm" | "we")));
    let answer = sentence_before(tokens, at)
        .any(|(_, t)| matches!(t.word(), Some("it" | "this" | "that" | "response" | "answer" | "assistant" | "which")));
    let other = (DESERVING.contains(&word) && !answer)
        || (JUDGING.contains(&word) && !judge)
        || spoken_of(tokens, at)
        || tokens[at + 1..i]
            .iter()
            .filter_map(ScoreToken::word)
            .any(|w| NOT_ITS_OWN.contains(&w) || NEGATIONS.contains(&w) || w == "for");
    let quoted = tokens[value.token].quote != 0;
    let standing = if other || quoted { Standing::Other } else { Standing::Sentence };
    Some(Mention { at, fenced: tokens[at].fenced, value, standing, rank: Rank::Plain })
}

/// `\boxed{4}` and `[[4]]`.
fn boxed(tokens: &[ScoreToken], at: usize) -> Option<Mention> {
    let mut i = at + 1;
    if tokens[at].word().is_some() {
        if !tokens.get(i)?.is_mark("{") {
            return None;
        }
        i += 1;
    }
    tokens.get(i)?.number()?;
    let value = value::value(tokens, i, 0)?;
    tokens[i + 1..].iter().take(4).find(|t| t.is_mark("}]"))?;
    let other = tokens[i].quote != 0 || spoken_of(tokens, at);
    let standing = if other { Standing::Other } else { Standing::Verdict };
    Some(Mention { at, fenced: tokens[at].fenced, value, standing, rank: Rank::Plain })
}
