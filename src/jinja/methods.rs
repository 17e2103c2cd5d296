//! Methods of Python's texts, lists and dicts. Methods that change a value are refused, as in transformers' sandbox.

use super::arguments::CallArgs;
use super::error::{Result, fail};
use super::runtime::Runtime;
use super::strings;
use super::value::{Dict, DictBuilder, Function, ListKind, Value, type_name};

const OF_DICTS: [&str; 5] = ["get", "keys", "values", "items", "copy"];
const OF_LISTS: [&str; 3] = ["count", "index", "copy"];
const CHANGE_DICTS: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
const CHANGE_LISTS: [&str; 8] = ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"];

/// Whether a value has a method with this name.
pub(super) fn exists(value: &Value, name: &str) -> bool {
    match value {
        Value::Text(_) => strings::METHODS.contains(&name),
        Value::Dict(_) => OF_DICTS.contains(&name),
        Value::List(list) => match list.kind {
            ListKind::List => OF_LISTS.contains(&name),
            ListKind::Tuple | ListKind::Range => OF_LISTS[..2].contains(&name),
            _ => false,
        },
        _ => false,
    }
}

/// Whether Python has the attribute and the sandbox forbids it.
pub(super) fn is_unsafe(value: &Value, name: &str) -> bool {
    let changes = match value {
        Value::Dict(_) => CHANGE_DICTS.contains(&name),
        Value::List(list) => list.kind == ListKind::List && CHANGE_LISTS.contains(&name),
        _ => false,
    };
    changes || (name.starts_with("__") && name.ends_with("__") && name.len() > 4)
}

/// Calls a method.
pub(super) fn call(cx: &mut dyn Runtime, object: &Value, name: &str, args: CallArgs) -> Result<Value> {
    match object {
        Value::Text(text) => strings::call(cx, text, name, args),
        Value::Dict(dict) => of_dict(cx, object, dict, name, args),
        Value::List(list) => of_list(cx, object, &list.items, name, args),
        Value::Function(Function::Dict) => from_keys(cx, args),
        other => fail(format!("'{}' object has no method '{name}'", type_name(other))),
    }
}

/// The pairs of a dict, each a tuple.
pub(super) fn pairs(dict: &Dict) -> Result<Vec<Value>> {
    dict.pairs.iter().map(|(k, v)| Value::sequence(ListKind::Tuple, vec![k.clone(), v.clone()])).collect()
}

fn of_dict(cx: &mut dyn Runtime, object: &Value, dict: &Dict, name: &str, args: CallArgs) -> Result<Value> {
    if name == "get" {
        let given = args.positional.len();
        let mut values = args.only_positional(name)?.into_iter();
        return match (values.next(), values.next(), values.next()) {
            (Some(key), default, None) => {
                Ok(dict.get(&key, cx.budget())?.cloned().unwrap_or(default.unwrap_or(Value::None)))
            }
            _ => fail(format!("get expected 1 or 2 arguments, got {given}")),
        };
    }
    args.exactly::<0>(name)?;
    cx.budget().spend_items(dict.pairs.len().saturating_mul(2))?;
    match name {
        "keys" => Value::sequence(ListKind::View("keys"), dict.pairs.iter().map(|(k, _)| k.clone()).collect()),
        "values" => Value::sequence(ListKind::View("values"), dict.pairs.iter().map(|(_, v)| v.clone()).collect()),
        "items" => Value::sequence(ListKind::View("items"), pairs(dict)?),
        _ => Ok(object.clone()),
    }
}

fn of_list(cx: &mut dyn Runtime, object: &Value, items: &[Value], name: &str, args: CallArgs) -> Result<Value> {
    if name == "copy" {
        args.exactly::<0>(name)?;
        return Ok(object.clone());
    }
    let [wanted] = args.exactly(name)?;
    let mut count = 0;
    for (at, item) in items.iter().enumerate() {
        if item.equals(&wanted, cx.budget())? {
            if name == "index" {
                return Ok(Value::Int(at as i64));
            }
            count += 1;
        }
    }
    if name == "index" { fail("the value is not in the list") } else { Ok(Value::Int(count)) }
}

fn from_keys(cx: &mut dyn Runtime, args: CallArgs) -> Result<Value> {
    let [keys, value] = args.bind("fromkeys", ["iterable", "value"])?;
    let mut dict = DictBuilder::default();
    for key in keys.unwrap_or(Value::None).elements(cx.budget())? {
        dict.insert(key, value.clone().unwrap_or(Value::None), cx.budget())?;
    }
    dict.finish()
}
