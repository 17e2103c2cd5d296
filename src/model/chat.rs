//! Chat templates: the model's own Jinja, rendered as transformers renders it, and split into what the template wrote
//! and what the messages said.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error as JinjaError, ErrorKind, Value};

use super::Message;
use crate::error::{Error, Result};

/// Instructions a template may execute, beside [`FUEL_A_MESSAGE`] for each message and one for each byte of content
/// (minijinja also charges one for every 64 bytes of a string made, so this bounds memory too).
const FUEL: u64 = 200_000;
/// A real template needs a few dozen.
const FUEL_A_MESSAGE: u64 = 2_000;
/// Bytes that a template may write, beside four for each byte of content. Real ones write at most some ten thousand.
const LONGEST: u64 = 1 << 20;
const NAME: &str = "chat_template";

/// A compiled chat template.
pub(super) struct Template {
    source: String,
    /// What does not compile is reported when it is used: the model may serve plain text without it.
    environment: Result<Environment<'static>, String>,
    /// `bos_token` and the like, as the template sees them.
    tokens: Vec<(String, String)>,
}

/// A stretch of a rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Written by the template.
    Literal(String),
    /// The content of a message.
    Content(String),
}

impl Part {
    pub(super) fn text(&self) -> &str {
        match self {
            Part::Literal(text) | Part::Content(text) => text,
        }
    }
}

impl Template {
    pub(super) fn new(source: &str, tokens: Vec<(String, String)>) -> Self {
        Self { source: source.to_string(), environment: compile(source).map_err(|e| describe(&e)), tokens }
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text.
    pub(super) fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let wrong = |what: &str| {
            Error::user(format!("the model's chat template failed: {what}")).help(
                "the template is in tokenizer_config.json (chat_template), chat_template.jinja or the GGUF's metadata",
            )
        };
        let mut environment = match &self.environment {
            Ok(environment) => environment.clone(),
            Err(e) => return Err(wrong(e)),
        };
        for m in messages {
            // A role is written between the template's special tokens without protection, so it must be a plain word.
            if m.role.is_empty() || !m.role.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
                return Err(Error::user(format!("a message has the role {:?}", m.role))
                    .help("roles are plain words: system, user, assistant"));
            }
        }
        let bytes: u64 = messages.iter().map(|m| m.content.len() as u64).sum();
        environment.set_fuel(Some(FUEL + FUEL_A_MESSAGE * messages.len() as u64 + bytes));
        let turn = |m: &Message| -> Value {
            BTreeMap::from([("role", Value::from(&m.role)), ("content", Value::from(&m.content))]).into()
        };
        let mut values: BTreeMap<&str, Value> = self.tokens.iter().map(|(k, v)| (k.as_str(), v.into())).collect();
        values.insert("messages", messages.iter().map(turn).collect());
        values.insert("add_generation_prompt", add_generation_prompt.into());
        values.insert("tools", ().into());
        values.insert("documents", ().into());
        let text = environment.get_template(NAME).and_then(|t| t.render(Value::from(values)));
        match text {
            Ok(text) if text.len() as u64 > LONGEST + 4 * bytes => {
                Err(wrong(&format!("it makes {} bytes of a conversation of {bytes}", text.len())))
            }
            Ok(text) => Ok(text),
            Err(e) if e.kind() == ErrorKind::OutOfFuel => Err(wrong("it does not end")),
            Err(e) => Err(wrong(&describe(&e))),
        }
    }

    /// The conversation in parts; their concatenation is what [`Template::render`] gives. `None` if the template does
    /// more to a content than trim it, so that its place cannot be told.
    ///
    /// The template is rendered a second time with a mark in the place of every content. Between the marks is what the
    /// template wrote; substituting the contents must give the first rendering again, which is checked.
    pub(super) fn parts(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Option<Vec<Part>>> {
        let rendered = self.render(messages, add_generation_prompt)?;
        let Ok(marked) = self.marked(messages, add_generation_prompt) else { return Ok(None) };
        Ok(align(&rendered, &marked, messages))
    }

    /// The rendering with every content replaced by its [`mark`].
    pub(super) fn marked(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let marked: Vec<_> = messages.iter().enumerate().map(|(i, m)| Message::new(m.role.clone(), mark(i))).collect();
        self.render(&marked, add_generation_prompt)
    }
}

/// Stands for the content of message `i`: private-use characters, which templates do not write.
pub(super) fn mark(i: usize) -> String {
    format!("\u{f1a70}{i}\u{f1a71}")
}

fn align(rendered: &str, marked: &str, messages: &[Message]) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let (mut rest, mut marked) = (rendered, marked);
    let literal = |text: &str, parts: &mut Vec<Part>| {
        if !text.is_empty() {
            parts.push(Part::Literal(text.to_string()));
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
        // What follows up to the next mark decides between the content as it is and the content trimmed.
        let next = after.split('\u{f1a70}').next().unwrap_or("");
        let fits = |c: &str| rest.strip_prefix(c).is_some_and(|r| r.starts_with(next));
        let content =
            [content, content.trim(), content.trim_start(), content.trim_end()].into_iter().find(|c| fits(c))?;
        rest = &rest[content.len()..];
        parts.push(Part::Content(content.to_string()));
        marked = after;
    }
}

