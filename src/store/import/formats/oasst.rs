//! Converter of Open Assistant's conversations (arXiv 2304.07327), as trees or as the messages of trees in
//! sequence.
//!
//! Every user message, with all previous messages of its tree, is a prompt. `ift` gets the answer of rank 0
//! to each prompt, `ranked` all ranked answers of prompts with at least two. Messages that were deleted or
//! failed review are left out with all their replies. Restricted to first turns, this is the paper's filter.

use std::collections::HashMap;

use super::format::{Convert, FormatDef, RowConverter, RowOptions};
use crate::data::named;
use crate::store::datasets::turn::Turn;
use crate::store::files::jsonl::spell;
use crate::store::import::chats::Turns;
use crate::store::import::context::QuestionContext;
use crate::store::import::record::Record;
use crate::store::import::sink::{REPEATED, Ranked, RowSink, is_too_repetitive, turn_bytes};

pub(super) static DEF: FormatDef = FormatDef {
    name: "oasst",
    about: "Open Assistant (oasst1, oasst2), trees or messages, in English; `ift` takes the answer of rank 0 to each \
            user message, --schema ranked all its ranked answers",
    recognised_by: "Open Assistant's trees, or messages with `message_tree_id`",
    reads: "id, parent, role, text, language, rank, deletion and review: the answer of rank 0 to each message of a \
            person (`ift`), or all its ranked answers (`ranked`), with the conversation before it",
    keys: &[
        "deleted",
        "lang",
        "message_id",
        "message_tree_id",
        "parent_id",
        "prompt",
        "rank",
        "review_result",
        "role",
        "text",
    ],
    targets: &[&named::IFT, &named::RANKED],
    extra: &[],
    recognises: |row| {
        row.peek("prompt").is_some_and(|root| root.get("replies").is_some())
            || ["message_id", "message_tree_id", "role", "text"].iter().all(|key| row.contains(key))
    },
    convert: Convert::Rows(|options| Box::new(Oasst::new(options))),
};

/// Reason for leaving out a row whose context is not in its messages.
const CONTEXT_OF_A_MESSAGE: &str = "a system message or a history beside messages of Open Assistant";

/// Maximum size in bytes of a tree whose messages are separate rows, including ids and overhead.
const MAX_TREE: usize = 64 << 20;

/// Converter of trees.
struct Oasst {
    ranked: bool,
    language: Option<String>,
    turns: Turns,
    /// The current tree of a file of messages, and its size.
    open: Option<(Tree, usize)>,
}

struct Tree {
    id: String,
    /// The messages, in the file's order.
    messages: Vec<OasstMessage>,
}

struct OasstMessage {
    id: String,
    parent: Option<String>,
    role: String,
    text: String,
    lang: Option<String>,
    rank: Option<u32>,
    /// Whether the message was neither deleted nor failed review.
    good: bool,
}

impl OasstMessage {
    fn is_answer(&self) -> bool {
        self.role == "assistant"
    }
    fn turn(&self) -> Turn {
        Turn::new(if self.is_answer() { "assistant" } else { "user" }, self.text.trim())
    }
}

