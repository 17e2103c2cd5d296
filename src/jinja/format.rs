//! Python's `'..' % values` and `str.format`.

use std::iter::Peekable;
use std::str::Chars;
use std::sync::Arc;

use super::arguments::{CallArgs, whole};
use super::budget::Budget;
use super::error::{Result, excerpt, fail};
use super::numbers::{Spec, digits, parse_spec, write_number, write_padded, write_text};
use super::print::{display, repr};
use super::runtime::Runtime;
use super::value::{ListKind, Number, Value, type_name};

/// Maximum nesting of fields: a field may stand in the format of another one.
const MAX_FORMAT_DEPTH: u32 = 3;

/// `template % values`.
pub(super) fn percent(template: &str, values: &Value, budget: &mut Budget) -> Result<Value> {
    budget.spend_bytes(template.len().saturating_mul(2))?;
    let mut source = PercentValues::new(values);
    let mut out = String::new();
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let key = percent_key(&mut chars)?;
        let mut spec = percent_flags(&mut chars);
        spec.width = percent_size(&mut chars, &mut source, &mut spec)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            let mut ignored = Spec::default();
            spec.precision = Some(percent_size(&mut chars, &mut source, &mut ignored)?.unwrap_or(0));
        }
        while chars.next_if(|c| matches!(c, 'h' | 'l' | 'L')).is_some() {}
        let Some(kind) = chars.next() else { return fail("incomplete format") };
        let value = source.next(key.as_deref(), budget)?;
        percent_one(&value, kind, spec, &mut out, budget)?;
    }
    source.all_used()?;
    Ok(Value::text(&out))
}

/// The values of a `%` formatting.
struct PercentValues<'a> {
    whole: &'a Value,
    /// The elements of a tuple.
    tuple: Option<&'a [Value]>,
    used: usize,
}

impl<'a> PercentValues<'a> {
    fn new(whole: &'a Value) -> Self {
        let tuple = match whole {
            Value::List(list) if list.kind == ListKind::Tuple => Some(&*list.items),
            _ => None,
        };
        Self { whole, tuple, used: 0 }
    }

    fn next(&mut self, key: Option<&str>, budget: &mut Budget) -> Result<Value> {
        if let Some(key) = key {
            let Value::Dict(dict) = self.whole else { return fail("format requires a mapping") };
            return match dict.get(&Value::text(key), budget)? {
                Some(value) => Ok(value.clone()),
                None => fail(format!("KeyError: '{key}'")),
            };
        }
        let found = match self.tuple {
            Some(items) => items.get(self.used),
            None => Some(self.whole).filter(|_| self.used == 0),
        };
        self.used += 1;
        match found {
            Some(value) => Ok(value.clone()),
            None => fail("not enough arguments for format string"),
        }
    }

    fn all_used(&self) -> Result<()> {
        let left = match self.tuple {
            Some(items) => self.used < items.len(),
            None => self.used == 0 && !matches!(self.whole, Value::Dict(_) | Value::List(_)),
        };
        if left { fail("not all arguments converted during string formatting") } else { Ok(()) }
    }
}

fn percent_key(chars: &mut Peekable<Chars<'_>>) -> Result<Option<String>> {
    if chars.next_if_eq(&'(').is_none() {
        return Ok(None);
    }
    let mut key = String::new();
    let mut depth = 1;
    for c in chars {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(Some(key));
        }
        key.push(c);
    }
    fail("incomplete format key")
}

fn percent_flags(chars: &mut Peekable<Chars<'_>>) -> Spec {
    let mut spec = Spec::default();
    let mut zero = false;
    while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '+' | ' ' | '#' | '0')) {
        match flag {
            '-' => spec.align = Some('<'),
            '+' => spec.sign = Some('+'),
            ' ' => spec.sign = spec.sign.or(Some(' ')),
            '#' => spec.alternate = true,
            _ => zero = true,
        }
    }
    if zero && spec.align.is_none() {
        (spec.fill, spec.align) = (Some('0'), Some('='));
    }
    spec
}

