//! JSON lines: parsing of rows, and of the values in them.

use serde_json::{Map, Value};

use crate::data::{JsonFault, parse_json};

/// A row, or the code and the reason why the line is invalid.
pub(crate) type Row = Result<Map<String, Value>, (&'static str, String)>;

pub(crate) fn parse(bytes: &[u8]) -> Row {
    match parse_json(bytes) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(("bad_json", format!("is {}, expected a JSON object", spell(&other)))),
        Err(JsonFault::TooManyValues(most)) => Err(("bad_json", format!("holds more than {most} values"))),
        Err(JsonFault::DuplicateKey(key)) => {
            let key = key.chars().take(60).collect::<String>();
            Err(("bad_json", format!("has the key `{}` twice; keep one of the two", key.escape_debug())))
        }
        Err(JsonFault::Json(error)) => Err(("bad_json", not_json(bytes, &error))),
    }
}

/// Explains why a line is not valid JSON. Common causes are another encoding, and numbers that JSON lacks.
fn not_json(bytes: &[u8], error: &serde_json::Error) -> String {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.iter().take(4).any(|b| *b == 0) {
        return "is UTF-16 text, or no text at all; save the file as UTF-8".to_owned();
    }
    if let Err(utf8) = std::str::from_utf8(bytes) {
        let at = utf8.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or_default();
        return format!("is not UTF-8 text: byte {byte:#04x} at column {}; save the file as UTF-8", at + 1);
    }
    // The parser's line number is always 1 here; only the column is useful.
    let column = error.column();
    let rest = &bytes[column.saturating_sub(1).min(bytes.len())..];
    for (number, name) in [("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity")] {
        let tail = number.strip_prefix('-').unwrap_or(number);
        // The parser stops after the minus sign.
        let negative = number.starts_with('-') && column >= 2 && bytes.get(column - 2) == Some(&b'-');
        if rest.starts_with(number.as_bytes()) || negative && rest.starts_with(tail.as_bytes()) {
            return format!("is not JSON: {name} at column {column}, which JSON does not have; write null");
        }
    }
    let text = error.to_string();
    let text = text.split_once(" at line ").map_or(text.as_str(), |(what, _)| what);
    match text {
        "recursion limit exceeded" => format!("is nested more than {MAX_DEPTH} deep at column {column}"),
        _ if error.is_eof() => format!("is not JSON: {text} at column {column}; each line has to hold a whole row"),
        _ => format!("is not JSON: {text} at column {column}"),
    }
}

/// Maximum nesting that the JSON parser accepts.
const MAX_DEPTH: usize = 127;

pub(crate) fn spell(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => format!("{b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the text \"{}\"", s.chars().take(30).collect::<String>().escape_debug()),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

pub(crate) fn text(value: Value) -> Result<String, String> {
    match value {
        Value::String(s) => Ok(s),
        other => Err(format!("is {}, expected text", spell(&other))),
    }
}
pub(crate) fn list<T>(value: Value, each: impl Fn(Value) -> Result<T, String>) -> Result<Vec<T>, String> {
    match value {
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(i, v)| each(v).map_err(|e| format!("item {i} {e}"))).collect()
        }
        other => Err(format!("is {}, expected a list", spell(&other))),
    }
}
pub(crate) fn object(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(map) => Ok(map),
        other => Err(format!("is {}, expected an object", spell(&other))),
    }
}
pub(crate) fn member<T>(
    map: &mut Map<String, Value>,
    key: &str,
    read: impl Fn(Value) -> Result<T, String>,
) -> Result<T, String> {
    let value = map.get_mut(key).map(Value::take).ok_or_else(|| format!("lacks `{key}`"))?;
    read(value).map_err(|e| format!("`{key}` {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::MAX_VALUES;

    /// A small gzip file can unpack to a line of very many tiny values, each of which takes memory once it is parsed.
    #[test]
    fn a_row_of_too_many_values_is_not_parsed() {
        let row = |item: &str, count: usize| format!("{{\"x\":[{}0]}}", item.repeat(count));
        let (_, why) = parse(row("{\"\":0},", MAX_VALUES / 2 + 1).as_bytes()).unwrap_err();
        assert!(why.contains("holds more than"), "{why}");
        assert!(parse(row("0,", 1000).as_bytes()).is_ok());
        // Commas within a text are not values.
        let text = format!("{{\"x\": \"{}\\\",\"}}", ",".repeat(MAX_VALUES + 10));
        assert!(parse(text.as_bytes()).is_ok());
    }
}
