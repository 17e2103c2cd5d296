//! What filters, tests and methods need from the interpreter that calls them.

use std::sync::Arc;

use super::arguments::CallArgs;
use super::budget::Budget;
use super::error::Result;
use super::print::{display, repr};
use super::value::Value;

/// A running template. Attributes and elements are here and not in [`Value`], because those of a namespace or of `loop`
/// are state of the interpreter.
pub(super) trait Runtime {
    /// The budget that every operation pays from.
    fn budget(&mut self) -> &mut Budget;

    /// `value.name`: an attribute, else an element.
    fn attribute(&mut self, value: &Value, name: &Arc<str>) -> Result<Value>;

    /// `value[key]`: an element, else an attribute.
    fn item(&mut self, value: &Value, key: &Value) -> Result<Value>;

    /// `value is name(args)`.
    fn test(&mut self, name: &str, value: &Value, args: CallArgs) -> Result<bool>;

    /// An attribute by a path such as `function.name` or `0`, as the filters take it.
    fn path(&mut self, value: &Value, path: &Value) -> Result<Value> {
        let Value::Text(text) = path else { return self.item(value, path) };
        self.budget().spend_bytes(text.len().saturating_mul(4))?;
        let mut value = value.clone();
        for part in text.split('.') {
            let key = match part.parse() {
                Ok(number) if part.bytes().all(|b| b.is_ascii_digit()) => Value::Int(number),
                _ => Value::text(part),
            };
            value = self.item(&value, &key)?;
        }
        Ok(value)
    }

    /// Python's `str(..)`.
    fn display(&mut self, value: &Value) -> Result<String> {
        display(value, self.budget())
    }

    /// Python's `repr(..)`.
    fn repr(&mut self, value: &Value) -> Result<String> {
        repr(value, self.budget())
    }
}
