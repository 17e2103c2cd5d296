//! Python's arithmetic and comparisons.

use std::cmp::Ordering;

use super::ast::{BinaryOp, CompareOp};
use super::budget::Budget;
use super::error::{Result, fail};
use super::format::percent;
use super::value::{ListKind, Number, Value, type_name};

/// Whether a comparison holds.
pub(super) fn compare(left: &Value, comparison: CompareOp, right: &Value, budget: &mut Budget) -> Result<bool> {
    Ok(match comparison {
        CompareOp::Equal => left.equals(right, budget)?,
        CompareOp::NotEqual => !left.equals(right, budget)?,
        CompareOp::In => right.contains(left, budget)?,
        CompareOp::NotIn => !right.contains(left, budget)?,
        CompareOp::Less => left.compare(right, "<", budget)? == Some(Ordering::Less),
        CompareOp::Greater => left.compare(right, ">", budget)? == Some(Ordering::Greater),
        CompareOp::LessOrEqual => left.compare(right, "<=", budget)?.is_some_and(Ordering::is_le),
        CompareOp::GreaterOrEqual => left.compare(right, ">=", budget)?.is_some_and(Ordering::is_ge),
    })
}

pub(super) fn arithmetic(operator: BinaryOp, left: &Value, right: &Value, budget: &mut Budget) -> Result<Value> {
    budget.spend(1)?;
    if let (Some(a), Some(b)) = (left.number(), right.number()) {
        return numbers(operator, a, b);
    }
    match (operator, left, right) {
        (BinaryOp::Modulo, Value::Text(template), values) => percent(template, values, budget),
        (_, Value::Undefined(message), _) | (_, _, Value::Undefined(message)) => Value::undefined_error(message),
        (BinaryOp::Add, Value::Text(a), Value::Text(b)) => {
            budget.spend_bytes(a.len() + b.len())?;
            Ok(Value::Text([&**a, &**b].concat().into()))
        }
        (BinaryOp::Add, Value::List(a), Value::List(b))
            if a.kind == b.kind && matches!(a.kind, ListKind::List | ListKind::Tuple) =>
        {
            budget.spend_items(a.items.len() + b.items.len())?;
            Value::sequence(a.kind, a.items.iter().chain(&b.items).cloned().collect())
        }
        (BinaryOp::Multiply, Value::Text(_) | Value::List(_), Value::Int(_) | Value::Bool(_)) => {
            repeated(left, right, budget)
        }
        (BinaryOp::Multiply, Value::Int(_) | Value::Bool(_), Value::Text(_) | Value::List(_)) => {
            repeated(right, left, budget)
        }
        (BinaryOp::Add, Value::Text(_), other) => {
            fail(format!("can only concatenate str (not \"{}\") to str", type_name(other)))
        }
        (BinaryOp::Add, Value::List(list), other) if list.kind == ListKind::List => {
            fail(format!("can only concatenate list (not \"{}\") to list", type_name(other)))
        }
        _ => unsupported(operator, left, right),
    }
}

fn unsupported(operator: BinaryOp, left: &Value, right: &Value) -> Result<Value> {
    let sign = match operator {
        BinaryOp::Add => "+",
        BinaryOp::Subtract => "-",
        BinaryOp::Multiply => "*",
        BinaryOp::Divide => "/",
        BinaryOp::FloorDivide => "//",
        BinaryOp::Modulo => "%",
        BinaryOp::Power => "** or pow()",
    };
    let (left, right) = (type_name(left), type_name(right));
    fail(format!("unsupported operand type(s) for {sign}: '{left}' and '{right}'"))
}

/// Repeats a text or list.
fn repeated(value: &Value, times: &Value, budget: &mut Budget) -> Result<Value> {
    let times = match times.number() {
        Some(Number::Int(n)) => usize::try_from(n).unwrap_or(0),
        _ => 0,
    };
    match value {
        Value::Text(text) => {
            budget.spend_bytes(text.len().saturating_mul(times))?;
            Ok(Value::Text(text.repeat(times).into()))
        }
        Value::List(list) if matches!(list.kind, ListKind::List | ListKind::Tuple) => {
            budget.spend_items(list.items.len().saturating_mul(times))?;
            // Repeating an empty list costs nothing from the budget, so the loop must not run that often either.
            let times = if list.items.is_empty() { 0 } else { times };
            let items = std::iter::repeat_n(&list.items, times).flatten().cloned().collect();
            Value::sequence(list.kind, items)
        }
        other => unsupported(BinaryOp::Multiply, other, &Value::Int(0)),
    }
}