fn message(record: &mut Record) -> Result<OasstMessage, String> {
    let rank = record.optional("rank", |value| {
        // pandas writes integers as floats if the column has nulls.
        let whole = value.as_f64().filter(|f| f.fract() == 0. && (0. ..=1e9).contains(f)).map(|f| f as u32);
        whole.ok_or_else(|| format!("is {}, expected a whole number from 0", spell(&value)))
    })?;
    let deleted = record.take("deleted").and_then(|flag| flag.as_bool());
    let review_result = record.take("review_result").and_then(|flag| flag.as_bool());
    let message = OasstMessage {
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

/// Reads a message of a tree and all its replies, parents first.
fn branch(record: &mut Record, parent: Option<&str>, all: &mut Vec<OasstMessage>) -> Result<(), String> {
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

/// Reply structure of a tree, by position of the messages.
struct Links {
    roots: Vec<usize>,
    replies: Vec<Vec<usize>>,
    /// Messages whose parent is missing.
    orphans: Vec<usize>,
}

impl Links {
    fn new(messages: &[OasstMessage]) -> Self {
        let by_id: HashMap<&str, usize> = messages.iter().enumerate().map(|(at, m)| (m.id.as_str(), at)).collect();
        let mut links = Self { roots: Vec::new(), replies: vec![Vec::new(); messages.len()], orphans: Vec::new() };
        for (at, m) in messages.iter().enumerate() {
            match m.parent.as_deref().map(|parent| by_id.get(parent)) {
                None => links.roots.push(at),
                Some(Some(&parent)) => links.replies[parent].push(at),
                Some(None) => links.orphans.push(at),
            }
        }
        links
    }

    /// Number of messages that cannot be reached from a root or orphan, because their parents form a circle.
    fn in_circles(&self) -> u64 {
        let mut open: Vec<usize> = self.roots.iter().chain(&self.orphans).copied().collect();
        let mut reached = 0;
        // Every message has one parent, so it is reached at most once.
        while let Some(at) = open.pop() {
            reached += 1;
            open.extend(&self.replies[at]);
        }
        (self.replies.len() - reached) as u64
    }
}

/// A message in the traversal of a tree.
struct Visit {
    at: usize,
    /// Number of previous messages.
    depth: usize,
    /// Approximate size in bytes, including previous messages.
    bytes: usize,
    /// Number of rows for the answers to it.
    rows: usize,
}

impl Oasst {
    fn new(RowOptions { schema, language, turns }: RowOptions) -> Self {
        Self { ranked: schema.name == named::RANKED.name, language, turns, open: None }
    }

    /// Reason for leaving out a message and its replies, if any.
    fn unwanted(&self, m: &OasstMessage) -> Option<&'static str> {
        let foreign = self.language.as_ref().is_some_and(|l| m.lang.as_ref() != Some(l));
        match m {
            _ if foreign => Some("another language"),
            m if !m.good => Some("deleted or failed in review"),
            _ => None,
        }
    }

    fn tree(&mut self, record: &mut Record, sink: &mut RowSink) -> Result<(), String> {
        // The tree's id is that of its first message.
        record.take("message_tree_id");
        let mut messages = Vec::new();
        record.record("prompt", |root| branch(root, None, &mut messages))?;
        let id = messages.first().map(|root| root.id.clone()).unwrap_or_default();
        self.emit(&Tree { id, messages }, sink);
        Ok(())
    }

    /// Converts the current tree, which is complete.
    fn flush(&mut self, sink: &mut RowSink) {
        if let Some((tree, _)) = self.open.take() {
            self.emit(&tree, sink);
        }
    }

    fn emit(&self, tree: &Tree, sink: &mut RowSink) {
        let links = Links::new(&tree.messages);
        sink.leave_out_all("answers whose prompt does not stand beside them", links.orphans.len() as u64);
        sink.leave_out_all("messages whose parents form a circle", links.in_circles());
        let visits = self.visits(tree, &links, sink);
        if is_too_repetitive(visits.iter().flat_map(|visit| std::iter::repeat_n(visit.bytes, visit.rows))) {
            return sink.leave_out(REPEATED);
        }
        let mut path: Vec<Turn> = Vec::new();
        for visit in visits {
            let m = &tree.messages[visit.at];
            path.truncate(visit.depth);
            path.push(m.turn());
            if !m.is_answer() {
                let replies = links.replies[visit.at].iter().map(|&at| &tree.messages[at]);
                let answers = replies.filter(|m| m.is_answer() && self.unwanted(m).is_none()).collect();
                self.answers(&m.id, &path, answers, sink);
            }
        }
    }

    /// The accepted messages of a tree, depth first in the file's order. Others are counted, each as one with
    /// all its replies.
    fn visits(&self, tree: &Tree, links: &Links, sink: &mut RowSink) -> Vec<Visit> {
        let mut wanted = |messages: &[usize]| -> Vec<usize> {
            let mut wanted = Vec::new();
            for &at in messages {
                match self.unwanted(&tree.messages[at]) {
                    Some(why) => sink.leave_out(why),
                    None => wanted.push(at),
                }
            }
            wanted
        };
        let (mut visits, mut later) = (Vec::new(), false);
        let mut open: Vec<(usize, usize, usize)> =
            wanted(&links.roots).into_iter().rev().map(|at| (at, 0, 0)).collect();
        while let Some((at, depth, before)) = open.pop() {
            let m = &tree.messages[at];
            let bytes = before + turn_bytes(&m.role, &m.text);
            let replies = wanted(&links.replies[at]);
            let answers = replies.iter().filter(|at| tree.messages[**at].is_answer()).count();
            let rows = match m.is_answer() {
                true => 0,
                false if self.ranked => answers,
                false => answers.min(1),
            };
            visits.push(Visit { at, depth, bytes, rows });
            if m.is_answer() && self.turns == Turns::First {
                later |= !replies.is_empty();
                continue;
            }
            open.extend(replies.into_iter().rev().map(|reply| (reply, depth + 1, bytes)));
        }
        if later {
            sink.count_unread("turns after the first answer", 1);
        }
        visits
    }

    /// Converts the answers to one user message.
    fn answers(&self, id: &str, before: &[Turn], answers: Vec<&OasstMessage>, sink: &mut RowSink) {
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

impl RowConverter for Oasst {
    fn row(&mut self, record: &mut Record, context: &QuestionContext, sink: &mut RowSink) -> Result<(), String> {
        if !context.is_empty() {
            sink.leave_out(CONTEXT_OF_A_MESSAGE);
            return Ok(());
        }
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
        *size += size_of::<OasstMessage>() + m.text.len() + m.id.len() + m.parent.as_ref().map_or(0, String::len);
        if *size > MAX_TREE {
            return Err(format!("is in a tree of more than {} MiB", MAX_TREE >> 20));
        }
        tree.messages.push(m);
        Ok(())
    }

    fn end(&mut self, sink: &mut RowSink) {
        self.flush(sink);
    }
}