/// A width or precision: digits, or `*` for the next value. A negative width aligns to the left.
fn percent_size(
    chars: &mut Peekable<Chars<'_>>,
    source: &mut PercentValues<'_>,
    spec: &mut Spec,
) -> Result<Option<usize>> {
    if chars.next_if_eq(&'*').is_some() {
        let size = whole(&source.next(None, &mut Budget::new(1))?)?;
        if size < 0 {
            spec.align = Some('<');
        }
        return Ok(usize::try_from(size.unsigned_abs()).ok());
    }
    Ok(digits(chars))
}

fn percent_one(value: &Value, kind: char, mut spec: Spec, out: &mut String, budget: &mut Budget) -> Result<()> {
    match kind {
        's' | 'r' => {
            let text = if kind == 's' { display(value, budget)? } else { repr(value, budget)? };
            spec.align = spec.align.filter(|a| *a == '<').or(Some('>'));
            spec.fill = None;
            write_text(&text, &spec, out, budget)
        }
        'c' => {
            let text = match value {
                Value::Text(text) if text.chars().count() == 1 => text.to_string(),
                Value::Int(code) => match u32::try_from(*code).ok().and_then(char::from_u32) {
                    Some(c) => c.to_string(),
                    None => return fail("%c arg not in range(0x110000)"),
                },
                _ => return fail("%c requires int or char"),
            };
            spec.align = spec.align.filter(|a| *a == '<').or(Some('>'));
            (spec.fill, spec.precision) = (None, None);
            write_text(&text, &spec, out, budget)
        }
        'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
            let number = match value.number() {
                Some(Number::Int(n)) => n,
                Some(Number::Float(x)) if kind != 'o' && kind != 'x' && kind != 'X' && x.abs() < 9.2e18 => {
                    x.trunc() as i64
                }
                _ => return fail(format!("%{kind} format: a real number is required, not {}", type_name(value))),
            };
            spec.kind = Some(if matches!(kind, 'i' | 'u') { 'd' } else { kind });
            write_number(Number::Int(number), &spec, out, budget)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let Some(number) = value.number() else {
                return fail(format!("must be real number, not {}", type_name(value)));
            };
            spec.kind = Some(kind);
            write_number(Number::Float(number.float()), &spec, out, budget)
        }
        other => fail(format!("unsupported format character '{other}'")),
    }
}

/// `text.format(..)`.
pub(super) fn braces(cx: &mut dyn Runtime, text: &str, args: CallArgs) -> Result<Value> {
    let mut fields = FormatFields { args, next: 0, manual: false };
    let out = fields.format(cx, text, MAX_FORMAT_DEPTH)?;
    Ok(Value::text(&out))
}

/// The arguments of `str.format`, and the number of the next one.
struct FormatFields {
    args: CallArgs,
    next: usize,
    /// Whether a field had a number; then all must.
    manual: bool,
}

