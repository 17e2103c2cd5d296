//! Rows of JSON as a batch of a named schema.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, Float64Array, ListArray, RecordBatch, StringArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use super::context::{is_empty, unsupported_context};
use super::normalize::normalize_row;
use super::turn::message;
use crate::data::{Column, List, Schema, Type};
use crate::error::Result;
use crate::store::files::jsonl::{list, member, object, spell, text};
use crate::store::files::unread::{MAX_UNREAD, Unread, count_unread};

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

/// Keys of messages other than role and content, each as a path such as `prompt[].name`.
fn message_extras(key: &str, messages: Option<&Value>) -> Vec<String> {
    let messages = messages.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    let extra =
        messages.flatten().filter(|(name, value)| !matches!(name.as_str(), "role" | "content") && !is_empty(value));
    extra.take(MAX_UNREAD).map(|(name, _)| format!("{key}[].{name}")).collect()
}

/// Text, outcome, score.
type StoredJudgement = (String, String, Option<f32>);

fn judgement(value: Value) -> Result<StoredJudgement, String> {
    let mut map = object(value)?;
    let score = match map.get_mut("score").map(Value::take) {
        None | Some(Value::Null) => None,
        Some(value) => Some(float(value).map_err(|e| format!("`score` {e}"))?),
    };
    Ok((member(&mut map, "text", text)?, member(&mut map, "outcome", text)?, score))
}

/// A column that is being built.
enum Cells {
    Text(Vec<Option<String>>),
    UInt(Vec<Option<u32>>),
    Float(Vec<Option<f32>>),
    Double(Vec<Option<f64>>),
    Texts(Vec<Option<Vec<String>>>),
    Tokens(Vec<Option<Vec<u32>>>),
    Floats(Vec<Option<Vec<f32>>>),
    Messages(Vec<Option<Vec<(String, String)>>>),
    Judgements(Vec<Option<Vec<StoredJudgement>>>),
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

/// Builds a list column with nulls. A null row has an empty list.
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
        // A missing type is caught by `BatchBuilder::finish`, where the schema checks the columns.
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

/// Builds a batch of a named schema from JSON rows. `keys` are the file's names of the columns, in the
/// schema's order.
pub(crate) struct BatchBuilder {
    schema: &'static Schema,
    keys: Vec<String>,
    cells: Vec<Cells>,
    rows: usize,
    /// Keys without a column, with the number of rows that have a value there.
    unread: Unread,
}

impl BatchBuilder {
    pub fn new(schema: &'static Schema, keys: Vec<String>) -> Self {
        Self { schema, keys, cells: schema.columns.iter().map(Cells::new).collect(), rows: 0, unread: Unread::new() }
    }
    pub fn len(&self) -> usize {
        self.rows
    }
    /// Adds a row and takes the values of its columns out of it. After an error, nothing is added.
    pub fn push(&mut self, row: &mut Map<String, Value>) -> Result<(), (&'static str, String)> {
        let extra = self.extras(row);
        let normalized = normalize_row(self.schema, &self.keys, row).map_err(|what| ("bad_value", what));
        let result = normalized.and_then(|other_prompt| self.try_push(row).map(|()| other_prompt));
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
    /// Takes the unread keys of the rows so far: those without a column, and those of messages other than
    /// role and content.
    pub fn take_unread(&mut self) -> Unread {
        std::mem::take(&mut self.unread)
    }
    /// Keys of a row's messages other than role and content.
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
        // The values of the columns were taken out, so the remaining keys have no column.
        unsupported_context(row).map_or(Ok(()), |what| Err(("bad_value", what)))
    }
    /// Builds the batch.
    pub fn finish(self) -> Result<RecordBatch> {
        let columns: Result<Vec<_>> = self.cells.into_iter().map(Cells::finish).collect();
        self.schema.batch(columns?)
    }
}
