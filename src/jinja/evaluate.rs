//! Evaluates expressions.

use std::sync::Arc;

use super::arguments::{CallArgs, whole};
use super::ast::{Apply, Arguments, CompareOp, Expr, ExprStep};
use super::budget::Budget;
use super::error::{Result, TemplateError, TemplateErrorKind, fail};
use super::interpreter::Interpreter;
use super::lookup::{is_indexed, method, missing, place, python_attribute, slice_places};
use super::operators::{arithmetic, compare};
use super::print::display;
use super::runtime::Runtime;
use super::value::{DictBuilder, Function, ListKind, Value, type_name};
use super::{checks, filters, methods};

/// Maximum length of a `range`, as in Jinja2's sandbox.
const MAX_RANGE: i64 = 100_000;

impl<'t> Interpreter<'t> {
    /// Evaluates an expression whose value must be defined (in strict mode).
    pub(super) fn eval(&mut self, expr: &'t Expr) -> Result<Value> {
        let value = self.eval_any(expr)?;
        self.must_be_defined(&value)?;
        Ok(value)
    }

    fn must_be_defined(&self, value: &Value) -> Result<()> {
        match value {
            Value::Undefined(message) if self.options.strict => Value::undefined_error(message),
            _ => Ok(()),
        }
    }

    /// Evaluates an expression whose value may be undefined, for tests such as `is defined`.
    fn eval_any(&mut self, expr: &'t Expr) -> Result<Value> {
        self.budget.enter()?;
        let value = self.eval_inner(expr)?;
        self.budget.leave();
        Ok(value)
    }

    fn eval_all(&mut self, exprs: &'t [Expr]) -> Result<Vec<Value>> {
        exprs.iter().map(|e| self.eval(e)).collect()
    }

    fn eval_inner(&mut self, expr: &'t Expr) -> Result<Value> {
        Ok(match expr {
            Expr::Constant(value) => value.clone(),
            Expr::Name(name) => self.name(name),
            Expr::List(items) => Value::sequence(ListKind::List, self.eval_all(items)?)?,
            Expr::Tuple(items) => Value::sequence(ListKind::Tuple, self.eval_all(items)?)?,
            Expr::Dict(pairs) => {
                let mut dict = DictBuilder::default();
                for (key, value) in pairs {
                    let (key, value) = (self.eval(key)?, self.eval(value)?);
                    dict.insert(key, value, &mut self.budget)?;
                }
                dict.finish()?
            }
            Expr::Chain(base, steps) => self.chain(base, steps)?,
            Expr::Arithmetic(first, others) => {
                let mut left = self.eval(first)?;
                for (operator, right) in others {
                    let right = self.eval(right)?;
                    left = arithmetic(*operator, &left, &right, &mut self.budget)?;
                }
                left
            }
            Expr::Concat(parts) => {
                let mut out = String::new();
                for part in parts {
                    let value = self.eval(part)?;
                    out.push_str(&display(&value, &mut self.budget)?);
                }
                Value::text(&out)
            }
            Expr::Compare(first, others) => self.comparisons(first, others)?,
            Expr::And(all) => self.first_that(all, false)?,
            Expr::Or(all) => self.first_that(all, true)?,
            Expr::Not(inner) => Value::Bool(!self.eval(inner)?.is_true()),
            Expr::Negative(inner) => super::operators::negative(&self.eval(inner)?)?,
            Expr::Positive(inner) => super::operators::positive(&self.eval(inner)?)?,
            Expr::Conditional { test, then, otherwise } => {
                if self.eval(test)?.is_true() {
                    self.eval_any(then)?
                } else if let Some(otherwise) = otherwise {
                    self.eval_any(otherwise)?
                } else {
                    Value::Undefined(
                        "the inline if-expression evaluated to false and no else section was defined.".into(),
                    )
                }
            }
        })
    }

    /// The first value that is true (`or`) or false (`and`), else the last.
    fn first_that(&mut self, all: &'t [Expr], truth: bool) -> Result<Value> {
        let mut value = Value::None;
        for expr in all {
            value = self.eval(expr)?;
            if value.is_true() == truth {
                break;
            }
        }
        Ok(value)
    }

    fn name(&self, name: &Arc<str>) -> Value {
        if let Some(value) = self.variable(name) {
            return value;
        }
        match &**name {
            "range" => Value::Function(Function::Range),
            "dict" => Value::Function(Function::Dict),
            "namespace" => Value::Function(Function::Namespace),
            "raise_exception" => Value::Function(Function::RaiseException),
            "strftime_now" => Value::Function(Function::StrftimeNow),
            _ => Value::Undefined(format!("'{name}' is undefined").into()),
        }
    }

