//! Evaluated arguments of a call.

use std::sync::Arc;

use super::error::{Result, fail};
use super::value::{Value, type_name};

/// Arguments by position and by name.
#[derive(Default)]
pub(super) struct CallArgs {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl CallArgs {
    /// One value for each parameter of a function, `None` where it is not given.
    pub(super) fn bind<const N: usize>(self, function: &str, names: [&str; N]) -> Result<[Option<Value>; N]> {
        let mut bound: [Option<Value>; N] = [const { None }; N];
        let given = self.positional.len();
        if given > N {
            return fail(format!("{function}() takes at most {N} arguments ({given} given)"));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|n| *n == &*name) {
                Some(at) if bound[at].is_none() => bound[at] = Some(value),
                Some(_) => return fail(format!("{function}() got multiple values for argument '{name}'")),
                None => return fail(format!("{function}() got an unexpected keyword argument '{name}'")),
            }
        }
        Ok(bound)
    }

    /// Exactly N arguments by position.
    pub(super) fn exactly<const N: usize>(self, function: &str) -> Result<[Value; N]> {
        let given = self.positional.len();
        let values = self.only_positional(function)?;
        match <[Value; N]>::try_from(values) {
            Ok(values) => Ok(values),
            Err(_) => fail(format!("{function}() takes exactly {N} argument(s) ({given} given)")),
        }
    }

    pub(super) fn only_positional(self, function: &str) -> Result<Vec<Value>> {
        if !self.named.is_empty() {
            return fail(format!("{function}() takes no keyword arguments"));
        }
        Ok(self.positional)
    }
}

/// A whole number that was given for a parameter.
pub(super) fn whole(value: &Value) -> Result<i64> {
    match value {
        Value::Int(n) => Ok(*n),
        Value::Bool(b) => Ok((*b).into()),
        Value::Undefined(message) => Value::undefined_error(message),
        other => fail(format!("'{}' object cannot be interpreted as an integer", type_name(other))),
    }
}

/// A text that was given for a parameter of a string method.
pub(super) fn text(value: &Value) -> Result<&Arc<str>> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Undefined(message) => Value::undefined_error(message),
        other => fail(format!("a str is needed here, not '{}'", type_name(other))),
    }
}
