//! The parser's expressions, a function for each precedence as in Jinja2.

use std::sync::Arc;

use super::ast::{Apply, Arguments, BinaryOp, CompareOp, Expr, ExprStep};
use super::error::Result;
use super::lexer::TokenKind;
use super::parser::{Parser, syntax};
use super::value::Value;

impl Parser {
    pub(super) fn expression(&mut self) -> Result<Expr> {
        self.enter()?;
        let expr = self.conditional()?;
        self.leave();
        Ok(expr)
    }

    fn conditional(&mut self) -> Result<Expr> {
        let mut expr = self.or()?;
        let mut conditions = 0;
        while self.skip_name("if") {
            // Every condition wraps what is before it.
            self.enter()?;
            conditions += 1;
            let test = Box::new(self.or()?);
            let otherwise = if self.skip_name("else") { Some(Box::new(self.conditional()?)) } else { None };
            expr = Expr::Conditional { test, then: Box::new(expr), otherwise };
        }
        for _ in 0..conditions {
            self.leave();
        }
        Ok(expr)
    }

    fn or(&mut self) -> Result<Expr> {
        let first = self.and()?;
        if !self.is_name("or") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_name("or") {
            all.push(self.and()?);
        }
        Ok(Expr::Or(all))
    }

    fn and(&mut self) -> Result<Expr> {
        let first = self.not()?;
        if !self.is_name("and") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_name("and") {
            all.push(self.not()?);
        }
        Ok(Expr::And(all))
    }

    fn not(&mut self) -> Result<Expr> {
        if !self.skip_name("not") {
            return self.compare();
        }
        self.enter()?;
        let inner = self.not()?;
        self.leave();
        Ok(Expr::Not(Box::new(inner)))
    }

    fn compare(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut others = Vec::new();
        while let Some(comparison) = self.comparison() {
            others.push((comparison, self.sum()?));
        }
        Ok(if others.is_empty() { first } else { Expr::Compare(Box::new(first), others) })
    }

    /// Takes a comparison's sign or words.
    fn comparison(&mut self) -> Option<CompareOp> {
        let found = match self.kind() {
            TokenKind::Operator("==") => CompareOp::Equal,
            TokenKind::Operator("!=") => CompareOp::NotEqual,
            TokenKind::Operator("<") => CompareOp::Less,
            TokenKind::Operator("<=") => CompareOp::LessOrEqual,
            TokenKind::Operator(">") => CompareOp::Greater,
            TokenKind::Operator(">=") => CompareOp::GreaterOrEqual,
            TokenKind::Name(name) if &**name == "in" => CompareOp::In,
            TokenKind::Name(name) if &**name == "not" && matches!(self.peek(), TokenKind::Name(n) if &**n == "in") => {
                self.advance();
                CompareOp::NotIn
            }
            _ => return None,
        };
        self.advance();
        Some(found)
    }

    fn sum(&mut self) -> Result<Expr> {
        let first = self.concat()?;
        let mut others = Vec::new();
        loop {
            let operator = match self.kind() {
                TokenKind::Operator("+") => BinaryOp::Add,
                TokenKind::Operator("-") => BinaryOp::Subtract,
                _ => break,
            };
            self.advance();
            others.push((operator, self.concat()?));
        }
        Ok(arithmetic(first, others))
    }

    fn concat(&mut self) -> Result<Expr> {
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_operator("~") {
            all.push(self.product()?);
        }
        Ok(Expr::Concat(all))
    }

    fn product(&mut self) -> Result<Expr> {
        let first = self.power()?;
        let mut others = Vec::new();
        loop {
            let operator = match self.kind() {
                TokenKind::Operator("*") => BinaryOp::Multiply,
                TokenKind::Operator("/") => BinaryOp::Divide,
                TokenKind::Operator("//") => BinaryOp::FloorDivide,
                TokenKind::Operator("%") => BinaryOp::Modulo,
                _ => break,
            };
            self.advance();
            others.push((operator, self.power()?));
        }
        Ok(arithmetic(first, others))
    }

    fn power(&mut self) -> Result<Expr> {
        let first = self.unary(true)?;
        let mut others = Vec::new();
        while self.skip_operator("**") {
            others.push((BinaryOp::Power, self.unary(true)?));
        }
        Ok(arithmetic(first, others))
    }

