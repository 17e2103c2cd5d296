//! Finds out to which forms a model's servers hold their answers.

use std::sync::Arc;

use serde_json::json;

use super::connection::Connection;
use super::spelling::Spelling;
use crate::cancel::CancelFlag;
use crate::data::RngKey;
use crate::engine::backend::Engine;
use crate::engine::constraint::{Constraint, ConstraintForm};
use crate::engine::request::Request;
use crate::engine::sampling::Sampling;
use crate::error::{Error, Result};
use crate::model::Message;

/// What the probe of a form asks for: texts that no model writes unasked.
fn probe_of(form: ConstraintForm) -> Constraint {
    let texts = || vec!["Total 7310".to_owned(), "Total 9164".to_owned()];
    match form {
        ConstraintForm::Choice => Constraint::Choice(texts()),
        ConstraintForm::Regex => Constraint::Regex { reasons: 24, endings: texts() },
        ConstraintForm::Json => Constraint::Json { reasons: 24, key: "total", values: vec![json!(7310), json!(9164)] },
    }
}

/// Maximum number of tokens of a probe's answer.
const PROBE_TOKENS: usize = 128;

/// Whether the servers hold answers to a form. The first call for a form asks them, in each spelling that they may
/// know. `engine` is one of the connection.
///
/// # Errors
/// Cancelled; a server refuses all requests; the budget is spent.
pub fn honours(
    connection: &Connection,
    engine: &dyn Engine,
    form: ConstraintForm,
    cancel: &CancelFlag,
) -> Result<bool> {
    if connection.spelling(form).is_some() {
        return Ok(true);
    }
    let constraint = Arc::new(probe_of(form));
    for spelling in Spelling::of(connection.facts.dialect).iter().filter(|s| s.fields(&constraint).is_some()) {
        connection.set_spelling(form, Some(*spelling));
        let sampling = Sampling {
            temperature: 0.,
            max_tokens: PROBE_TOKENS,
            constraint: Some(Arc::clone(&constraint)),
            ..Sampling::default()
        };
        let messages = vec![Message::new("user", "Name a colour.")];
        let request = Request { messages, sampling, key: RngKey([1; 32]) };
        let answer =
            engine.generate(vec![request], cancel)?.pop().ok_or_else(|| Error::bug("a probe has no result"))?;
        match answer {
            Ok(answer) if constraint.allows(answer.text.trim()) => return Ok(true),
            Ok(answer) => tracing::debug!("{spelling:?} is ignored: the answer is {:?}", answer.text),
            Err(e) => tracing::debug!("{spelling:?} is refused: {}", e.message),
        }
    }
    connection.set_spelling(form, None);
    Ok(false)
}
