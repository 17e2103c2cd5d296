//! Runs statements: output, assignments, loops and macros.

use std::sync::Arc;

use super::arguments::CallArgs;
use super::ast::{Apply, Body, Expr, ExprStep, For, Macro, Statement, Target, TemplateNode};
use super::error::{Result, TemplateError, TemplateErrorKind, fail};
use super::interpreter::{DefinedMacro, Interpreter, LoopControl, LoopItems, RunningLoop};
use super::print::display;
use super::value::{DictBuilder, ListKind, Value, type_name};

impl<'t> Interpreter<'t> {
    pub(super) fn render(mut self, body: &'t Body) -> Result<String> {
        if self.run(body)? != LoopControl::Next {
            return fail("`break` or `continue` outside of a loop");
        }
        Ok(self.output.swap_remove(0))
    }

    pub(super) fn run(&mut self, body: &'t Body) -> Result<LoopControl> {
        self.budget.enter()?;
        for statement in body {
            let flow = self.statement(statement).map_err(|e| e.at(statement.line))?;
            if flow != LoopControl::Next {
                self.budget.leave();
                return Ok(flow);
            }
        }
        self.budget.leave();
        Ok(LoopControl::Next)
    }

    fn statement(&mut self, statement: &'t Statement) -> Result<LoopControl> {
        self.budget.spend(1)?;
        match &statement.node {
            TemplateNode::Text(text) => self.write(text)?,
            TemplateNode::Output(expr) => self.output(expr)?,
            TemplateNode::If { branches, otherwise } => {
                for (test, body) in branches {
                    if self.eval(test)?.is_true() {
                        return self.run(body);
                    }
                }
                return self.run(otherwise);
            }
            TemplateNode::For(node) => {
                let items = self.eval(&node.items)?;
                return self.run_loop(node, &items, self.top(), 0);
            }
            TemplateNode::Set(target, value) => {
                let value = self.eval(value)?;
                self.assign(target, value)?;
            }
            TemplateNode::SetBlock { target, filters, body } => {
                let (text, flow) = self.capture(body)?;
                let value = self.apply_filters(Value::text(&text), filters)?;
                self.assign(target, value)?;
                return Ok(flow);
            }
            TemplateNode::With(values, body) => return self.with(values, body),
            TemplateNode::FilterBlock(filters, body) => {
                let (text, flow) = self.capture(body)?;
                let value = self.apply_filters(Value::text(&text), filters)?;
                let text = display(&value, &mut self.budget)?;
                self.write(&text)?;
                return Ok(flow);
            }
            TemplateNode::Macro(definition) => {
                let id = self.define(definition);
                self.set(Arc::clone(&definition.name), Value::Macro(id));
            }
            TemplateNode::CallBlock { caller, call } => self.call_block(caller, call)?,
            TemplateNode::Scoped(body) => {
                self.push_scope(Some(self.top()));
                let flow = self.run(body)?;
                self.pop_scope();
                return Ok(flow);
            }
            TemplateNode::Break => return Ok(LoopControl::Break),
            TemplateNode::Continue => return Ok(LoopControl::Continue),
        }
        Ok(LoopControl::Next)
    }

    fn output(&mut self, expr: &'t Expr) -> Result<()> {
        match self.eval(expr)? {
            Value::Text(text) => self.write(&text),
            other => {
                let text = display(&other, &mut self.budget)?;
                self.write(&text)
            }
        }
    }

    fn with(&mut self, values: &'t [(Target, Expr)], body: &'t Body) -> Result<LoopControl> {
        let values = values.iter().map(|(t, e)| Ok((t, self.eval(e)?))).collect::<Result<Vec<_>>>()?;
        self.push_scope(Some(self.top()));
        for (target, value) in values {
            self.assign(target, value)?;
        }
        let flow = self.run(body)?;
        self.pop_scope();
        Ok(flow)
    }

    /// Runs a block and returns its output.
    fn capture(&mut self, body: &'t Body) -> Result<(String, LoopControl)> {
        self.begin_capture();
        self.push_scope(Some(self.top()));
        let flow = self.run(body)?;
        self.pop_scope();
        Ok((self.end_capture(), flow))
    }

    fn apply_filters(&mut self, mut value: Value, filters: &'t [ExprStep]) -> Result<Value> {
        for filter in filters {
            value = self.step(value, filter)?;
        }
        Ok(value)
    }

