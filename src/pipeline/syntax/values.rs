//! Converts values of the tree to the types of keys, or reports what is wrong with them.

use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::path::Path;

use super::codes::{self, Code};
use super::diagnostic::Span;
use super::suggest::{self, show};
use super::tree::{Node, TomlValue};
use crate::data::nearest_path;

/// A problem of a value.
pub(crate) struct ValueFault {
    pub code: &'static Code,
    pub message: String,
    pub label: String,
    pub help: Option<String>,
}

/// Reports a value of the wrong type.
pub(crate) fn wrong_type(node: &Node, wanted: &str) -> ValueFault {
    let message = format!("wants {wanted}");
    ValueFault { code: &codes::WRONG_TYPE, message, label: format!("this is {}", node.value.kind()), help: None }
}
pub(crate) fn out_of_range(words: &str) -> ValueFault {
    let message = "is out of range".to_owned();
    ValueFault { code: &codes::OUT_OF_RANGE, message, label: format!("{words} is wanted"), help: None }
}
pub(crate) fn text_value(node: &Node) -> Result<String, ValueFault> {
    match &node.value {
        TomlValue::Text(text) => Ok(text.clone()),
        _ => Err(wrong_type(node, "text")),
    }
}
/// Reads a name, which must not be empty.
pub(crate) fn name_value(node: &Node) -> Result<String, ValueFault> {
    let name = text_value(node)?;
    let (message, label) = ("is empty".to_owned(), "a name is wanted".to_owned());
    if name.is_empty() { Err(ValueFault { code: &codes::OUT_OF_RANGE, message, label, help: None }) } else { Ok(name) }
}
pub(crate) fn texts_value(node: &Node) -> Result<Vec<(String, Span)>, ValueFault> {
    match &node.value {
        TomlValue::Text(text) => Ok(vec![(text.clone(), node.span)]),
        TomlValue::Array(items) => items.iter().map(|n| Ok((text_value(n)?, n.span))).collect(),
        _ => Err(wrong_type(node, "text, or a list of texts")),
    }
}
pub(crate) fn choice_value(node: &Node, options: &[(&'static str, &'static str)]) -> Result<&'static str, ValueFault> {
    let text = text_value(node)?;
    options.iter().find(|o| o.0 == text).map(|o| o.0).ok_or_else(|| ValueFault {
        code: &codes::BAD_CHOICE,
        message: format!("cannot be `{}`", show(&text)),
        label: "not one of its words".into(),
        help: suggest::help(&text, "its words", options.iter().map(|o| o.0)),
    })
}
pub(crate) fn int_value(node: &Node, range: &RangeInclusive<i64>) -> Result<i64, ValueFault> {
    match node.value {
        TomlValue::Int(Some(n)) if range.contains(&n) => Ok(n),
        TomlValue::Int(None) => Err(out_of_range("an integer below 2^63")),
        TomlValue::Int(_) => Err(out_of_range(&int_words(range))),
        _ => Err(wrong_type(node, &int_words(range))),
    }
}
pub(crate) fn float_value(node: &Node, range: &impl RangeBounds<f64>) -> Result<f64, ValueFault> {
    let value = match node.value {
        TomlValue::Float(f) => f,
        // A float key accepts the rounding of integers beyond 2^53.
        TomlValue::Int(Some(n)) => n as f64,
        TomlValue::Int(None) => return Err(out_of_range(&float_words(range))),
        _ => return Err(wrong_type(node, &float_words(range))),
    };
    // NaN is in no range. Infinity is within open ranges, but makes no sense as a setting.
    if value.is_finite() && range.contains(&value) { Ok(value) } else { Err(out_of_range(&float_words(range))) }
}
pub(crate) fn int_words(range: &RangeInclusive<i64>) -> String {
    match (*range.start(), *range.end()) {
        (i64::MIN, i64::MAX) => "an integer".into(),
        (least, i64::MAX) => format!("an integer of at least {least}"),
        (i64::MIN, most) => format!("an integer of at most {most}"),
        (least, most) => format!("an integer from {least} to {most}"),
    }
}
/// Describes a range of numbers. A bound that every number satisfies is left out.
pub(crate) fn float_words(range: &impl RangeBounds<f64>) -> String {
    let (start, end) = (range.start_bound().cloned(), range.end_bound().cloned());
    if let (Bound::Included(least), Bound::Included(most)) = (start, end)
        && least > f64::MIN
        && most < f64::MAX
    {
        return format!("a number from {least:?} to {most:?}");
    }
    let least = match start {
        Bound::Included(least) if least > f64::MIN => Some(format!("of at least {least:?}")),
        Bound::Excluded(least) if least >= f64::MIN => Some(format!("greater than {least:?}")),
        _ => None,
    };
    let most = match end {
        Bound::Included(most) if most < f64::MAX => Some(format!("of at most {most:?}")),
        Bound::Excluded(most) if most <= f64::MAX => Some(format!("less than {most:?}")),
        _ => None,
    };
    let bounds: Vec<String> = [least, most].into_iter().flatten().collect();
    if bounds.is_empty() { "a number".into() } else { format!("a number {}", bounds.join(" and ")) }
}

