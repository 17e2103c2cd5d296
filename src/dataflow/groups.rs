//! Reduces the groups of a keyed step whose groups each lie within one microbatch: directly during a run,
//! and in differential when corrections arrive later.

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

/// Reduces the groups of a microbatch. No group has items in another microbatch, so no earlier microbatch
/// is remembered.
pub(super) fn reduce_local(keyed: &dyn Keyed, cx: &Context<'_>, rows: &RecordBatch) -> Result<Vec<(Key, GroupResult)>> {
    let rng_source = RngSource { seed: cx.shared.plan.seed, step: &cx.step.name };
    let mut items = keyed.items(cx.epoch, rows)?;
    items.sort_unstable();
    items.dedup();
    let (mut group, mut of_group, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for same in items.chunk_by(|a, b| a.0 == b.0) {
        group.clear();
        group.extend(same.iter().map(|(_, item)| *item));
        keyed.reduce(&rng_source, &same[0].0, &group, &mut of_group);
        all.extend(of_group.drain(..).map(|results| (same[0].0, results)));
    }
    all.sort_unstable();
    // A duplicate answer must not produce a duplicate pair.
    all.dedup();
    Ok(all)
}

/// Replaces one item by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Correction {
    /// The group's key.
    pub(super) key: Key,
    /// The item before the correction.
    pub(super) before: Item,
    /// The item after the correction.
    pub(super) after: Item,
}

/// Results of the groups before and after corrections, both sorted.
pub(super) struct BeforeAfter {
    /// The results that [`reduce_local`] computes from the stored rows.
    pub(super) before: Vec<(Key, GroupResult)>,
    /// The results for the corrected rows.
    pub(super) after: Vec<(Key, GroupResult)>,
}

/// Computes the results of groups before and after corrections. All items are arranged and reduced first;
/// each correction is then a retraction of the old item and an insertion of the new one.
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
    let results: Rc<RefCell<BTreeMap<(Key, GroupResult), isize>>> = Rc::default();
    let counts = Rc::clone(&results);
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
                    out.extend(of_group.drain(..).map(|results| (results, 1)));
                }
            },
        );
        let count = move |(results, _, diff): &((Key, GroupResult), u32, isize)| {
            *counts.borrow_mut().entry(*results).or_default() += diff
        };
        reduced.inspect(count).probe_with(&probe);
    });
    for item in items {
        input.insert(item);
    }
    input.advance_to(1);
    input.flush();
    worker.step_while(|| probe.less_than(&1));
    let now = || results.borrow().iter().filter(|(_, times)| **times > 0).map(|(results, _)| *results).collect();
    let before = now();
    for Correction { key, before, after } in corrections {
        input.remove((*key, *before));
        input.insert((*key, *after));
    }
    input.advance_to(2);
    input.flush();
    worker.step_while(|| probe.less_than(&2));
    BeforeAfter { before, after: now() }
}
