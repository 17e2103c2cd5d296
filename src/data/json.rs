//! A JSON parser for what comes from outside: it refuses duplicate keys and values without number.
//!
//! Parsers silently take the first or the last value of a duplicate key; here a duplicate is an error.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Value};

/// Maximum number of values in one text. A parsed value takes up to a hundred bytes of memory, even if its text takes
/// two.
pub(crate) const MAX_VALUES: usize = 1 << 20;

/// Reason why a text is not a valid JSON value.
#[derive(Debug)]
pub(crate) enum JsonFault {
    /// It has more values than this.
    TooManyValues(usize),
    /// An object has this key more than once.
    DuplicateKey(String),
    /// The parser's error.
    Json(serde_json::Error),
}

impl fmt::Display for JsonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JsonFault::TooManyValues(most) => write!(f, "it has more than {most} values"),
            JsonFault::DuplicateKey(key) => {
                write!(f, "it has the key `{}` twice", key.chars().take(60).collect::<String>().escape_debug())
            }
            JsonFault::Json(error) => error.fmt(f),
        }
    }
}

/// Parses a JSON text of at most [`MAX_VALUES`] values.
pub(crate) fn parse_json(bytes: &[u8]) -> Result<Value, JsonFault> {
    parse_json_up_to(MAX_VALUES, bytes)
}

/// Parses a JSON text of at most this many values.
pub(crate) fn parse_json_up_to(max_values: usize, bytes: &[u8]) -> Result<Value, JsonFault> {
    if has_more_values(max_values, bytes) {
        return Err(JsonFault::TooManyValues(max_values));
    }
    let duplicate = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = NoDuplicateKeys(&duplicate).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    parsed.map_err(|error| duplicate.take().map_or(JsonFault::Json(error), JsonFault::DuplicateKey))
}

/// Counts commas and brackets outside of strings, without parsing.
fn has_more_values(most: usize, bytes: &[u8]) -> bool {
    // Every value takes at least a byte, so a short line cannot have too many.
    if bytes.len() < most {
        return false;
    }
    let (mut values, mut quoted, mut escaped) = (0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b'{' | b'[' if !quoted => values += 1,
            _ => {}
        }
    }
    values > most
}

/// Parses one value. A duplicate key is stored here, because the parser's error cannot carry it.
#[derive(Clone, Copy)]
struct NoDuplicateKeys<'a>(&'a RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for NoDuplicateKeys<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NoDuplicateKeys<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            all.push(item);
        }
        Ok(all.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            match all.entry(key) {
                Entry::Vacant(place) => _ = place.insert(entries.next_value_seed(self)?),
                Entry::Occupied(there) => {
                    *self.0.borrow_mut() = Some(there.key().clone());
                    return Err(A::Error::custom("a key comes twice"));
                }
            }
        }
        Ok(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_parser_but_for_keys_that_come_twice() {
        for text in [r#"{"b": [1, -2, 3.5, true, null, "é\n"], "a": {"x": {}}}"#, "18446744073709551615", "1e3", "[]"]
        {
            let Ok(read) = parse_json(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(read, serde_json::from_str::<Value>(text).unwrap(), "{text}");
            assert_eq!(read.to_string(), serde_json::from_str::<Value>(text).unwrap().to_string());
        }
        for text in [r#"{"a": 1, "b": 2, "a": 3}"#, r#"{"m": [{"a": 1}, {"a": 1, "a": 1}]}"#] {
            assert!(matches!(parse_json(text.as_bytes()), Err(JsonFault::DuplicateKey(key)) if key == "a"), "{text}");
        }
        for text in ["", "{", "[1,]", "{\"a\": NaN}", "1 2", &"[".repeat(200)] {
            let Err(JsonFault::Json(error)) = parse_json(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(error.to_string(), serde_json::from_str::<Value>(text).unwrap_err().to_string());
        }
    }
}
