//! Conversations: every answer becomes a row, with the conversation before it as the prompt.

use super::context::QuestionContext;
use super::record::Record;
use super::sink::{REPEATED, RowSink, is_too_repetitive, turn_bytes};
use super::turns::{ImportedTurn, Role, TOOL_CALL, UNTRAINED};
use crate::store::datasets::turn;

/// Which answers of a conversation become rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Turns {
    /// Every answer, with all previous turns.
    #[default]
    All,
    /// The first answer.
    First,
}

const NO_ANSWER: &str = "no question with an answer";
const NO_QUESTION: &str = "an answer that follows no question";
pub(super) const TWO_SYSTEMS: &str = "two system messages";

/// Converts the answers among `turns`, from position `from` on.
pub(super) fn answers(
    record: &mut Record,
    context: &QuestionContext,
    turns: Vec<ImportedTurn>,
    from: usize,
    which: Turns,
    sink: &mut RowSink,
) {
    if which == Turns::All && is_too_repetitive(prompt_sizes(context, &turns, from)) {
        return sink.leave_out(REPEATED);
    }
    let mut before: Vec<turn::Turn> = Vec::new();
    let (mut beyond, mut answered, mut unasked) = (None, 0u64, 0u64);
    let count = turns.len();
    for (at, turn) in turns.into_iter().enumerate() {
        if which == Turns::First && answered > 0 {
            record.report("turns after the first answer".to_owned());
            break;
        }
        if turn.role == Role::System && turn.text.trim().is_empty() {
            continue;
        }
        beyond = beyond.or(beyond_text(&turn));
        if turn.role == Role::Assistant && at >= from {
            if before.last().is_some_and(|last| last.role == "user") {
                answered += 1;
                answer(&turn, beyond, context, &before, sink);
            } else {
                unasked += 1;
            }
        }
        if turn.role == Role::User && at + 1 == count && answered > 0 {
            record.report("a last question without an answer".to_owned());
        }
        before.push(turn::Turn::new(turn.role_name(), turn.text.trim()));
    }
    match answered {
        0 => sink.leave_out(beyond.unwrap_or(NO_ANSWER)),
        _ => sink.leave_out_all(beyond.unwrap_or(NO_QUESTION), unasked),
    }
}

/// Adds a row for an answer with its previous turns, or counts the reason for leaving it out.
fn answer(
    turn: &ImportedTurn,
    beyond: Option<&'static str>,
    context: &QuestionContext,
    before: &[turn::Turn],
    sink: &mut RowSink,
) {
    if let Some(why) = beyond {
        return sink.leave_out(why);
    }
    match context.before(before.to_vec()) {
        Err(_) => sink.leave_out(TWO_SYSTEMS),
        Ok(_) if turn.untrained => sink.leave_out(UNTRAINED),
        Ok(before) => sink.answer(&before, &turn.text),
    }
}

/// Approximate size in bytes of each answer's prompt.
fn prompt_sizes(context: &QuestionContext, turns: &[ImportedTurn], from: usize) -> impl Iterator<Item = usize> {
    let mut size = context.turns().map(|turn| turn_bytes(&turn.role, &turn.content)).sum::<usize>();
    let mut asked = false;
    turns.iter().enumerate().filter_map(move |(at, turn)| {
        let prompt = (turn.role == Role::Assistant && asked && at >= from).then_some(size);
        size += turn_bytes(turn.role_name(), &turn.text);
        asked = turn.role == Role::User;
        prompt
    })
}

/// Reason for leaving out rows with this turn, if any.
pub(super) fn beyond_text(turn: &ImportedTurn) -> Option<&'static str> {
    turn.beyond_text.or(match turn.role {
        Role::Tool => Some(TOOL_CALL),
        Role::Other => Some("a role other than system, user and assistant"),
        _ => None,
    })
}
