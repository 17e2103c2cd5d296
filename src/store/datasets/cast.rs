//! Casts a file's columns to the types of a named schema, with a reason for every row that does not fit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, RecordBatchOptions, StructArray, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options, filter_record_batch};
use arrow::datatypes::{DataType, Field, Fields, Float32Type, Float64Type, Int64Type, Schema as ArrowSchema};
use arrow::error::ArrowError;

use super::context::{MESSAGE_KEYS, rows_with_a_value};
use crate::data::Schema;

/// Rows of a batch that do not fit, with the first reason of each.
pub(crate) type Misfits = BTreeMap<usize, String>;

fn is_int(t: &DataType) -> bool {
    t.is_integer()
}
fn is_float(t: &DataType) -> bool {
    matches!(t, DataType::Float16 | DataType::Float32 | DataType::Float64)
}

/// The item type of a list type.
fn item(t: &DataType) -> Option<&Arc<Field>> {
    match t {
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => Some(f),
        _ => None,
    }
}

/// Whether values of type `have` can be cast to `want` without loss, apart from rows that overflow. Names and
/// nullability of list items are ignored; only actual nulls matter.
pub(crate) fn castable(have: &DataType, want: &DataType) -> bool {
    use DataType as T;
    if let T::Dictionary(_, value) = have {
        return castable(value, want);
    }
    match want {
        T::Utf8 => matches!(have, T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView),
        T::UInt32 => is_int(have),
        T::Float32 | T::Float64 => is_float(have) || is_int(have),
        T::List(want) => item(have).is_some_and(|have| castable(have.data_type(), want.data_type())),
        T::Struct(want) => match have {
            T::Struct(have) => want.iter().all(|w| match have.iter().find(|h| h.name() == w.name()) {
                Some(h) => castable(h.data_type(), w.data_type()) || (w.is_nullable() && *h.data_type() == T::Null),
                None => w.is_nullable(),
            }),
            _ => false,
        },
        _ => have == want,
    }
}

