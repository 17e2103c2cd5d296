//! The reduce of a keyed step whose groups are whole within a microbatch: by itself as the run makes it, and in differential
//! where corrections come to it afterwards.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::RecordBatch;
use differential_dataflow::input::InputSession;
use timely::dataflow::ProbeHandle;

use super::compute::panicked;
use super::items::{GroupResult, Item, Key, RngSource};
use super::operator::{Context, Keyed, Operator, Stage};
use crate::error::{Error, Result};
use crate::pipeline::Plan;

/// What the groups of a microbatch come to, where none has items in another: no memory of earlier microbatches is needed.
pub(super) fn reduce_local(keyed: &dyn Keyed, cx: &Context<'_>, rows: &RecordBatch) -> Result<Vec<(Key, GroupResult)>> {
    let draws = RngSource { seed: cx.shared.plan.seed, step: &cx.step.name };
    let mut items = keyed.items(cx.epoch, rows)?;
    items.sort_unstable();
    items.dedup();
    let (mut group, mut of_group, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for same in items.chunk_by(|a, b| a.0 == b.0) {
        group.clear();
        group.extend(same.iter().map(|(_, item)| *item));
        keyed.reduce(&draws, &same[0].0, &group, &mut of_group);
        all.extend(of_group.drain(..).map(|kept| (same[0].0, kept)));
    }
    all.sort_unstable();
    // An answer that is there twice makes no pair twice.
    all.dedup();
    Ok(all)
}

/// One item in place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Correction {
    /// The group.
    pub(super) key: Key,
    /// The item as it was.
    pub(super) was: Item,
    /// The item as it is to be.
    pub(super) is: Item,
}

/// What groups come to before and after corrections, both sorted.
pub(super) struct BeforeAfter {
    /// As [`reduce_local`] makes of the rows.
    pub(super) before: Vec<(Key, GroupResult)>,
    /// As it makes of the corrected ones.
    pub(super) after: Vec<(Key, GroupResult)>,
}

/// What groups come to under corrections: all items are arranged and reduced, and then the corrections come as the withdrawal of
/// what was and the addition of what is.
pub(super) fn corrected(
    plan: &Arc<Plan<dyn Operator>>,
    step: &str,
    items: Vec<(Key, Item)>,
    corrections: Vec<Correction>,
) -> Result<BeforeAfter> {
    let index = plan.steps.iter().position(|s| s.name == step && matches!(s.op.stage(), Stage::Keyed(_)));
    let index = index.ok_or_else(|| Error::bug(format!("`{step}` is not a keyed step")))?;
    let reducer = Arc::clone(plan);
    let work = move |worker: &mut timely::worker::Worker| arrange(worker, reducer, index, items, &corrections);
    let work = AssertUnwindSafe(|| timely::execute_directly(work));
    catch_unwind(work).map_err(|panic| panicked(step, &*panic))
}

fn arrange(
    worker: &mut timely::worker::Worker,
    plan: Arc<Plan<dyn Operator>>,
    index: usize,
    items: Vec<(Key, Item)>,
    corrections: &[Correction],
) -> BeforeAfter {
    let kept: Rc<RefCell<BTreeMap<(Key, GroupResult), isize>>> = Rc::default();
    let seen = Rc::clone(&kept);
    let probe = ProbeHandle::new();
    let mut input = InputSession::<u32, (Key, Item), isize>::new();
    worker.dataflow(|scope| {
        let (mut group, mut of_group) = (Vec::new(), Vec::new());
        let reduced = input.to_collection(scope).reduce_named(
            "Groups",
            move |key: &Key, items: &[(&Item, isize)], out: &mut Vec<(GroupResult, isize)>| {
                let step = &plan.steps[index];
                if let Stage::Keyed(keyed) = step.op.stage() {
                    group.clear();
                    group.extend(items.iter().map(|(item, _)| **item));
                    keyed.reduce(&RngSource { seed: plan.seed, step: &step.name }, key, &group, &mut of_group);
                    out.extend(of_group.drain(..).map(|kept| (kept, 1)));
                }
            },
        );
        let count = move |(kept, _, diff): &((Key, GroupResult), u32, isize)| {
            *seen.borrow_mut().entry(*kept).or_default() += diff
        };
        reduced.inspect(count).probe_with(&probe);
    });
    for item in items {
        input.insert(item);
    }
    input.advance_to(1);
    input.flush();
    worker.step_while(|| probe.less_than(&1));
    let now = || kept.borrow().iter().filter(|(_, times)| **times > 0).map(|(kept, _)| *kept).collect();
    let before = now();
    for Correction { key, was, is } in corrections {
        input.remove((*key, *was));
        input.insert((*key, *is));
    }
    input.advance_to(2);
    input.flush();
    worker.step_while(|| probe.less_than(&2));
    BeforeAfter { before, after: now() }
}
