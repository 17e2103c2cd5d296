//! Open Assistant's conversations (arXiv 2304.07327), as trees or as the messages of trees one after the other.
//!
//! Only the first turn is taken: a prompt that begins a conversation, and the assistant's answers to it, ranked by people.
//! `ift` is the paper's filter: the answer of rank 0. `ranked` has all ranked answers of prompts with at least two. Messages
//! that were deleted or failed review are left out.

use super::formats::{Ranked, Sink};
use super::record::Record;
use crate::store::jsonl::spell;

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

fn message(record: &mut Record) -> Result<Message, String> {
    let rank = record.optional("rank", |value| {
        // pandas writes whole numbers beside nulls as floats.
        let whole = value.as_f64().filter(|f| f.fract() == 0. && (0. ..=1e9).contains(f)).map(|f| f as u32);
        whole.ok_or_else(|| format!("is {}, expected a whole number from 0", spell(&value)))
    })?;
    let deleted = record.take("deleted").and_then(|flag| flag.as_bool());
    let review_result = record.take("review_result").and_then(|flag| flag.as_bool());
    Ok(Message {
        good: deleted != Some(true) && review_result != Some(false),
        rank,
        id: record.text("message_id")?,
        parent: record.optional_text("parent_id")?,
        role: record.text("role")?,
        lang: record.optional_text("lang")?,
        text: record.text("text")?,
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

    pub fn row(&mut self, record: &mut Record, sink: &mut Sink) -> Result<(), String> {
        if record.contains("prompt") {
            return self.tree(record, sink);
        }
        let tree = record.text("message_tree_id")?;
        let m = message(record)?;
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
            (Some(_), "assistant" | "prompter") => record.report("turns after the first answer".to_owned()),
            (_, role) => return Err(format!("has the role `{}` in no place of a conversation", role.escape_debug())),
        }
        Ok(())
    }

    fn tree(&mut self, record: &mut Record, sink: &mut Sink) -> Result<(), String> {
        // The tree is named after its first message.
        record.take("message_tree_id");
        let (prompt, replies) = record.record("prompt", |root| {
            let replies = if root.has("replies") { root.records("replies", message)? } else { Vec::new() };
            Ok((message(root)?, replies))
        })?;
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
