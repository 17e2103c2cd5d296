//! The reduce of a keyed step: of one microbatch by itself, and held in a differential arrangement, where corrections come to
//! what they change.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use differential_dataflow::input::InputSession;
use timely::dataflow::ProbeHandle;

use super::compute::panicked;
use super::operator::{Context, Draws, Item, Kept, Key, Keyed, Operator, Stage};
use crate::error::{Error, Result};
use crate::pipeline::Plan;

/// What the groups of a microbatch come to, where none has items in another: no memory of earlier microbatches is needed.
pub(super) fn alone(keyed: &dyn Keyed, cx: &Context<'_>, rows: &RecordBatch) -> Result<Vec<(Key, Kept)>> {
    let draws = Draws { seed: cx.shared.plan.seed, step: &cx.step.name };
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
    Ok(all)
}

/// One item in place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The group.
    pub key: Key,
    /// The item as it was; nothing is withdrawn if it was not there.
    pub was: Item,
    /// The item as it is to be.
    pub is: Item,
}

/// What a keyed step's groups come to, before and after corrections.
#[derive(Debug, Default)]
pub struct Revised {
    /// What they come to with the corrections, sorted.
    pub kept: Vec<(Key, Kept)>,
    /// What they came to before and no longer do, sorted.
    pub withdrawn: Vec<(Key, Kept)>,
    /// What they did not come to before, sorted.
    pub added: Vec<(Key, Kept)>,
    /// How long it took to arrange and reduce all items.
    pub full: Duration,
    /// How long the corrections took from there on.
    pub revision: Duration,
}

/// Arranges the items of a keyed step, reduces them, and then brings in the corrections, which cost what the groups concerned
/// cost. There is a worker for each of `shards`; how the items are dealt out changes nothing.
///
/// # Errors
/// The step is not keyed, or its reduce panics: a bug.
pub fn revise(
    plan: &Arc<Plan<dyn Operator>>,
    step: &str,
    shards: Vec<Vec<(Key, Item)>>,
    corrections: Vec<Correction>,
) -> Result<Revised> {
    let index = plan.steps.iter().position(|s| s.name == step && matches!(s.op.stage(), Stage::Keyed(_)));
    let index = index.ok_or_else(|| Error::bug(format!("`{step}` is not a keyed step")))?;
    let (plan, workers) = (Arc::clone(plan), shards.len().max(1));
    let shards = Arc::new(Mutex::new(shards));
    let corrections = Arc::new(corrections);
    let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
    let guards = timely::execute(config, move |worker| {
        let work = std::panic::AssertUnwindSafe(|| work(worker, &plan, index, &shards, &corrections));
        std::panic::catch_unwind(work).map_err(|panic| panicked("revising", &*panic))
    });
    let mut all = Revised::default();
    for worker in guards.map_err(Error::system)?.join() {
        let part = worker.map_err(|e| Error::bug(format!("a worker died: {e}")))??;
        all.kept.extend(part.kept);
        all.withdrawn.extend(part.withdrawn);
        all.added.extend(part.added);
        all.full = all.full.max(part.full);
        all.revision = all.revision.max(part.revision);
    }
    for list in [&mut all.kept, &mut all.withdrawn, &mut all.added] {
        list.sort_unstable();
    }
    Ok(all)
}

/// What a group came to, when (0 before the corrections, 1 with them), and whether it is new (1) or no more (-1).
type Update = ((Key, Kept), u32, isize);

/// A worker's part.
fn work(
    worker: &mut timely::worker::Worker,
    plan: &Arc<Plan<dyn Operator>>,
    index: usize,
    shards: &Mutex<Vec<Vec<(Key, Item)>>>,
    corrections: &[Correction],
) -> Revised {
    let (this, peers) = (worker.index(), worker.peers());
    let began = Instant::now();
    let updates: Rc<RefCell<Vec<Update>>> = Rc::default();
    let (seen, reducer) = (Rc::clone(&updates), Arc::clone(plan));
    let probe = ProbeHandle::new();
    let mut input = InputSession::<u32, (Key, Item), isize>::new();
    worker.dataflow(|scope| {
        let (mut group, mut of_group) = (Vec::new(), Vec::new());
        let kept = input.to_collection(scope).reduce_named(
            "Groups",
            move |key: &Key, items: &[(&Item, isize)], out: &mut Vec<(Kept, isize)>| {
                let step = &reducer.steps[index];
                if let Stage::Keyed(keyed) = step.op.stage() {
                    group.clear();
                    group.extend(items.iter().map(|(item, _)| **item));
                    keyed.reduce(&Draws { seed: reducer.seed, step: &step.name }, key, &group, &mut of_group);
                    out.extend(of_group.drain(..).map(|kept| (kept, 1)));
                }
            },
        );
        kept.inspect(move |update| seen.borrow_mut().push(*update)).probe_with(&probe);
    });
    let mine = shards.lock().unwrap_or_else(PoisonError::into_inner).get_mut(this).map(std::mem::take);
    for item in mine.unwrap_or_default() {
        input.insert(item);
    }
    input.advance_to(1);
    input.flush();
    worker.step_while(|| probe.less_than(&1));
    let full = began.elapsed();
    let began = Instant::now();
    for Correction { key, was, is } in corrections.iter().skip(this).step_by(peers) {
        input.remove((*key, *was));
        input.insert((*key, *is));
    }
    input.advance_to(2);
    input.flush();
    worker.step_while(|| probe.less_than(&2));
    let revision = began.elapsed();
    drop(input);
    let mut revised = Revised { full, revision, ..Revised::default() };
    let mut before = Vec::new();
    let mut changes: HashMap<(Key, Kept), isize> = HashMap::new();
    for (kept, time, diff) in updates.take() {
        if time == 0 { before.push(kept) } else { *changes.entry(kept).or_default() += diff }
    }
    before.retain(|kept| changes.get(kept).is_none_or(|&diff| diff >= 0));
    revised.kept = before;
    for (kept, diff) in changes {
        match diff {
            0 => {}
            1.. => {
                revised.added.push(kept);
                revised.kept.push(kept);
            }
            _ => revised.withdrawn.push(kept),
        }
    }
    revised
}
