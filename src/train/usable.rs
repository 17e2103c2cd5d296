//! Checks which rows can be trained on.

use super::losses;
use super::rows::{Example, Pair, Problem, Reference};
use crate::error::{Error, Result};
use crate::model::Config;

/// Returns the indices of pairs that can be trained on, and the problems of the others.
pub fn usable_pairs(model: &Config, pairs: &[Pair], max_length: Option<usize>) -> (Vec<usize>, Vec<Problem>) {
    let limit = longest(model, max_length);
    let (mut usable, mut problems) = (Vec::new(), Vec::new());
    for (i, pair) in pairs.iter().enumerate() {
        let length = pair.prompt.len() + pair.chosen.len().max(pair.rejected.len());
        let problem = if pair.prompt.is_empty() {
            Some(("empty_prompt", "the prompt has no token".to_owned()))
        } else if pair.chosen.is_empty() || pair.rejected.is_empty() {
            let which = if pair.chosen.is_empty() { "chosen" } else { "rejected" };
            Some(("empty_completion", format!("the {which} completion has no token")))
        } else if pair.chosen == pair.rejected {
            Some((
                "equal_completions",
                "chosen and rejected are the same tokens; there is nothing to prefer".to_owned(),
            ))
        } else if length > limit {
            let message = format!("prompt and completion have {length} tokens, at most {limit} fit");
            Some(("too_long", format!("{message}; ask for shorter answers or raise max_length")))
        } else if let Some(message) = pair.reference.as_ref().and_then(|r| bad_reference(pair, r)) {
            Some(("bad_reference", message))
        } else if let Some(problem) = bad_column(pair) {
            Some(problem)
        } else {
            unknown_token(model, &[&pair.prompt, &pair.chosen, &pair.rejected])
        };
        match problem {
            Some((code, message)) => problems.push(Problem { id: pair.id.clone(), code, message }),
            None => usable.push(i),
        }
    }
    (usable, problems)
}

/// The problem of a column that losses read, if its value is out of range.
fn bad_column(pair: &Pair) -> Option<(&'static str, String)> {
    losses::columns().into_iter().find_map(|column| {
        let (value, (least, most), (code, demand)) = (pair.columns.get(column), column.range, column.bad);
        let problem = || (code, format!("the {} is {value}, it {demand}", column.name));
        (!(least..=most).contains(&value)).then(problem)
    })
}

/// The problem of a pair's reference, if it has one.
fn bad_reference(pair: &Pair, reference: &Reference) -> Option<String> {
    for (which, tokens, logprobs) in
        [("chosen", &pair.chosen, &reference.chosen), ("rejected", &pair.rejected, &reference.rejected)]
    {
        if tokens.len() != logprobs.len() {
            let (n, found) = (tokens.len(), logprobs.len());
            return Some(format!(
                "the {which} completion has {n} tokens, its reference {found} log-probabilities; compute them again"
            ));
        }
        if logprobs.iter().any(|l| !l.is_finite()) {
            return Some("the reference log-probabilities are not finite; compute them again".to_owned());
        }
    }
    None
}

/// Returns the indices of examples that can be trained on, and the problems of the others.
pub fn usable_examples(model: &Config, examples: &[Example], max_length: Option<usize>) -> (Vec<usize>, Vec<Problem>) {
    let longest = longest(model, max_length);
    let (mut usable, mut problems) = (Vec::new(), Vec::new());
    for (i, e) in examples.iter().enumerate() {
        let problem = if e.tokens.len() <= e.context.max(1) {
            Some(("empty_completion", "there is no token to learn after the context".to_owned()))
        } else if e.tokens.len() > longest {
            Some((
                "too_long",
                format!("{} tokens, at most {longest} fit; shorten it or raise max_length", e.tokens.len()),
            ))
        } else {
            unknown_token(model, &[&e.tokens])
        };
        match problem {
            Some((code, message)) => problems.push(Problem { id: i.to_string(), code, message }),
            None => usable.push(i),
        }
    }
    (usable, problems)
}

/// Maximum length of a sequence to train on, in tokens.
pub(super) fn longest(model: &Config, max_length: Option<usize>) -> usize {
    max_length.unwrap_or(usize::MAX).min(model.max_position_embeddings)
}

/// The problem of a token that is not in the model's vocabulary, if a sequence has one.
pub(super) fn unknown_token(model: &Config, sequences: &[&[u32]]) -> Option<(&'static str, String)> {
    let token = sequences.iter().copied().flatten().find(|&&t| t as usize >= model.vocab_size)?;
    let message = format!(
        "token {token} is not in the model's vocabulary of {}; was it made with another tokenizer?",
        model.vocab_size
    );
    Some(("unknown_token", message))
}

/// Returns an error if no row is left to train on.
pub(super) fn nothing_left(what: &str, usable: &[usize], problems: &[Problem]) -> Result<()> {
    match (usable, problems) {
        ([], []) => Err(Error::user(format!("there are no {what} to train on"))),
        ([], [first, ..]) => {
            let (id, code, message) = (&first.id, first.code, &first.message);
            let all = problems.len();
            Err(Error::user(format!("none of the {all} {what} can be trained on; the first, {id}: {code}, {message}")))
        }
        _ => Ok(()),
    }
}
