//! Splits text into tokens, by the rules of Jinja2's lexer.

use std::sync::Arc;

use super::chars::is_space;
use super::error::{Result, TemplateError, TemplateErrorKind};

/// Maximum length of a template, in bytes. The longest of released models have about 30,000.
const MAX_SOURCE: usize = 512 << 10;
/// Maximum length of a name, in bytes, because every look-up reads the name.
const MAX_NAME: usize = 255;

/// How white space around tags is treated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whitespace {
    /// As transformers: the newline after a block tag and the blanks before one go (`trim_blocks`, `lstrip_blocks`).
    Trimmed,
    /// As Jinja2 by default: it stays.
    Kept,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    Data(Arc<str>),
    BlockBegin,
    BlockEnd,
    OutputBegin,
    OutputEnd,
    Name(Arc<str>),
    Text(String),
    Int(i64),
    Float(f64),
    Operator(&'static str),
    End,
}

pub(super) struct Token {
    pub line: u32,
    pub kind: TokenKind,
}

/// Longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

pub(super) fn tokens(source: &str, whitespace: Whitespace) -> Result<Vec<Token>> {
    if source.len() > MAX_SOURCE {
        let message = format!("the template has {} bytes; at most {MAX_SOURCE} are read", source.len());
        return Err(TemplateError::new(TemplateErrorKind::Limit, message));
    }
    let text = source.replace("\r\n", "\n").replace('\r', "\n");
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let trim = whitespace == Whitespace::Trimmed;
    let mut lexer = Lexer { text, at: 0, line: 1, trim, line_starting: true, tokens: Vec::new() };
    lexer.run().map_err(|e| e.at(lexer.line))?;
    let line = lexer.line;
    lexer.tokens.push(Token { line, kind: TokenKind::End });
    Ok(lexer.tokens)
}

fn syntax<T>(message: impl Into<String>) -> Result<T> {
    Err(TemplateError::new(TemplateErrorKind::Syntax, message))
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    trim: bool,
    /// Whether the last text or tag ended with a newline.
    line_starting: bool,
    tokens: Vec<Token>,
}

