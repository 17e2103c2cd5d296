//! Filters of texts and numbers.

use super::arguments::{CallArgs, whole};
use super::chars::is_space;
use super::error::{Result, fail};
use super::format::percent;
use super::numbers::{parse_float, parse_int, rounded};
use super::operators::negative;
use super::runtime::Runtime;
use super::strings::{self, split_lines};
use super::value::{DictBuilder, ListKind, Number, Value, type_name};

/// The filters of this file.
pub(super) const NAMES: [&str; 16] = [
    "abs",
    "capitalize",
    "center",
    "float",
    "format",
    "indent",
    "int",
    "lower",
    "replace",
    "round",
    "title",
    "trim",
    "truncate",
    "upper",
    "urlencode",
    "wordcount",
];

/// Jinja2's filters that write HTML or are random. A prompt does not need them.
const REFUSED: [&str; 9] =
    ["e", "escape", "forceescape", "filesizeformat", "random", "striptags", "urlize", "xmlattr", "wordwrap"];

/// `value | name(args)`, or none if no such filter exists.
pub(super) fn apply(cx: &mut dyn Runtime, name: &str, value: &Value, args: CallArgs) -> Result<Option<Value>> {
    if REFUSED.contains(&name) {
        return fail(format!("the filter `{name}` is not supported in prompts"));
    }
    if !NAMES.contains(&name) {
        return Ok(None);
    }
    Ok(Some(match name {
        "int" => return int(cx, value, args).map(Some),
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            to_float(value).map_or_else(|| default.unwrap_or(Value::Float(0.)), Value::Float)
        }
        "abs" => {
            args.exactly::<0>(name)?;
            match value.number() {
                Some(Number::Float(x)) => Value::Float(x.abs()),
                Some(Number::Int(n)) if n < 0 => negative(&Value::Int(n))?,
                Some(Number::Int(n)) => Value::Int(n),
                None => return fail(format!("bad operand type for abs(): '{}'", type_name(value))),
            }
        }
        "round" => round(value, args)?,
        _ => {
            let text = cx.display(value)?;
            of_text(cx, name, &text, args)?
        }
    }))
}

fn of_text(cx: &mut dyn Runtime, name: &str, text: &str, args: CallArgs) -> Result<Value> {
    let budget = cx.budget();
    budget.spend_bytes(text.len().saturating_mul(3))?;
    Ok(match name {
        "upper" => {
            args.exactly::<0>(name)?;
            Value::text(&text.to_uppercase())
        }
        "lower" => {
            args.exactly::<0>(name)?;
            Value::text(&text.to_lowercase())
        }
        "capitalize" => {
            args.exactly::<0>(name)?;
            Value::text(&strings::capitalize(text))
        }
        "title" => {
            args.exactly::<0>(name)?;
            Value::text(&title(text))
        }
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            Value::text(strings::strip(text, chars.as_ref(), true, true, budget)?)
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let (Some(old), Some(new)) = (old, new) else { return fail("replace() needs two texts") };
            let (old, new) = (super::print::display(&old, budget)?, super::print::display(&new, budget)?);
            strings::replace(text, &old, &new, count.as_ref(), budget)?
        }
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            strings::pad(text, &width.unwrap_or(Value::Int(80)), None, strings::PadSide::Both, budget)?
        }
        "format" => {
            let values = if args.named.is_empty() {
                Value::sequence(ListKind::Tuple, args.positional)?
            } else {
                let mut dict = DictBuilder::default();
                for (key, value) in args.named {
                    dict.insert(Value::Text(key), value, budget)?;
                }
                dict.finish()?
            };
            percent(text, &values, budget)?
        }
        "indent" => indent(cx, text, args)?,
        "truncate" => truncate(text, args)?,
        "wordcount" => {
            args.exactly::<0>(name)?;
            let word = |c: char| c.is_alphanumeric() || c == '_';
            Value::Int(text.split(|c| !word(c)).filter(|w| !w.is_empty()).count() as i64)
        }
        _ => {
            args.exactly::<0>(name)?;
            Value::text(&url_quoted(text))
        }
    })
}

