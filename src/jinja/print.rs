//! Values as text: Python's `str`, `repr` and `json.dumps`. Output is paid for while it is written, because lists
//! that share elements can have output of any length.

use super::budget::Budget;
use super::chars::is_printable;
use super::error::{Result, fail};
use super::sort::sorted;
use super::value::{Dict, ListKind, Value, ValueList, type_name};

/// Python's `str(..)`, which is what `{{ .. }}` writes.
pub(super) fn display(value: &Value, budget: &mut Budget) -> Result<String> {
    match value {
        Value::Undefined(_) => Ok(String::new()),
        Value::Text(text) => {
            budget.spend_bytes(text.len())?;
            Ok(text.to_string())
        }
        other => repr(other, budget),
    }
}

/// Python's `repr(..)`.
pub(super) fn repr(value: &Value, budget: &mut Budget) -> Result<String> {
    let mut out = String::new();
    write_repr(value, &mut out, budget)?;
    Ok(out)
}

fn write_repr(value: &Value, out: &mut String, budget: &mut Budget) -> Result<()> {
    budget.spend(1)?;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Float(x) => out.push_str(&float(*x)),
        Value::Text(text) => write_quoted(text, out, budget)?,
        Value::List(list) => write_list(list, out, budget)?,
        Value::Dict(dict) => write_dict(dict, out, budget)?,
        other => return fail(format!("a {} has no text of its own", type_name(other))),
    }
    Ok(())
}

fn write_list(list: &ValueList, out: &mut String, budget: &mut Budget) -> Result<()> {
    let (open, close) = match list.kind {
        ListKind::List => ("[", "]"),
        ListKind::Tuple => ("(", if list.items.len() == 1 { ",)" } else { ")" }),
        ListKind::View("keys") => ("dict_keys([", "])"),
        ListKind::View("values") => ("dict_values([", "])"),
        ListKind::View(_) => ("dict_items([", "])"),
        ListKind::Range => return fail("a range has no text here; write `range(..) | list`"),
        // Python would write its address in memory.
        ListKind::Generator => return fail("a generator has no text of its own; write `.. | list`"),
    };
    out.push_str(open);
    for (at, item) in list.items.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        write_repr(item, out, budget)?;
    }
    out.push_str(close);
    Ok(())
}

fn write_dict(dict: &Dict, out: &mut String, budget: &mut Budget) -> Result<()> {
    out.push('{');
    for (at, (key, value)) in dict.pairs.iter().enumerate() {
        if at > 0 {
            out.push_str(", ");
        }
        write_repr(key, out, budget)?;
        out.push_str(": ");
        write_repr(value, out, budget)?;
    }
    out.push('}');
    Ok(())
}

fn write_quoted(text: &str, out: &mut String, budget: &mut Budget) -> Result<()> {
    budget.spend_bytes(text.len().saturating_mul(4))?;
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let is_copied = |c: char| matches!(c, ' '..='~') && c != '\\' && c != quote;
    out.push(quote);
    let mut rest = text;
    while let Some(at) = rest.find(|c| !is_copied(c)) {
        out.push_str(&rest[..at]);
        let mut after = rest[at..].chars();
        if let Some(c) = after.next() {
            budget.spend(if c.is_ascii() { UNITS_AN_ESCAPE } else { 2 })?;
            push_repr(c, quote, out);
        }
        rest = after.as_str();
    }
    out.push_str(rest);
    out.push(quote);
    Ok(())
}

/// Writes a character that Python's `repr` may escape.
fn push_repr(c: char, quote: char, out: &mut String) {
    let digits = |code: u32, count: u32, out: &mut String| {
        (0..count).rev().for_each(|at| out.push(char::from(HEX_DIGITS[(code >> (4 * at) & 0xf) as usize])));
    };
    match c {
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c == quote => out.extend(['\\', c]),
        c if is_printable(c) => out.push(c),
        c => {
            let code = u32::from(c);
            let (head, count) = match code {
                ..=0xff => ("\\x", 2),
                0x100..=0xffff => ("\\u", 4),
                _ => ("\\U", 8),
            };
            out.push_str(head);
            digits(code, count, out);
        }
    }
}