/// Returns the least number of a range, which replaces a refused value.
pub(crate) fn least_float(range: &impl RangeBounds<f64>) -> f64 {
    match range.start_bound() {
        Bound::Included(least) => *least,
        Bound::Excluded(least) => least.next_up(),
        Bound::Unbounded => f64::MIN,
    }
}
/// Returns the shortest text that parses to the same float, and as a float.
pub(crate) fn float_literal(value: &f64) -> String {
    format!("{value:?}")
}
/// Returns a TOML list of literals.
pub(crate) fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// Reads a size in bytes: an integer, or a number with a unit.
pub(crate) fn bytes_value(node: &Node, range: &RangeInclusive<u64>) -> Result<u64, ValueFault> {
    let size = match &node.value {
        TomlValue::Int(i) => i.and_then(|i| u64::try_from(i).ok()),
        TomlValue::Text(t) => parse_bytes(t),
        _ => return Err(wrong_type(node, "a size such as \"2 GiB\"")),
    };
    size.filter(|s| range.contains(s)).ok_or_else(|| ValueFault {
        code: &codes::OUT_OF_RANGE,
        message: "is not a size that can be used".into(),
        label: format!("a size of at least {} is wanted", bytes_words(*range.start())),
        help: Some("write a number with B, KiB, MiB, GiB, KB, MB or GB, e.g. \"2 GiB\"".into()),
    })
}
const UNITS: [(&str, u64); 7] = [
    ("gib", 1 << 30),
    ("mib", 1 << 20),
    ("kib", 1 << 10),
    ("gb", 1_000_000_000),
    ("mb", 1_000_000),
    ("kb", 1_000),
    ("b", 1),
];
/// Parses `"1.5 GiB"` into bytes: a number with B, KiB, MiB, GiB, KB, MB, GB or no unit.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let (number, unit) = UNITS.iter().find_map(|(u, size)| Some((text.strip_suffix(u)?, *size))).unwrap_or((&text, 1));
    let number = number.trim();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit);
    }
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    // Below 2^63 the cast is exact enough and cannot wrap.
    (bytes.is_finite() && (0.0..9e18).contains(&bytes)).then_some(bytes as u64)
}
/// Reads a length of time: text with a unit, such as "6h".
pub(crate) fn duration_value(node: &Node) -> Result<u64, ValueFault> {
    let seconds = match &node.value {
        TomlValue::Text(t) => parse_seconds(t),
        _ => return Err(wrong_type(node, "a length of time such as \"6h\"")),
    };
    seconds.ok_or_else(|| ValueFault {
        code: &codes::OUT_OF_RANGE,
        message: "is not a length of time".into(),
        label: "a number with s, m, h or d is wanted".into(),
        help: Some("write e.g. \"90s\", \"45m\", \"6h\" or \"1.5d\"".into()),
    })
}
const TIMES: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
/// Parses `"1.5h"` into seconds, at least one and at most ten years.
fn parse_seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, size) = TIMES.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size)))?;
    let seconds = number.trim_end().parse::<f64>().ok()? * size as f64;
    (1.0..=3650. * 86_400.).contains(&seconds).then_some(seconds.round() as u64)
}
/// Formats seconds in the largest unit that divides them.
pub(crate) fn duration_words(seconds: u64) -> String {
    let unit = TIMES.iter().find(|(_, size)| seconds >= *size && seconds.is_multiple_of(*size));
    unit.map_or_else(|| format!("{seconds}s"), |(unit, size)| format!("{}{unit}", seconds / size))
}

/// Formats bytes in the largest binary unit that divides them.
pub(crate) fn bytes_words(bytes: u64) -> String {
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{} {name}", bytes / unit);
        }
    }
    format!("{bytes} B")
}

/// Suggests an existing path that was probably intended.
pub(crate) fn sibling(path: &str) -> Option<String> {
    let near = nearest_path(Path::new(path))?;
    Some(format!("did you mean `{}`?", show(&near.to_string_lossy())))
}

/// Whether a name can be a directory on every system.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.len() <= 64 && name.bytes().next().is_some_and(plain) && name.bytes().all(|b| plain(b) || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("2GiB"), Some(2 << 30));
        assert_eq!(parse_bytes(" 1.5 MB "), Some(1_500_000));
        assert_eq!(parse_bytes("17"), Some(17));
        for bad in ["", "GiB", "-1", "1e300", "nan", "99999999999GiB", "2 TiB"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
        for bytes in [0, 1, 1023, 1024, 3 << 20, 5 << 30, 1_500_000] {
            assert_eq!(parse_bytes(&bytes_words(bytes)), Some(bytes));
        }
    }
}