/// Readable name of a type.
pub(crate) fn type_name(t: &DataType) -> String {
    use DataType as T;
    match t {
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "text".to_owned(),
        T::Dictionary(_, value) => type_name(value),
        T::List(f) | T::LargeList(f) | T::FixedSizeList(f, _) => format!("list of {}", type_name(f.data_type())),
        T::Struct(fields) => {
            let fields: Vec<_> = fields.iter().map(|f| format!("{}: {}", f.name(), type_name(f.data_type()))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        T::Boolean | T::Null | T::Binary => t.to_string().to_lowercase(),
        _ if is_int(t) || is_float(t) => t.to_string().to_lowercase(),
        _ => t.to_string(),
    }
}

/// A value for a message, at most 40 characters.
fn display_value(array: &dyn Array, row: usize) -> String {
    let text = arrow::util::display::array_value_to_string(array, row).unwrap_or_default();
    text.chars().take(40).collect()
}

/// Casts a leaf column: text or numbers.
fn cast_leaf(array: &ArrayRef, want: &DataType, bad: &mut Misfits) -> Result<ArrayRef, ArrowError> {
    // A "safe" cast turns values that do not fit into null, so that every such row can be reported.
    let options = CastOptions { safe: true, ..CastOptions::default() };
    let out = cast_with_options(array, want, &options)?;
    let mut reject = |row: usize| {
        let what = if is_int(array.data_type()) || is_float(array.data_type()) {
            display_value(array, row)
        } else {
            "it".into()
        };
        bad.entry(row).or_insert_with(|| format!("{what} does not fit in {}", type_name(want)));
    };
    for row in (0..out.len()).filter(|&r| out.is_null(r) && array.is_valid(r)) {
        reject(row);
    }
    let as_double = |a: &ArrayRef| cast_with_options(a, &DataType::Float64, &options);
    if is_float(array.data_type()) && *want == DataType::Float32 && *array.data_type() != DataType::Float32 {
        let (from, to) = (as_double(array)?, out.as_primitive::<Float32Type>());
        let from = from.as_primitive::<Float64Type>();
        for row in (0..to.len()).filter(|&r| to.is_valid(r) && from.value(r).is_finite() && !to.value(r).is_finite()) {
            reject(row);
        }
    }
    if is_int(array.data_type()) && is_float(want) {
        // An integer that the float cannot represent exactly becomes another one when cast back.
        let (from, to) = (cast_with_options(array, &DataType::Int64, &options)?, as_double(&out)?);
        let (from, to) = (from.as_primitive::<Int64Type>(), to.as_primitive::<Float64Type>());
        for row in (0..to.len()).filter(|&r| to.is_valid(r)) {
            if from.is_null(row) || i128::from(from.value(row)) != to.value(row) as i128 {
                reject(row);
            }
        }
    }
    Ok(out)
}

fn note_nulls(array: &dyn Array, bad: &mut Misfits) {
    if array.null_count() > 0 {
        for row in (0..array.len()).filter(|&r| array.is_null(r)) {
            bad.entry(row).or_insert_with(|| "it is null".to_owned());
        }
    }
}

/// Casts a column to `want` with every inner field nullable, and records rows that do not fit in `bad`.
fn cast_column(array: &ArrayRef, want: &DataType, bad: &mut Misfits) -> Result<ArrayRef, ArrowError> {
    let array = match array.data_type() {
        DataType::Null => return Ok(new_null_array(want, array.len())),
        DataType::Dictionary(_, value) => &cast_with_options(array, value, &CastOptions::default())?,
        _ => array,
    };
    match want {
        DataType::List(want) => {
            let list = match array.data_type() {
                DataType::List(_) => array.clone(),
                t => {
                    let inner = item(t).ok_or_else(|| ArrowError::CastError(format!("{t} is not a list")))?;
                    cast_with_options(array, &DataType::List(inner.clone()), &CastOptions::default())?
                }
            };
            let list = list.as_list::<i32>();
            let mut bad_items = Misfits::new();
            let items = cast_column(list.values(), want.data_type(), &mut bad_items)?;
            if !want.is_nullable() {
                note_nulls(&items, &mut bad_items);
            }
            for (item, reason) in bad_items {
                // The row that contains the item. Items outside of all rows are ignored.
                let row = list.value_offsets().partition_point(|&o| o as usize <= item);
                if (1..=list.len()).contains(&row) && list.is_valid(row - 1) {
                    let at = item - list.value_offsets()[row - 1] as usize;
                    bad.entry(row - 1).or_insert_with(|| format!("item {at}: {reason}"));
                }
            }
            let field = Arc::new(Field::new_list_field(items.data_type().clone(), true));
            Ok(Arc::new(ListArray::try_new(field, list.offsets().clone(), items, list.nulls().cloned())?))
        }
        DataType::Struct(want) => {
            let from = array.as_struct_opt().ok_or_else(|| ArrowError::CastError("not a struct".into()))?;
            let (mut fields, mut columns) = (Vec::new(), Vec::new());
            for w in want {
                let column = match from.column_by_name(w.name()) {
                    Some(column) => {
                        let mut bad_values = Misfits::new();
                        let column = cast_column(column, w.data_type(), &mut bad_values)?;
                        if !w.is_nullable() {
                            note_nulls(&column, &mut bad_values);
                        }
                        for (row, reason) in bad_values {
                            if from.is_valid(row) {
                                bad.entry(row).or_insert_with(|| format!("`{}`: {reason}", w.name()));
                            }
                        }
                        column
                    }
                    None => new_null_array(w.data_type(), from.len()),
                };
                fields.push(Field::new(w.name(), column.data_type().clone(), true));
                columns.push(column);
            }
            for key in MESSAGE_KEYS.iter().filter(|key| want.find(key).is_none()) {
                let Some(column) = from.column_by_name(key) else { continue };
                for row in rows_with_a_value(column)?.into_iter().filter(|&row| from.is_valid(row)) {
                    bad.entry(row).or_insert_with(|| format!("it has `{key}`, and a message here is its text only"));
                }
            }
            let nulls = from.nulls().cloned();
            Ok(Arc::new(StructArray::try_new_with_length(Fields::from(fields), columns, nulls, from.len())?))
        }
        _ => cast_leaf(array, want, bad),
    }
}

/// Fields of messages other than role and content, with the number of rows that have a value there.
pub(crate) fn message_extras(column: &ArrayRef) -> Vec<(String, u64)> {
    if let DataType::LargeList(item) | DataType::FixedSizeList(item, _) = column.data_type() {
        let list = cast_with_options(column, &DataType::List(item.clone()), &CastOptions::default());
        return list.map_or_else(|_| Vec::new(), |list| message_extras(&list));
    }
    let Some(list) = column.as_list_opt::<i32>() else { return Vec::new() };
    let Some(messages) = list.values().as_struct_opt() else { return Vec::new() };
    let other = |name: &str| !matches!(name, "role" | "content") && !MESSAGE_KEYS.contains(&name);
    let fields = messages.fields().iter().zip(messages.columns()).filter(|(field, _)| other(field.name()));
    let counted = fields.map(|(field, values)| {
        let given = rows_with_a_value(values).unwrap_or_default();
        let rows: BTreeSet<usize> =
            given.into_iter().map(|item| list.value_offsets().partition_point(|&o| o as usize <= item)).collect();
        (field.name().clone(), rows.len() as u64)
    });
    counted.filter(|(_, rows)| *rows > 0).collect()
}

/// Gives an array of valid values the exact type, including the nullability of inner fields.
fn with_exact_type(array: &ArrayRef, want: &DataType) -> Result<ArrayRef, ArrowError> {
    Ok(match want {
        DataType::List(field) => {
            let list = array.as_list::<i32>();
            let items = with_exact_type(list.values(), field.data_type())?;
            Arc::new(ListArray::try_new(field.clone(), list.offsets().clone(), items, list.nulls().cloned())?)
        }
        DataType::Struct(fields) => {
            let from = array.as_struct();
            let columns: Result<Vec<_>, _> =
                from.columns().iter().zip(fields).map(|(c, f)| with_exact_type(c, f.data_type())).collect();
            Arc::new(StructArray::try_new_with_length(fields.clone(), columns?, from.nulls().cloned(), from.len())?)
        }
        _ => array.clone(),
    })
}

/// Builds a batch of `schema` from `columns` (in its order; `None` for a missing nullable column). Rows that
/// do not fit are left out and returned with the reason.
pub(crate) fn cast_batch(
    schema: &Schema,
    columns: &[Option<ArrayRef>],
    rows: usize,
) -> Result<(RecordBatch, Misfits), ArrowError> {
    let mut bad = Misfits::new();
    let (mut fields, mut fitted) = (Vec::new(), Vec::new());
    for (spec, column) in schema.columns.iter().zip(columns) {
        let want = spec.kind.arrow();
        let mut reasons = Misfits::new();
        let out = match column {
            Some(column) => cast_column(column, &want, &mut reasons)?,
            None => new_null_array(&want, rows),
        };
        if !spec.nullable {
            note_nulls(&out, &mut reasons);
        }
        for (row, reason) in reasons {
            bad.entry(row).or_insert_with(|| format!("column `{}`: {reason}", spec.name));
        }
        fields.push(Field::new(spec.name, out.data_type().clone(), true));
        fitted.push(out);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let mut batch = RecordBatch::try_new_with_options(Arc::new(ArrowSchema::new(fields)), fitted, &options)?;
    if !bad.is_empty() {
        let keep: BooleanArray = (0..rows).map(|row| Some(!bad.contains_key(&row))).collect();
        batch = filter_record_batch(&batch, &keep)?;
    }
    let exact: Result<Vec<_>, _> =
        batch.columns().iter().zip(schema.columns).map(|(c, spec)| with_exact_type(c, &spec.kind.arrow())).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok((RecordBatch::try_new_with_options(schema.arrow(), exact?, &options)?, bad))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::named;
    use arrow::array::{Int64Array, LargeStringArray, StringViewArray};

    #[test]
    fn foreign_types_are_taken_and_misfits_named() {
        let columns: Vec<Option<ArrayRef>> = vec![
            Some(Arc::new(LargeStringArray::from(vec!["a", "b", "c"]))),
            Some(Arc::new(StringViewArray::from(vec!["x", "y", "z"]))),
            Some(Arc::new(LargeStringArray::from(vec![Some("j"), None, Some("j")]))),
            Some(Arc::new(Int64Array::from(vec![3, 4, (1 << 24) + 1]))),
        ];
        for (column, spec) in columns.iter().zip(named::EFT.columns) {
            assert!(castable(column.as_ref().unwrap().data_type(), &spec.kind.arrow()));
        }
        let (batch, bad) = cast_batch(&named::EFT, &columns, 3).unwrap();
        assert_eq!(batch.num_rows(), 1);
        assert_eq!(bad[&1], "column `judgement`: it is null");
        assert_eq!(bad[&2], "column `score`: 16777217 does not fit in float32");
        assert!(!castable(&DataType::Utf8, &DataType::Float32));
        assert!(!castable(&DataType::Utf8, &DataType::new_list(DataType::Utf8, true)));
    }
}