    fn unary(&mut self, filters: bool) -> Result<Expr> {
        let negative = self.is_operator("-");
        let value = if negative || self.is_operator("+") {
            self.advance();
            self.enter()?;
            let inner = Box::new(self.unary(false)?);
            self.leave();
            if negative { Expr::Negative(inner) } else { Expr::Positive(inner) }
        } else {
            self.primary()?
        };
        let mut steps = Vec::new();
        while let Some(step) = self.postfix()? {
            steps.push(step);
        }
        if filters {
            while let Some(step) = self.filter_or_test()? {
                steps.push(step);
            }
        }
        Ok(chain(value, steps))
    }

    fn primary(&mut self) -> Result<Expr> {
        match self.kind().clone() {
            TokenKind::Name(name) => {
                self.advance();
                Ok(match &*name {
                    "true" | "True" => Expr::Constant(Value::Bool(true)),
                    "false" | "False" => Expr::Constant(Value::Bool(false)),
                    "none" | "None" => Expr::Constant(Value::None),
                    _ => {
                        self.reads(&name);
                        Expr::Name(name)
                    }
                })
            }
            TokenKind::Text(mut text) => {
                self.advance();
                while let TokenKind::Text(more) = self.kind() {
                    text.push_str(more);
                    self.advance();
                }
                Ok(Expr::Constant(Value::text(&text)))
            }
            TokenKind::Int(number) => {
                self.advance();
                Ok(Expr::Constant(Value::Int(number)))
            }
            TokenKind::Float(number) => {
                self.advance();
                Ok(Expr::Constant(Value::Float(number)))
            }
            TokenKind::Operator("(") => {
                self.advance();
                let inner = self.parenthesised()?;
                self.expect_operator(")")?;
                Ok(inner)
            }
            TokenKind::Operator("[") => {
                self.advance();
                Ok(Expr::List(self.list("]")?))
            }
            TokenKind::Operator("{") => {
                self.advance();
                self.dict()
            }
            _ => syntax(format!("unexpected {}", self.describe())),
        }
    }

    fn parenthesised(&mut self) -> Result<Expr> {
        if self.is_operator(")") {
            return Ok(Expr::Tuple(Vec::new()));
        }
        self.tuple(true)
    }

    /// Parses expressions with commas between: a tuple, or the expression if it is the only one. Without
    /// `conditional`, as after `for x in`, an `if` ends it.
    pub(super) fn tuple(&mut self, conditional: bool) -> Result<Expr> {
        let mut all = Vec::new();
        let mut tuple = false;
        loop {
            let ends = matches!(
                self.kind(),
                TokenKind::OutputEnd | TokenKind::BlockEnd | TokenKind::Operator(")" | "]" | "}")
            );
            if ends && tuple {
                break;
            }
            if ends {
                return syntax(format!("Expected an expression, got {}", self.describe()));
            }
            all.push(if conditional { self.expression()? } else { self.unconditional()? });
            if !self.skip_operator(",") {
                break;
            }
            tuple = true;
        }
        match all.pop() {
            Some(only) if !tuple => Ok(only),
            last => {
                all.extend(last);
                Ok(Expr::Tuple(all))
            }
        }
    }

    fn unconditional(&mut self) -> Result<Expr> {
        self.enter()?;
        let expr = self.or()?;
        self.leave();
        Ok(expr)
    }

