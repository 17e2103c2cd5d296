//! Open Assistant's conversations (arXiv 2304.07327), as trees or as the messages of trees one after the other.
//!
//! Only the first turn is taken: a prompt that begins a conversation, and the assistant's answers to it, ranked by people.
//! `ift` is the paper's filter: the answer of rank 0. `ranked` has all ranked answers of prompts with at least two. Messages
//! that were deleted or failed review are left out.

use serde_json::Value;

use super::formats::{Object, Ranked, Sink, optional};
use crate::store::jsonl::{list, member, spell, text};

/// Greatest size of one tree's first turn whose messages come one by one, in bytes of text, ids and what holds them.
const LARGEST: usize = 64 << 20;

/// What is done with each tree.
pub(super) struct Oasst {
    ranked: bool,
    language: Option<String>,
    /// The tree whose messages are coming.
    open: Option<Tree>,
}

/// The first turn of a tree.
struct Tree {
    id: String,
    /// Id and text of its first message, once it has come and if it is wanted.
    prompt: Option<(String, String)>,
    /// Whether that has come, wanted or not.
    begun: bool,
    answers: Vec<Message>,
    size: usize,
}

struct Message {
    id: String,
    parent: Option<String>,
    role: String,
    text: String,
    lang: Option<String>,
    rank: Option<u32>,
    /// Neither deleted nor failed in review.
    good: bool,
}

fn message(row: &mut Object) -> Result<Message, String> {
    let flag = |row: &Object, key: &str| row.get(key).and_then(Value::as_bool);
    let rank = match row.get("rank") {
        None | Some(Value::Null) => None,
        Some(v) => {
            // pandas writes whole numbers beside nulls as floats.
            let whole = v.as_f64().filter(|f| f.fract() == 0. && (0. ..=1e9).contains(f)).map(|f| f as u32);
            Some(whole.ok_or_else(|| format!("`rank` is {}, expected a whole number from 0", spell(v)))?)
        }
    };
    Ok(Message {
        good: flag(row, "deleted") != Some(true) && flag(row, "review_result") != Some(false),
        rank,
        id: member(row, "message_id", text)?,
        parent: optional(row, "parent_id")?,
        role: member(row, "role", text)?,
        lang: optional(row, "lang")?,
        text: member(row, "text", text)?,
    })
}

impl Oasst {
    pub fn new(ranked: bool, language: Option<String>) -> Self {
        Self { ranked, language, open: None }
    }

    fn wants(&self, m: &Message) -> Option<&'static str> {
        let foreign = self.language.as_ref().is_some_and(|l| m.lang.as_ref() != Some(l));
        match m {
            _ if foreign => Some("another language"),
            m if !m.good => Some("deleted or failed in review"),
            _ => None,
        }
    }

    pub fn row(&mut self, mut row: Object, sink: &mut Sink) -> Result<(), String> {
        if row.contains_key("prompt") {
            return self.tree(row, sink);
        }
        let tree = member(&mut row, "message_tree_id", text)?;
        let m = message(&mut row)?;
        if self.open.as_ref().is_none_or(|t| t.id != tree) {
            self.flush(sink);
            self.open = Some(Tree { id: tree, prompt: None, begun: false, answers: Vec::new(), size: 0 });
        }
        let why = if m.parent.is_none() { self.wants(&m) } else { None };
        let Some(tree) = &mut self.open else { return Ok(()) };
        tree.size += size_of::<Message>() + m.text.len() + m.id.len() + m.parent.as_ref().map_or(0, String::len);
        if tree.size > LARGEST {
            return Err(format!("is in a tree of more than {} MiB", LARGEST >> 20));
        }
        match (&m.parent, m.role.as_str()) {
            (None, "prompter") => {
                tree.begun = true;
                match why {
                    Some(why) => sink.leave_out(why),
                    None => tree.prompt = Some((m.id, m.text)),
                }
            }
            // A tree is named after its first message, so that answers to it are known even before it has come.
            (Some(parent), "assistant") if *parent == tree.id => tree.answers.push(m),
            (Some(_), "assistant" | "prompter") => {}
            (_, role) => return Err(format!("has the role `{}` in no place of a conversation", role.escape_debug())),
        }
        Ok(())
    }

    fn tree(&mut self, mut row: Object, sink: &mut Sink) -> Result<(), String> {
        let object = |v: Value| match v {
            Value::Object(o) => Ok(o),
            other => Err(format!("is {}, expected an object", spell(&other))),
        };
        let mut root = member(&mut row, "prompt", object)?;
        let replies = match root.remove("replies") {
            None | Some(Value::Null) => Vec::new(),
            Some(replies) => {
                list(replies, |v| object(v).and_then(|mut o| message(&mut o))).map_err(|e| format!("`replies` {e}"))?
            }
        };
        let prompt = message(&mut root).map_err(|e| format!("`prompt` {e}"))?;
        if let Some(why) = self.wants(&prompt) {
            sink.leave_out(why);
            return Ok(());
        }
        let answers = replies.into_iter().filter(|m| m.role == "assistant").collect();
        let tree =
            Tree { id: prompt.id.clone(), prompt: Some((prompt.id, prompt.text)), begun: true, answers, size: 0 };
        self.emit(tree, sink);
        Ok(())
    }

    /// The tree that was coming is whole.
    pub fn flush(&mut self, sink: &mut Sink) {
        if let Some(tree) = self.open.take() {
            self.emit(tree, sink);
        }
    }

    fn emit(&self, tree: Tree, sink: &mut Sink) {
        let Some((id, prompt)) = tree.prompt else {
            if !tree.begun && !tree.answers.is_empty() {
                sink.leave_out("answers whose prompt does not stand beside them");
            }
            return;
        };
        let answers = tree.answers.into_iter().filter(|m| self.wants(m).is_none());
        let ranked: Vec<Ranked> =
            answers.filter_map(|m| Some(Ranked { rank: m.rank?, id: m.id, text: m.text, score: None })).collect();
        if self.ranked {
            sink.ranked(&id, &prompt, ranked);
            return;
        }
        match ranked.into_iter().find(|a| a.rank == 0) {
            Some(best) => sink.answer(&prompt, &best.text),
            None => sink.leave_out("no answer of rank 0"),
        }
    }
}
