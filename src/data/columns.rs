//! Typed access to a batch's columns, and builders for the list columns of the named schemas.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, Float32Array, Float64Array, ListArray, RecordBatch, StringArray,
    StructArray, UInt32Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Float32Type, Float64Type, UInt32Type};

use super::schema::message_fields;
use crate::error::{Error, Result};

/// Access to a batch's columns by name. Errors name a column that is missing or has another type.
#[derive(Clone, Copy)]
pub struct Columns<'a>(pub &'a RecordBatch);

/// A list column: item `i` is a slice of the flat values.
pub struct List<'a, V: ?Sized> {
    list: &'a ListArray,
    values: &'a V,
}

impl<'a> Columns<'a> {
    fn column(self, name: &str) -> Result<&'a ArrayRef> {
        self.0.column_by_name(name).ok_or_else(|| {
            let have: Vec<_> = self.0.schema_ref().fields().iter().map(|f| f.name().clone()).collect();
            Error::user(format!("column `{name}` is missing; there are: {}", have.join(", ")))
        })
    }
    pub(super) fn typed<T>(self, name: &str, want: &str, get: impl FnOnce(&'a ArrayRef) -> Option<T>) -> Result<T> {
        let column = self.column(name)?;
        get(column).ok_or_else(|| Error::user(format!("column `{name}` is {}, expected {want}", column.data_type())))
    }
    /// A text column.
    ///
    /// # Errors
    /// The column is missing or has another type. The same holds for the methods below.
    pub fn text(self, name: &str) -> Result<&'a StringArray> {
        self.typed(name, "text", |c| c.as_string_opt::<i32>())
    }
    /// An unsigned 32-bit column.
    pub fn uint(self, name: &str) -> Result<&'a UInt32Array> {
        self.typed(name, "unsigned 32-bit integers", |c| c.as_primitive_opt::<UInt32Type>())
    }
    /// A 32-bit float column.
    pub fn float(self, name: &str) -> Result<&'a Float32Array> {
        self.typed(name, "32-bit floats", |c| c.as_primitive_opt::<Float32Type>())
    }
    /// A 64-bit float column.
    pub fn double(self, name: &str) -> Result<&'a Float64Array> {
        self.typed(name, "64-bit floats", |c| c.as_primitive_opt::<Float64Type>())
    }
    /// A column of 128-bit hashes.
    pub fn hashes(self, name: &str) -> Result<&'a FixedSizeBinaryArray> {
        self.typed(name, "hashes of 16 bytes", |c| c.as_fixed_size_binary_opt().filter(|c| c.value_length() == 16))
    }
    /// A list column of token ids.
    pub fn tokens(self, name: &str) -> Result<List<'a, UInt32Array>> {
        self.typed(name, "lists of token ids", |c| {
            let list = c.as_list_opt::<i32>()?;
            Some(List { list, values: list.values().as_primitive_opt::<UInt32Type>()? })
        })
    }
    /// A list column of 32-bit floats.
    pub fn floats(self, name: &str) -> Result<List<'a, Float32Array>> {
        self.typed(name, "lists of floats", |c| {
            let list = c.as_list_opt::<i32>()?;
            Some(List { list, values: list.values().as_primitive_opt::<Float32Type>()? })
        })
    }
    /// A list column of messages, each row as (role, content) pairs.
    pub fn messages(self, name: &str) -> Result<Messages<'a>> {
        self.typed(name, "lists of {role, content}", |c| {
            let list = c.as_list_opt::<i32>()?;
            let items = list.values().as_struct_opt()?;
            let role = items.column_by_name("role")?.as_string_opt::<i32>()?;
            let content = items.column_by_name("content")?.as_string_opt::<i32>()?;
            Some(Messages { list, role, content })
        })
    }
}

fn span(list: &ListArray, row: usize) -> std::ops::Range<usize> {
    let offsets = list.value_offsets();
    offsets[row] as usize..offsets[row + 1] as usize
}

impl<'a> List<'a, UInt32Array> {
    /// The items of one row.
    pub fn row(&self, row: usize) -> &'a [u32] {
        &self.values.values()[span(self.list, row)]
    }
}
impl<'a> List<'a, Float32Array> {
    /// The items of one row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.values.values()[span(self.list, row)]
    }
}

/// A column of conversations.
pub struct Messages<'a> {
    list: &'a ListArray,
    role: &'a StringArray,
    content: &'a StringArray,
}
impl<'a> Messages<'a> {
    /// Whether a row is not null.
    pub fn is_valid(&self, row: usize) -> bool {
        self.list.is_valid(row)
    }
    /// The (role, content) pairs of one row.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        span(self.list, row).map(|i| (self.role.value(i), self.content.value(i)))
    }
}

fn offsets<T>(rows: &[Vec<T>]) -> OffsetBuffer<i32> {
    OffsetBuffer::from_lengths(rows.iter().map(Vec::len))
}
fn list(offsets: OffsetBuffer<i32>, values: ArrayRef) -> ArrayRef {
    Arc::new(ListArray::new(Arc::new(Field::new_list_field(values.data_type().clone(), false)), offsets, values, None))
}

impl List<'_, ()> {
    /// A list column of token ids.
    pub fn of_tokens(rows: &[Vec<u32>]) -> ArrayRef {
        list(offsets(rows), Arc::new(UInt32Array::from_iter_values(rows.iter().flatten().copied())))
    }
    /// A list column of floats.
    pub fn of_floats(rows: &[Vec<f32>]) -> ArrayRef {
        list(offsets(rows), Arc::new(Float32Array::from_iter_values(rows.iter().flatten().copied())))
    }
    /// A list column of text.
    pub fn of_texts<T: AsRef<str>>(rows: &[Vec<T>]) -> ArrayRef {
        list(offsets(rows), Arc::new(StringArray::from_iter_values(rows.iter().flatten())))
    }
    /// A list column of (role, content) messages.
    pub fn of_messages(rows: &[Vec<(String, String)>]) -> ArrayRef {
        let role: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().flatten().map(|m| &m.0)));
        let content: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().flatten().map(|m| &m.1)));
        list(offsets(rows), Arc::new(StructArray::new(message_fields(), vec![role, content], None)))
    }
}
