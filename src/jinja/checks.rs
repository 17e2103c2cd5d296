//! Jinja2's tests, which follow `is`.

use super::arguments::CallArgs;
use super::ast::CompareOp;
use super::chars::is_cased;
use super::error::{Result, TemplateError, TemplateErrorKind, excerpt, fail};
use super::operators::compare;
use super::runtime::Runtime;
use super::value::{Number, Value, type_name};

/// Whether `value is name(args)`.
pub(super) fn holds(cx: &mut dyn Runtime, name: &str, value: &Value, args: CallArgs) -> Result<bool> {
    let comparison = match name {
        "eq" | "equalto" | "==" => Some(CompareOp::Equal),
        "ne" | "!=" => Some(CompareOp::NotEqual),
        "lt" | "lessthan" | "<" => Some(CompareOp::Less),
        "le" | "<=" => Some(CompareOp::LessOrEqual),
        "gt" | "greaterthan" | ">" => Some(CompareOp::Greater),
        "ge" | ">=" => Some(CompareOp::GreaterOrEqual),
        "in" => Some(CompareOp::In),
        _ => None,
    };
    if let Some(comparison) = comparison {
        let [other] = args.exactly(name)?;
        return compare(value, comparison, &other, cx.budget());
    }
    match name {
        "divisibleby" => {
            let [divisor] = args.exactly(name)?;
            return Ok(remainder(value, &divisor)? == 0);
        }
        "sameas" => {
            let [other] = args.exactly(name)?;
            let same_kind = type_name(value) == type_name(&other);
            return Ok(same_kind && value.equals(&other, cx.budget())?);
        }
        _ => {}
    }
    args.exactly::<0>(name)?;
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.number().is_some(),
        "string" => matches!(value, Value::Text(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "iterable" => {
            matches!(value, Value::Undefined(_) | Value::Text(_) | Value::List(_) | Value::Dict(_) | Value::Loop(_))
        }
        "sequence" => is_sequence(value),
        // Jinja2's `Undefined` can be called, to say that it is undefined.
        "callable" => {
            matches!(
                value,
                Value::Undefined(_) | Value::Function(_) | Value::Macro(_) | Value::Method(_) | Value::Loop(_)
            )
        }
        "odd" => remainder(value, &Value::Int(2))? == 1,
        "even" => remainder(value, &Value::Int(2))? == 0,
        "lower" => is_cased(&cx.display(value)?, char::is_uppercase, char::is_lowercase),
        "upper" => is_cased(&cx.display(value)?, char::is_lowercase, char::is_uppercase),
        "escaped" => false,
        "filter" => super::filters::exists(&cx.display(value)?),
        _ => {
            let name = excerpt(name);
            return Err(TemplateError::new(TemplateErrorKind::Runtime, format!("No test named '{name}'.")));
        }
    })
}

/// Whether a value has a length and numbered elements.
fn is_sequence(value: &Value) -> bool {
    match value {
        Value::Undefined(_) | Value::Text(_) | Value::Dict(_) => true,
        Value::List(list) => !matches!(list.kind, super::value::ListKind::Generator | super::value::ListKind::View(_)),
        _ => false,
    }
}

fn remainder(value: &Value, divisor: &Value) -> Result<i64> {
    match (value.number(), divisor.number()) {
        (Some(Number::Int(n)), Some(Number::Int(d))) if d != 0 => Ok(n.checked_rem_euclid(d).unwrap_or(0)),
        (Some(Number::Float(_)), _) | (_, Some(Number::Float(_))) => fail("a whole number is needed here"),
        (Some(_), Some(_)) => fail("integer modulo by zero"),
        _ => fail(format!("not all arguments converted during string formatting: '{}'", type_name(value))),
    }
}
