//! A prompt and the answer that follows it, as token ids: what training learns from and what is scored.
//!
//! The prompt is rendered as it is for sampling. What follows is what the chat template writes after it when it renders the
//! whole conversation, up to the token that ends the answer: if the template trims an answer, so is the answer here. The
//! two renderings must agree on the prompt. Where they do not, as with a template that opens `<think>` for sampling only,
//! no sequence of tokens is both what is sampled and what the template gives, and the conversation is refused.

use super::chat::Part;
use super::message::Message;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// A prompt and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Token ids of the prompt, as sampling has them.
    pub prompt: Vec<u32>,
    /// Token ids of the answer and of the token that ends it.
    pub answer: Vec<u32>,
    /// Why these ids are not what the chat template gives for the whole conversation; only with [`Unwritten::Apart`].
    pub note: Option<String>,
}

/// What to do with an answer that the chat template does not write as it was given (it quotes or cuts it, say).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unwritten {
    /// Take what the template makes of it if that follows the prompt, and refuse it otherwise. For training.
    Refuse,
    /// Take the answer as it was given, after the prompt, with [`Completion::note`]. For measuring a given text.
    Apart,
}

/// Why a conversation cannot be split into the prompt and what follows it.
enum Mismatch {
    /// The template writes this text after the prompt only if it is not given an answer.
    Opens(String),
    /// The template writes the prompt or the turn's beginning differently when the answer follows.
    Prompt,
    /// The template leaves an answer out.
    LeftOut,
    /// The template writes something else than the answer.
    Rewritten,
}

impl Mismatch {
    fn message(&self) -> String {
        match self {
            Self::Opens(text) => format!(
                "the chat template ends the prompt with {text:?} where an answer is to be written, but writes a given answer without it"
            ),
            Self::Prompt => "the chat template writes the prompt differently when an answer follows it".into(),
            Self::LeftOut => "the chat template leaves the answer out".into(),
            Self::Rewritten => "the chat template rewrites the answer".into(),
        }
    }

    /// Whether the template opens a thought where it samples, which given answers lack.
    fn is_thought(&self) -> bool {
        matches!(self, Self::Opens(text) if is_thought(text))
    }

    fn error(&self) -> Error {
        let help = match self {
            Self::Opens(_) => {
                "begin the answers with that text if they contain it, or edit the model's chat template so that it writes \
                 the same with and without the answer"
            }
            _ => {
                "edit the model's chat template so that it writes prompt and answer one after the other; of several \
                 turns, give all but the last to the prompt"
            }
        };
        Error::user(self.message()).help(help)
    }
}

impl Tokenizer {
    /// Token ids of a prompt and of the turns that follow it. See the module for what they are.
    ///
    /// What follows is encoded together with the prompt, so that a SentencePiece vocabulary marks no beginning of a text at
    /// the boundary. If it merges with the prompt's last token (an answer that begins with white space may), the prompt
    /// keeps the tokens that sampling has, and the answer is encoded as text that follows them.
    ///
    /// # Errors
    /// The template refuses the conversation, or prompt and answer are not what it gives for the whole of it.
    pub fn encode_completion(&self, prompt: &[Message], turns: &[Message], unwritten: Unwritten) -> Result<Completion> {
        let opened = self.conversation(prompt, true)?;
        let ids = self.encode_parts(&opened)?;
        let follows = self.what_follows(prompt, &opened, turns)?;
        let (parts, note) = match (follows, turns, unwritten) {
            (Err(mismatch), [turn], Unwritten::Apart) if !mismatch.is_thought() => {
                (vec![Part::Content(turn.content.clone())], Some(mismatch.message()))
            }
            (Err(mismatch), _, _) => return Err(mismatch.error()),
            (Ok(parts), [turn], Unwritten::Apart) if !self.writes(&parts, &turn.content) => {
                (vec![Part::Content(turn.content.clone())], Some(Mismatch::Rewritten.message()))
            }
            (Ok(parts), _, _) => (parts, None),
        };
        let answer = self.close(&ids, &opened, parts)?;
        Ok(Completion { prompt: ids, answer, note })
    }

    /// Token ids of text that begins the answer to a prompt, encoded as what follows it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_chat`].
    pub fn encode_answer_beginning(&self, prompt: &[Message], text: &str) -> Result<Vec<u32>> {
        self.encode_parts_after(&self.conversation(prompt, true)?, &[Part::Content(text.to_owned())])
    }

