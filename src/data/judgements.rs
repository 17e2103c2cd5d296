//! Judgements, as stored in the `judgements` column of scored answers.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, ListArray, StringArray, StructArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Float32Type, UInt32Type};

use super::columns::{Columns, List};
use super::schema::judgement_fields;
use crate::error::Result;

/// Token ids, and the log-probability of each.
type Tokens = (Vec<u32>, Vec<f32>);

/// One judgement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// The judge's text, or why there is none.
    pub text: String,
    /// `score`, `no_match`, `ambiguous`, `out_of_range`, `truncated`, `too_long` or `error`.
    pub outcome: String,
    /// The score, if `outcome` is `score`.
    pub score: Option<f32>,
    /// Total probability of all scores, if the score is an expected one.
    pub mass: Option<f32>,
    /// Token ids and log-probabilities as sampled, if they were kept.
    pub tokens: Option<(Vec<u32>, Vec<f32>)>,
}

impl From<(String, String, Option<f32>)> for Judgement {
    fn from((text, outcome, score): (String, String, Option<f32>)) -> Self {
        Self { text, outcome, score, ..Self::default() }
    }
}

/// A column of judgements.
pub struct Judgements<'a> {
    list: &'a ListArray,
    items: &'a StructArray,
    outcome: &'a StringArray,
    score: &'a Float32Array,
}

impl<'a> Judgements<'a> {
    fn span(&self, row: usize) -> std::ops::Range<usize> {
        let offsets = self.list.value_offsets();
        offsets[row] as usize..offsets[row + 1] as usize
    }
    /// Outcome and score (if any) of each judgement of a row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (&'a str, Option<f32>)> + '_ {
        self.span(row).map(|i| (self.outcome.value(i), self.score.is_valid(i).then(|| self.score.value(i))))
    }
    /// The complete judgements of a row.
    pub fn whole(&self, row: usize) -> Vec<Judgement> {
        let column = |name| self.items.column_by_name(name);
        let text = column("text").and_then(|c| c.as_string_opt::<i32>());
        let mass = column("mass").and_then(|c| c.as_primitive_opt::<Float32Type>());
        let lists = |name| column(name).and_then(|c| c.as_list_opt::<i32>());
        let (tokens, logprobs) = (lists("tokens"), lists("logprobs"));
        let judgement = |i: usize| {
            let tokens = tokens.zip(logprobs).filter(|(t, l)| t.is_valid(i) && l.is_valid(i)).and_then(|(t, l)| {
                let (t, l) = (t.value(i), l.value(i));
                let (t, l) = (t.as_primitive_opt::<UInt32Type>()?, l.as_primitive_opt::<Float32Type>()?);
                Some((t.values().to_vec(), l.values().to_vec()))
            });
            Judgement {
                text: text.map_or_else(String::new, |t| t.value(i).to_owned()),
                outcome: self.outcome.value(i).to_owned(),
                score: self.score.is_valid(i).then(|| self.score.value(i)),
                mass: mass.filter(|m| m.is_valid(i)).map(|m| m.value(i)),
                tokens,
            }
        };
        self.span(row).map(judgement).collect()
    }
}

impl<'a> Columns<'a> {
    /// A column of judgements.
    ///
    /// # Errors
    /// The column is missing or of another type.
    pub fn judgements(self, name: &str) -> Result<Judgements<'a>> {
        self.typed(name, "lists of judgements", |c| {
            let list = c.as_list_opt::<i32>()?;
            let items = list.values().as_struct_opt()?;
            let outcome = items.column_by_name("outcome")?.as_string_opt::<i32>()?;
            let score = items.column_by_name("score")?.as_primitive_opt::<Float32Type>()?;
            Some(Judgements { list, items, outcome, score })
        })
    }
}

impl List<'_, ()> {
    /// A list column of judgements.
    pub fn of_judgements<J: Clone + Into<Judgement>>(rows: &[Vec<J>]) -> ArrayRef {
        let items: Vec<Judgement> = rows.iter().flatten().map(|j| j.clone().into()).collect();
        let kept = NullBuffer::from_iter(items.iter().map(|j| j.tokens.is_some()));
        let lists = |values: ArrayRef, length: &dyn Fn(&Tokens) -> usize| -> ArrayRef {
            let offsets = OffsetBuffer::from_lengths(items.iter().map(|j| j.tokens.as_ref().map_or(0, length)));
            let field = Arc::new(Field::new_list_field(values.data_type().clone(), false));
            Arc::new(ListArray::new(field, offsets, values, Some(kept.clone())))
        };
        let tokens = || items.iter().filter_map(|j| j.tokens.as_ref());
        let ids = arrow::array::UInt32Array::from_iter_values(tokens().flat_map(|t| t.0.iter().copied()));
        let logprobs = Float32Array::from_iter_values(tokens().flat_map(|t| t.1.iter().copied()));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(items.iter().map(|j| &j.text))),
            Arc::new(StringArray::from_iter_values(items.iter().map(|j| &j.outcome))),
            Arc::new(Float32Array::from_iter(items.iter().map(|j| j.score))),
            Arc::new(Float32Array::from_iter(items.iter().map(|j| j.mass))),
            lists(Arc::new(ids), &|t| t.0.len()),
            lists(Arc::new(logprobs), &|t| t.1.len()),
        ];
        let fields = judgement_fields();
        let item = DataType::Struct(fields.clone());
        let values = Arc::new(StructArray::new(fields, columns, None));
        let offsets = OffsetBuffer::from_lengths(rows.iter().map(Vec::len));
        Arc::new(ListArray::new(Arc::new(Field::new_list_field(item, false)), offsets, values, None))
    }
}
