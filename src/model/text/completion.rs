//! Encodes a prompt and the answer that follows it as token ids, for training and scoring.
//!
//! The prompt is rendered as for sampling. The answer is what the chat template writes after it in a
//! rendering of the whole conversation, up to the token that ends the answer. If the template trims an
//! answer, the encoded answer is trimmed too. The two renderings must agree on the prompt. If they do not,
//! as with a template that opens `<think>` only for sampling, no sequence of tokens matches both sampling
//! and the template, and the conversation is refused.

use super::chat::ChatPart;
use super::message::Message;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// A prompt and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedCompletion {
    /// Token ids of the prompt, the same as in sampling.
    pub prompt: Vec<u32>,
    /// Token ids of the answer, including the token that ends it.
    pub answer: Vec<u32>,
    /// Explains why these ids differ from the chat template's whole conversation; only with
    /// [`Unwritten::Apart`].
    pub note: Option<String>,
}

/// Handling of an answer that the chat template changes, for example by quoting or cutting it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unwritten {
    /// Uses the template's version if it follows the prompt, and refuses the answer otherwise. For
    /// training.
    Refuse,
    /// Uses the answer as given, after the prompt, and sets [`TokenizedCompletion::note`]. For measuring a given
    /// text.
    Apart,
}

/// Reasons why a conversation cannot be split into a prompt and an answer.
enum Mismatch {
    /// The template writes this text after the prompt only if no answer follows.
    Opens(String),
    /// The template writes the prompt or the beginning of the turn differently if an answer follows.
    Prompt,
    /// The template omits an answer.
    LeftOut,
    /// The template writes a changed answer.
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

    /// Whether the template opens a thought for sampling that given answers lack.
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
    /// Encodes a prompt and the turns that follow it. The module's documentation defines the result.
    ///
    /// The answer is encoded together with the prompt, so that a SentencePiece vocabulary does not mark the
    /// start of a text at the boundary. An answer that begins with white space may merge with the prompt's
    /// last token. In that case the prompt keeps the tokens of sampling, and the answer is encoded as text
    /// that follows them.
    ///
    /// # Errors
    /// The template refuses the conversation, or prompt and answer differ from its rendering of the whole.
    pub fn encode_completion(
        &self,
        prompt: &[Message],
        turns: &[Message],
        unwritten: Unwritten,
    ) -> Result<TokenizedCompletion> {
        let opened = self.conversation(prompt, true)?;
        let ids = self.encode_parts(&opened)?;
        let follows = self.what_follows(prompt, &opened, turns)?;
        let (parts, note) = match (follows, turns, unwritten) {
            (Err(mismatch), [turn], Unwritten::Apart) if !mismatch.is_thought() => {
                (vec![ChatPart::Content(turn.content.clone())], Some(mismatch.message()))
            }
            (Err(mismatch), _, _) => return Err(mismatch.error()),
            (Ok(parts), [turn], Unwritten::Apart) if !self.writes(&parts, &turn.content) => {
                (vec![ChatPart::Content(turn.content.clone())], Some(Mismatch::Rewritten.message()))
            }
            (Ok(parts), _, _) => (parts, None),
        };
        let answer = self.close(&ids, &opened, parts)?;
        Ok(TokenizedCompletion { prompt: ids, answer, note })
    }

    /// Encodes text that begins the answer to a prompt, as text that follows the prompt.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_chat`].
    pub fn encode_answer_beginning(&self, prompt: &[Message], text: &str) -> Result<Vec<u32>> {
        self.encode_parts_after(&self.conversation(prompt, true)?, &[ChatPart::Content(text.to_owned())])
    }

    /// Returns the parts that the template writes after `opened`, the rendered prompt.
    fn what_follows(
        &self,
        prompt: &[Message],
        opened: &[ChatPart],
        turns: &[Message],
    ) -> Result<std::result::Result<Vec<ChatPart>, Mismatch>> {
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
        // Each of several turns must be present. The template may change a single turn.
        let contents = parts.iter().filter(|part| matches!(part, ChatPart::Content(_))).count();
        if turns.len() > 1 && contents != 0 && contents < turns.len() {
            return Ok(Err(Mismatch::LeftOut));
        }
        Ok(Ok(parts))
    }

