//! The state of a template while it is rendered: budget, output, scopes, loops, macros and namespaces. Statements run
//! in [`super::statements`], expressions in [`super::evaluate`].

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{For, Macro};
use super::budget::Budget;
use super::date::DateTime;
use super::error::{Result, TemplateError, TemplateErrorKind};
use super::value::Value;

/// Options of a rendering.
#[derive(Clone, Copy, Debug)]
pub struct RenderOptions {
    /// Units of work: about one for each operation, and one for every 32 bytes made or read.
    pub work: u64,
    /// Maximum bytes of output.
    pub output: usize,
    /// Whether every use of an undefined variable is an error, also where Jinja2 allows it.
    pub strict: bool,
    /// The present time for `strftime_now`. Without it, the function is an error.
    pub now: Option<DateTime>,
}

/// How a statement ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LoopControl {
    Next,
    Break,
    Continue,
}

/// The variables of a block. Other names are looked up in its parent.
pub(super) struct Scope {
    parent: Option<usize>,
    pub serial: u64,
    values: HashMap<Arc<str>, Value>,
}

/// A macro with the scope of its definition.
#[derive(Clone, Copy)]
pub(super) struct DefinedMacro<'t> {
    pub definition: &'t Macro,
    pub scope: usize,
    pub serial: u64,
}

/// The elements that a loop has not reached yet.
pub(super) struct LoopItems {
    pub rest: std::vec::IntoIter<Value>,
    pub total: usize,
}

impl LoopItems {
    pub(super) fn new(items: Vec<Value>) -> Self {
        Self { total: items.len(), rest: items.into_iter() }
    }
}

/// A running loop.
pub(super) struct RunningLoop<'t> {
    pub node: &'t For,
    pub items: LoopItems,
    /// The scope around the loop.
    pub parent: usize,
    pub depth: usize,
    pub serial: u64,
    /// Elements that the body has seen, the current one included.
    pub seen: usize,
    pub before: Option<Value>,
    pub current: Option<Value>,
    /// The next element, where it was looked at.
    pub after: Option<Value>,
    /// Whether the conditions of all that is left are known to hold.
    pub checked: bool,
    pub last_changed: Option<Value>,
}

impl<'t> RunningLoop<'t> {
    pub(super) fn new(node: &'t For, items: LoopItems, parent: usize, depth: usize, serial: u64) -> Self {
        let checked = node.condition.is_none();
        Self {
            node,
            items,
            parent,
            depth,
            serial,
            seen: 0,
            before: None,
            current: None,
            after: None,
            checked,
            last_changed: None,
        }
    }
}

/// A template while it is rendered.
pub(super) struct Interpreter<'t> {
    pub(super) budget: Budget,
    pub(super) options: RenderOptions,
    /// The output, and the texts that are being captured, innermost last.
    pub(super) output: Vec<String>,
    pub(super) scopes: Vec<Scope>,
    serial: u64,
    pub(super) loops: Vec<RunningLoop<'t>>,
    pub(super) macros: Vec<DefinedMacro<'t>>,
    /// Attributes of namespaces by number. Values hold only the number, so that no value can own itself.
    pub(super) namespaces: Vec<Vec<(Arc<str>, Value)>>,
}

impl<'t> Interpreter<'t> {
    pub(super) fn new(options: RenderOptions, variables: &[(&str, Value)]) -> Self {
        let mut interpreter = Self {
            budget: Budget::new(options.work),
            options,
            output: vec![String::new()],
            scopes: Vec::new(),
            serial: 0,
            loops: Vec::new(),
            macros: Vec::new(),
            namespaces: Vec::new(),
        };
        interpreter.push_scope(None);
        for (name, value) in variables {
            interpreter.set((*name).into(), value.clone());
        }
        interpreter
    }

    pub(super) fn top(&self) -> usize {
        self.scopes.len() - 1
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn push_scope(&mut self, parent: Option<usize>) {
        let serial = self.next_serial();
        self.scopes.push(Scope { parent, serial, values: HashMap::new() });
    }

    pub(super) fn pop_scope(&mut self) {
        self.scopes.pop();
    }

    pub(super) fn set(&mut self, name: Arc<str>, value: Value) {
        let top = self.top();
        self.scopes[top].values.insert(name, value);
    }

    /// A variable by its name, from the innermost scope outwards.
    pub(super) fn variable(&self, name: &str) -> Option<Value> {
        let mut at = Some(self.top());
        while let Some(scope) = at.map(|at| &self.scopes[at]) {
            if let Some(value) = scope.values.get(name) {
                return Some(value.clone());
            }
            at = scope.parent;
        }
        None
    }

    pub(super) fn write(&mut self, text: &str) -> Result<()> {
        self.budget.spend_bytes(text.len())?;
        let captured = self.output.len() > 1;
        if let Some(out) = self.output.last_mut() {
            out.push_str(text);
            if !captured && out.len() > self.options.output {
                let message = format!("it writes more than {} bytes", self.options.output);
                return Err(TemplateError::new(TemplateErrorKind::Limit, message));
            }
        }
        Ok(())
    }

    pub(super) fn begin_capture(&mut self) {
        self.output.push(String::new());
    }

    pub(super) fn end_capture(&mut self) -> String {
        self.output.pop().unwrap_or_default()
    }
}
