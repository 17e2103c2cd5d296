//! Steps of running loops, and the attributes of `loop`. The condition of a loop (`for x in y if z`) is evaluated when
//! the loop reaches an element, as in Jinja2, because it may depend on what the loop's body has done.

use std::sync::Arc;

use super::arguments::CallArgs;
use super::error::{Result, fail};
use super::interpreter::{Interpreter, LoopControl, LoopItems};
use super::lookup::missing;
use super::value::{ListKind, Value};

impl Interpreter<'_> {
    /// Moves a loop to its next element.
    pub(super) fn next_item(&mut self, at: usize) -> Result<Option<Value>> {
        let item = match self.loops[at].after.take() {
            Some(item) => Some(item),
            None => self.pull(at)?,
        };
        if let Some(item) = &item {
            let state = &mut self.loops[at];
            state.seen += 1;
            state.before = state.current.replace(item.clone());
        }
        Ok(item)
    }

    /// The next element whose condition holds.
    fn pull(&mut self, at: usize) -> Result<Option<Value>> {
        loop {
            self.budget.spend(1)?;
            let state = &mut self.loops[at];
            let Some(item) = state.items.rest.next() else { return Ok(None) };
            let (node, parent) = (state.node, state.parent);
            let Some(condition) = node.condition.as_ref().filter(|_| !state.checked) else { return Ok(Some(item)) };
            self.push_scope(Some(parent));
            self.assign(&node.target, item.clone())?;
            let holds = self.eval(condition)?.is_true();
            self.pop_scope();
            if holds {
                return Ok(Some(item));
            }
        }
    }

    fn peek(&mut self, at: usize) -> Result<Option<Value>> {
        if self.loops[at].after.is_none() {
            self.loops[at].after = self.pull(at)?;
        }
        Ok(self.loops[at].after.clone())
    }

    fn length(&mut self, at: usize) -> Result<usize> {
        if !self.loops[at].checked {
            let mut rest = Vec::new();
            while let Some(item) = self.pull(at)? {
                rest.push(item);
            }
            let state = &mut self.loops[at];
            let total = state.seen + usize::from(state.after.is_some()) + rest.len();
            state.items = LoopItems { rest: rest.into_iter(), total };
            state.checked = true;
        }
        Ok(self.loops[at].items.total)
    }

    fn loop_at(&self, serial: usize) -> Result<usize> {
        match self.loops.iter().rposition(|l| l.serial == serial as u64) {
            Some(at) => Ok(at),
            None => fail("`loop` is used after its loop has ended"),
        }
    }

    pub(super) fn loop_attribute(&mut self, serial: usize, name: &Arc<str>) -> Result<Value> {
        let at = self.loop_at(serial)?;
        let int = |n: usize| Value::Int(n as i64);
        let seen = self.loops[at].seen;
        let nothing = |message: &str| Value::Undefined(message.into());
        Ok(match &**name {
            "index" => int(seen),
            "index0" => int(seen.saturating_sub(1)),
            "revindex" => int(self.length(at)? + 1 - seen),
            "revindex0" => int(self.length(at)? - seen),
            "first" => Value::Bool(seen == 1),
            "last" => Value::Bool(self.peek(at)?.is_none()),
            "length" => int(self.length(at)?),
            "depth" => int(self.loops[at].depth + 1),
            "depth0" => int(self.loops[at].depth),
            "previtem" => self.loops[at].before.clone().unwrap_or_else(|| nothing("there is no previous item")),
            "nextitem" => self.peek(at)?.unwrap_or_else(|| nothing("there is no next item")),
            "cycle" | "changed" => Value::Method(Arc::new((Value::Loop(serial), Arc::clone(name)))),
            _ => missing(&Value::Loop(serial), &Value::Text(Arc::clone(name)), &mut self.budget)?,
        })
    }

    /// `loop.cycle(..)` and `loop.changed(..)`.
    pub(super) fn loop_method(&mut self, serial: usize, name: &str, args: CallArgs) -> Result<Value> {
        let at = self.loop_at(serial)?;
        let values = args.only_positional(name)?;
        if name == "cycle" {
            let index = self.loops[at].seen.saturating_sub(1);
            return match values.len() {
                0 => fail("no items for cycling given"),
                n => Ok(values[index % n].clone()),
            };
        }
        let now = Value::sequence(ListKind::Tuple, values)?;
        let same = match self.loops[at].last_changed.clone() {
            Some(before) => before.equals(&now, &mut self.budget)?,
            None => false,
        };
        self.loops[at].last_changed = Some(now);
        Ok(Value::Bool(!same))
    }

    /// `loop(items)`: the loop's body over other elements.
    pub(super) fn call_loop(&mut self, serial: usize, args: CallArgs) -> Result<Value> {
        let at = self.loop_at(serial)?;
        let (node, parent, depth) = (self.loops[at].node, self.loops[at].parent, self.loops[at].depth);
        if !node.recursive {
            return fail("The loop must have the 'recursive' marker to be called recursively.");
        }
        let [items] = args.exactly("loop")?;
        self.budget.enter()?;
        self.begin_capture();
        if self.run_loop(node, &items, parent, depth + 1)? != LoopControl::Next {
            return fail("`break` or `continue` outside of a loop");
        }
        let text = self.end_capture();
        self.budget.leave();
        Ok(Value::text(&text))
    }
}