/// The three things that begin with a brace.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Block,
    Output,
    Comment,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Takes a number of bytes and counts their lines.
    fn take(&mut self, bytes: usize) -> &'a str {
        let taken = &self.rest()[..bytes];
        self.at += bytes;
        self.line += taken.bytes().filter(|b| *b == b'\n').count() as u32;
        if let Some(last) = taken.bytes().last() {
            self.line_starting = last == b'\n';
        }
        taken
    }

    fn push(&mut self, kind: TokenKind) {
        self.tokens.push(Token { line: self.line, kind });
    }

    fn run(&mut self) -> Result<()> {
        while let Some((before, tag)) = self.next_tag() {
            let sign = self.rest().as_bytes().get(before + 2).copied();
            self.data(before, tag, sign);
            let signed = matches!(sign, Some(b'-' | b'+'));
            match tag {
                Tag::Comment => self.comment(signed)?,
                Tag::Block if self.raw_begins() => self.raw()?,
                _ => {
                    self.take(2 + usize::from(signed));
                    let output = tag == Tag::Output;
                    self.push(if output { TokenKind::OutputBegin } else { TokenKind::BlockBegin });
                    self.inside(output)?;
                }
            }
        }
        let rest = self.rest();
        self.take(rest.len());
        if !rest.is_empty() {
            self.push(TokenKind::Data(rest.into()));
        }
        Ok(())
    }

    /// The next tag, and the bytes of text before it.
    fn next_tag(&self) -> Option<(usize, Tag)> {
        let bytes = self.rest().as_bytes();
        bytes.windows(2).enumerate().find_map(|(at, pair)| match pair {
            b"{%" => Some((at, Tag::Block)),
            b"{{" => Some((at, Tag::Output)),
            b"{#" => Some((at, Tag::Comment)),
            _ => None,
        })
    }

    /// Takes the text before a tag, stripped as the tag's sign says.
    fn data(&mut self, bytes: usize, tag: Tag, sign: Option<u8>) {
        let starting = self.line_starting;
        let line = self.line;
        let text = self.take(bytes);
        let text = self.stripped(text, tag, sign, starting);
        if !text.is_empty() {
            self.tokens.push(Token { line, kind: TokenKind::Data(text.into()) });
        }
    }

    fn stripped<'b>(&self, text: &'b str, tag: Tag, sign: Option<u8>, starting: bool) -> &'b str {
        if sign == Some(b'-') {
            return text.trim_end_matches(is_space);
        }
        if sign == Some(b'+') || tag == Tag::Output || !self.trim {
            return text;
        }
        let line = text.rfind('\n').map_or(0, |at| at + 1);
        let blank = text[line..].chars().all(is_space);
        if blank && (line > 0 || starting) { &text[..line] } else { text }
    }

    fn comment(&mut self, signed: bool) -> Result<()> {
        self.take(2 + usize::from(signed));
        let Some(end) = self.rest().find("#}") else { return syntax("Missing end of comment tag") };
        let sign = end.checked_sub(1).map(|before| self.rest().as_bytes()[before]);
        self.take(end + 2);
        self.after_block(sign);
        Ok(())
    }

    /// White space that goes with the end of a block tag, by the sign before its end.
    fn after_block(&mut self, sign: Option<u8>) {
        let rest = self.rest();
        let blank = rest.len() - rest.trim_start_matches(is_space).len();
        let newline = usize::from(self.trim && rest.starts_with('\n'));
        self.take(match sign {
            Some(b'-') => blank,
            Some(b'+') => 0,
            _ => newline,
        });
    }

    /// The length of `{% raw %}`, or of `{% endraw %}`, at the start of a text, and the sign before its end.
    fn word_tag(text: &str, word: &str) -> Option<(usize, Option<u8>)> {
        let rest = text.strip_prefix("{%")?;
        let rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        let rest = rest.trim_start_matches(is_space).strip_prefix(word)?.trim_start_matches(is_space);
        let sign = rest.bytes().next().filter(|b| matches!(b, b'-' | b'+'));
        let rest = rest[usize::from(sign.is_some())..].strip_prefix("%}")?;
        Some((text.len() - rest.len(), sign))
    }

    fn raw_begins(&self) -> bool {
        Self::word_tag(self.rest(), "raw").is_some()
    }

    fn raw(&mut self) -> Result<()> {
        if let Some((length, sign)) = Self::word_tag(self.rest(), "raw") {
            self.take(length);
            if sign == Some(b'-') {
                self.after_block(sign);
            }
        }
        let rest = self.rest();
        let ends = |at: &usize| Self::word_tag(&rest[*at..], "endraw").is_some();
        let Some(end) = rest.match_indices("{%").map(|(at, _)| at).find(ends) else {
            return syntax("Missing end of raw directive");
        };
        let sign = rest.as_bytes().get(end + 2).copied();
        self.data(end, Tag::Block, sign);
        if let Some((length, sign)) = Self::word_tag(self.rest(), "endraw") {
            self.take(length);
            self.after_block(sign);
        }
        Ok(())
    }

    /// The tokens of a tag, up to its end.
    fn inside(&mut self, output: bool) -> Result<()> {
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches(is_space).len();
            self.take(blank);
            if self.rest().is_empty() {
                return Ok(());
            }
            if open.is_empty() && self.tag_ends(output) {
                return Ok(());
            }
            if !self.number()? && !self.name()? && !self.string()? {
                self.operator(&mut open)?;
            }
        }
    }

    fn tag_ends(&mut self, output: bool) -> bool {
        let close = if output { "}}" } else { "%}" };
        let rest = self.rest();
        let sign = rest.bytes().next().filter(|b| *b == b'-' || (*b == b'+' && !output));
        let signed = usize::from(sign.is_some());
        if !rest[signed..].starts_with(close) {
            return false;
        }
        self.take(signed + 2);
        self.push(if output { TokenKind::OutputEnd } else { TokenKind::BlockEnd });
        if sign.is_some() || !output {
            self.after_block(sign);
        }
        true
    }

    /// Digits with single underscores between, as Python allows them.
    fn digits(text: &str, digit: fn(u8) -> bool) -> usize {
        let bytes = text.as_bytes();
        let mut n = 0;
        while n < bytes.len() {
            let next_is_digit = bytes.get(n + 1).is_some_and(|b| digit(*b));
            let between = bytes[n] == b'_' && n > 0 && bytes[n - 1] != b'_' && next_is_digit;
            if !digit(bytes[n]) && !between {
                break;
            }
            n += 1;
        }
        n
    }

    fn number(&mut self) -> Result<bool> {
        let rest = self.rest();
        let decimal = |text: &str| Self::digits(text, |b| b.is_ascii_digit());
        let whole = decimal(rest);
        if whole == 0 {
            return Ok(false);
        }
        let after_dot = matches!(self.tokens.last(), Some(Token { kind: TokenKind::Operator("."), .. }))
            && self.text[..self.at].ends_with('.');
        let mut end = whole;
        if !after_dot {
            if rest[end..].starts_with('.') {
                let fraction = decimal(&rest[end + 1..]);
                end += if fraction > 0 { 1 + fraction } else { 0 };
            }
            if rest[end..].starts_with(['e', 'E']) {
                let sign = usize::from(rest[end + 1..].starts_with(['+', '-']));
                let exponent = decimal(&rest[end + 1 + sign..]);
                end += if exponent > 0 { 1 + sign + exponent } else { 0 };
            }
        }
        if end > whole {
            let text = self.take(end).replace('_', "");
            match text.parse() {
                Ok(number) => self.push(TokenKind::Float(number)),
                Err(_) => return syntax(format!("{text} is not a number")),
            }
            return Ok(true);
        }
        self.whole_number(whole)?;
        Ok(true)
    }

    fn whole_number(&mut self, decimal: usize) -> Result<()> {
        let rest = self.rest();
        let prefix = rest.get(..2).unwrap_or_default().to_ascii_lowercase();
        let radix = match prefix.as_str() {
            "0b" => 2,
            "0o" => 8,
            "0x" => 16,
            _ => 10,
        };
        let is_digit: fn(u8) -> bool = match radix {
            2 => |b| matches!(b, b'0' | b'1'),
            8 => |b| (b'0'..=b'7').contains(&b),
            _ => |b| b.is_ascii_hexdigit(),
        };
        let length = if radix == 10 { 0 } else { Self::digits(&rest[2..], is_digit) };
        let (digits, radix) = match Some(radix).filter(|_| length > 0) {
            Some(radix) => (self.take(2 + length)[2..].replace('_', ""), radix),
            // Python has no numbers with leading zeros; Jinja2 reads `007` as three.
            None if rest.starts_with('0') => {
                let zeros = Self::digits(rest, |b| b == b'0');
                (self.take(zeros).replace('_', ""), 10)
            }
            None => (self.take(decimal).replace('_', ""), 10),
        };
        match i64::from_str_radix(&digits, radix) {
            Ok(number) => self.push(TokenKind::Int(number)),
            Err(_) => return syntax(format!("the number {digits} is beyond 64 bits")),
        }
        Ok(())
    }

    fn name(&mut self) -> Result<bool> {
        let rest = self.rest();
        let first = rest.chars().next();
        if !first.is_some_and(|c| c.is_alphabetic() || c == '_') {
            return Ok(false);
        }
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if end > MAX_NAME {
            let message = format!("a name has {end} bytes; at most {MAX_NAME} are read");
            return Err(TemplateError::new(TemplateErrorKind::Limit, message));
        }
        let name = self.take(end);
        self.push(TokenKind::Name(name.into()));
        Ok(true)
    }

    fn string(&mut self) -> Result<bool> {
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '\'' | '"')) else { return Ok(false) };
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        // Jinja2 knows no other token that begins with a quote.
        let Some((end, _)) = end else { return syntax(format!("unexpected char {quote:?}: the string does not end")) };
        let inner = &rest[1..end];
        let text = unescape(inner)?;
        self.push(TokenKind::Text(text));
        self.take(end + 1);
        Ok(true)
    }

    fn operator(&mut self, open: &mut Vec<&'static str>) -> Result<()> {
        let rest = self.rest();
        let Some(operator) = OPERATORS.into_iter().find(|o| rest.starts_with(o)) else {
            let c = rest.chars().next().unwrap_or_default();
            return syntax(format!("unexpected char {c:?}"));
        };
        match operator {
            "{" => open.push("}"),
            "(" => open.push(")"),
            "[" => open.push("]"),
            "}" | ")" | "]" => match open.pop() {
                Some(expected) if expected == operator => {}
                Some(expected) => return syntax(format!("unexpected '{operator}', expected '{expected}'")),
                None => return syntax(format!("unexpected '{operator}'")),
            },
            _ => {}
        }
        self.push(TokenKind::Operator(operator));
        self.take(operator.len());
        Ok(())
    }
}