impl FormatFields {
    fn format(&mut self, cx: &mut dyn Runtime, text: &str, depth: u32) -> Result<String> {
        if depth == 0 {
            return fail("Max string recursion exceeded");
        }
        cx.budget().spend_bytes(text.len().saturating_mul(2))?;
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            out.push_str(&rest[..at]);
            let open = rest[at..].starts_with('{');
            let doubled = rest[at..].starts_with(if open { "{{" } else { "}}" });
            if doubled {
                out.push(if open { '{' } else { '}' });
                rest = &rest[at + 2..];
                continue;
            }
            if !open {
                return fail("Single '}' encountered in format string");
            }
            let field = &rest[at + 1..];
            let Some(end) = closing(field) else { return fail("expected '}' before end of string") };
            self.field(cx, &field[..end], depth, &mut out)?;
            rest = &field[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// `name!conversion:spec`.
    fn field(&mut self, cx: &mut dyn Runtime, field: &str, depth: u32, out: &mut String) -> Result<()> {
        let name_end = field.find(['!', ':']).unwrap_or(field.len());
        let (name, tail) = field.split_at(name_end);
        let (conversion, spec) = match tail.strip_prefix('!') {
            Some(tail) => tail.split_once(':').map_or((Some(tail), ""), |(c, s)| (Some(c), s)),
            None => (None, tail.strip_prefix(':').unwrap_or("")),
        };
        let mut value = self.value(cx, name)?;
        match conversion {
            None => {}
            Some("s") => value = Value::text(&cx.display(&value)?),
            Some("r") => value = Value::text(&cx.repr(&value)?),
            Some(other) => return fail(format!("Unknown conversion specifier '{}'", excerpt(other))),
        }
        let spec = self.format(cx, spec, depth - 1)?;
        write_value(&value, &spec, out, cx.budget())
    }

    fn value(&mut self, cx: &mut dyn Runtime, name: &str) -> Result<Value> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut rest) = name.split_at(end);
        let mut value = self.argument(first)?;
        while !rest.is_empty() {
            cx.budget().spend(1)?;
            if let Some(tail) = rest.strip_prefix('.') {
                let end = tail.find(['.', '[']).unwrap_or(tail.len());
                value = cx.attribute(&value, &Arc::from(&tail[..end]))?;
                rest = &tail[end..];
            } else {
                let tail = rest.strip_prefix('[').and_then(|tail| tail.split_once(']'));
                let Some((key, tail)) = tail else { return fail("Missing ']' in format string") };
                let key = key.parse().map_or_else(|_| Value::text(key), Value::Int);
                value = cx.item(&value, &key)?;
                rest = tail;
            }
        }
        Ok(value)
    }

    fn argument(&mut self, name: &str) -> Result<Value> {
        let number = if name.is_empty() {
            if self.manual {
                return fail("cannot switch from manual field specification to automatic field numbering");
            }
            self.next += 1;
            Some(self.next - 1)
        } else if let Ok(number) = name.parse::<usize>() {
            if self.next > 0 {
                return fail("cannot switch from automatic field numbering to manual field specification");
            }
            self.manual = true;
            Some(number)
        } else {
            None
        };
        let found = match number {
            Some(number) => self.args.positional.get(number),
            None => self.args.named.iter().find(|(n, _)| &**n == name).map(|(_, v)| v),
        };
        match (found, number) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(number)) => fail(format!("Replacement index {number} out of range for positional args tuple")),
            (None, None) => fail(format!("KeyError: '{}'", excerpt(name))),
        }
    }
}

/// The position of the brace that closes a field.
fn closing(field: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in field.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn write_value(value: &Value, spec: &str, out: &mut String, budget: &mut Budget) -> Result<()> {
    if spec.is_empty() {
        out.push_str(&display(value, budget)?);
        return Ok(());
    }
    let spec = parse_spec(spec)?;
    match (value, value.number()) {
        (Value::Text(text), _) if matches!(spec.kind, None | Some('s')) => write_text(text, &spec, out, budget),
        (Value::Int(code), _) if spec.kind == Some('c') => {
            let c = u32::try_from(*code).ok().and_then(char::from_u32);
            let Some(c) = c else { return fail("%c arg not in range(0x110000)") };
            write_padded("", &c.to_string(), &spec, '<', out, budget)
        }
        (_, Some(Number::Int(_)))
            if spec.precision.is_some() && matches!(spec.kind, None | Some('d' | 'x' | 'X' | 'o' | 'b')) =>
        {
            fail("Precision not allowed in integer format specifier")
        }
        (_, Some(number)) => {
            let known = spec.kind.is_none_or(|k| "dnboxXeEfFgG%".contains(k));
            if !known {
                let kind = spec.kind.unwrap_or(' ');
                return fail(format!("Unknown format code '{kind}' for object of type '{}'", type_name(value)));
            }
            write_number(number, &spec, out, budget)
        }
        (Value::Text(_), _) => fail("Unknown format code for object of type 'str'"),
        (other, _) => fail(format!("unsupported format string passed to {}.__format__", type_name(other))),
    }
}
