//! The prompts of a batch: each a single user message, or a conversation to answer.
//!
//! Conversations are in the column `prompt_messages`. The column `prompt` then has their transcript, for
//! people and for readers of text: judges, `dedup`, ROUGE. Only chat templates get the messages.

use arrow::array::{ArrayRef, AsArray, ListArray, RecordBatch, StringArray};
use arrow::buffer::NullBuffer;

use super::columns::{Columns, List, Messages};
use super::ids::hash_hex;
use crate::error::Result;

/// The column of conversations.
pub const PROMPT_MESSAGES: &str = "prompt_messages";

/// A conversation as text: every turn is `role: content`, with a blank line between turns. A single user
/// message is its content alone.
pub fn transcript<R: AsRef<str>, C: AsRef<str>>(turns: &[(R, C)]) -> String {
    if let [(role, content)] = turns
        && role.as_ref() == "user"
    {
        return content.as_ref().to_owned();
    }
    let lines: Vec<String> =
        turns.iter().map(|(role, content)| format!("{}: {}", role.as_ref(), content.as_ref())).collect();
    lines.join("\n\n")
}

/// Default id of a prompt: the hash of its text, or of all roles and contents of a conversation. Different
/// conversations have different ids, even if their transcripts are equal.
pub fn prompt_id<R: AsRef<str>, C: AsRef<str>>(turns: &[(R, C)]) -> String {
    if let [(role, content)] = turns
        && role.as_ref() == "user"
    {
        return hash_hex([content.as_ref()]);
    }
    hash_hex(turns.iter().flat_map(|(role, content)| [role.as_ref(), content.as_ref()]))
}

/// The prompts of a batch with a column `prompt`.
pub struct Prompts<'a> {
    texts: &'a StringArray,
    messages: Option<Messages<'a>>,
}

impl<'a> Prompts<'a> {
    /// The prompts of `rows`. Early datasets have no column of conversations.
    ///
    /// # Errors
    /// `prompt` is missing, or a column has another type.
    pub fn new(rows: &'a RecordBatch) -> Result<Self> {
        let columns = Columns(rows);
        let messages = rows.column_by_name(PROMPT_MESSAGES).map(|_| columns.messages(PROMPT_MESSAGES)).transpose()?;
        Ok(Self { texts: columns.text("prompt")?, messages })
    }

    /// The prompt as text, or the transcript of a conversation.
    pub fn text(&self, row: usize) -> &'a str {
        self.texts.value(row)
    }

    /// The turns of a conversation; `None` for a single user message.
    pub fn conversation(&self, row: usize) -> Option<Vec<(&'a str, &'a str)>> {
        self.messages.as_ref().filter(|messages| messages.is_valid(row)).map(|messages| messages.row(row).collect())
    }

    /// The turns for a model.
    pub fn turns(&self, row: usize) -> Vec<(&'a str, &'a str)> {
        self.conversation(row).unwrap_or_else(|| vec![("user", self.text(row))])
    }

    /// Identity of the prompt; see [`prompt_id`].
    pub fn id(&self, row: usize) -> String {
        prompt_id(&self.turns(row))
    }

    /// Whether the prompt is blank.
    pub fn is_blank(&self, row: usize) -> bool {
        let asked = self.conversation(row);
        let last = asked.as_ref().map_or(self.text(row), |turns| turns.last().map_or("", |turn| turn.1));
        last.trim().is_empty()
    }
}

/// Builds a column `prompt_messages` from conversations and nulls.
///
/// # Errors
/// The messages exceed the capacity of a list column.
pub fn conversations<T: AsRef<str>>(rows: &[Option<Vec<(T, T)>>]) -> Result<ArrayRef> {
    let valid = NullBuffer::from_iter(rows.iter().map(Option::is_some));
    let owned = |turns: &Option<Vec<(T, T)>>| -> Vec<(String, String)> {
        let turns = turns.iter().flatten();
        turns.map(|(role, content)| (role.as_ref().to_owned(), content.as_ref().to_owned())).collect()
    };
    let filled = List::of_messages(&rows.iter().map(owned).collect::<Vec<_>>());
    let (field, offsets, values, _) = filled.as_list::<i32>().clone().into_parts();
    let nulls = (valid.null_count() > 0).then_some(valid);
    Ok(std::sync::Arc::new(ListArray::try_new(field, offsets, values, nulls)?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::named;

    #[test]
    fn a_conversation_has_a_transcript_and_an_id_of_its_own() {
        let turns = [("system", "Be brief."), ("user", "Hi?")];
        assert_eq!(transcript(&turns), "system: Be brief.\n\nuser: Hi?");
        assert_eq!(transcript(&[("user", "Hi?")]), "Hi?");
        assert_eq!(prompt_id(&[("user", "Hi?")]), hash_hex(["Hi?"]));
        // A text that looks like a conversation is another prompt than the conversation.
        assert_ne!(prompt_id(&turns), prompt_id(&[("user", transcript(&turns))]));
    }

    #[test]
    fn datasets_with_and_without_conversations_are_read() {
        let text = |texts: [&str; 2]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
        let old = RecordBatch::try_from_iter([("prompt", text(["a", " "]))]).unwrap();
        let prompts = Prompts::new(&old).unwrap();
        assert_eq!((prompts.turns(0), prompts.conversation(0)), (vec![("user", "a")], None));
        assert!(prompts.is_blank(1));
        let turns = vec![("system", "s"), ("user", "u")];
        let column = conversations(&[Some(turns.clone()), None]).unwrap();
        let new = named::IFT.batch(vec![text([&transcript(&turns), "b"]), text(["r", "r"]), column]).unwrap();
        let prompts = Prompts::new(&new).unwrap();
        assert_eq!((prompts.turns(0), prompts.turns(1)), (turns, vec![("user", "b")]));
        assert_eq!(prompts.text(0), "system: s\n\nuser: u");
    }
}
