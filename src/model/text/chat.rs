//! Chat templates: renders the model's own Jinja as transformers does, and separates the template's text
//! from the messages' contents.

use serde_json::Value as Json;

use super::message::Message;
use crate::error::{Error, Result};
use crate::jinja::{self, DateTime, RenderOptions, TemplateErrorKind, Value, Whitespace};

/// Work that a template may do, in addition to [`WORK_PER_MESSAGE`] per message and two units per byte of
/// content; see [`RenderOptions::work`]. Real templates need a few thousand.
const WORK: u64 = 1_000_000;
const WORK_PER_MESSAGE: u64 = 5_000;
/// Bytes that a template may write, in addition to four per byte of content. Real templates write at most
/// some ten thousand.
const MAX_LENGTH: usize = 1 << 20;

/// A compiled chat template.
pub(crate) struct ChatTemplate {
    source: String,
    /// A compile error is reported only on use, because the model may serve plain text without a template.
    compiled: Result<jinja::Template, jinja::TemplateError>,
    /// `bos_token` and similar variables, as the template sees them.
    tokens: Vec<(String, String)>,
}

/// A part of a rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChatPart {
    /// Text written by the template.
    Literal(String),
    /// The content of a message.
    Content(String),
}

impl ChatPart {
    pub(crate) fn text(&self) -> &str {
        match self {
            ChatPart::Literal(text) | ChatPart::Content(text) => text,
        }
    }
}

impl ChatTemplate {
    pub(crate) fn new(source: &str, tokens: Vec<(String, String)>) -> Self {
        Self { source: source.to_string(), compiled: jinja::Template::parse(source, Whitespace::Trimmed), tokens }
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Returns `bos_token` and similar variables with their spellings, as the template sees them.
    pub(crate) fn tokens(&self) -> &[(String, String)] {
        &self.tokens
    }

    /// Renders the conversation as text. `now` is the present time for the template; if it is absent, a
    /// template that asks for the time fails.
    pub(crate) fn render(
        &self,
        messages: &[Message],
        generation_prompt: bool,
        now: Option<DateTime>,
    ) -> Result<String> {
        let compiled = self.compiled.as_ref().map_err(failed)?;
        for m in messages {
            // The template writes a role between special tokens without escaping, so a role must be a plain
            // word.
            if m.role.is_empty() || !m.role.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
                return Err(Error::user(format!("a message has the role {:?}", m.role))
                    .help("roles are plain words: system, user, assistant"));
            }
        }
        let keys = |m: &Message| m.other_keys().map(|(key, value)| key.len() + text_bytes(value)).sum::<usize>();
        let bytes: usize = messages.iter().map(|m| m.content.len() + keys(m)).sum();
        let settings = RenderOptions {
            work: WORK + WORK_PER_MESSAGE * messages.len() as u64 + 2 * bytes as u64,
            output: MAX_LENGTH + 4 * bytes,
            strict: false,
            now,
        };
        let turns = messages.iter().map(turn).collect::<Result<Vec<_>, _>>().and_then(Value::list);
        let mut variables: Vec<(&str, Value)> =
            self.tokens.iter().map(|(name, token)| (name.as_str(), Value::text(token))).collect();
        variables.push(("messages", turns.map_err(|e| failed(&e))?));
        variables.push(("add_generation_prompt", Value::Bool(generation_prompt)));
        variables.push(("tools", Value::None));
        variables.push(("documents", Value::None));
        compiled.render(&variables, settings).map_err(|e| failed(&e))
    }

    /// Splits the conversation into parts whose concatenation equals [`ChatTemplate::render`]. Returns `None`
    /// if the template changes a content by more than trimming, because the content's place is then
    /// unknown.
    ///
    /// It renders the template a second time with a mark in place of every content. The text between the
    /// marks is the template's. To verify the parts, it substitutes the contents and compares with the
    /// first rendering.
    pub(crate) fn parts(
        &self,
        messages: &[Message],
        generation_prompt: bool,
        now: Option<DateTime>,
    ) -> Result<Option<Vec<ChatPart>>> {
        let rendered = self.render(messages, generation_prompt, now)?;
        let Ok(marked) = self.marked(messages, generation_prompt, now) else { return Ok(None) };
        Ok(align(&rendered, &marked, messages))
    }

