//! Conditions of `--where COLUMN=VALUE`, which select the rows to show.

use std::cmp::Ordering;
use std::str::FromStr;

use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;

use crate::data::did_you_mean;
use crate::error::{Error, Result};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ConditionOp {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Contains,
}

/// Longer operators come first, so that `<=` is not read as `<`.
const OPERATORS: &[(&str, ConditionOp)] = &[
    ("!=", ConditionOp::NotEqual),
    ("<=", ConditionOp::AtMost),
    (">=", ConditionOp::AtLeast),
    ("=", ConditionOp::Equal),
    ("<", ConditionOp::Less),
    (">", ConditionOp::Greater),
    ("~", ConditionOp::Contains),
];

/// A column, an operator and a value, such as `score>=4`, `finish!=stop`, `prompt~river` or `score=null`.
///
/// Numbers compare as numbers and text as text; lists and structs compare as JSON text. `~` tests whether
/// the text contains the value. A null equals `null`, equals no other value, and is neither less nor
/// greater than any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    column: String,
    operator: ConditionOp,
    value: String,
}

impl FromStr for Condition {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let found = text.char_indices().find_map(|(at, _)| {
            let operator = OPERATORS.iter().find(|(sign, _)| text[at..].starts_with(sign))?;
            Some((at, operator))
        });
        match found {
            Some((at, (sign, operator))) if at > 0 => Ok(Self {
                column: text[..at].trim().to_owned(),
                operator: *operator,
                value: text[at + sign.len()..].trim().to_owned(),
            }),
            _ => Err(Error::user(format!(
                "`{text}` is not a condition: write COLUMN=VALUE, or !=, <, <=, >, >=, ~ for ="
            ))),
        }
    }
}

/// A condition that is bound to an existing column.
pub(super) struct Check {
    /// Position of the column among the columns read.
    pub column: usize,
    condition: Condition,
    number: Option<f64>,
}

impl Condition {
    /// Name of the column that the condition tests.
    pub fn column(&self) -> &str {
        &self.column
    }

    pub(super) fn check(&self, column: usize, field: &Field) -> Result<Check> {
        let number = self.value.parse::<f64>().ok();
        let numeric = field.data_type().is_numeric() && !matches!(field.data_type(), DataType::Decimal128(..));
        let null = self.value == "null" && matches!(self.operator, ConditionOp::Equal | ConditionOp::NotEqual);
        if numeric && number.is_none() && !null && self.operator != ConditionOp::Contains {
            let (name, value) = (&self.column, &self.value);
            return Err(Error::user(format!("the column `{name}` holds numbers, and `{value}` is not a number")));
        }
        Ok(Check { column, condition: self.clone(), number })
    }
}

/// The error for a column that does not exist.
pub(super) fn no_column(name: &str, all: &Schema) -> Error {
    let names: Vec<&str> = all.fields().iter().map(|f| f.name().as_str()).collect();
    Error::user(format!("column `{name}` not found")).help(did_you_mean(name, "available", &names))
}

impl Check {
    /// Whether the condition holds for a value.
    pub fn holds(&self, value: &Value) -> bool {
        let wanted = self.condition.value.as_str();
        let order = match value {
            Value::Null => None,
            Value::Number(n) => n.as_f64().zip(self.number).and_then(|(a, b)| a.partial_cmp(&b)),
            Value::String(s) => Some(s.as_str().cmp(wanted)),
            Value::Bool(b) => Some(if *b { "true" } else { "false" }.cmp(wanted)),
            nested => Some(nested.to_string().as_str().cmp(wanted)),
        };
        let equal = order == Some(Ordering::Equal) || (value.is_null() && wanted == "null");
        match self.condition.operator {
            ConditionOp::Equal => equal,
            ConditionOp::NotEqual => !equal,
            ConditionOp::Less => order == Some(Ordering::Less),
            ConditionOp::AtMost => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            ConditionOp::Greater => order == Some(Ordering::Greater),
            ConditionOp::AtLeast => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            ConditionOp::Contains => match value {
                Value::Null => false,
                Value::String(s) => s.contains(wanted),
                other => other.to_string().contains(wanted),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn holds(text: &str, kind: DataType, value: Value) -> bool {
        let condition: Condition = text.parse().unwrap();
        condition.check(0, &Field::new(condition.column(), kind, true)).unwrap().holds(&value)
    }

    #[test]
    fn numbers_text_and_nulls() {
        let (float, text) = (DataType::Float32, DataType::Utf8);
        assert!(holds("score>=4", float.clone(), json!(4.0)));
        assert!(holds("score=4", float.clone(), json!(4.0)) && !holds("score<4", float.clone(), json!(4.0)));
        assert!(holds("score>10", float.clone(), json!(9e1)), "as numbers, not as text");
        assert!(holds("score=null", float.clone(), Value::Null) && !holds("score=4", float.clone(), Value::Null));
        assert!(holds("score!=4", float.clone(), Value::Null) && !holds("score<9", float.clone(), Value::Null));
        assert!(holds("a=b=c", text.clone(), json!("b=c")), "the first operator counts");
        assert!(holds("a~ri", text.clone(), json!("a river")) && !holds("a~ri", text.clone(), Value::Null));
        assert!(holds("a<=b", text.clone(), json!("ab")) && holds("a!=x", text, json!("y")));
        assert!(holds("m~\"role\":\"user\"", DataType::Null, json!([{ "role": "user" }])));
    }

    #[test]
    fn what_is_no_condition_is_said() {
        for text in ["", "score", "=4", "~"] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
        let condition: Condition = "score=high".parse().unwrap();
        let error = condition.check(0, &Field::new("score", DataType::Float32, true)).err().unwrap();
        assert!(error.to_string().contains("`score` holds numbers"), "{error}");
    }
}
