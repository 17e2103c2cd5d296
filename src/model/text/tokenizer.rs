//! Converts text to token ids and back, and conversations through the model's own chat template.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;
use tokenizers::tokenizer::{AddedToken, Tokenizer as Hf};

use super::added_tokens::{self, token_text};
use super::chat::{ChatPart, ChatTemplate, mark};
use super::continuation::{ByPosition, Position};
use super::identity::Identity;
use super::message::Message;
use super::tokenizer_json::{self, MAX_VALUES};
use crate::data::parse_json_up_to;
use crate::error::{Error, Result};
use crate::jinja::DateTime;

/// A tokenizer with its chat template; cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<TokenizerInner>,
    /// The present time that the chat template sees (`strftime_now`).
    now: Option<DateTime>,
}

struct TokenizerInner {
    /// Encodes texts according to their position.
    by_position: ByPosition,
    /// Special tokens by spelling.
    specials: BTreeMap<String, Special>,
    special_ids: BTreeSet<u32>,
    unknown: Option<u32>,
    eos: Vec<u32>,
    end_of_turn: Option<u32>,
    bos: Option<u32>,
    vocab: usize,
    template: Option<ChatTemplate>,
    files: TokenizerFiles,
    /// Computed on first use.
    identity: OnceLock<Identity>,
}

/// A special token, and whether it absorbs the white space next to it.
struct Special {
    id: u32,
    before: bool,
    after: bool,
}

/// The files of a tokenizer, for loading and saving.
#[derive(Clone, Default)]
pub(crate) struct TokenizerFiles {
    /// tokenizer.json.
    pub tokenizer: String,
    /// Contents of tokenizer_config.json, including the chat template.
    pub config: serde_json::Map<String, Json>,
    /// End-of-text ids of config.json and generation_config.json.
    pub eos: Vec<u32>,
}

impl Tokenizer {
    /// Checks that each token has a row in an embedding of `rows` rows. `place` begins the error message.
    pub(crate) fn fits(&self, place: impl Display, rows: usize) -> Result<()> {
        let tokens = self.vocab_size();
        if tokens <= rows {
            return Ok(());
        }
        Err(Error::user(format!("{place}: the tokenizer has {tokens} tokens, the embedding {rows} rows"))
            .help("the tokenizer's files belong to another model"))
    }