/// Python's escapes. A backslash before another character stays.
fn unescape(text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(c) = rest.chars().next() else { return syntax("\\ at end of string") };
        rest = &rest[c.len_utf8()..];
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            'x' => rest = code(rest, 2, &mut out)?,
            'u' => rest = code(rest, 4, &mut out)?,
            'U' => rest = code(rest, 8, &mut out)?,
            'N' => return syntax("characters by name (\\N{..}) are not supported"),
            '0'..='7' => {
                let digits: String = std::iter::once(c).chain(rest.chars()).take(3).collect();
                let digits = digits.split(|c: char| !('0'..='7').contains(&c)).next().unwrap_or_default();
                rest = &rest[digits.len() - 1..];
                out.extend(u32::from_str_radix(digits, 8).ok().and_then(char::from_u32));
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// Reads a character from its code in a number of hexadecimal digits.
fn code<'a>(rest: &'a str, digits: usize, out: &mut String) -> Result<&'a str> {
    let number = rest.get(..digits).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
    let number = number.and_then(|d| u32::from_str_radix(d, 16).ok());
    match number.and_then(char::from_u32) {
        Some(c) => out.push(c),
        None if number.is_some() => {
            return syntax("an escape that is no character by itself (half of a surrogate pair)");
        }
        None => return syntax("a truncated \\x, \\u or \\U escape"),
    }
    Ok(&rest[digits..])
}
