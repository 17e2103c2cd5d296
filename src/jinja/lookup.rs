//! Attributes and elements of values, and the places of indices and slices.

use std::sync::Arc;

use super::budget::Budget;
use super::error::{Result, excerpt};
use super::methods;
use super::print::repr;
use super::value::{ListKind, Value, ValueList, type_name};

/// The undefined value of a look-up that found nothing, with Jinja2's message.
pub(super) fn missing(object: &Value, name: &Value, budget: &mut Budget) -> Result<Value> {
    let kind = match object {
        Value::None => "None".to_string(),
        other => format!("{} object", type_name(other)),
    };
    let message = match name {
        Value::Text(name) => format!("'{kind}' has no attribute '{}'", excerpt(name)),
        other => format!("{kind} has no element {}", repr(other, budget)?),
    };
    Ok(Value::Undefined(message.into()))
}

pub(super) fn method(value: &Value, name: &Arc<str>) -> Value {
    Value::Method(Arc::new((value.clone(), Arc::clone(name))))
}

/// The result of Python's `getattr` on a value, within the sandbox of transformers.
pub(super) fn python_attribute(value: &Value, name: &Arc<str>) -> Option<Value> {
    if methods::exists(value, name) {
        return Some(method(value, name));
    }
    if methods::is_unsafe(value, name) {
        let kind = type_name(value);
        return Some(Value::Undefined(format!("access to attribute '{name}' of '{kind}' object is unsafe.").into()));
    }
    None
}

pub(super) fn is_indexed(list: &ValueList) -> bool {
    matches!(list.kind, ListKind::List | ListKind::Tuple | ListKind::Range)
}

/// The position of an index, which may count from the end.
pub(super) fn place(index: i64, length: usize) -> Option<usize> {
    let length = length as i64;
    let at = if index < 0 { index.checked_add(length)? } else { index };
    (0..length).contains(&at).then_some(at as usize)
}

/// The positions of `[start:stop:step]`, by Python's rules.
pub(super) fn slice_places(bounds: [Option<i64>; 3], length: usize) -> impl Iterator<Item = usize> {
    let [start, stop, step] = bounds;
    let length = length as i64;
    let step = step.unwrap_or(1);
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp = |bound: i64| {
        let from_start = if bound < 0 { bound.saturating_add(length) } else { bound };
        from_start.clamp(lowest, highest)
    };
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, stop) = (start.map_or(first, clamp), stop.map_or(last, clamp));
    let mut at = Some(start);
    std::iter::from_fn(move || {
        let here = at.filter(|at| if step > 0 { *at < stop } else { *at > stop })?;
        at = here.checked_add(step);
        Some(here as usize)
    })
}
