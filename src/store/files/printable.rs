//! Conversion of columns to types that Arrow's JSON writer and formatter can print.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Fields, Schema};

use crate::error::{Error, Result};

/// The rows with every time zone as UTC, map keys as text, and bytes as UTF-8 text. Points in time stay the
/// same, because a Parquet file stores them in UTC, whatever zone it names.
///
/// # Errors
/// Bytes are not UTF-8 text.
pub(crate) fn as_printable(rows: &RecordBatch) -> Result<RecordBatch> {
    converted(rows, true)
}

/// As `as_printable`, but bytes stay bytes, which are printed in hexadecimal.
///
/// # Errors
/// A column has a type that cannot be printed.
pub fn printable_with_bytes(rows: &RecordBatch) -> Result<RecordBatch> {
    converted(rows, false)
}

fn converted(rows: &RecordBatch, text: bool) -> Result<RecordBatch> {
    let schema = rows.schema();
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in schema.fields().iter().zip(rows.columns()) {
        let kind = printable(field.data_type(), text);
        let column = if kind == *field.data_type() {
            Arc::clone(column)
        } else {
            let cast = cast_with_options(column, &kind, &options);
            cast.map_err(|e| Error::user(format!("column `{}`: {e}", field.name())))?
        };
        fields.push(Field::new(field.name(), kind, true));
        columns.push(column);
    }
    if columns.is_empty() {
        return Ok(rows.clone());
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// Printable type for values of a type.
fn printable(kind: &DataType, text: bool) -> DataType {
    use DataType as T;
    let field =
        |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(printable(field.data_type(), text)));
    match kind {
        T::Timestamp(unit, Some(_)) => T::Timestamp(*unit, Some("+00:00".into())),
        T::Binary | T::BinaryView if text => T::Utf8,
        T::LargeBinary if text => T::LargeUtf8,
        T::Dictionary(_, value) => printable(value, text),
        T::List(item) => T::List(field(item)),
        T::LargeList(item) => T::LargeList(field(item)),
        T::FixedSizeList(item, length) => T::FixedSizeList(field(item), *length),
        T::Struct(fields) => T::Struct(fields.iter().map(field).collect::<Fields>()),
        T::Map(entries, sorted) => T::Map(Arc::new(map_entries(entries, text)), *sorted),
        other => other.clone(),
    }
}

/// The entries of a map with keys as text.
fn map_entries(entries: &Field, text: bool) -> Field {
    let DataType::Struct(fields) = entries.data_type() else { return entries.clone() };
    let mut of_entry = Vec::new();
    for (at, field) in fields.iter().enumerate() {
        let kind = match printable(field.data_type(), text) {
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8,
            _ if at == 0 => DataType::Utf8,
            kind => kind,
        };
        of_entry.push(field.as_ref().clone().with_data_type(kind));
    }
    entries.clone().with_data_type(DataType::Struct(Fields::from(of_entry)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, BinaryArray, Int32Builder, MapBuilder, StringBuilder, TimestampMicrosecondArray};

    #[test]
    fn zones_bytes_and_maps_are_printed() {
        let mut map = MapBuilder::new(None, Int32Builder::new(), StringBuilder::new());
        map.keys().append_value(7);
        map.values().append_value("x");
        map.append(true).unwrap();
        let at = TimestampMicrosecondArray::from(vec![1_709_208_000_000_000]).with_timezone("Europe/Paris");
        let columns: [(&str, ArrayRef); 3] = [
            ("at", Arc::new(at)),
            ("map", Arc::new(map.finish())),
            ("text", Arc::new(BinaryArray::from(vec![b"caf\xc3\xa9".as_slice()]))),
        ];
        let rows = as_printable(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        let mut text = Vec::new();
        let mut writer = arrow::json::LineDelimitedWriter::new(&mut text);
        writer.write(&rows).unwrap();
        writer.finish().unwrap();
        let want = "{\"at\":\"2024-02-29T12:00:00Z\",\"map\":{\"7\":\"x\"},\"text\":\"caf\u{e9}\"}\n";
        assert_eq!(String::from_utf8(text).unwrap(), want);
        let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![b"\xff".as_slice()]));
        let rows = RecordBatch::try_from_iter([("raw", bytes)]).unwrap();
        assert!(as_printable(&rows).unwrap_err().to_string().contains("column `raw`"));
        assert!(printable_with_bytes(&rows).is_ok());
    }
}