    pub(crate) fn new(files: TokenizerFiles) -> Result<Self> {
        let broken = |e: &dyn std::fmt::Display| Error::user(format!("tokenizer.json cannot be used: {e}"));
        let mut files = files;
        // The library itself takes the last value of a key that comes twice.
        let mut json = parse_json_up_to(MAX_VALUES, files.tokenizer.as_bytes()).map_err(|e| broken(&e))?;
        tokenizer_json::check(&json).map_err(|e| e.doing("tokenizer.json"))?;
        if added_tokens::complete(&mut json, &files.config).map_err(|e| e.doing("tokenizer_config.json"))? {
            files.tokenizer = json.to_string();
        }
        let mut hf = guarded(|| Hf::from_bytes(files.tokenizer.as_bytes())).map_err(|e| broken(&e))?;
        hf.with_truncation(None).map_err(|e| broken(&e))?;
        hf.with_padding(None);

        let named = |key: &str| token_text(files.config.get(key)?);
        let mut eos: BTreeSet<u32> = files.eos.iter().copied().collect();
        eos.extend(named("eos_token").and_then(|t| hf.token_to_id(&t)));
        // Text must not be able to spell a token that ends an answer, even if the file does not mark that
        // token as special.
        let unmarked = eos.iter().filter_map(|&id| hf.id_to_token(id)).filter(|t| !t.is_empty());
        let unmarked: Vec<_> = unmarked.map(|t| AddedToken::from(t, true)).collect();
        let known: BTreeSet<String> =
            hf.get_added_tokens_decoder().into_values().filter(|t| t.special).map(|t| t.content).collect();
        let unmarked: Vec<_> = unmarked.into_iter().filter(|t| !known.contains(&t.content)).collect();
        guarded(|| hf.add_special_tokens(unmarked)).map_err(|e| broken(&e))?;
        hf.set_encode_special_tokens(true);

        let mut specials = BTreeMap::new();
        for (id, t) in hf.get_added_tokens_decoder() {
            if t.special && !t.content.is_empty() {
                specials.insert(t.content, Special { id, before: t.lstrip, after: t.rstrip });
            }
        }
        let vocab = hf.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let keys = ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];
        let mut tokens: Vec<(String, String)> = keys.iter().filter_map(|k| Some((k.to_string(), named(k)?))).collect();
        // Templates refer to further special tokens by their names, if they have names.
        if let Some(Json::Object(named)) = files.config.get("extra_special_tokens") {
            tokens.extend(named.iter().filter_map(|(name, token)| Some((name.clone(), token_text(token)?))));
        }
        let template = files.config.get("chat_template").and_then(Json::as_str).map(|t| ChatTemplate::new(t, tokens));
        let turn = template.as_ref().and_then(|t| end_of_turn(t, &specials));
        eos.extend(turn);
        let end_of_turn = turn.or_else(|| named("eos_token").and_then(|t| hf.token_to_id(&t))).or(eos.first().copied());
        let bos = named("bos_token").and_then(|t| hf.token_to_id(&t));
        let eos = eos.into_iter().filter(|&id| (id as usize) < vocab).collect();
        let special_ids = specials.values().map(|s| s.id).collect();
        let unknown = unknown_token(&json, &files, &hf);
        let by_position = guarded(|| ByPosition::new(hf)).map_err(|e| broken(&e))?;
        Ok(Self {
            now: None,
            inner: Arc::new(TokenizerInner {
                by_position,
                specials,
                special_ids,
                unknown,
                eos,
                end_of_turn,
                bos,
                vocab,
                template,
                files,
                identity: OnceLock::new(),
            }),
        })
    }

    /// Sets the present time that the chat template sees. Without it, a template that asks for the date
    /// refuses every conversation, because a run must not depend on its date.
    #[must_use]
    pub fn with_date(self, now: Option<DateTime>) -> Self {
        Self { now, ..self }
    }

    /// blake3 hash in hex of everything that a conversation's token ids depend on: vocabulary, merges,
    /// normalizer, pre-tokenizer, special tokens and the chat template. The layout of tokenizer.json does
    /// not matter. Rows with token ids store this hash.
    pub fn hash(&self) -> &str {
        &self.identity().tokenizer
    }

    /// blake3 hash in hex of the meaning of each id: two models with equal hashes can share token ids,
    /// whatever else differs.
    pub fn vocabulary_hash(&self) -> &str {
        &self.identity().vocabulary
    }

    fn identity(&self) -> &Identity {
        let inner = &self.inner;
        inner.identity.get_or_init(|| Identity::of(inner.by_position.original(), inner.template.as_ref()))
    }

    pub(crate) fn files(&self) -> &TokenizerFiles {
        &self.inner.files
    }

    /// Encodes plain text. It never produces special tokens: text that spells one is encoded as its letters
    /// (as the unknown token, in a vocabulary of whole words). It does not add a beginning-of-text token.
    ///
    /// # Errors
    /// Returns any error of the tokenizer.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_at(text, Position::Start)
    }

    /// Like [`Tokenizer::encode_text`], for text that follows other plain text: it puts no mark for the
    /// start of a text before it.
    ///
    /// # Errors
    /// See [`Tokenizer::encode_text`].
    pub fn encode_later(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_at(text, Position::WithinText)
    }

    /// The tokens that the tokenizer puts before and after every text, such as the beginning of text.
    ///
    /// # Errors
    /// See [`Tokenizer::encode_text`].
    pub fn marks(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let hf = self.inner.by_position.original();
        let encoded = |mark| guarded(|| hf.encode_fast("a", mark)).map(|e| e.get_ids().to_vec());
        let both = encoded(false).and_then(|plain| Ok((plain, encoded(true)?)));
        let (plain, marked) = both.map_err(|e| Error::user(format!("the tokenizer cannot encode a text: {e}")))?;
        let at = marked.windows(plain.len().max(1)).position(|window| window == plain);
        let (mut before, after) =
            at.map_or_else(Default::default, |at| (marked[..at].to_vec(), marked[at + plain.len()..].to_vec()));
        // As in transformers, the configuration decides about the beginning of text, and GGUF files have nothing else.
        if let (Some(Json::Bool(add)), Some(bos)) = (self.inner.files.config.get("add_bos_token"), self.bos_id()) {
            before.retain(|&id| id != bos);
            if *add {
                before.insert(0, bos);
            }
        }
        Ok((before, after))
    }

    /// Encodes plain text at `position`.
    fn encode_at(&self, text: &str, position: Position) -> Result<Vec<u32>> {
        let inner = &self.inner;
        let hf = inner.by_position.at(position);
        let encoding = guarded(|| hf.encode_fast(text, false))
            .map_err(|e| Error::user(format!("the tokenizer cannot encode a text: {e}")))?;
        let mut ids = encoding.get_ids().to_vec();
        for id in &mut ids {
            // A vocabulary of whole words finds a special token's spelling in its own table, even without
            // the added token.
            if inner.special_ids.contains(id) && Some(*id) != inner.unknown {
                *id = inner.unknown.ok_or_else(|| {
                    let token = inner.by_position.original().id_to_token(*id).unwrap_or_default();
                    Error::user(format!("the tokenizer turns plain text into the special token {token}"))
                })?;
            }
        }
        Ok(ids)
    }

    /// Decodes ids to text. Special tokens and ids outside the vocabulary are omitted.
    pub fn decode(&self, ids: &[u32]) -> String {
        // The library's decoders accept everything that its encoder produces. If one fails, the result is
        // an empty text.
        guarded(|| self.inner.by_position.original().decode(ids, true)).unwrap_or_default()
    }

    /// Decodes ids to text, with special tokens spelled out. Ids outside the vocabulary are omitted.
    pub fn spell(&self, ids: &[u32]) -> String {
        guarded(|| self.inner.by_position.original().decode(ids, false)).unwrap_or_default()
    }

    /// Renders the conversation with the chat template, with special tokens spelled out.
    ///
    /// # Errors
    /// The model has no chat template, or the template refuses the conversation.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.template()?.render(messages, add_generation_prompt, self.now)
    }

    /// Encodes the conversation. Only the template can produce special tokens: message content that spells
    /// one is encoded as its letters, so that text can neither close nor open a turn.
    ///
    /// # Errors
    /// See [`Tokenizer::render`]. Also fails if the template changes a content and the rendering then has
    /// other special tokens than the template writes by itself.
    pub fn encode_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        self.encode_parts(&self.conversation(messages, add_generation_prompt)?)
    }

    /// Returns the rendered conversation with the template's text separated from the messages' contents.
    ///
    /// # Errors
    /// See [`Tokenizer::encode_chat`].
    pub(crate) fn conversation(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<ChatPart>> {
        let template = self.template()?;
        self.check_keys(messages)?;
        if let Some(parts) = template.parts(messages, add_generation_prompt, self.now)? {
            return Ok(parts);
        }
        // The template changes a content, so the content's place is unknown. The text is still safe if its
        // special tokens are those that the template writes around any content.
        let whole = vec![ChatPart::Literal(template.render(messages, add_generation_prompt, self.now)?)];
        let specials = self.specials_of(&whole);
        let same =
            |text: Result<String>| text.is_ok_and(|text| self.specials_of(&[ChatPart::Literal(text)]) == specials);
        // A template may inspect a content, so marks are not enough: compare with contents that cannot
        // spell a special token.
        if !same(template.marked(messages, add_generation_prompt, self.now))
            && !same(template.render(&self.without_special_starts(messages), add_generation_prompt, self.now))
        {
            return Err(Error::user(
                "a message spells a special token, and the chat template rewrites message content",
            )
            .help("remove the special token's spelling from the message"));
        }
        Ok(whole)
    }

    /// Checks that no key of a message except its content spells a special token; such text could not be
    /// distinguished from the template's own tokens.
    fn check_keys(&self, messages: &[Message]) -> Result<()> {
        let spells = |text: &str| !self.specials_of(&[ChatPart::Literal(text.to_owned())]).is_empty();
        for (key, value) in messages.iter().flat_map(Message::other_keys) {
            if spells(key) || spells_one(value, &spells) {
                return Err(Error::user(format!("a message spells a special token under `{}`", key.escape_debug()))
                    .help("remove the special token's spelling from the message, or omit the key"));
            }
        }
        Ok(())
    }

    /// Returns the messages without the characters that begin special tokens.
    fn without_special_starts(&self, messages: &[Message]) -> Vec<Message> {
        let starts = self.special_starts();
        let content = |m: &Message| m.content.replace(starts.as_slice(), "_");
        messages.iter().map(|m| m.with_content(content(m))).collect()
    }

    /// The characters that begin special tokens.
    fn special_starts(&self) -> Vec<char> {
        let mut starts: Vec<char> = self.inner.specials.keys().filter_map(|spelling| spelling.chars().next()).collect();
        starts.dedup();
        starts
    }

    pub(crate) fn template(&self) -> Result<&ChatTemplate> {
        self.inner.template.as_ref().ok_or_else(|| {
            Error::user("the model has no chat template").help(
                "use the instruction-tuned variant of the model, or put a `chat_template` in tokenizer_config.json",
            )
        })
    }

    pub(crate) fn encode_parts(&self, parts: &[ChatPart]) -> Result<Vec<u32>> {
        self.encode_parts_after(&[], parts)
    }

    /// Encodes `parts` alone, as text that follows the parts `before`.
    pub(crate) fn encode_parts_after(&self, before: &[ChatPart], parts: &[ChatPart]) -> Result<Vec<u32>> {
        let (mut position, mut trim) = match self.runs(before).last() {
            None => (Position::Start, false),
            Some(TextRun { end: Some(special), .. }) => (Position::AfterSpecial, special.after),
            Some(TextRun { end: None, .. }) => (Position::WithinText, false),
        };
        let mut ids = Vec::new();
        for run in self.runs(parts) {
            let text = if trim { run.text.trim_start() } else { &run.text };
            let text = if run.end.is_some_and(|s| s.before) { text.trim_end() } else { text };
            if !text.is_empty() {
                ids.extend(self.encode_at(text, position)?);
            }
            position = Position::AfterSpecial;
            ids.extend(run.end.map(|s| s.id));
            trim = run.end.is_some_and(|s| s.after);
        }
        Ok(ids)
    }

    /// Returns the position after each special token that ends an answer in a template's text, in bytes.
    pub(crate) fn ends_of_turns(&self, literal: &str) -> Vec<usize> {
        let (mut ends, mut at) = (Vec::new(), 0);
        for run in self.runs(&[ChatPart::Literal(literal.to_owned())]) {
            at += run.text.len() + run.spelling;
            if run.end.is_some_and(|special| self.inner.eos.contains(&special.id)) {
                ends.push(at);
            }
        }
        ends
    }

    fn specials_of(&self, parts: &[ChatPart]) -> Vec<u32> {
        self.runs(parts).iter().filter_map(|run| run.end.map(|s| s.id)).collect()
    }

    /// Splits at the special tokens that the literals spell (leftmost, longest). Content and the plain text
    /// around it are encoded together and merge as in the reference.
    fn runs(&self, parts: &[ChatPart]) -> Vec<TextRun<'_>> {
        let starts = self.special_starts();
        let mut runs = Vec::new();
        let mut text = String::new();
        for part in parts {
            let ChatPart::Literal(literal) = part else {
                text.push_str(part.text());
                continue;
            };
            let mut rest = literal.as_str();
            while let Some(at) = rest.find(starts.as_slice()) {
                text.push_str(&rest[..at]);
                rest = &rest[at..];
                if let Some((spelling, special)) = longest_prefix(&self.inner.specials, rest) {
                    runs.push(TextRun {
                        text: std::mem::take(&mut text),
                        end: Some(special),
                        spelling: spelling.len(),
                    });
                    rest = &rest[spelling.len()..];
                } else {
                    let n = rest.chars().next().map_or(0, char::len_utf8);
                    text.push_str(&rest[..n]);
                    rest = &rest[n..];
                }
            }
            text.push_str(rest);
        }
        if !text.is_empty() {
            runs.push(TextRun { text, end: None, spelling: 0 });
        }
        runs
    }

    /// Tokens that end an answer: those of the tokenizer, the model and the generation configuration, and
    /// the one that the chat template writes after an assistant's turn. In ascending order.
    pub fn eos_ids(&self) -> &[u32] {
        &self.inner.eos
    }
    /// The token that training puts at the end of an answer: the one that the chat template writes after an
    /// assistant's turn, else the tokenizer's end of text.
    pub fn end_of_turn(&self) -> Option<u32> {
        self.inner.end_of_turn
    }
    /// The beginning-of-text token, if the tokenizer names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.inner.bos
    }
    /// One more than the greatest id. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab
    }
    /// Returns the id of a token by its spelling in the vocabulary, including special tokens.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.by_position.original().token_to_id(token)
    }
    /// Returns the spelling of an id in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.by_position.original().id_to_token(id)
    }
    /// Whether an id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.special_ids.contains(&id)
    }
    /// Whether the model has a chat template, which [`Tokenizer::render`] requires.
    pub fn has_chat_template(&self) -> bool {
        self.inner.template.is_some()
    }
    /// The chat template's source.
    pub fn chat_template(&self) -> Option<&str> {
        self.inner.template.as_ref().map(ChatTemplate::source)
    }
}

