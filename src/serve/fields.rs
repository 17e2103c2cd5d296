//! Reads the fields of a JSON body. Every field is read or refused.

use std::ops::RangeInclusive;

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::api_error::ApiError;
use crate::data::{JsonFault, nearest, parse_json};

type Result<T> = std::result::Result<T, ApiError>;

/// The fields of a request that are not read yet.
pub(super) struct RequestFields {
    left: Map<String, Value>,
    /// Names that were asked for, for suggestions.
    known: Vec<&'static str>,
}

impl RequestFields {
    /// Parses a body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, message);
        match parse_json(body) {
            Ok(Value::Object(left)) => Ok(Self { left, known: Vec::new() }),
            Ok(_) => Err(bad("the body must be a JSON object".into())),
            Err(JsonFault::DuplicateKey(key)) => {
                let key = shown(&key);
                let message = format!("the body has the key `{key}` twice in one object; keep one of the two");
                Err(ApiError::field(key, message).code("duplicate_key"))
            }
            Err(JsonFault::TooManyValues(most)) => {
                let message = format!("the body has more than {most} values; send fewer in one request");
                Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large"))
            }
            Err(JsonFault::Json(e)) => Err(bad(format!("the body is not JSON: {e}"))),
        }
    }

    /// Takes a field. A field that is null counts as absent.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.left.swap_remove(name).filter(|value| !value.is_null())
    }

    pub fn flag(&mut self, name: &'static str, default: bool) -> Result<bool> {
        match self.take(name) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(ApiError::field(name, format!("`{name}` must be true or false"))),
        }
    }

    pub fn number(&mut self, name: &'static str, default: f32) -> Result<f32> {
        let Some(value) = self.take(name) else { return Ok(default) };
        let Some(number) = value.as_f64() else {
            return Err(ApiError::field(name, format!("`{name}` must be a number")));
        };
        // Beyond f32, the name of the value would be `inf`.
        let number = number as f32;
        match number.is_finite() {
            true => Ok(number),
            false => Err(ApiError::field(name, format!("`{name}` is {value}, which is out of range"))),
        }
    }

    /// Takes a whole number.
    pub fn count(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<usize>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let count = value.as_u64().filter(|n| range.contains(n)).and_then(|n| usize::try_from(n).ok());
        let (low, high) = range.into_inner();
        let wanted = match high {
            u64::MAX => format!("`{name}` must be a whole number, {low} or more"),
            _ => format!("`{name}` must be a whole number from {low} to {high}"),
        };
        count.map(Some).ok_or_else(|| ApiError::field(name, wanted))
    }

    pub fn text(&mut self, name: &'static str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::field(name, format!("`{name}` must be a text"))),
        }
    }

    /// Takes a text or a list of texts.
    pub fn texts(&mut self, name: &'static str) -> Result<Vec<String>> {
        let text = |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        };
        let texts = match self.take(name) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.into_iter().map(text).collect(),
            Some(value) => text(value).map(|text| vec![text]),
        };
        texts.ok_or_else(|| ApiError::field(name, format!("`{name}` must be a text or a list of texts")))
    }

    /// Takes a list of token ids.
    pub fn ids(&mut self, name: &'static str, vocab: usize) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let ids = value.as_array().and_then(|list| list.iter().map(|id| token_id(id, vocab)).collect());
        let wanted = || format!("`{name}` must be a list of token ids below {vocab}");
        ids.map(Some).ok_or_else(|| ApiError::field(name, wanted()))
    }

    /// Takes a field that others support, with a value that changes nothing. `why` says what to do instead.
    pub fn neutral(&mut self, name: &'static str, allowed: &[Value], why: &str) -> Result<()> {
        let same = |a: &Value, b: &Value| a == b || a.as_f64().is_some_and(|x| b.as_f64() == Some(x));
        match self.take(name) {
            Some(value) if !allowed.iter().any(|a| same(a, &value)) => {
                Err(ApiError::field(name, format!("`{name}` is not supported: {why}")).code("unsupported_value"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses fields that were not read.
    pub fn finish(self) -> Result<()> {
        let Some(name) = self.left.keys().next() else { return Ok(()) };
        let near = nearest(name, self.known.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
        let shown = shown(name);
        let message = format!("unknown field `{shown}`{}", near.unwrap_or_default());
        Err(ApiError::field(shown, message).code("unknown_field"))
    }
}

/// A name that the client gave, which may be long.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}

/// A token id of a vocabulary.
pub(super) fn token_id(value: &Value, vocab: usize) -> Option<u32> {
    let id = value.as_u64().filter(|&id| id < vocab as u64)?;
    u32::try_from(id).ok()
}
