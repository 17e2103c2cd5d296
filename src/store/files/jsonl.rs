//! JSON lines in: one row per line, errors by line, rows of a named schema out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, Float64Array, ListArray, RecordBatch, StringArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use super::json::Fault;
use crate::data::{Column, List, Schema, Type};
use crate::error::Result;
use crate::store::datasets::asked::settle;
use crate::store::datasets::context::{MESSAGE_KEYS, is_empty, unheld_context};

/// A row, or why the line holds none.
pub(crate) type Row = Result<Map<String, Value>, (&'static str, String)>;

pub(crate) fn parse(bytes: &[u8]) -> Row {
    if has_too_many_values(bytes) {
        return Err(("bad_json", format!("holds more than {MAX_VALUES} values")));
    }
    match super::json::value(bytes) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(("bad_json", format!("is {}, expected a JSON object", spell(&other)))),
        Err(Fault::Twice(key)) => {
            let key = key.chars().take(60).collect::<String>();
            Err(("bad_json", format!("has the key `{}` twice; keep one of the two", key.escape_debug())))
        }
        Err(Fault::Json(error)) => Err(("bad_json", not_json(bytes, &error))),
    }
}

/// What is wrong with a line that is no JSON, by what people's files have: another encoding, numbers that JSON lacks.
fn not_json(bytes: &[u8], error: &serde_json::Error) -> String {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.iter().take(4).any(|b| *b == 0) {
        return "is UTF-16 text, or no text at all; save the file as UTF-8".to_owned();
    }
    if let Err(utf8) = std::str::from_utf8(bytes) {
        let at = utf8.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or_default();
        return format!("is not UTF-8 text: byte {byte:#04x} at column {}; save the file as UTF-8", at + 1);
    }
    // The parser's own line number is always 1 here; only the column says something.
    let column = error.column();
    let rest = &bytes[column.saturating_sub(1).min(bytes.len())..];
    for (number, name) in [("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity")] {
        let tail = number.strip_prefix('-').unwrap_or(number);
        // After a minus sign the parser stops at the letter.
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

/// Values that one row may hold. A value of two bytes takes up to a hundred in memory once it is parsed.
const MAX_VALUES: usize = 1 << 20;

/// Counts the commas outside of texts, without parsing anything.
fn has_too_many_values(bytes: &[u8]) -> bool {
    // Every value but the first follows a comma or takes a few bytes of its own.
    if bytes.len() < MAX_VALUES {
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
    values > MAX_VALUES
}

/// Lists and objects within one another that the JSON parser follows.
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
fn uint(value: Value) -> Result<u32, String> {
    let fits = value.as_u64().and_then(|n| u32::try_from(n).ok());
    fits.ok_or_else(|| format!("is {}, expected a whole number from 0 to {}", spell(&value), u32::MAX))
}
fn double(value: Value) -> Result<f64, String> {
    value.as_f64().ok_or_else(|| format!("is {}, expected a number", spell(&value)))
}
fn float(value: Value) -> Result<f32, String> {
    let shown = spell(&value);
    let narrow = double(value)? as f32;
    if narrow.is_finite() { Ok(narrow) } else { Err(format!("is {shown}, which does not fit in 32 bits")) }
}
pub(crate) fn list<T>(value: Value, each: impl Fn(Value) -> Result<T, String>) -> Result<Vec<T>, String> {
    match value {
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(i, v)| each(v).map_err(|e| format!("item {i} {e}"))).collect()
        }
        other => Err(format!("is {}, expected a list", spell(&other))),
    }
}
fn object(value: Value) -> Result<Map<String, Value>, String> {
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
pub(crate) fn message(value: Value) -> Result<(String, String), String> {
    let mut map = object(value)?;
    let has = |key: &&&str| map.get(**key).is_some_and(|value| !is_empty(value));
    if let Some(key) = MESSAGE_KEYS.iter().find(has) {
        return Err(format!("has `{key}`, and a message here is its text only"));
    }
    Ok((member(&mut map, "role", text)?, member(&mut map, "content", text)?))
}
/// The keys of messages that are neither role nor content, each as a path such as `prompt[].name`.
fn message_extras(key: &str, messages: Option<&Value>) -> Vec<String> {
    let messages = messages.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    let extra =
        messages.flatten().filter(|(name, value)| !matches!(name.as_str(), "role" | "content") && !is_empty(value));
    extra.take(MAX_UNREAD).map(|(name, _)| format!("{key}[].{name}")).collect()
}
/// Text, outcome, score.
type Judgement = (String, String, Option<f32>);
fn judgement(value: Value) -> Result<Judgement, String> {
    let mut map = object(value)?;
    let score = match map.get_mut("score").map(Value::take) {
        None | Some(Value::Null) => None,
        Some(value) => Some(float(value).map_err(|e| format!("`score` {e}"))?),
    };
    Ok((member(&mut map, "text", text)?, member(&mut map, "outcome", text)?, score))
}

/// A column in the making.
enum Cells {
    Text(Vec<Option<String>>),
    UInt(Vec<Option<u32>>),
    Float(Vec<Option<f32>>),
    Double(Vec<Option<f64>>),
    Texts(Vec<Option<Vec<String>>>),
    Tokens(Vec<Option<Vec<u32>>>),
    Floats(Vec<Option<Vec<f32>>>),
    Messages(Vec<Option<Vec<(String, String)>>>),
    Judgements(Vec<Option<Vec<Judgement>>>),
}

macro_rules! each_kind {
    ($self:expr, $cells:ident => $body:expr) => {
        match $self {
            Cells::Text($cells) => $body,
            Cells::UInt($cells) => $body,
            Cells::Float($cells) => $body,
            Cells::Double($cells) => $body,
            Cells::Texts($cells) => $body,
            Cells::Tokens($cells) => $body,
            Cells::Floats($cells) => $body,
            Cells::Messages($cells) => $body,
            Cells::Judgements($cells) => $body,
        }
    };
}

/// Puts nulls on a list column; null rows are empty.
fn lists<T>(cells: Vec<Option<Vec<T>>>, build: impl Fn(&[Vec<T>]) -> ArrayRef) -> Result<ArrayRef> {
    let nulls = NullBuffer::from_iter(cells.iter().map(Option::is_some));
    let rows: Vec<Vec<T>> = cells.into_iter().map(Option::unwrap_or_default).collect();
    let (field, offsets, values, _) = build(&rows).as_list::<i32>().clone().into_parts();
    Ok(Arc::new(ListArray::try_new(field, offsets, values, (nulls.null_count() > 0).then_some(nulls))?))
}

impl Cells {
    fn new(column: &Column) -> Self {
        let kind = column.kind.arrow();
        let item = match &kind {
            DataType::List(item) => Some(item.data_type()),
            _ => None,
        };
        // A type not listed would be caught by `Rows::finish`, where the schema checks what was built.
        match (&kind, item) {
            (DataType::UInt32, _) => Self::UInt(Vec::new()),
            (DataType::Float32, _) => Self::Float(Vec::new()),
            (DataType::Float64, _) => Self::Double(Vec::new()),
            (_, Some(DataType::Utf8)) => Self::Texts(Vec::new()),
            (_, Some(DataType::UInt32)) => Self::Tokens(Vec::new()),
            (_, Some(DataType::Float32)) => Self::Floats(Vec::new()),
            (_, Some(DataType::Struct(f))) if f.find("role").is_some() => Self::Messages(Vec::new()),
            (_, Some(_)) => Self::Judgements(Vec::new()),
            _ => Self::Text(Vec::new()),
        }
    }
    fn push(&mut self, value: Value) -> Result<(), String> {
        match self {
            Self::Text(c) => c.push(Some(text(value)?)),
            Self::UInt(c) => c.push(Some(uint(value)?)),
            Self::Float(c) => c.push(Some(float(value)?)),
            Self::Double(c) => c.push(Some(double(value)?)),
            Self::Texts(c) => c.push(Some(list(value, text)?)),
            Self::Tokens(c) => c.push(Some(list(value, uint)?)),
            Self::Floats(c) => c.push(Some(list(value, float)?)),
            Self::Messages(c) => c.push(Some(list(value, message)?)),
            Self::Judgements(c) => c.push(Some(list(value, judgement)?)),
        }
        Ok(())
    }
    fn push_null(&mut self) {
        each_kind!(self, cells => cells.push(None));
    }
    fn truncate(&mut self, rows: usize) {
        each_kind!(self, cells => cells.truncate(rows));
    }
    fn finish(self) -> Result<ArrayRef> {
        Ok(match self {
            Self::Text(c) => Arc::new(StringArray::from(c)),
            Self::UInt(c) => Arc::new(UInt32Array::from(c)),
            Self::Float(c) => Arc::new(Float32Array::from(c)),
            Self::Double(c) => Arc::new(Float64Array::from(c)),
            Self::Texts(c) => lists(c, List::of_texts)?,
            Self::Tokens(c) => lists(c, List::of_tokens)?,
            Self::Floats(c) => lists(c, List::of_floats)?,
            Self::Messages(c) => lists(c, List::of_messages)?,
            Self::Judgements(c) => lists(c, List::of_judgements)?,
        })
    }
}

/// Rows of a named schema in the making. `keys` are the names in the file, in the schema's order.
pub(crate) struct Rows {
    schema: &'static Schema,
    keys: Vec<String>,
    cells: Vec<Cells>,
    rows: usize,
    /// Keys with a value that have no column, with the number of their rows.
    unread: Unread,
}

/// Keys or columns that were not read, with the number of rows that have a value there.
pub(crate) type Unread = BTreeMap<String, u64>;

/// Different keys that are listed; all others are counted together.
const MAX_UNREAD: usize = 256;

/// Counts a key that was not read in `rows` rows.
pub(crate) fn count_unread(unread: &mut Unread, key: &str, rows: u64) {
    let listed = unread.len() < MAX_UNREAD || unread.contains_key(key);
    *unread.entry(if listed { key } else { "other keys" }.to_owned()).or_default() += rows;
}

impl Rows {
    pub fn new(schema: &'static Schema, keys: Vec<String>) -> Self {
        Self { schema, keys, cells: schema.columns.iter().map(Cells::new).collect(), rows: 0, unread: Unread::new() }
    }
    pub fn len(&self) -> usize {
        self.rows
    }
    /// Adds a row, or says why not and adds nothing; the values of the named columns are taken out of the row.
    pub fn push(&mut self, row: &mut Map<String, Value>) -> Result<(), (&'static str, String)> {
        let extra = self.extras(row);
        let settled = settle(self.schema, &self.keys, row).map_err(|what| ("bad_value", what));
        let result = settled.and_then(|other_prompt| self.try_push(row).map(|()| other_prompt));
        match &result {
            Ok(other_prompt) => {
                self.rows += 1;
                self.count_unread(row);
                extra.iter().for_each(|path| count_unread(&mut self.unread, path, 1));
                let prompt = self.schema.columns.iter().position(|column| column.name == "prompt");
                if let Some(prompt) = prompt.filter(|_| *other_prompt) {
                    count_unread(&mut self.unread, &self.keys[prompt], 1);
                }
            }
            Err(_) => self.cells.iter_mut().for_each(|c| c.truncate(self.rows)),
        }
        result.map(drop)
    }
    /// The keys of the rows so far that have no column, and those of messages that are neither role nor content.
    pub fn take_unread(&mut self) -> Unread {
        std::mem::take(&mut self.unread)
    }
    /// The keys of a row's messages that are neither role nor content.
    fn extras(&self, row: &Map<String, Value>) -> BTreeSet<String> {
        let columns = self.schema.columns.iter().zip(&self.keys);
        let conversations = columns.filter(|(column, _)| column.kind == Type::Messages || column.name == "prompt");
        conversations.flat_map(|(_, key)| message_extras(key, row.get(key))).collect()
    }
    fn count_unread(&mut self, row: &Map<String, Value>) {
        for (key, _) in row.iter().filter(|(_, value)| !is_empty(value)) {
            if !self.keys.contains(key) {
                count_unread(&mut self.unread, key, 1);
            }
        }
    }
    fn try_push(&mut self, row: &mut Map<String, Value>) -> Result<(), (&'static str, String)> {
        for ((column, key), cells) in self.schema.columns.iter().zip(&self.keys).zip(&mut self.cells) {
            match row.get_mut(key).map(Value::take) {
                None | Some(Value::Null) if column.nullable => cells.push_null(),
                None => {
                    let have: Vec<_> = row.keys().take(20).map(String::as_str).collect();
                    return Err(("missing_key", format!("lacks the key `{key}`; there are: {}", have.join(", "))));
                }
                Some(value) => cells.push(value).map_err(|e| ("bad_value", format!("key `{key}` {e}")))?,
            }
        }
        // The values of the columns were taken out: what is left has no column.
        unheld_context(row).map_or(Ok(()), |what| Err(("bad_value", what)))
    }
    /// The rows so far.
    pub fn finish(self) -> Result<RecordBatch> {
        let columns: Result<Vec<_>> = self.cells.into_iter().map(Cells::finish).collect();
        self.schema.batch(columns?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