fn numbers(operator: BinaryOp, a: Number, b: Number) -> Result<Value> {
    let (x, y) = (a.float(), b.float());
    let is_zero = y == 0.;
    let whole = match (a, b) {
        (Number::Int(a), Number::Int(b)) => Some((a, b)),
        _ => None,
    };
    let int = |n: Option<i64>| match n {
        Some(n) => Ok(Value::Int(n)),
        None => fail("the result is a whole number beyond 64 bits"),
    };
    match (operator, whole) {
        (BinaryOp::Add, Some((a, b))) => int(a.checked_add(b)),
        (BinaryOp::Subtract, Some((a, b))) => int(a.checked_sub(b)),
        (BinaryOp::Multiply, Some((a, b))) => int(a.checked_mul(b)),
        (BinaryOp::Add, None) => Ok(Value::Float(x + y)),
        (BinaryOp::Subtract, None) => Ok(Value::Float(x - y)),
        (BinaryOp::Multiply, None) => Ok(Value::Float(x * y)),
        (BinaryOp::Divide, _) if is_zero => fail("division by zero"),
        (BinaryOp::FloorDivide | BinaryOp::Modulo, _) if is_zero => fail("division or modulo by zero"),
        (BinaryOp::Divide, _) => Ok(Value::Float(x / y)),
        (BinaryOp::FloorDivide, Some((a, b))) => int(floor_divide(a, b)),
        (BinaryOp::Modulo, Some((a, b))) => int(Some(a.checked_rem(b).map_or(0, |r| signed_as(r, b)))),
        (BinaryOp::FloorDivide, None) => Ok(Value::Float((x / y).floor())),
        (BinaryOp::Modulo, None) => {
            let rest = x % y;
            Ok(Value::Float(if rest != 0. && (rest < 0.) != (y < 0.) { rest + y } else { rest }))
        }
        (BinaryOp::Power, Some((a, b))) if b >= 0 => int(u32::try_from(b).ok().and_then(|b| power(a, b))),
        (BinaryOp::Power, _) if x == 0. && y < 0. => fail("0.0 cannot be raised to a negative power"),
        (BinaryOp::Power, _) if x < 0. && y.fract() != 0. => fail("a complex number"),
        (BinaryOp::Power, _) => Ok(Value::Float(x.powf(y))),
    }
}

fn power(base: i64, exponent: u32) -> Option<i64> {
    match base {
        0 | 1 => Some(if exponent == 0 { 1 } else { base }),
        -1 => Some(if exponent.is_multiple_of(2) { 1 } else { -1 }),
        _ => base.checked_pow(exponent),
    }
}

fn floor_divide(a: i64, b: i64) -> Option<i64> {
    let quotient = a.checked_div(b)?;
    let rest = a - quotient * b;
    Some(if rest != 0 && (rest < 0) != (b < 0) { quotient - 1 } else { quotient })
}

/// A remainder with the sign of the divisor, as Python has it.
fn signed_as(rest: i64, divisor: i64) -> i64 {
    if rest != 0 && (rest < 0) != (divisor < 0) { rest + divisor } else { rest }
}

pub(super) fn negative(value: &Value) -> Result<Value> {
    match value.number() {
        Some(Number::Int(n)) => match n.checked_neg() {
            Some(n) => Ok(Value::Int(n)),
            None => fail("the result is a whole number beyond 64 bits"),
        },
        Some(Number::Float(x)) => Ok(Value::Float(-x)),
        None => unary("-", value),
    }
}

pub(super) fn positive(value: &Value) -> Result<Value> {
    match value.number() {
        Some(Number::Int(n)) => Ok(Value::Int(n)),
        Some(Number::Float(x)) => Ok(Value::Float(x)),
        None => unary("+", value),
    }
}

fn unary(sign: &str, value: &Value) -> Result<Value> {
    match value {
        Value::Undefined(message) => Value::undefined_error(message),
        other => fail(format!("bad operand type for unary {sign}: '{}'", type_name(other))),
    }
}