    /// Expressions up to a closing bracket, which is taken.
    fn list(&mut self, close: &str) -> Result<Vec<Expr>> {
        let mut items = Vec::new();
        while !self.skip_operator(close) {
            if !items.is_empty() {
                self.expect_operator(",")?;
                if self.skip_operator(close) {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        Ok(items)
    }

    fn dict(&mut self) -> Result<Expr> {
        let mut pairs = Vec::new();
        while !self.skip_operator("}") {
            if !pairs.is_empty() {
                self.expect_operator(",")?;
                if self.skip_operator("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect_operator(":")?;
            pairs.push((key, self.expression()?));
        }
        Ok(Expr::Dict(pairs))
    }

    /// An attribute, an element, a slice or a call.
    fn postfix(&mut self) -> Result<Option<ExprStep>> {
        let line = self.line();
        let apply = if self.skip_operator(".") {
            match self.kind().clone() {
                TokenKind::Name(name) => {
                    self.advance();
                    Apply::Attribute(name)
                }
                TokenKind::Int(number) => {
                    self.advance();
                    Apply::Item(Expr::Constant(Value::Int(number)))
                }
                _ => return syntax("expected name or number"),
            }
        } else if self.skip_operator("[") {
            self.subscript()?
        } else if self.is_operator("(") {
            Apply::Call(self.arguments()?)
        } else {
            return Ok(None);
        };
        Ok(Some(ExprStep { line, apply }))
    }

    fn subscript(&mut self) -> Result<Apply> {
        let first = if self.is_operator(":") { None } else { Some(self.expression()?) };
        if !self.is_operator(":") {
            let mut items: Vec<Expr> = first.into_iter().collect();
            let tuple = self.is_operator(",");
            while self.skip_operator(",") {
                items.push(self.expression()?);
            }
            self.expect_operator("]")?;
            return match items.pop() {
                Some(only) if !tuple => Ok(Apply::Item(only)),
                Some(last) => {
                    items.push(last);
                    Ok(Apply::Item(Expr::Tuple(items)))
                }
                None => syntax("expected subscript expression"),
            };
        }
        self.advance();
        let mut bounds = [first, None, None];
        if !self.is_operator(":") && !self.is_operator("]") {
            bounds[1] = Some(self.expression()?);
        }
        if self.skip_operator(":") && !self.is_operator("]") {
            bounds[2] = Some(self.expression()?);
        }
        self.expect_operator("]")?;
        Ok(Apply::Slice(Box::new(bounds)))
    }

    pub(super) fn arguments(&mut self) -> Result<Arguments> {
        let mut arguments = Arguments::default();
        self.expect_operator("(")?;
        let mut first = true;
        while !self.skip_operator(")") {
            if !first {
                self.expect_operator(",")?;
                if self.skip_operator(")") {
                    break;
                }
            }
            first = false;
            let named = matches!(self.kind(), TokenKind::Name(_)) && *self.peek() == TokenKind::Operator("=");
            if self.skip_operator("*") {
                arguments.more = Some(Box::new(self.expression()?));
            } else if self.skip_operator("**") {
                arguments.more_named = Some(Box::new(self.expression()?));
            } else if named {
                let name = self.name()?;
                self.advance();
                arguments.named.push((name, self.expression()?));
            } else if arguments.named.is_empty() && arguments.more.is_none() && arguments.more_named.is_none() {
                arguments.positional.push(self.expression()?);
            } else {
                return syntax("invalid syntax for function call expression");
            }
        }
        Ok(arguments)
    }

    fn filter_or_test(&mut self) -> Result<Option<ExprStep>> {
        let line = self.line();
        if self.skip_operator("|") {
            return self.filter().map(Some);
        }
        if self.skip_name("is") {
            return self.test().map(|apply| Some(ExprStep { line, apply }));
        }
        if self.is_operator("(") {
            return Ok(Some(ExprStep { line, apply: Apply::Call(self.arguments()?) }));
        }
        Ok(None)
    }

    /// A filter's name and arguments.
    pub(super) fn filter(&mut self) -> Result<ExprStep> {
        let line = self.line();
        let name = self.dotted_name()?;
        let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
        Ok(ExprStep { line, apply: Apply::Filter(name, arguments) })
    }

    fn dotted_name(&mut self) -> Result<Arc<str>> {
        let mut name = self.name()?.to_string();
        while self.skip_operator(".") {
            name.push('.');
            name.push_str(&self.name()?);
        }
        Ok(name.into())
    }

    fn test(&mut self) -> Result<Apply> {
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let mut arguments = Arguments::default();
        if self.is_operator("(") {
            arguments = self.arguments()?;
        } else if self.is_name("is") {
            return syntax("You cannot chain multiple tests with is");
        } else if self.test_has_argument() {
            let value = self.primary()?;
            let mut steps = Vec::new();
            while let Some(step) = self.postfix()? {
                steps.push(step);
            }
            arguments.positional.push(chain(value, steps));
        }
        Ok(Apply::Test { name, arguments, negated })
    }

    fn test_has_argument(&self) -> bool {
        match self.kind() {
            TokenKind::Name(name) => !matches!(&**name, "else" | "or" | "and"),
            TokenKind::Text(_) | TokenKind::Int(_) | TokenKind::Float(_) | TokenKind::Operator("[" | "{") => true,
            _ => false,
        }
    }
}

fn arithmetic(first: Expr, others: Vec<(BinaryOp, Expr)>) -> Expr {
    if others.is_empty() { first } else { Expr::Arithmetic(Box::new(first), others) }
}

fn chain(value: Expr, steps: Vec<ExprStep>) -> Expr {
    if steps.is_empty() { value } else { Expr::Chain(Box::new(value), steps) }
}
