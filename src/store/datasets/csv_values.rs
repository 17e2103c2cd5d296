//! Fields of CSV as values of a schema's columns.

use serde_json::{Map, Value};

use super::normalize::has_default;
use crate::data::{Schema, Type, parse_json};

/// Converts the text fields of a row to the types of a schema's columns, which the file calls `names`:
/// numbers, JSON lists, and null for an empty field whose column is nullable or has a default. Other fields
/// stay text, and are refused later if their column is not text.
pub(crate) fn as_typed(schema: &Schema, names: &[String], row: &mut Map<String, Value>) {
    for (column, name) in schema.columns.iter().zip(names) {
        let Some(Value::String(text)) = row.get(name) else { continue };
        let trimmed = text.trim();
        let value = match column.kind {
            _ if trimmed.is_empty() && (column.nullable || has_default(schema, column.name)) => Some(Value::Null),
            Type::UInt | Type::Float | Type::Double => serde_json::from_str(trimmed).ok().filter(Value::is_number),
            Type::Texts | Type::Tokens | Type::Floats | Type::Messages | Type::Judgements => {
                parse_json(trimmed.as_bytes()).ok().filter(Value::is_array)
            }
            Type::Text | Type::Hash => None,
        };
        if let Some(value) = value {
            row.insert(name.clone(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::named;

    #[test]
    fn fields_get_the_types_of_their_columns() {
        let names: Vec<String> = named::SCORES.columns.iter().map(|column| column.name.to_owned()).collect();
        let text = |value: &str| Value::from(value);
        let mut row = Map::from_iter([
            ("prompt".to_owned(), text("12")),
            ("score".to_owned(), text(" 3.5 ")),
            ("sample".to_owned(), text("x")),
            ("prompt_messages".to_owned(), text("")),
            ("other".to_owned(), text("4")),
        ]);
        as_typed(&named::SCORES, &names, &mut row);
        let want = json!({"prompt": "12", "score": 3.5, "sample": "x", "prompt_messages": null, "other": "4"});
        assert_eq!(Value::from(row), want);
    }
}
