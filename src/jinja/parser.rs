//! Parses tokens to statements, by the grammar of Jinja2's parser. Expressions are in [`super::expressions`].

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ast::{Body, Expr, ExprStep, For, Macro, Statement, Takes, Target, TemplateNode};
use super::error::{Result, TemplateError, TemplateErrorKind, excerpt};
use super::lexer::{Token, TokenKind, Whitespace, tokens};
use super::value::Value;

/// Maximum nesting of blocks and brackets. Real templates have about ten.
const MAX_NESTING: u32 = 100;

/// A parsed template.
#[derive(Default)]
pub(super) struct Parsed {
    pub body: Body,
    /// Names that are read and never assigned.
    pub free_names: BTreeSet<String>,
}

pub(super) fn parse(source: &str, whitespace: Whitespace) -> Result<Parsed> {
    let tokens = tokens(source, whitespace)?;
    let mut parser =
        Parser { tokens, at: 0, nesting: 0, read: BTreeSet::new(), assigned: BTreeSet::new(), takes: Takes::default() };
    let body = parser.body(&[]).map_err(|e| e.at(parser.line()))?;
    let free_names = parser.read.difference(&parser.assigned).map(ToString::to_string).collect();
    Ok(Parsed { body, free_names })
}

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    nesting: u32,
    read: BTreeSet<Arc<str>>,
    assigned: BTreeSet<Arc<str>>,
    /// Special names read since the innermost macro began.
    takes: Takes,
}

pub(super) fn syntax<T>(message: impl Into<String>) -> Result<T> {
    Err(TemplateError::new(TemplateErrorKind::Syntax, message))
}

impl Parser {
    pub(super) fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    pub(super) fn kind(&self) -> &TokenKind {
        &self.tokens[self.at].kind
    }

    pub(super) fn peek(&self) -> &TokenKind {
        let next = (self.at + 1).min(self.tokens.len() - 1);
        &self.tokens[next].kind
    }