    pub(super) fn assign(&mut self, target: &'t Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.set(Arc::clone(name), value),
            Target::Attribute(object, name) => match self.variable(object) {
                Some(Value::Namespace(id)) => self.set_attribute(id, name, value)?,
                _ => return fail("cannot assign attribute on non-namespace object"),
            },
            Target::Tuple(targets) => {
                let kind = type_name(&value);
                let values = value
                    .elements(&mut self.budget)
                    .map_err(|e| if e.kind == TemplateErrorKind::Limit { e } else { cannot_unpack(kind) })?;
                let (expected, got) = (targets.len(), values.len());
                if got < expected {
                    return fail(format!("not enough values to unpack (expected {expected}, got {got})"));
                }
                if got > expected {
                    return fail(format!("too many values to unpack (expected {expected})"));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn set_attribute(&mut self, namespace: usize, name: &Arc<str>, value: Value) -> Result<()> {
        if name.starts_with('_') {
            return fail(format!(
                "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{name}'"
            ));
        }
        let attributes = &mut self.namespaces[namespace];
        self.budget.spend_items(attributes.len() / 8)?;
        match attributes.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => attributes.push((Arc::clone(name), value)),
        }
        Ok(())
    }

    /// Runs a loop over `items` in the scope `parent`, `depth` loops inside itself. A `break` in its `else` is the
    /// outer loop's, as in Python.
    pub(super) fn run_loop(
        &mut self,
        node: &'t For,
        items: &Value,
        parent: usize,
        depth: usize,
    ) -> Result<LoopControl> {
        let items = items.elements(&mut self.budget)?;
        let serial = self.next_serial();
        let at = self.loops.len();
        self.loops.push(RunningLoop::new(node, LoopItems::new(items), parent, depth, serial));
        let mut any = false;
        while let Some(item) = self.next_item(at)? {
            any = true;
            self.push_scope(Some(parent));
            self.assign(&node.target, item)?;
            self.set("loop".into(), Value::Loop(serial as usize));
            let flow = self.run(&node.body)?;
            self.pop_scope();
            if flow == LoopControl::Break {
                break;
            }
        }
        self.loops.truncate(at);
        if !any {
            self.push_scope(Some(parent));
            let flow = self.run(&node.otherwise)?;
            self.pop_scope();
            return Ok(flow);
        }
        Ok(LoopControl::Next)
    }

    fn define(&mut self, definition: &'t Macro) -> usize {
        let scope = self.top();
        let serial = self.scopes[scope].serial;
        self.macros.push(DefinedMacro { definition, scope, serial });
        self.macros.len() - 1
    }

    fn call_block(&mut self, caller: &'t Macro, call: &'t Expr) -> Result<()> {
        let id = self.define(caller);
        let Expr::Chain(base, steps) = call else { return fail("expected call") };
        let Some((last, before)) = steps.split_last() else { return fail("expected call") };
        let Apply::Call(arguments) = &last.apply else { return fail("expected call") };
        let mut value = self.eval(base)?;
        for step in before {
            value = self.step(value, step)?;
        }
        let mut arguments = self.arguments(arguments)?;
        arguments.named.push(("caller".into(), Value::Macro(id)));
        let result = self.call(&value, arguments)?;
        let text = display(&result, &mut self.budget)?;
        self.write(&text)
    }

    pub(super) fn call_macro(&mut self, id: usize, args: CallArgs) -> Result<Value> {
        let DefinedMacro { definition, scope, serial } = self.macros[id];
        let name = &definition.name;
        if self.scopes.get(scope).is_none_or(|s| s.serial != serial) {
            return fail(format!("macro '{name}' is called outside of the block that defines it"));
        }
        self.budget.enter()?;
        self.push_scope(Some(scope));
        self.bind_parameters(definition, args)?;
        self.begin_capture();
        if self.run(&definition.body)? != LoopControl::Next {
            return fail("`break` or `continue` outside of a loop");
        }
        let text = self.end_capture();
        self.pop_scope();
        self.budget.leave();
        Ok(Value::text(&text))
    }

    fn bind_parameters(&mut self, definition: &'t Macro, args: CallArgs) -> Result<()> {
        let name = &definition.name;
        let mut positional = args.positional.into_iter();
        let mut named = args.named;
        for (parameter, default) in &definition.parameters {
            let by_name = named.iter().position(|(n, _)| n == parameter).map(|at| named.remove(at).1);
            let value = match (positional.next(), by_name) {
                (Some(_), Some(_)) => {
                    return fail(format!("macro '{name}' got multiple values for argument '{parameter}'"));
                }
                (Some(value), None) | (None, Some(value)) => value,
                (None, None) => match default {
                    Some(default) => self.eval(default)?,
                    None => Value::Undefined(format!("parameter '{parameter}' was not provided").into()),
                },
            };
            self.set(Arc::clone(parameter), value);
        }
        self.bind_rest(definition, positional.collect(), named)
    }

    fn bind_rest(&mut self, definition: &Macro, rest: Vec<Value>, mut named: Vec<(Arc<str>, Value)>) -> Result<()> {
        let (name, takes) = (&definition.name, definition.takes);
        let has = |special: &str| definition.parameters.iter().any(|(p, _)| **p == *special);
        if takes.caller && !has("caller") {
            let at = named.iter().position(|(n, _)| &**n == "caller");
            let caller = at.map(|at| named.remove(at).1);
            self.set("caller".into(), caller.unwrap_or_else(|| Value::Undefined("No caller defined".into())));
        }
        if takes.kwargs && !has("kwargs") {
            let mut dict = DictBuilder::default();
            for (key, value) in named.drain(..) {
                dict.insert(Value::Text(key), value, &mut self.budget)?;
            }
            self.set("kwargs".into(), dict.finish()?);
        } else if let Some((extra, _)) = named.first() {
            return fail(match &**extra {
                "caller" => format!("macro '{name}' was invoked with two values for the special caller argument"),
                _ => format!("macro '{name}' takes no keyword argument '{extra}'"),
            });
        }
        if takes.varargs && !has("varargs") {
            self.set("varargs".into(), Value::sequence(ListKind::Tuple, rest)?);
        } else if !rest.is_empty() {
            let most = definition.parameters.len();
            return fail(format!("macro '{name}' takes not more than {most} argument(s)"));
        }
        Ok(())
    }
}

fn cannot_unpack(kind: &str) -> TemplateError {
    TemplateError::new(TemplateErrorKind::Runtime, format!("cannot unpack non-iterable {kind} object"))
}