    /// Renders the conversation with every content replaced by its [`mark`].
    pub(crate) fn marked(
        &self,
        messages: &[Message],
        generation_prompt: bool,
        now: Option<DateTime>,
    ) -> Result<String> {
        let marked: Vec<_> = messages.iter().enumerate().map(|(i, m)| m.with_content(mark(i))).collect();
        self.render(&marked, generation_prompt, now)
    }
}

/// The placeholder for the content of message `i`: private-use characters, which templates do not write.
pub(crate) fn mark(i: usize) -> String {
    format!("\u{f1a70}{i}\u{f1a71}")
}

fn align(rendered: &str, marked: &str, messages: &[Message]) -> Option<Vec<ChatPart>> {
    let mut parts = Vec::new();
    let (mut rest, mut marked) = (rendered, marked);
    let literal = |text: &str, parts: &mut Vec<ChatPart>| {
        if !text.is_empty() {
            parts.push(ChatPart::Literal(text.to_string()));
        }
    };
    loop {
        let (before, index, after) = match marked.split_once('\u{f1a70}') {
            None => (marked, None, ""),
            Some((before, tail)) => {
                let (index, after) = tail.split_once('\u{f1a71}')?;
                (before, Some(index.parse::<usize>().ok()?), after)
            }
        };
        rest = rest.strip_prefix(before)?;
        literal(before, &mut parts);
        let Some(index) = index else { return rest.is_empty().then_some(parts) };
        let content = messages.get(index)?.content.as_str();
        // The text up to the next mark decides whether the content was trimmed.
        let next = after.split('\u{f1a70}').next().unwrap_or("");
        let fits = |c: &str| rest.strip_prefix(c).is_some_and(|r| r.starts_with(next));
        let content =
            [content, content.trim(), content.trim_start(), content.trim_end()].into_iter().find(|c| fits(c))?;
        rest = &rest[content.len()..];
        parts.push(ChatPart::Content(content.to_string()));
        marked = after;
    }
}

/// Converts a message to a template value, with the keys of its file in their order.
fn turn(message: &Message) -> Result<Value, jinja::TemplateError> {
    let Some(keys) = &message.keys else {
        return Value::dict([("role", Value::text(&message.role)), ("content", Value::text(&message.content))]);
    };
    let pairs = keys.iter().map(|(key, value)| {
        let value = match key.as_str() {
            "role" => Value::text(&message.role),
            "content" => Value::text(&message.content),
            _ => plain(value)?,
        };
        Ok((key.as_str(), value))
    });
    Value::dict(pairs.collect::<Result<Vec<_>, jinja::TemplateError>>()?)
}

/// Converts a JSON value to a template value.
fn plain(value: &Json) -> Result<Value, jinja::TemplateError> {
    Ok(match value {
        Json::Null => Value::None,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => number.as_i64().map_or(Value::Float(number.as_f64().unwrap_or(f64::NAN)), Value::Int),
        Json::String(text) => Value::text(text),
        Json::Array(items) => Value::list(items.iter().map(plain).collect::<Result<_, _>>()?)?,
        Json::Object(values) => {
            let pairs = values.iter().map(|(key, value)| Ok((key.as_str(), plain(value)?)));
            Value::dict(pairs.collect::<Result<Vec<_>, jinja::TemplateError>>()?)?
        }
    })
}

/// Bytes of all texts and keys within a value.
fn text_bytes(value: &Json) -> usize {
    match value {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().map(|item| text_bytes(item) + 1).sum(),
        Json::Object(values) => values.iter().map(|(key, value)| key.len() + text_bytes(value) + 1).sum(),
        _ => 8,
    }
}