    /// Encodes the parts after the prompt, up to the token that ends the answer. Adds
    /// [`Tokenizer::end_of_turn`] if the template writes no such token.
    fn close(&self, prompt: &[u32], opened: &[ChatPart], mut parts: Vec<ChatPart>) -> Result<Vec<u32>> {
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

    /// Whether the parts contain the answer as given or trimmed, and up to the end of the turn nothing else
    /// but white space and a thought.
    fn writes(&self, parts: &[ChatPart], answer: &str) -> bool {
        let mut parts = parts.to_vec();
        self.cut_after_end(&mut parts);
        let Some(at) = parts.iter().position(|part| matches!(part, ChatPart::Content(_))) else { return false };
        let before = text_of(&parts[..at]);
        let after = text_of(&parts[at + 1..]);
        // The text after the content ends the turn; see `cut_after_end`.
        let plain_end = after.trim().is_empty() || self.token_id(after.trim()).is_some_and(|id| self.is_special(id));
        // The template may have written the beginning of the answer as the end of the prompt.
        let content = parts[at].text().trim();
        let given = answer.trim_end().ends_with(content) && (!content.is_empty() || answer.trim().is_empty());
        given && plain_end && (before.trim().is_empty() || is_thought(&before))
    }

    /// Removes what the template writes after the token that ends the last turn. Returns whether there is
    /// such a token.
    fn cut_after_end(&self, parts: &mut Vec<ChatPart>) -> bool {
        let last = parts.iter().rposition(|part| matches!(part, ChatPart::Content(_)));
        let closing_at = last.map_or(0, |at| at + 1);
        let closing = text_of(&parts[closing_at..]);
        parts.truncate(closing_at);
        let ends = self.ends_of_turns(&closing);
        // If the place of the content is unknown, the end is the one that nothing follows.
        let end = match last {
            Some(_) => ends.first().copied(),
            None => ends.last().copied().filter(|&end| closing[end..].trim().is_empty()),
        };
        let kept = end.map_or(closing.trim_end(), |end| &closing[..end]);
        if !kept.is_empty() {
            parts.push(ChatPart::Literal(kept.to_owned()));
        }
        end.is_some()
    }
}

/// Whether a template's text opens or writes a thought: `<think>`, `[THINK]`, `<reasoning>` and similar
/// tags.
fn is_thought(text: &str) -> bool {
    let text = text.to_lowercase();
    ["think", "thought", "reason"].iter().any(|word| text.contains(word))
}

/// Explains why `written`, the whole conversation, does not begin with `before`, the rendered prompt.
fn mismatch(before: &str, written: &str, turns: &[Message]) -> Mismatch {
    let answer = turns.first().map_or("", |turn| turn.content.trim());
    if let Some(at) = written.rfind(answer).filter(|_| turns.len() == 1)
        && before.starts_with(&written[..at])
    {
        return Mismatch::Opens(before[at..].to_owned());
    }
    Mismatch::Prompt
}

fn text_of(parts: &[ChatPart]) -> String {
    parts.iter().map(ChatPart::text).collect()
}

/// Returns the parts after the first `bytes` bytes, which must end at a character boundary.
fn split_off(parts: Vec<ChatPart>, mut bytes: usize) -> Vec<ChatPart> {
    let mut rest = Vec::new();
    for part in parts {
        let skip = bytes.min(part.text().len());
        bytes -= skip;
        if skip == 0 {
            rest.push(part);
        } else if skip < part.text().len() {
            rest.push(match part {
                ChatPart::Literal(text) => ChatPart::Literal(text[skip..].to_owned()),
                ChatPart::Content(text) => ChatPart::Content(text[skip..].to_owned()),
            });
        }
    }
    rest
}
