//! Open Assistant's conversations (arXiv 2304.07327), as trees or as the messages of trees one after the other.
//!
//! Every message of a person begins a prompt: it, with all that was said before it in its tree. `ift` has the answer of
//! rank 0 to each prompt, `ranked` all ranked answers of prompts with at least two. Messages that were deleted or failed
//! review are left out with all that follows them. Of the first turns alone, this is the paper's filter.

use std::collections::HashMap;

use super::chats::Turns;
use super::formats::{Ranked, Sink};
use super::record::Record;
use crate::store::conversations::Turn;
use crate::store::jsonl::spell;

/// Greatest size of a tree whose messages come one by one, in bytes of text, ids and what holds them.
const LARGEST: usize = 64 << 20;

/// What is done with each tree.
pub(super) struct Oasst {
    ranked: bool,
    language: Option<String>,
    turns: Turns,
    /// The tree whose messages are coming, and its size.
    open: Option<(Tree, usize)>,
}

struct Tree {
    id: String,
    /// In the order of the file.
    messages: Vec<Message>,
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

impl Message {
    fn is_answer(&self) -> bool {
        self.role == "assistant"
    }
    fn turn(&self) -> Turn {
        Turn::new(if self.is_answer() { "assistant" } else { "user" }, self.text.trim())
    }
}

fn message(record: &mut Record) -> Result<Message, String> {
    let rank = record.optional("rank", |value| {
        // pandas writes whole numbers beside nulls as floats.
        let whole = value.as_f64().filter(|f| f.fract() == 0. && (0. ..=1e9).contains(f)).map(|f| f as u32);
        whole.ok_or_else(|| format!("is {}, expected a whole number from 0", spell(&value)))
    })?;
    let deleted = record.take("deleted").and_then(|flag| flag.as_bool());
    let review_result = record.take("review_result").and_then(|flag| flag.as_bool());
    let message = Message {
        good: deleted != Some(true) && review_result != Some(false),
        rank,
        id: record.text("message_id")?,
        parent: record.optional_text("parent_id")?,
        role: record.text("role")?,
        lang: record.optional_text("lang")?,
        text: record.text("text")?,
    };
    match (&message.parent, message.role.as_str()) {
        (_, "prompter") | (Some(_), "assistant") => Ok(message),
        (_, role) => Err(format!("has the role `{}` in no place of a conversation", role.escape_debug())),
    }
}

/// Reads a message of a tree and all below it, each after the one that it follows.
fn branch(record: &mut Record, parent: Option<&str>, all: &mut Vec<Message>) -> Result<(), String> {
    let replies = record.has("replies").then(|| record.take("replies")).flatten();
    if let Some(parent) = parent {
        record.put("parent_id", parent);
    }
    let read = message(record)?;
    let id = read.id.clone();
    all.push(read);
    match replies {
        None => Ok(()),
        Some(replies) => record.records_in("replies", replies, |reply| branch(reply, Some(&id), all)).map(drop),
    }
}

impl Oasst {
    pub fn new(ranked: bool, language: Option<String>, turns: Turns) -> Self {
        Self { ranked, language, turns, open: None }
    }

    /// Why a message and what follows it is left out.
    fn unwanted(&self, m: &Message) -> Option<&'static str> {
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
        let id = record.text("message_tree_id")?;
        let m = message(record)?;
        if self.open.as_ref().is_none_or(|(tree, _)| tree.id != id) {
            self.flush(sink);
            self.open = Some((Tree { id, messages: Vec::new() }, 0));
        }
        let Some((tree, size)) = &mut self.open else { return Ok(()) };
        *size += size_of::<Message>() + m.text.len() + m.id.len() + m.parent.as_ref().map_or(0, String::len);
        if *size > LARGEST {
            return Err(format!("is in a tree of more than {} MiB", LARGEST >> 20));
        }
        tree.messages.push(m);
        Ok(())
    }

    fn tree(&mut self, record: &mut Record, sink: &mut Sink) -> Result<(), String> {
        // The tree is named after its first message.
        record.take("message_tree_id");
        let mut messages = Vec::new();
        record.record("prompt", |root| branch(root, None, &mut messages))?;
        let id = messages.first().map(|root| root.id.clone()).unwrap_or_default();
        self.emit(&Tree { id, messages }, sink);
        Ok(())
    }

    /// The tree that was coming is whole.
    pub fn flush(&mut self, sink: &mut Sink) {
        if let Some((tree, _)) = self.open.take() {
            self.emit(&tree, sink);
        }
    }

    fn emit(&self, tree: &Tree, sink: &mut Sink) {
        let by_id: HashMap<&str, usize> = tree.messages.iter().enumerate().map(|(at, m)| (m.id.as_str(), at)).collect();
        let mut replies: Vec<Vec<usize>> = vec![Vec::new(); tree.messages.len()];
        let (mut roots, mut torn) = (Vec::new(), false);
        for (at, m) in tree.messages.iter().enumerate() {
            match m.parent.as_deref().map(|parent| by_id.get(parent)) {
                None => roots.push(at),
                Some(Some(&parent)) => replies[parent].push(at),
                Some(None) => torn = true,
            }
        }
        if torn {
            sink.leave_out("answers whose prompt does not stand beside them");
        }
        let (mut open, mut later) = (Vec::new(), false);
        for root in roots {
            match self.unwanted(&tree.messages[root]) {
                Some(why) => sink.leave_out(why),
                None => open.push((root, Vec::new())),
            }
        }
        // Depth first, in the order of the file.
        open.reverse();
        while let Some((at, mut before)) = open.pop() {
            let m = &tree.messages[at];
            before.push(m.turn());
            let mut wanted = Vec::new();
            for &reply in &replies[at] {
                match self.unwanted(&tree.messages[reply]) {
                    Some(why) => sink.leave_out(why),
                    None => wanted.push(reply),
                }
            }
            if !m.is_answer() {
                let answers = wanted.iter().map(|&at| &tree.messages[at]).filter(|m| m.is_answer()).collect();
                self.answers(&m.id, &before, answers, sink);
            } else if self.turns == Turns::First {
                later |= !wanted.is_empty();
                continue;
            }
            open.extend(wanted.into_iter().rev().map(|reply| (reply, before.clone())));
        }
        if later {
            sink.count_unread("turns after the first answer".to_owned(), 1);
        }
    }

    /// The answers to one message of a person.
    fn answers(&self, id: &str, before: &[Turn], answers: Vec<&Message>, sink: &mut Sink) {
        let mut ranked = Vec::new();
        for m in answers {
            match m.rank {
                Some(rank) => ranked.push(Ranked { rank, id: m.id.clone(), text: m.text.clone(), score: None }),
                None => sink.leave_out("an answer without a rank"),
            }
        }
        if self.ranked {
            sink.ranked(id, before, ranked);
            return;
        }
        match ranked.into_iter().find(|answer| answer.rank == 0) {
            Some(best) => sink.answer(before, &best.text),
            None => sink.leave_out("no answer of rank 0"),
        }
    }
}