    /// What the template writes of the turns after `opened`, the rendered prompt.
    fn what_follows(
        &self,
        prompt: &[Message],
        opened: &[Part],
        turns: &[Message],
    ) -> Result<std::result::Result<Vec<Part>, Mismatch>> {
        let whole = self.conversation(&[prompt, turns].concat(), false)?;
        let (before, written) = (text_of(opened), text_of(&whole));
        if !written.starts_with(&before) {
            return Ok(Err(mismatch(&before, &written, turns)));
        }
        let parts = split_off(whole, before.len());
        let blank = text_of(&parts).trim().is_empty();
        if blank && turns.iter().any(|turn| !turn.content.trim().is_empty()) {
            return Ok(Err(Mismatch::LeftOut));
        }
        // Of several turns every one must be there; a single one that is not as given is the template's doing.
        let contents = parts.iter().filter(|part| matches!(part, Part::Content(_))).count();
        if turns.len() > 1 && contents != 0 && contents < turns.len() {
            return Ok(Err(Mismatch::LeftOut));
        }
        Ok(Ok(parts))
    }

    /// Ids of what follows the prompt, up to the token that ends the answer; where the template writes none, the
    /// [`Tokenizer::end_of_turn`] is added.
    fn close(&self, prompt: &[u32], opened: &[Part], mut parts: Vec<Part>) -> Result<Vec<u32>> {
        let ended = self.cut_after_end(&mut parts);
        let together = self.encode_parts(&[opened, &parts].concat())?;
        let mut answer = match together.strip_prefix(prompt) {
            Some(answer) => answer.to_vec(),
            None => self.encode_parts_after(opened, &parts)?,
        };
        if !ended {
            answer.extend(self.end_of_turn());
        }
        Ok(answer)
    }

    /// Whether the parts are the answer as it was given, at most trimmed, with nothing around it up to the end of the turn
    /// but white space and a thought.
    fn writes(&self, parts: &[Part], answer: &str) -> bool {
        let mut parts = parts.to_vec();
        self.cut_after_end(&mut parts);
        let Some(at) = parts.iter().position(|part| matches!(part, Part::Content(_))) else { return false };
        let before = text_of(&parts[..at]);
        let after = text_of(&parts[at + 1..]);
        // What is left after the content is its end, see `cut_after_end`.
        let plain_end = after.trim().is_empty() || self.token_id(after.trim()).is_some_and(|id| self.is_special(id));
        // The beginning of an answer may have been written as the end of the prompt.
        let content = parts[at].text().trim();
        let given = answer.trim_end().ends_with(content) && (!content.is_empty() || answer.trim().is_empty());
        given && plain_end && (before.trim().is_empty() || is_thought(&before))
    }

    /// Cuts what the template writes after the token that ends the last turn; whether there is such a token.
    fn cut_after_end(&self, parts: &mut Vec<Part>) -> bool {
        let last = parts.iter().rposition(|part| matches!(part, Part::Content(_)));
        let closing_at = last.map_or(0, |at| at + 1);
        let closing = text_of(&parts[closing_at..]);
        parts.truncate(closing_at);
        let ends = self.ends_of_turns(&closing);
        // Without the place of the content, the end is the one that nothing follows.
        let end = match last {
            Some(_) => ends.first().copied(),
            None => ends.last().copied().filter(|&end| closing[end..].trim().is_empty()),
        };
        let kept = end.map_or(closing.trim_end(), |end| &closing[..end]);
        if !kept.is_empty() {
            parts.push(Part::Literal(kept.to_owned()));
        }
        end.is_some()
    }
}

/// Whether a text of a template opens or writes a thought: `<think>`, `[THINK]`, `<reasoning>` and the like.
fn is_thought(text: &str) -> bool {
    let text = text.to_lowercase();
    ["think", "thought", "reason"].iter().any(|word| text.contains(word))
}

/// Why `written`, the whole conversation, does not begin with `before`, the rendered prompt.
fn mismatch(before: &str, written: &str, turns: &[Message]) -> Mismatch {
    let answer = turns.first().map_or("", |turn| turn.content.trim());
    if let Some(at) = written.rfind(answer).filter(|_| turns.len() == 1)
        && before.starts_with(&written[..at])
    {
        return Mismatch::Opens(before[at..].to_owned());
    }
    Mismatch::Prompt
}

fn text_of(parts: &[Part]) -> String {
    parts.iter().map(Part::text).collect()
}

/// The parts after the first `bytes` bytes, which end at the end of a character.
fn split_off(parts: Vec<Part>, mut bytes: usize) -> Vec<Part> {
    let mut rest = Vec::new();
    for part in parts {
        let skip = bytes.min(part.text().len());
        bytes -= skip;
        if skip == 0 {
            rest.push(part);
        } else if skip < part.text().len() {
            rest.push(match part {
                Part::Literal(text) => Part::Literal(text[skip..].to_owned()),
                Part::Content(text) => Part::Content(text[skip..].to_owned()),
            });
        }
    }
    rest
}