fn int(cx: &mut dyn Runtime, value: &Value, args: CallArgs) -> Result<Value> {
    let [default, base] = args.bind("int", ["default", "base"])?;
    let base = u32::try_from(whole(&base.unwrap_or(Value::Int(10)))?).unwrap_or(0);
    if !matches!(base, 0 | 2..=36) {
        return fail("int() base must be >= 2 and <= 36, or 0");
    }
    if let Value::Text(text) = value {
        cx.budget().spend_bytes(text.len())?;
    }
    let found = match value {
        Value::Text(text) => parse_int(text, base).or_else(|| parse_float(text).and_then(truncated)),
        other => match other.number() {
            Some(Number::Int(n)) => Some(n),
            Some(Number::Float(x)) => truncated(x),
            None => None,
        },
    };
    Ok(found.map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int))
}

fn truncated(x: f64) -> Option<i64> {
    (x.abs() < 9.2e18).then_some(x.trunc() as i64)
}

fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Text(text) => parse_float(text),
        other => other.number().map(Number::float),
    }
}

fn round(value: &Value, args: CallArgs) -> Result<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = whole(&precision.unwrap_or(Value::Int(0)))?.clamp(-30, 30) as i32;
    let Some(number) = value.number() else {
        return fail(format!("type {} doesn't define __round__ method", type_name(value)));
    };
    let scale = 10f64.powi(precision);
    Ok(match method.as_ref().and_then(Value::as_text).map(|m| &**m) {
        None | Some("common") => match number {
            Number::Int(n) if precision >= 0 => Value::Int(n),
            other => Value::Float(rounded(other.float(), precision)),
        },
        Some("ceil") => Value::Float((number.float() * scale).ceil() / scale),
        Some("floor") => Value::Float((number.float() * scale).floor() / scale),
        Some(_) => return fail("method must be common, ceil or floor"),
    })
}

/// Jinja2's title case: words begin after white space, hyphens and opening brackets.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<') {
            out.push(c);
            begins = true;
        } else if begins {
            out.extend(c.to_uppercase());
            begins = false;
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

fn indent(cx: &mut dyn Runtime, text: &str, args: CallArgs) -> Result<Value> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let (first, blank) = (first.is_some_and(|v| v.is_true()), blank.is_some_and(|v| v.is_true()));
    let by = match width.unwrap_or(Value::Int(4)) {
        Value::Text(text) => text.to_string(),
        number => {
            let width = usize::try_from(whole(&number)?).unwrap_or(0);
            cx.budget().spend_bytes(width)?;
            " ".repeat(width)
        }
    };
    let whole_text = format!("{text}\n");
    let lines = split_lines(&whole_text, false);
    cx.budget().spend_bytes(by.len().saturating_add(1).saturating_mul(lines.len()))?;
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        if if at == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(Value::text(&out))
}

fn truncate(text: &str, args: CallArgs) -> Result<Value> {
    let [length, kill, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let length = whole(&length.unwrap_or(Value::Int(255)))?;
    let end = end.unwrap_or_else(|| Value::text("..."));
    let end = super::arguments::text(&end)?;
    let leeway = match leeway {
        None | Some(Value::None) => 5,
        Some(value) => whole(&value)?,
    };
    let end_length = end.chars().count() as i64;
    if length < end_length || leeway < 0 {
        return fail(format!("expected length >= {end_length} and leeway >= 0, got {length} and {leeway}"));
    }
    if text.chars().count() as i64 <= length.saturating_add(leeway) {
        return Ok(Value::text(text));
    }
    let cut: String = text.chars().take((length - end_length) as usize).collect();
    let kept = if kill.is_some_and(|v| v.is_true()) { &cut } else { cut.rsplit_once(' ').map_or(&*cut, |(a, _)| a) };
    Ok(Value::text(&format!("{kept}{end}")))
}

fn url_quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-~/".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
