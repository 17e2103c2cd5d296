//! Python's format specifications and text forms of numbers.

use std::iter::Peekable;
use std::str::{Chars, FromStr};

use super::budget::Budget;
use super::chars::is_space;
use super::error::{Result, excerpt, fail};
use super::print::float;
use super::value::Number;

/// Maximum digits after the point.
const MAX_PRECISION: usize = 1000;

/// The format of a value.
#[derive(Clone, Default)]
pub(super) struct Spec {
    pub fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    pub align: Option<char>,
    /// `+` or a space, written before a number that is not negative.
    pub sign: Option<char>,
    pub alternate: bool,
    pub width: usize,
    pub grouping: Option<char>,
    pub precision: Option<usize>,
    pub kind: Option<char>,
}

pub(super) fn write_text(text: &str, spec: &Spec, out: &mut String, budget: &mut Budget) -> Result<()> {
    let text: String = match spec.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text.to_string(),
    };
    write_padded("", &text, spec, '<', out, budget)
}

/// Writes a sign or prefix and a body, padded to the width.
pub(super) fn write_padded(
    prefix: &str,
    body: &str,
    spec: &Spec,
    default: char,
    out: &mut String,
    budget: &mut Budget,
) -> Result<()> {
    let length = prefix.chars().count() + body.chars().count();
    let missing = spec.width.saturating_sub(length);
    let fill = spec.fill.unwrap_or(' ');
    budget.spend_bytes(missing.saturating_mul(fill.len_utf8()).saturating_add(body.len()))?;
    let padding = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    let (left, middle, right) = match spec.align.unwrap_or(default) {
        '<' => (0, 0, missing),
        '^' => (missing / 2, 0, missing - missing / 2),
        '=' => (0, missing, 0),
        _ => (missing, 0, 0),
    };
    out.push_str(&padding(left));
    out.push_str(prefix);
    out.push_str(&padding(middle));
    out.push_str(body);
    out.push_str(&padding(right));
    Ok(())
}

pub(super) fn write_number(number: Number, spec: &Spec, out: &mut String, budget: &mut Budget) -> Result<()> {
    let precision = spec.precision.unwrap_or(6);
    if precision > MAX_PRECISION {
        return fail(format!("a precision above {MAX_PRECISION} is not supported"));
    }
    let kind = spec.kind.unwrap_or(match number {
        Number::Int(_) => 'd',
        Number::Float(_) => 'r',
    });
    let negative = match number {
        Number::Int(n) => n < 0,
        Number::Float(x) => x.is_sign_negative() && !x.is_nan(),
    };
    let (mut prefix, body) = match (number, kind) {
        (Number::Int(n), 'd' | 'n') => (String::new(), grouped(&n.unsigned_abs().to_string(), spec.grouping)),
        (Number::Int(n), 'b') => ("0b".into(), format!("{:b}", n.unsigned_abs())),
        (Number::Int(n), 'o') => ("0o".into(), format!("{:o}", n.unsigned_abs())),
        (Number::Int(n), 'x') => ("0x".into(), format!("{:x}", n.unsigned_abs())),
        (Number::Int(n), 'X') => ("0X".into(), format!("{:X}", n.unsigned_abs())),
        (Number::Float(_), 'd' | 'b' | 'o' | 'x' | 'X' | 'c') => {
            return fail(format!("Unknown format code '{kind}' for object of type 'float'"));
        }
        (number, _) => (String::new(), float_body(number.float().abs(), kind, spec)?),
    };
    if !spec.alternate {
        prefix.clear();
    }
    let sign =
        if negative { "-".to_string() } else { spec.sign.filter(|s| *s != '-').map(String::from).unwrap_or_default() };
    // With `%`, a precision of a whole number is its least number of digits.
    let least = spec.precision.filter(|_| matches!(number, Number::Int(_))).unwrap_or(0);
    let body = format!("{}{body}", "0".repeat(least.saturating_sub(body.len())));
    write_padded(&(sign + &prefix), &body, spec, '>', out, budget)
}