/// Whether any text within a value spells a special token.
fn spells_one(value: &Json, spells: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Json::String(text) => spells(text),
        Json::Array(items) => items.iter().any(|item| spells_one(item, spells)),
        Json::Object(values) => values.iter().any(|(key, value)| spells(key) || spells_one(value, spells)),
        _ => false,
    }
}

/// A run of plain text and the special token that ends it.
struct TextRun<'a> {
    text: String,
    end: Option<&'a Special>,
    /// Length of the special token's spelling in bytes.
    spelling: usize,
}

fn longest_prefix<'a>(specials: &'a BTreeMap<String, Special>, text: &str) -> Option<(&'a str, &'a Special)> {
    // In order of spelling, every prefix of `text` sorts at or before `text`, and longer prefixes later.
    let first = text.chars().next()?.to_string();
    let near = specials.range::<str, _>((std::ops::Bound::Included(first.as_str()), std::ops::Bound::Included(text)));
    near.rev().find(|(spelling, _)| text.starts_with(spelling.as_str())).map(|(s, special)| (s.as_str(), special))
}

/// Returns the first special token that the template writes after an assistant's content.
fn end_of_turn(template: &ChatTemplate, specials: &BTreeMap<String, Special>) -> Option<u32> {
    let turns = [Message::new("user", "a"), Message::new("assistant", "b")];
    // The end of a turn does not depend on the date, so any time is valid here.
    let marked = template.marked(&turns, false, Some(DateTime::now())).ok()?;
    let after = marked.split_once(&mark(1))?.1;
    after.char_indices().find_map(|(i, _)| longest_prefix(specials, &after[i..])).map(|(_, special)| special.id)
}

/// Converts panics to errors: the tokenizer library panics on files that are broken in unexpected ways,
/// both on reading and on use.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("it is broken in a way that the tokenizer library does not expect".into()),
    }
}

fn unknown_token(json: &Json, files: &TokenizerFiles, hf: &Hf) -> Option<u32> {
    let of_model = || {
        let model = json.get("model")?;
        // Unigram models store the id, others the spelling.
        let by_id = model.get("unk_id").and_then(Json::as_u64).and_then(|id| u32::try_from(id).ok());
        by_id.or_else(|| hf.token_to_id(model.get("unk_token")?.as_str()?))
    };
    of_model().or_else(|| hf.token_to_id(&token_text(files.config.get("unk_token")?)?))
}