    pub(super) fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    pub(super) fn is_operator(&self, operator: &str) -> bool {
        matches!(self.kind(), TokenKind::Operator(o) if *o == operator)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.kind(), TokenKind::Name(n) if **n == *name)
    }

    pub(super) fn skip_operator(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect_operator(&mut self, operator: &str) -> Result<()> {
        if self.skip_operator(operator) {
            return Ok(());
        }
        syntax(format!("expected '{operator}', got {}", self.describe()))
    }

    fn expect_name(&mut self, name: &str) -> Result<()> {
        if self.skip_name(name) {
            return Ok(());
        }
        syntax(format!("expected '{name}', got {}", self.describe()))
    }

    pub(super) fn name(&mut self) -> Result<Arc<str>> {
        if let TokenKind::Name(name) = self.kind() {
            let name = Arc::clone(name);
            self.advance();
            return Ok(name);
        }
        syntax(format!("expected a name, got {}", self.describe()))
    }

    fn block_end(&mut self) -> Result<()> {
        if *self.kind() == TokenKind::BlockEnd {
            self.advance();
            return Ok(());
        }
        syntax(format!("expected end of statement block, got {}", self.describe()))
    }

    /// The current token in words.
    pub(super) fn describe(&self) -> String {
        match self.kind() {
            TokenKind::Data(_) => "template data".into(),
            TokenKind::BlockBegin => "begin of statement block".into(),
            TokenKind::BlockEnd => "end of statement block".into(),
            TokenKind::OutputBegin => "begin of print statement".into(),
            TokenKind::OutputEnd => "end of print statement".into(),
            TokenKind::Name(name) => format!("'{}'", excerpt(name)),
            TokenKind::Text(text) => format!("the string {:?}", excerpt(text)),
            TokenKind::Int(number) => format!("'{number}'"),
            TokenKind::Float(number) => format!("'{number}'"),
            TokenKind::Operator(operator) => format!("'{operator}'"),
            TokenKind::End => "end of template".into(),
        }
    }

    /// Begins a nested construct. The caller must call [`Parser::leave`] at its end.
    pub(super) fn enter(&mut self) -> Result<()> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            let message = format!("its blocks or expressions are nested more than {MAX_NESTING} deep");
            return Err(TemplateError::new(TemplateErrorKind::Limit, message));
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.nesting -= 1;
    }

    /// Records that a name is read.
    pub(super) fn reads(&mut self, name: &Arc<str>) {
        match &**name {
            "varargs" => self.takes.varargs = true,
            "kwargs" => self.takes.kwargs = true,
            "caller" => self.takes.caller = true,
            _ => {}
        }
        self.read.insert(Arc::clone(name));
    }

    fn assigns(&mut self, name: &Arc<str>) {
        self.assigned.insert(Arc::clone(name));
    }

    /// Parses statements up to a tag with one of these names, which stays, or to the end of the template.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        self.enter()?;
        let mut body = Body::new();
        loop {
            let line = self.line();
            match self.kind() {
                TokenKind::Data(text) => {
                    body.push(Statement { line, node: TemplateNode::Text(Arc::clone(text)) });
                    self.advance();
                }
                TokenKind::OutputBegin => {
                    self.advance();
                    let value = self.tuple(true)?;
                    if *self.kind() != TokenKind::OutputEnd {
                        return syntax(format!("expected end of print statement, got {}", self.describe()));
                    }
                    self.advance();
                    body.push(Statement { line, node: TemplateNode::Output(value) });
                }
                TokenKind::BlockBegin => {
                    self.advance();
                    if matches!(self.kind(), TokenKind::Name(name) if ends.contains(&&**name)) {
                        break;
                    }
                    let node = self.statement()?;
                    self.block_end()?;
                    body.extend(node.map(|node| Statement { line, node }));
                }
                TokenKind::End if ends.is_empty() => break,
                _ => return syntax(format!("unexpected {}; '{}' is missing", self.describe(), ends.join("' or '"))),
            }
        }
        self.leave();
        Ok(body)
    }

    /// As [`Parser::body`], and takes the tag that ends it, up to its closing sign.
    fn block(&mut self, end: &str) -> Result<Body> {
        self.block_end()?;
        let body = self.body(&[end])?;
        self.advance();
        Ok(body)
    }

    /// A statement, from its name up to the sign that closes its last tag.
    fn statement(&mut self) -> Result<Option<TemplateNode>> {
        let name = self.name().or_else(|_| syntax("tag name expected"))?;
        Ok(Some(match &*name {
            "for" => self.for_loop()?,
            "if" => self.condition()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "filter" => {
                let filters = self.filters(true)?;
                TemplateNode::FilterBlock(filters, self.block("endfilter")?)
            }
            "macro" => {
                let name = self.name()?;
                self.assigns(&name);
                TemplateNode::Macro(Box::new(self.macro_after_name(name, "endmacro")?))
            }
            "call" => self.call_block()?,
            "generation" => TemplateNode::Scoped(self.block("endgeneration")?),
            "print" => return self.print(),
            "break" => TemplateNode::Break,
            "continue" => TemplateNode::Continue,
            "include" | "import" | "from" | "extends" | "block" => {
                return syntax(format!("`{name}` is not supported: a template here is one text"));
            }
            "autoescape" => return syntax("`autoescape` is not supported: nothing is escaped"),
            other => return syntax(format!("Encountered unknown tag '{}'", excerpt(other))),
        }))
    }

    fn print(&mut self) -> Result<Option<TemplateNode>> {
        let mut parts = Vec::new();
        while *self.kind() != TokenKind::BlockEnd {
            if !parts.is_empty() {
                self.expect_operator(",")?;
            }
            parts.push(self.expression()?);
        }
        // `~` writes each part as `print` does.
        parts.push(Expr::Constant(Value::text("")));
        Ok(Some(TemplateNode::Output(Expr::Concat(parts))))
    }

    fn for_loop(&mut self) -> Result<TemplateNode> {
        let target = self.target(false)?;
        self.expect_name("in")?;
        let items = self.tuple(false)?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.block_end()?;
        let body = self.body(&["endfor", "else"])?;
        let mut otherwise = Body::new();
        if self.skip_name("else") {
            otherwise = self.block("endfor")?;
        } else {
            self.advance();
        }
        Ok(TemplateNode::For(Box::new(For { target, items, condition, body, otherwise, recursive })))
    }

    fn condition(&mut self) -> Result<TemplateNode> {
        let mut branches = Vec::new();
        loop {
            let test = self.tuple(false)?;
            self.block_end()?;
            branches.push((test, self.body(&["elif", "else", "endif"])?));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise = if self.skip_name("else") { self.block("endif")? } else { Body::new() };
            if self.is_name("endif") {
                self.advance();
            }
            return Ok(TemplateNode::If { branches, otherwise });
        }
    }

    fn set(&mut self) -> Result<TemplateNode> {
        let target = self.target(true)?;
        if self.skip_operator("=") {
            return Ok(TemplateNode::Set(target, self.tuple(true)?));
        }
        let filters = self.filters(false)?;
        Ok(TemplateNode::SetBlock { target, filters, body: self.block("endset")? })
    }

    fn with(&mut self) -> Result<TemplateNode> {
        let mut values = Vec::new();
        while *self.kind() != TokenKind::BlockEnd {
            if !values.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.name()?;
            self.assigns(&name);
            self.expect_operator("=")?;
            values.push((Target::Name(name), self.expression()?));
        }
        Ok(TemplateNode::With(values, self.block("endwith")?))
    }

    fn call_block(&mut self) -> Result<TemplateNode> {
        let line = self.line();
        let outer = std::mem::take(&mut self.takes);
        let parameters = if self.is_operator("(") { self.parameters()? } else { Vec::new() };
        let call = self.expression()?;
        if !matches!(&call, Expr::Chain(_, steps) if matches!(steps.last(), Some(ExprStep { apply: super::ast::Apply::Call(_), .. })))
        {
            return Err(TemplateError::new(TemplateErrorKind::Syntax, "expected call").at(line));
        }
        let body = self.block("endcall")?;
        let takes = std::mem::replace(&mut self.takes, outer);
        Ok(TemplateNode::CallBlock { caller: Box::new(Macro { name: "caller".into(), parameters, body, takes }), call })
    }

    fn macro_after_name(&mut self, name: Arc<str>, end: &str) -> Result<Macro> {
        let outer = std::mem::take(&mut self.takes);
        let parameters = self.parameters()?;
        let body = self.block(end)?;
        let takes = std::mem::replace(&mut self.takes, outer);
        Ok(Macro { name, parameters, body, takes })
    }

    fn parameters(&mut self) -> Result<Vec<(Arc<str>, Option<Expr>)>> {
        let mut parameters: Vec<(Arc<str>, Option<Expr>)> = Vec::new();
        self.expect_operator("(")?;
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.name()?;
            self.assigns(&name);
            let default = if self.skip_operator("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, d)| d.is_some()) {
                return syntax("non-default argument follows default argument");
            }
            parameters.push((name, default));
        }
        self.advance();
        Ok(parameters)
    }

    /// Filters after a text: `| upper | trim`. With `first`, the first has no sign before it.
    fn filters(&mut self, mut first: bool) -> Result<Vec<ExprStep>> {
        let mut filters = Vec::new();
        while first || self.skip_operator("|") {
            filters.push(self.filter()?);
            first = false;
        }
        Ok(filters)
    }

    /// The target of a `for` or `set`.
    fn target(&mut self, attributes: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut tuple = false;
        loop {
            if tuple && !matches!(self.kind(), TokenKind::Name(_)) && !self.is_operator("(") || self.is_name("in") {
                break;
            }
            targets.push(self.one_target(attributes)?);
            if !self.skip_operator(",") {
                break;
            }
            tuple = true;
        }
        match targets.pop() {
            Some(only) if !tuple && targets.is_empty() => Ok(only),
            Some(last) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
            None => syntax(format!("expected a name to assign to, got {}", self.describe())),
        }
    }

    fn one_target(&mut self, attributes: bool) -> Result<Target> {
        if self.skip_operator("(") {
            self.enter()?;
            let inner = self.target(attributes)?;
            self.leave();
            self.expect_operator(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return syntax("can't assign to a constant");
        }
        if attributes && self.skip_operator(".") {
            self.reads(&name);
            return Ok(Target::Attribute(name, self.name()?));
        }
        self.assigns(&name);
        Ok(Target::Name(name))
    }
}