/// Python's text of a floating-point number: the shortest digits that give it back.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0. { "inf".into() } else { "-inf".into() };
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{x}");
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// How `tojson` writes.
pub(super) struct JsonStyle {
    pub ensure_ascii: bool,
    /// Indentation of a level. Without it, everything is on one line.
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

/// Python's `json.dumps`.
pub(super) fn json(value: &Value, style: &JsonStyle, budget: &mut Budget) -> Result<String> {
    let mut out = String::new();
    write_json(value, style, 0, &mut out, budget)?;
    Ok(out)
}

fn write_json(value: &Value, style: &JsonStyle, level: usize, out: &mut String, budget: &mut Budget) -> Result<()> {
    budget.spend(1)?;
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Float(x) => out.push_str(&json_float(*x)),
        Value::Text(text) => write_json_text(text, style.ensure_ascii, out, budget)?,
        Value::List(list) if matches!(list.kind, ListKind::List | ListKind::Tuple) => {
            if list.items.is_empty() {
                out.push_str("[]");
                return Ok(());
            }
            out.push('[');
            for (at, item) in list.items.iter().enumerate() {
                begin_item(at, level + 1, style, out, budget)?;
                write_json(item, style, level + 1, out, budget)?;
            }
            end_items(level, style, out, budget)?;
            out.push(']');
        }
        Value::Dict(dict) => write_json_dict(dict, style, level, out, budget)?,
        other => return fail(format!("Object of type {} is not JSON serializable", type_name(other))),
    }
    Ok(())
}

fn write_json_dict(dict: &Dict, style: &JsonStyle, level: usize, out: &mut String, budget: &mut Budget) -> Result<()> {
    if dict.pairs.is_empty() {
        out.push_str("{}");
        return Ok(());
    }
    let sorted = if style.sort_keys {
        let pairs = dict.pairs.to_vec();
        Some(sorted(pairs, false, budget)?)
    } else {
        None
    };
    out.push('{');
    for (at, (key, value)) in sorted.as_ref().unwrap_or(&dict.pairs).iter().enumerate() {
        begin_item(at, level + 1, style, out, budget)?;
        match key {
            Value::Text(key) => write_json_text(key, style.ensure_ascii, out, budget)?,
            Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                out.push('"');
                write_json(key, style, 0, out, budget)?;
                out.push('"');
            }
            other => {
                let kind = type_name(other);
                return fail(format!("keys must be str, int, float, bool or None, not {kind}"));
            }
        }
        budget.spend_bytes(style.key_separator.len())?;
        out.push_str(&style.key_separator);
        write_json(value, style, level + 1, out, budget)?;
    }
    end_items(level, style, out, budget)?;
    out.push('}');
    Ok(())
}

fn begin_item(at: usize, level: usize, style: &JsonStyle, out: &mut String, budget: &mut Budget) -> Result<()> {
    if at > 0 {
        budget.spend_bytes(style.item_separator.len())?;
        out.push_str(&style.item_separator);
    }
    new_line(level, style, out, budget)
}

fn end_items(level: usize, style: &JsonStyle, out: &mut String, budget: &mut Budget) -> Result<()> {
    new_line(level, style, out, budget)
}

fn new_line(level: usize, style: &JsonStyle, out: &mut String, budget: &mut Budget) -> Result<()> {
    if let Some(indent) = &style.indent {
        budget.spend_bytes(indent.len().saturating_mul(level))?;
        out.push('\n');
        out.push_str(&indent.repeat(level));
    }
    Ok(())
}

fn json_float(x: f64) -> String {
    match float(x).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        plain => plain.into(),
    }
}

/// Writes `\u001f`.
fn push_json_escape(unit: u16, out: &mut String) {
    out.push_str("\\u");
    for shift in [12, 8, 4, 0] {
        out.push(char::from(HEX_DIGITS[usize::from(unit >> shift & 0xf)]));
    }
}

/// Work of one character that is escaped.
const UNITS_AN_ESCAPE: usize = 4;
const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Writes a text with what JSON must escape. What is between two escapes is copied as it is; an escape costs more,
/// because one byte of control characters takes as long as many that are copied.
fn write_json_text(text: &str, ensure_ascii: bool, out: &mut String, budget: &mut Budget) -> Result<()> {
    budget.spend_bytes(text.len().saturating_mul(6))?;
    let is_escaped = |c: char| matches!(c, '"' | '\\' | '\0'..='\x1f') || (ensure_ascii && c > '~');
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(is_escaped) {
        budget.spend(UNITS_AN_ESCAPE)?;
        out.push_str(&rest[..at]);
        let mut after = rest[at..].chars();
        match after.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some('\x08') => out.push_str("\\b"),
            Some('\x0c') => out.push_str("\\f"),
            other => other.into_iter().for_each(|c| {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| push_json_escape(*unit, out));
            }),
        }
        rest = after.as_str();
    }
    out.push_str(rest);
    out.push('"');
    Ok(())
}