    fn comparisons(&mut self, first: &'t Expr, others: &'t [(CompareOp, Expr)]) -> Result<Value> {
        let mut left = self.eval(first)?;
        for (comparison, right) in others {
            let right = self.eval(right)?;
            if !compare(&left, *comparison, &right, &mut self.budget)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn chain(&mut self, base: &'t Expr, steps: &'t [ExprStep]) -> Result<Value> {
        let mut value = self.eval_any(base)?;
        for step in steps {
            let tests_for_it = match &step.apply {
                Apply::Filter(name, _) => matches!(&**name, "default" | "d"),
                Apply::Test { name, .. } => matches!(&**name, "defined" | "undefined"),
                _ => false,
            };
            if !tests_for_it {
                self.must_be_defined(&value)?;
            }
            value = self.step(value, step)?;
        }
        Ok(value)
    }

    /// Applies an operation to a value.
    pub(super) fn step(&mut self, value: Value, step: &'t ExprStep) -> Result<Value> {
        self.budget.spend(1)?;
        let result = match &step.apply {
            Apply::Attribute(name) => self.attribute(&value, name),
            Apply::Item(key) => {
                let key = self.eval(key)?;
                self.item(&value, &key)
            }
            Apply::Slice(bounds) => self.slice(&value, bounds),
            Apply::Call(arguments) => {
                let arguments = self.arguments(arguments)?;
                self.call(&value, arguments)
            }
            Apply::Filter(name, arguments) => {
                let arguments = self.arguments(arguments)?;
                filters::apply(self, name, value, arguments)
            }
            Apply::Test { name, arguments, negated } => {
                let arguments = self.arguments(arguments)?;
                checks::holds(self, name, &value, arguments).map(|holds| Value::Bool(holds != *negated))
            }
        };
        result.map_err(|e| e.at(step.line))
    }

    pub(super) fn arguments(&mut self, arguments: &'t Arguments) -> Result<CallArgs> {
        let mut args = CallArgs { positional: self.eval_all(&arguments.positional)?, named: Vec::new() };
        for (name, value) in &arguments.named {
            let value = self.eval(value)?;
            args.named.push((Arc::clone(name), value));
        }
        if let Some(more) = &arguments.more {
            let more = self.eval(more)?;
            args.positional.extend(more.elements(&mut self.budget)?);
        }
        if let Some(more) = &arguments.more_named {
            let Value::Dict(dict) = self.eval(more)? else { return fail("argument after ** must be a mapping") };
            self.budget.spend_items(dict.pairs.len())?;
            for (key, value) in &dict.pairs {
                let Some(key) = key.as_text() else { return fail("keywords must be strings") };
                args.named.push((Arc::clone(key), value.clone()));
            }
        }
        Ok(args)
    }

    fn slice(&mut self, value: &Value, bounds: &'t [Option<Expr>; 3]) -> Result<Value> {
        let mut evaluated = [None; 3];
        for (bound, slot) in bounds.iter().zip(&mut evaluated) {
            if let Some(bound) = bound {
                *slot = match self.eval(bound)? {
                    Value::None => None,
                    value => Some(whole(&value)?),
                };
            }
        }
        if evaluated[2] == Some(0) {
            return fail("slice step cannot be zero");
        }
        match value {
            Value::Undefined(message) => Value::undefined_error(message),
            Value::Text(text) => {
                self.budget.spend_bytes(text.len().saturating_mul(4))?;
                let chars: Vec<char> = text.chars().collect();
                let cut: String = slice_places(evaluated, chars.len()).map(|at| chars[at]).collect();
                Ok(Value::text(&cut))
            }
            Value::List(list) if is_indexed(list) => {
                self.budget.spend_items(list.items.len())?;
                let cut = slice_places(evaluated, list.items.len()).map(|at| list.items[at].clone()).collect();
                Value::sequence(list.kind, cut)
            }
            other => missing(other, &Value::text("slice"), &mut self.budget),
        }
    }

    pub(super) fn call(&mut self, callee: &Value, args: CallArgs) -> Result<Value> {
        match callee {
            Value::Undefined(message) => Value::undefined_error(message),
            Value::Function(function) => self.call_function(*function, args),
            Value::Macro(id) => self.call_macro(*id, args),
            Value::Loop(serial) => self.call_loop(*serial, args),
            Value::Method(bound) => match &bound.0 {
                Value::Loop(serial) => self.loop_method(*serial, &bound.1, args),
                object => methods::call(self, object, &bound.1, args),
            },
            other => fail(format!("'{}' object is not callable", type_name(other))),
        }
    }

    fn call_function(&mut self, function: Function, args: CallArgs) -> Result<Value> {
        match function {
            Function::Range => self.range(args),
            Function::Dict => self.dict(args),
            Function::Namespace => {
                let Value::Dict(dict) = self.dict(args)? else { return fail("namespace() takes pairs") };
                // A namespace is kept until the end.
                self.budget.spend(8)?;
                self.namespaces.push(Vec::new());
                let id = self.namespaces.len() - 1;
                for (key, value) in &dict.pairs {
                    let Some(name) = key.as_text() else { return fail("attribute name must be string") };
                    self.set_attribute(id, name, value.clone())?;
                }
                Ok(Value::Namespace(id))
            }
            Function::RaiseException => {
                let [message] = args.bind("raise_exception", ["message"])?;
                let message = display(&message.unwrap_or(Value::None), &mut self.budget)?;
                Err(TemplateError::new(TemplateErrorKind::Raised, message))
            }
            Function::StrftimeNow => {
                let [format] = args.bind("strftime_now", ["format"])?;
                let format = format.unwrap_or(Value::None);
                let format = super::arguments::text(&format)?;
                let Some(now) = self.options.now else {
                    return fail("it asks for today's date (`strftime_now`), and no date is set");
                };
                self.budget.spend_bytes(format.len().saturating_mul(16))?;
                Ok(Value::text(&now.format(format)?))
            }
        }
    }

    fn range(&mut self, args: CallArgs) -> Result<Value> {
        let values = args.only_positional("range")?;
        let numbers = values.iter().map(whole).collect::<Result<Vec<i64>>>()?;
        let (from, to, step) = match numbers.as_slice() {
            [to] => (0, *to, 1),
            [from, to] => (*from, *to, 1),
            [from, to, step] => (*from, *to, *step),
            _ => return fail("range expected 1 to 3 arguments"),
        };
        if step == 0 {
            return fail("range() arg 3 must not be zero");
        }
        let distance = i128::from(to) - i128::from(from);
        let count = (distance * i128::from(step.signum()) + i128::from(step.abs()) - 1) / i128::from(step.abs());
        if count > i128::from(MAX_RANGE) {
            return fail(format!("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."));
        }
        let count = count.max(0) as i64;
        self.budget.spend_items(count as usize)?;
        Value::sequence(ListKind::Range, (0..count).map(|i| Value::Int(from + i * step)).collect())
    }

    fn dict(&mut self, args: CallArgs) -> Result<Value> {
        let mut dict = DictBuilder::default();
        match args.positional.as_slice() {
            [] => {}
            [Value::Dict(other)] => {
                for (key, value) in &other.pairs {
                    dict.insert(key.clone(), value.clone(), &mut self.budget)?;
                }
            }
            [pairs] => {
                for pair in pairs.elements(&mut self.budget)? {
                    match pair.elements(&mut self.budget)?.as_slice() {
                        [key, value] => dict.insert(key.clone(), value.clone(), &mut self.budget)?,
                        _ => return fail("dictionary update sequence element has not length 2"),
                    }
                }
            }
            _ => return fail("dict expected at most 1 argument"),
        }
        for (key, value) in args.named {
            dict.insert(Value::Text(key), value, &mut self.budget)?;
        }
        dict.finish()
    }
}

impl Runtime for Interpreter<'_> {
    fn budget(&mut self) -> &mut Budget {
        &mut self.budget
    }

    fn attribute(&mut self, value: &Value, name: &Arc<str>) -> Result<Value> {
        match value {
            Value::Undefined(message) => return Value::undefined_error(message),
            Value::Namespace(id) => {
                self.budget.spend_items(self.namespaces[*id].len() / 8)?;
                if let Some((_, found)) = self.namespaces[*id].iter().find(|(n, _)| n == name) {
                    return Ok(found.clone());
                }
            }
            Value::Loop(serial) => return self.loop_attribute(*serial, name),
            Value::Function(Function::Dict) if &**name == "fromkeys" => return Ok(method(value, name)),
            _ => {}
        }
        if let Some(found) = python_attribute(value, name) {
            return Ok(found);
        }
        if let Value::Dict(dict) = value
            && let Some(found) = dict.get(&Value::Text(Arc::clone(name)), &mut self.budget)?
        {
            return Ok(found.clone());
        }
        missing(value, &Value::Text(Arc::clone(name)), &mut self.budget)
    }

    fn item(&mut self, value: &Value, key: &Value) -> Result<Value> {
        match (value, key) {
            (Value::Undefined(message), _) => return Value::undefined_error(message),
            (Value::Dict(dict), key) => {
                if let Some(found) = dict.get(key, &mut self.budget)? {
                    return Ok(found.clone());
                }
            }
            (Value::List(list), Value::Int(_) | Value::Bool(_)) if is_indexed(list) => {
                let found = place(whole(key)?, list.items.len()).map(|at| list.items[at].clone());
                return found.map_or_else(|| missing(value, key, &mut self.budget), Ok);
            }
            (Value::Text(text), Value::Int(_) | Value::Bool(_)) => {
                let length = value.length(&mut self.budget)?;
                let found = place(whole(key)?, length).and_then(|at| text.chars().nth(at));
                let found = found.map(|c| Value::text(c.encode_utf8(&mut [0; 4])));
                return found.map_or_else(|| missing(value, key, &mut self.budget), Ok);
            }
            (Value::Namespace(_) | Value::Loop(_), Value::Text(name)) => return self.attribute(value, name),
            _ => {}
        }
        if let Value::Text(name) = key
            && let Some(found) = python_attribute(value, name)
        {
            return Ok(found);
        }
        missing(value, key, &mut self.budget)
    }

    fn test(&mut self, name: &str, value: &Value, args: CallArgs) -> Result<bool> {
        checks::holds(self, name, value, args)
    }
}
