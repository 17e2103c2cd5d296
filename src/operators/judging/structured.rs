//! The key `structured`: a judge on a server whose answers are held to a form that can be read.
//!
//! The form follows from the keys that say how scores are read and on which scale. The first of several spellings that
//! the step's own reader reads is the one that the judge has to write.

use serde_json::{Value, json};

use super::score::{Outcome, Reader};
use crate::engine::{Constraint, ConstraintForm};
use crate::operators::shared::prelude::*;

/// Maximum number of scores that are listed.
const MAX_SCORES: f32 = 100.;
/// Ways to write a score; `#` stands for the number.
const SPELLINGS: [&str; 5] = ["Score: #", "Rating: #", "Rating: [[#]]", "[[#]]", "#"];
/// Characters of reasons for each token that the judge may write. A token of English has four on average, so room is
/// left for the score, whatever the judge writes before it.
const CHARACTERS: usize = 2;
/// Maximum number of characters of reasons. Servers refuse longer repetitions.
const MAX_REASONS: usize = 1900;

/// Reads the key; none if judgements are free.
pub fn field(f: &mut Fields<'_>) -> Option<ConstraintForm> {
    let forms = [
        ("free", "the judge writes what it likes"),
        ("choice", "it writes its score or verdict and nothing else"),
        ("regex", "it writes its reasons, and its score or verdict on the last line"),
        ("json", "it writes a JSON object of its reasons and its score or verdict"),
    ];
    let about = "the form of a judgement, for judges on servers that can hold their answers to one; it follows from \
                 `pattern`, `min` and `max`";
    ConstraintForm::named(f.choice("structured", about, &forms, Some("free")))
}

/// The maximum number of characters of a judge's reasons.
fn reasons(max_tokens: usize) -> usize {
    max_tokens.saturating_mul(CHARACTERS).min(MAX_REASONS)
}

/// The constraint of judgements with a score. A problem is reported if none can be read.
pub fn of_scores(
    f: &mut Fields<'_>,
    form: ConstraintForm,
    reader: &Reader,
    max_tokens: usize,
) -> Option<Arc<Constraint>> {
    let (min, max) = (reader.min, reader.max);
    if min.fract() != 0. || max.fract() != 0. || max - min > MAX_SCORES {
        let message = format!(
            "constrained scores are whole numbers, at most {MAX_SCORES} apart; the scale is from {min} to {max}"
        );
        f.problem("structured", message, "change `min` and `max`, or take the key out");
        return None;
    }
    let scores: Vec<i64> = (min as i64..=max as i64).collect();
    let reads = |text: &str, score: i64| reader.read(text, false) == Outcome::Score(score as f32);
    let constraint = constraint(form, "score", &scores, max_tokens, &SPELLINGS, ToString::to_string, reads);
    if constraint.is_none() {
        let written = example(form, "score", "Score: 4", &json!(4));
        let message = format!("`pattern` does not read every score in such a judgement: {written}");
        f.problem("structured", message, "take `pattern` out, or let the judge write freely");
    }
    constraint.map(Arc::new)
}

/// The constraint of judgements with one of the verdicts A, B and C. A problem is reported if none can be read.
pub fn of_verdicts<V: Copy + PartialEq>(
    f: &mut Fields<'_>,
    form: ConstraintForm,
    verdicts: [(&str, V); 3],
    read: impl Fn(&str) -> Outcome<V>,
    max_tokens: usize,
) -> Option<Arc<Constraint>> {
    let reads = |text: &str, (_, verdict): (&str, V)| read(text) == Outcome::Score(verdict);
    let spellings = ["[[#]]", "Verdict: #", "#"];
    let name = |(name, _): &(&str, V)| (*name).to_owned();
    let constraint = constraint(form, "verdict", &verdicts, max_tokens, &spellings, name, reads);
    if constraint.is_none() {
        let written = example(form, "verdict", "[[A]]", &json!("[[A]]"));
        let message = format!("`pattern` does not read A, B and C in such a judgement: {written}");
        f.problem("structured", message, "take `pattern` out, or let the judge write freely");
    }
    constraint.map(Arc::new)
}

/// The constraint in the first spelling in which every value is read.
fn constraint<T: Copy>(
    form: ConstraintForm,
    key: &'static str,
    values: &[T],
    max_tokens: usize,
    spellings: &[&str],
    name: impl Fn(&T) -> String,
    reads: impl Fn(&str, T) -> bool,
) -> Option<Constraint> {
    let reasons = reasons(max_tokens);
    let spelled = |spelling: &str| -> Vec<String> { values.iter().map(|v| spelling.replace('#', &name(v))).collect() };
    let all_read = |texts: &[String], written: &dyn Fn(&str) -> String| {
        std::iter::zip(texts, values).all(|(text, value)| reads(&written(text), *value))
    };
    if form == ConstraintForm::Json {
        // Scores are numbers, and verdicts are texts.
        let number = |text: &String| text.parse::<i64>().map_or_else(|_| json!(text), |n| json!(n));
        let of = |spelling: &&str| {
            Some(spelled(spelling)).filter(|texts| all_read(texts, &|t| object(key, &number(&t.to_owned()))))
        };
        let texts = of(&"#").or_else(|| spellings.iter().find_map(of))?;
        return Some(Constraint::Json { reasons, key, values: texts.iter().map(number).collect() });
    }
    let written = |text: &str| example(form, key, text, &Value::Null);
    let texts = spellings.iter().map(|spelling| spelled(spelling)).find(|texts| all_read(texts, &written))?;
    Some(match form {
        ConstraintForm::Choice => Constraint::Choice(texts),
        _ => Constraint::Regex { reasons, endings: texts },
    })
}

/// A judgement of this form.
fn example(form: ConstraintForm, key: &str, text: &str, value: &Value) -> String {
    match form {
        ConstraintForm::Choice => text.to_owned(),
        ConstraintForm::Regex => format!("It is clear.\n{text}"),
        ConstraintForm::Json => object(key, value),
    }
}

/// A judgement as JSON.
fn object(key: &str, value: &Value) -> String {
    json!({"reasons": "It is clear.", key: value}).to_string()
}