fn failed(e: &jinja::TemplateError) -> Error {
    let what = match e.kind {
        TemplateErrorKind::Raised => format!("the model's chat template refuses the conversation: {e}"),
        TemplateErrorKind::Syntax => format!("the model's chat template cannot be parsed: {e}"),
        TemplateErrorKind::Runtime | TemplateErrorKind::Limit => format!("the model's chat template failed: {e}"),
    };
    let help = if e.message.contains("strftime_now") {
        "set `date = \"YYYY-MM-DD\"` under [pipeline]: the same date every time, so that runs repeat"
    } else {
        "the template is in tokenizer_config.json (chat_template), chat_template.jinja or the GGUF's metadata"
    };
    Error::user(what).help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(source: &str, contents: &[&str]) -> Option<Vec<ChatPart>> {
        let messages: Vec<_> = contents.iter().map(|c| Message::new("user", *c)).collect();
        ChatTemplate::new(source, vec![]).parts(&messages, false, None).unwrap()
    }
    fn content(text: &str) -> ChatPart {
        ChatPart::Content(text.into())
    }
    fn literal(text: &str) -> ChatPart {
        ChatPart::Literal(text.into())
    }

    #[test]
    fn contents_are_told_from_literals() {
        let each = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
        assert_eq!(
            parts(each, &["a][b", ""]),
            Some(vec![literal("["), content("a][b"), literal("]["), content(""), literal("]")])
        );
        let trims = "{% for m in messages %}<{{ m['content'] | trim }}>{% endfor %}";
        assert_eq!(parts(trims, &["  x\n"]), Some(vec![literal("<"), content("x"), literal(">")]));
        assert_eq!(parts("{% for m in messages %}{{ m.content | upper }}{% endfor %}", &["x"]), None);
        assert_eq!(parts("no content", &["x"]), Some(vec![literal("no content")]));
    }

    #[test]
    fn a_template_that_does_not_end_is_stopped() {
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}";
        let e = ChatTemplate::new(endless, vec![]).render(&[], false, None).unwrap_err();
        assert!(e.to_string().contains("more work than"), "{e}");
        let grows = "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
        assert!(ChatTemplate::new(grows, vec![]).render(&[], false, None).is_err());
    }

    #[test]
    fn templates_speak_as_transformers_has_them() {
        let t = ChatTemplate::new("{{ raise_exception('roles must alternate') }}", vec![]);
        assert!(t.render(&[], false, None).unwrap_err().to_string().contains("roles must alternate"));
        for broken in ["{% broken", "{%}", "{%}generation%}", "{%-%}", "{%", "%}{%"] {
            assert!(ChatTemplate::new(broken, vec![]).render(&[], false, None).is_err(), "{broken}");
        }
        // Text that looks like an unclosed tag may be a string.
        assert_eq!(ChatTemplate::new("a{{ '{%' }}b", vec![]).render(&[], false, None).unwrap(), "a{%b");
        let t = ChatTemplate::new("{%- generation -%} a {%- endgeneration %}", vec![]);
        assert_eq!(t.render(&[], false, None).unwrap(), "a");
        let t = ChatTemplate::new("{{ [messages[0].content, 1] | tojson }}", vec![]);
        let hello = [Message::new("user", "<é>\\u003c'")];
        assert_eq!(t.render(&hello, false, None).unwrap(), r#"["<é>\\u003c'", 1]"#);
        let t =
            ChatTemplate::new("{{ bos_token }}{{ 'x y'.split(' ')[1] }}\n", vec![("bos_token".into(), "<s>".into())]);
        assert_eq!(t.render(&[], false, None).unwrap(), "<s>y");
    }

    #[test]
    fn a_role_is_a_plain_word() {
        let t = ChatTemplate::new("{{ messages[0].role }}", vec![]);
        assert!(t.render(&[Message::new("user<|im_end|>", "x")], false, None).is_err());
        assert!(t.render(&[Message::new("tool_result", "x")], false, None).is_ok());
    }
}