fn compile(source: &str) -> Result<Environment<'static>, JinjaError> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, JinjaError> {
        Err(JinjaError::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter("tojson", tojson);
    // transformers' `generation` block marks the assistant's tokens and writes nothing of its own.
    environment.add_template_owned(NAME, replace_generation(source))?;
    Ok(environment)
}

/// `{% generation %}` to `{% if true %}`, with whatever whitespace control it has.
fn replace_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        // After the opening `{%`, whose `%` must not be taken for the closing one's in `{%}`.
        let Some(end) = tag[2..].find("%}").map(|at| at + 2) else { break };
        out.push_str(before);
        let inside = &tag[2..end];
        let word = inside.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        match word {
            "generation" => out.push_str(&format!("{{%{}", inside.replacen("generation", "if true", 1))),
            "endgeneration" => out.push_str(&format!("{{%{}", inside.replacen("endgeneration", "endif", 1))),
            _ => out.push_str(&tag[..end]),
        }
        out.push_str("%}");
        rest = &tag[end + 2..];
    }
    out.push_str(rest);
    out
}

/// As transformers' filter: Python's `json.dumps(ensure_ascii=False)`, which does not escape for HTML as minijinja does.
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, JinjaError> {
    let escaped = minijinja::filters::tojson(value, indent, options)?.to_string();
    let mut out = String::with_capacity(escaped.len());
    let mut rest = escaped.as_str();
    while let Some(start) = rest.find('\\') {
        out.push_str(&rest[..start]);
        let escape = &rest[start..];
        let html = [("\\u003c", "<"), ("\\u003e", ">"), ("\\u0026", "&"), ("\\u0027", "'")];
        // Any other escape is two characters as far as finding the next one goes: `\\` must not hide behind its half.
        let (skip, text) = html
            .into_iter()
            .find(|(e, _)| escape.starts_with(e))
            .map_or_else(|| (escape.len().min(2), &escape[..escape.len().min(2)]), |(e, text)| (e.len(), text));
        out.push_str(text);
        rest = &escape[skip..];
    }
    out.push_str(rest);
    Ok(out)
}

fn describe(e: &JinjaError) -> String {
    let line = e.line().map_or_else(String::new, |n| format!(" (line {n})"));
    format!("{}{line}", e.detail().map_or_else(|| e.kind().to_string(), str::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(source: &str, contents: &[&str]) -> Option<Vec<Part>> {
        let messages: Vec<_> = contents.iter().map(|c| Message::new("user", *c)).collect();
        Template::new(source, vec![]).parts(&messages, false).unwrap()
    }
    fn content(text: &str) -> Part {
        Part::Content(text.into())
    }
    fn literal(text: &str) -> Part {
        Part::Literal(text.into())
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
        let e = Template::new(endless, vec![]).render(&[], false).unwrap_err();
        assert!(e.to_string().contains("does not end"), "{e}");
        let grows = "{% set ns = namespace(x='aaaaaaaa') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
        assert!(Template::new(grows, vec![]).render(&[], false).is_err());
    }

    #[test]
    fn templates_speak_as_transformers_has_them() {
        let t = Template::new("{{ raise_exception('roles must alternate') }}", vec![]);
        assert!(t.render(&[], false).unwrap_err().to_string().contains("roles must alternate"));
        for broken in ["{% broken", "{%}", "{%}generation%}", "{%-%}", "{%", "%}{%"] {
            assert!(Template::new(broken, vec![]).render(&[], false).is_err(), "{broken}");
        }
        // What looks like an unclosed tag may be a string.
        assert_eq!(Template::new("a{{ '{%' }}b", vec![]).render(&[], false).unwrap(), "a{%b");
        let t = Template::new("{%- generation -%} a {%- endgeneration %}", vec![]);
        assert_eq!(t.render(&[], false).unwrap(), "a");
        let t = Template::new("{{ [messages[0].content, 1] | tojson }}", vec![]);
        let hello = [Message::new("user", "<é>\\u003c'")];
        assert_eq!(t.render(&hello, false).unwrap(), r#"["<é>\\u003c'", 1]"#);
        let t = Template::new("{{ bos_token }}{{ 'x y'.split(' ')[1] }}\n", vec![("bos_token".into(), "<s>".into())]);
        assert_eq!(t.render(&[], false).unwrap(), "<s>y");
    }

    #[test]
    fn a_role_is_a_plain_word() {
        let t = Template::new("{{ messages[0].role }}", vec![]);
        assert!(t.render(&[Message::new("user<|im_end|>", "x")], false).is_err());
        assert!(t.render(&[Message::new("tool_result", "x")], false).is_ok());
    }
}