/// A number that is not negative, by its format code; `r` is Python's `repr`.
fn float_body(x: f64, kind: char, spec: &Spec) -> Result<String> {
    let precision = spec.precision.unwrap_or(6);
    if !x.is_finite() {
        let text = float(x);
        return Ok(if kind.is_uppercase() { text.to_uppercase() } else { text });
    }
    let text = match kind {
        'f' | 'F' => format!("{x:.precision$}"),
        'e' | 'E' => exponential(x, precision),
        'g' | 'G' | 'n' => general(x, precision, spec.alternate),
        '%' => format!("{:.precision$}%", x * 100.),
        'r' if spec.precision.is_none() => float(x),
        'r' => {
            let text = general(x, precision, false);
            if text.contains(['.', 'e']) { text } else { text + ".0" }
        }
        other => return fail(format!("Unknown format code '{other}' for object of type 'float'")),
    };
    let text = if kind.is_uppercase() { text.to_uppercase() } else { text };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Ok(grouped(&text[..end], spec.grouping) + &text[end..])
}

fn exponential(x: f64, precision: usize) -> String {
    let text = format!("{x:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn general(x: f64, precision: usize, alternate: bool) -> String {
    let precision = precision.max(1);
    let scientific = exponential(x, precision - 1);
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = |digits: &str| match digits.contains('.') && !alternate {
        true => digits.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => digits.to_string(),
    };
    if exponent < -4 || exponent >= precision as i32 {
        let end = scientific.find('e').unwrap_or(scientific.len());
        return trimmed(digits) + &scientific[end..];
    }
    let places = (precision as i32 - 1 - exponent).max(0) as usize;
    trimmed(&format!("{x:.places$}"))
}

/// Digits in groups of three.
fn grouped(digits: &str, separator: Option<char>) -> String {
    let Some(separator) = separator else { return digits.to_string() };
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(separator);
        }
        out.push(digit);
    }
    out
}

pub(super) fn digits(chars: &mut Peekable<Chars<'_>>) -> Option<usize> {
    let mut number = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        number = Some(number.unwrap_or(0usize).saturating_mul(10).saturating_add(digit as usize));
    }
    number
}

/// `[[fill]align][sign][#][0][width][,][.precision][type]`.
pub(super) fn parse_spec(text: &str) -> Result<Spec> {
    let is_align = |c: &char| matches!(c, '<' | '>' | '^' | '=');
    let mut spec = Spec::default();
    let mut chars = text.chars().peekable();
    let mut ahead = text.chars().skip(1);
    if ahead.next().is_some_and(|c| is_align(&c)) {
        spec.fill = chars.next();
    }
    spec.align = chars.next_if(is_align);
    spec.sign = chars.next_if(|c| matches!(c, '+' | '-' | ' '));
    spec.alternate = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() {
        spec.fill = spec.fill.or(Some('0'));
        spec.align = spec.align.or(Some('='));
    }
    spec.width = digits(&mut chars).unwrap_or(0);
    spec.grouping = chars.next_if(|c| matches!(c, ',' | '_'));
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = digits(&mut chars);
        if spec.precision.is_none() {
            return fail("Format specifier missing precision");
        }
    }
    spec.kind = chars.next();
    if chars.next().is_some() {
        return fail(format!("Invalid format specifier '{}'", excerpt(text)));
    }
    Ok(spec)
}

/// Python's `int(text, base)`.
pub(super) fn parse_int(text: &str, base: u32) -> Option<i64> {
    let text = text.trim_matches(is_space);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixes = [("0x", 16), ("0b", 2), ("0o", 8)];
    let lower = digits.get(..2).unwrap_or_default().to_ascii_lowercase();
    let prefixed = prefixes.into_iter().find(|(p, b)| *p == lower && (base == *b || base == 0));
    let (digits, base) = match prefixed {
        Some((_, base)) => (&digits[2..], base),
        None => (digits, if base == 0 { 10 } else { base }),
    };
    i64::from_str_radix(&format!("{sign}{}", without_underscores(digits)?), base).ok()
}

/// Python's `float(text)`.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let text = without_underscores(text.trim_matches(is_space))?;
    // Rust reads nothing else that Python does not.
    f64::from_str(&text).ok()
}

/// Digits without the single underscores between them.
fn without_underscores(text: &str) -> Option<String> {
    let misplaced = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    (!misplaced && !text.is_empty()).then(|| text.replace('_', ""))
}

/// Python's `round(x, precision)`: to the nearest decimal, of two the even one.
pub(super) fn rounded(x: f64, precision: i32) -> f64 {
    if precision >= 0 {
        return format!("{x:.*}", precision as usize).parse().unwrap_or(x);
    }
    let scale = 10f64.powi(-precision);
    (x / scale).round_ties_even() * scale
}
