//! Context of a row's question: a system message and earlier turns.

use serde_json::Value;

use super::record::Record;
use crate::store::datasets::context::{CONTEXT_KEYS, SYSTEM_KEYS, is_empty};
use crate::store::datasets::turn::{Turn, with_system};
use crate::store::files::jsonl::{list, text};

/// Context of a row's question that is outside of its messages.
#[derive(Default)]
pub(super) struct QuestionContext {
    pub system: Option<String>,
    pub history: Vec<Turn>,
}

impl QuestionContext {
    /// Takes a row's context, or returns the reason for leaving the row out if no schema can hold its
    /// context.
    ///
    /// # Errors
    /// A system message is not text.
    pub fn take(record: &mut Record) -> Result<Result<Self, &'static str>, String> {
        let (mut context, mut reason) = (Self::default(), None);
        for (key, why) in CONTEXT_KEYS {
            let Some(value) = record.take(key).filter(|value| !is_empty(value)) else { continue };
            match (key, exchanges(&value)) {
                ("history", Some(turns)) => context.history = turns,
                _ => reason = reason.or(Some(why)),
            }
        }
        for key in SYSTEM_KEYS {
            let value = record.optional_text(key)?.filter(|text| !text.trim().is_empty());
            if context.system.is_some() && value.is_some() && context.system != value {
                reason = reason.or(Some("two system messages"));
            }
            context.system = context.system.or(value);
        }
        Ok(reason.map_or(Ok(context), Err))
    }

    /// The conversation to answer: the context and `turns`.
    ///
    /// # Errors
    /// The conversation has two system messages.
    pub fn before(&self, turns: Vec<Turn>) -> Result<Vec<Turn>, String> {
        let mut all = turns;
        let after_system = usize::from(all.first().is_some_and(|turn| turn.role == "system"));
        all.splice(after_system..after_system, self.history.iter().cloned());
        with_system(&mut all, self.system.clone())?;
        Ok(all)
    }

    /// The conversation to answer: the context and a question.
    pub fn question(&self, question: &str) -> Vec<Turn> {
        self.turns().chain([Turn::new("user", question.trim())]).collect()
    }

    /// The turns of the context: the system message and the history.
    pub fn turns(&self) -> impl Iterator<Item = Turn> {
        let system = self.system.iter().map(|text| Turn::new("system", text.trim()));
        system.chain(self.history.iter().cloned())
    }

    /// Whether there is no context.
    pub fn is_empty(&self) -> bool {
        self.system.is_none() && self.history.is_empty()
    }
}

/// Parses earlier turns from a list of pairs of question and answer; `None` for any other value.
fn exchanges(value: &Value) -> Option<Vec<Turn>> {
    let pairs = list(value.clone(), |pair| list(pair, text)).ok()?;
    let turns = pairs.into_iter().map(|pair| match <[String; 2]>::try_from(pair) {
        Ok([question, answer]) => Some([Turn::new("user", question.trim()), Turn::new("assistant", answer.trim())]),
        Err(_) => None,
    });
    Some(turns.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
}
