//! The timely operators of steps: microbatch maps, keyed maps through differential, and the training
//! barrier.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use arrow::array::RecordBatch;
use crossbeam_channel::{Sender, unbounded};
use differential_dataflow::AsCollection;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};
use timely::progress::frontier::Antichain;

use super::clock::Advance;
use super::compute::{ComputePool, JobQueue, Priority};
use super::items::{GroupResult, Item, Key, RngSource};
use super::jobs::{Closed, StepJobs};
use super::operator::{ModelAt, Stage, announced};
use crate::data::{Batch, Epoch, Rows};
use crate::error::Error;

/// A stream of microbatches: at most one batch per time, on the worker of its shard.
pub(super) type Flow<'s> = StreamVec<'s, Epoch, Batch>;

/// The source of a step's model.
pub(super) enum ModelFlow<'s> {
    /// Known from the start; `None` if the step uses no model.
    Fixed(Option<ModelAt>),
    /// Made by a step before the loop, and the same in every iteration.
    Step(Flow<'s>),
    /// The policy, which changes with every iteration. The first one may be known from the start.
    Policy(Option<ModelAt>, Flow<'s>),
}

/// The models that an operator knows so far.
pub(super) enum ModelTable {
    /// One model for all iterations; the outer `None` means not known yet.
    Always(Option<Option<ModelAt>>),
    /// Policies by their iteration.
    ByIteration(BTreeMap<u32, ModelAt>),
}

impl<'s> ModelFlow<'s> {
    /// Splits into the models known at the start and the stream of announcements.
    pub(super) fn split(self) -> (ModelTable, Option<Flow<'s>>) {
        match self {
            ModelFlow::Fixed(model) => (ModelTable::Always(Some(model)), None),
            ModelFlow::Step(flow) => (ModelTable::Always(None), Some(flow)),
            ModelFlow::Policy(first, flow) => {
                (ModelTable::ByIteration(first.map(|m| (1, m)).into_iter().collect()), Some(flow))
            }
        }
    }
}

impl ModelTable {
    /// Returns the model of an iteration: `Some(None)` if none is needed, `None` if it is not known yet.
    pub(super) fn at(&self, iteration: u32) -> Option<Option<ModelAt>> {
        match self {
            ModelTable::Always(model) => model.clone(),
            ModelTable::ByIteration(models) => models.get(&iteration).cloned().map(Some),
        }
    }
    /// Adds announced models.
    pub(super) fn learn(&mut self, pool: &ComputePool, batches: &mut Vec<Batch>) {
        for batch in batches.drain(..) {
            // Announcements are always in memory, also those of an earlier process.
            let rows = batch.rows.held().ok_or_else(|| Error::bug("an announcement was not read"));
            let models = rows.and_then(|rows| announced(&rows)).unwrap_or_else(|e| {
                pool.fail(e.doing("reading a model's announcement"));
                Vec::new()
            });
            for model in models {
                match (&mut *self, &model) {
                    (ModelTable::Always(model_table), _) => *model_table = Some(Some(model)),
                    (ModelTable::ByIteration(model_table), ModelAt::Made { version, .. }) => {
                        drop(model_table.insert(*version, model))
                    }
                    (ModelTable::ByIteration(_), ModelAt::Source(_)) => {}
                }
            }
        }
    }
}

/// Makes a batch that is routed to the worker of its microbatch.
pub(super) fn batch(rows: Rows, epoch: Epoch) -> Batch {
    Batch::new(rows, u64::from(epoch.microbatch))
}

/// A microbatch that waits to be computed.
struct WaitingBatch {
    cap: Capability<Epoch>,
    /// Its rows; `None` if many microbatches wait, since the rows are on disk.
    rows: Option<RecordBatch>,
}

/// An input that a step reads whole from the run directory.
pub(super) struct SideInput<'s> {
    pub(super) flow: Flow<'s>,
    /// Whether it has rows in each iteration; otherwise it has rows in iteration 0 only.
    pub(super) in_loop: bool,
}

/// Returns the time that an input's frontier must reach before the input is complete for an iteration of
/// its reader.
pub(super) fn complete_at(in_loop: bool, iteration: u32) -> Epoch {
    Epoch::new(if in_loop { iteration + 1 } else { 1 }, 0)
}

/// Maps microbatches. `sides` are inputs that the step reads whole from the run directory, once they are
/// complete in the microbatch's iteration.
pub(super) fn map<'s>(
    scope: Scope<'s, Epoch>,
    input: Flow<'s>,
    models: ModelFlow<'s>,
    sides: Vec<SideInput<'s>>,
    jobs: StepJobs,
    pool: &ComputePool,
) -> Flow<'s> {
    let name = jobs.step().name.clone();
    let mut op = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = op.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    let same_time = [(0, Antichain::from_elem(Advance::default()))];
    let mut input = op.new_input_connection(input, Exchange::new(|b: &Batch| b.shard), same_time);
    // Neither announcements nor side inputs cause output: a microbatch that waits for them keeps its own
    // capability.
    let (mut model_table, feed) = models.split();
    let mut feed = feed.map(|feed| op.new_input_connection(feed, Pipeline, std::iter::empty()));
    let first_side = 1 + usize::from(feed.is_some());
    let in_loop: Vec<bool> = sides.iter().map(|s| s.in_loop).collect();
    let mut sides: Vec<_> =
        sides.into_iter().map(|s| op.new_input_connection(s.flow, Pipeline, std::iter::empty())).collect();
    let address = op.operator_info().address.to_vec();
    let pool = pool.clone();
    op.build(move |caps| {
        drop(caps);
        let mut queue = JobQueue::new(scope, &address, &pool, &name, IN_FLIGHT, Priority::Low);
        let mut waiting: BTreeMap<Epoch, WaitingBatch> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|cap, batches| {
                // Retained, because the rows are answered long after this call returns.
                let cap = cap.retain_least(0).expect("data always travels under a time");
                for batch in batches.drain(..) {
                    // A slow map must not collect its whole input in memory: the rows are on disk as well.
                    let rows = batch.rows.held().filter(|_| waiting.len() < MAX_HELD);
                    waiting.insert(*cap.time(), WaitingBatch { cap: cap.clone(), rows });
                }
            });
            if let Some(feed) = &mut feed {
                feed.for_each(|_, batches| model_table.learn(&pool, batches));
            }
            for side in &mut sides {
                // Only the frontier of a side input counts. Its batches are drained so that timely can
                // advance it.
                side.for_each(|_, _| {});
            }
            let mut out = output.activate();
            while let Some((cap, rows)) = queue.collect() {
                if let Some(rows) = rows {
                    out.session(&cap).give(batch(rows, *cap.time()));
                }
            }
            let ready = |epoch: &Epoch| {
                let mut sides = in_loop.iter().zip(&frontiers[first_side..]);
                model_table.at(epoch.iteration).is_some()
                    && sides.all(|(in_loop, f)| !f.less_than(&complete_at(*in_loop, epoch.iteration)))
            };
            // Every result wakes the operator, so one job more than the number of threads keeps all of them
            // busy.
            while queue.open() <= IN_FLIGHT
                && let Some(epoch) = waiting.keys().copied().find(ready)
                && let (Some(next), Some(model)) = (waiting.remove(&epoch), model_table.at(epoch.iteration))
            {
                queue.submit(next.cap, jobs.map(epoch, next.rows, model));
            }
        }
    });
    stream
}

/// Microbatches of a map that are computed at once, so that an engine fills the tail of one with the head
/// of the next.
pub(super) const IN_FLIGHT: usize = 2;
/// Waiting microbatches of a map whose rows stay in memory. The rows of further ones are read from the run
/// directory when their turn comes, so a map that is slower than its input needs no more memory over time.
const MAX_HELD: usize = 4;

/// A keyed map whose groups span microbatches. Ids and integers go through a differential reduce, and the
/// rows wait for the results of their groups.
pub(super) fn keyed<'s>(scope: Scope<'s, Epoch>, input: Flow<'s>, jobs: StepJobs, pool: &ComputePool) -> Flow<'s> {
    let name = jobs.step().name.clone();
    let items = items(scope, input.clone(), &jobs, pool);
    let reducer = jobs.clone();
    let (mut group_items, mut group_results) = (Vec::new(), Vec::new());
    let results = items.as_collection().reduce_named(
        &name,
        move |key: &Key, group: &[(&Item, isize)], out: &mut Vec<(GroupResult, isize)>| {
            let step = reducer.step();
            if let Stage::Keyed(keyed) = step.op.stage() {
                // The reduce sees keys and items only. Texts stay with their microbatch, so state stays
                // small.
                group_items.clear();
                group_items.extend(group.iter().map(|(item, _)| **item));
                let rng_source = RngSource { seed: reducer.shared.plan.seed, step: &step.name };
                keyed.reduce(&rng_source, key, &group_items, &mut group_results);
                out.extend(group_results.drain(..).map(|k| (k, 1)));
            }
        },
    );
    let mut op = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = op.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    let same_time = [(0, Antichain::from_elem(Advance::default()))];
    let mut input = op.new_input_connection(input, Exchange::new(|b: &Batch| b.shard), same_time.clone());
    // Results return to the worker that holds the rows of their microbatch.
    let home = Exchange::new(|u: &CollectionUpdate<(Key, GroupResult)>| u64::from(u.1.microbatch));
    let mut results = op.new_input_connection(results.inner, home, same_time);
    let (address, pool) = (op.operator_info().address.to_vec(), pool.clone());
    op.build(move |caps| {
        drop(caps);
        let mut queue = JobQueue::new(scope, &address, &pool, &name, 1, Priority::Low);
        let mut rows: BTreeMap<Epoch, WaitingBatch> = BTreeMap::new();
        let mut changes: BTreeMap<Epoch, Vec<(Key, GroupResult)>> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|cap, batches| {
                let cap = cap.retain_least(0).expect("data always travels under a time");
                for batch in batches.drain(..) {
                    let held = batch.rows.held().filter(|_| rows.len() + queue.open() < MAX_HELD);
                    rows.insert(*cap.time(), WaitingBatch { cap: cap.clone(), rows: held });
                }
            });
            results.for_each(|_, updates| {
                for ((key, results), epoch, diff) in updates.drain(..) {
                    // Either the scope of a key limits its group to one microbatch, or later items never
                    // displace an earlier one. So nothing is ever retracted.
                    debug_assert!(diff == 1, "a kept item was withdrawn");
                    changes.entry(epoch).or_default().push((key, results));
                }
            });
            while let Some(first) = rows.first_entry() {
                // A group is final once neither more rows nor more results can arrive at this time.
                if frontiers.iter().any(|f| f.less_equal(first.key())) {
                    break;
                }
                let (epoch, next) = first.remove_entry();
                let mut results = changes.remove(&epoch).unwrap_or_default();
                // The order of arrival depends on the number of workers; the output must not.
                results.sort_unstable();
                queue.submit(next.cap, jobs.finish(epoch, next.rows, results));
            }
            let mut out = output.activate();
            while let Some((cap, rows)) = queue.collect() {
                if let Some(rows) = rows {
                    out.session(&cap).give(batch(rows, *cap.time()));
                }
            }
        }
    });
    stream
}

/// An update of a differential collection.
type CollectionUpdate<D> = (D, Epoch, isize);

/// Computes the keyed items of each microbatch on a compute thread, because hashing texts would block a
/// worker.
fn items<'s>(
    scope: Scope<'s, Epoch>,
    input: Flow<'s>,
    jobs: &StepJobs,
    pool: &ComputePool,
) -> StreamVec<'s, Epoch, CollectionUpdate<(Key, Item)>> {
    let name = format!("{}: items", jobs.step().name);
    let mut op = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = op.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    let same_time = [(0, Antichain::from_elem(Advance::default()))];
    let mut input = op.new_input_connection(input, Pipeline, same_time);
    let (address, pool, jobs) = (op.operator_info().address.to_vec(), pool.clone(), jobs.clone());
    op.build(move |caps| {
        drop(caps);
        let mut queue: JobQueue<Vec<(Key, Item)>> = JobQueue::new(scope, &address, &pool, &name, 1, Priority::Low);
        move |_| {
            input.for_each(|cap, batches| {
                let cap = cap.retain_least(0).expect("data always travels under a time");
                for batch in batches.drain(..) {
                    let rows = batch.rows.held().filter(|_| queue.open() < MAX_HELD);
                    queue.submit(cap.clone(), jobs.items(*cap.time(), rows));
                }
            });
            let mut out = output.activate();
            while let Some((cap, items)) = queue.collect() {
                let epoch = *cap.time();
                let items = items.into_iter().flatten();
                out.session(&cap).give_iterator(items.map(|item| (item, epoch, 1isize)));
            }
        }
    });
    stream
}

/// The barrier. Worker 0 waits until all rows of an iteration are on disk, then trains on them and
/// announces the model, or makes rows from them. It buffers nothing: the rows are in the run directory. If
/// `planned` gives the number of microbatches in an iteration of its first input, the training streams: it
/// starts when all other inputs are complete and is notified of each microbatch as it closes.
pub(super) fn train<'s>(
    scope: Scope<'s, Epoch>,
    inputs: Vec<SideInput<'s>>,
    models: ModelFlow<'s>,
    iterations: RangeInclusive<u32>,
    planned: Option<u32>,
    jobs: StepJobs,
    pool: &ComputePool,
) -> Flow<'s> {
    let name = jobs.step().name.clone();
    let mut op = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = op.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    let in_loop: Vec<bool> = inputs.iter().map(|side| side.in_loop).collect();
    let mut inputs: Vec<_> =
        inputs.into_iter().map(|side| op.new_input_connection(side.flow, Pipeline, std::iter::empty())).collect();
    let (mut model_table, feed) = models.split();
    let mut feed = feed.map(|feed| op.new_input_connection(feed, Pipeline, std::iter::empty()));
    let (address, pool) = (op.operator_info().address.to_vec(), pool.clone());
    op.build(move |caps| {
        let home = scope.index() == 0;
        let (mut now, last) = (*iterations.start(), *iterations.end());
        let mut queue = home.then(|| JobQueue::new(scope, &address, &pool, &name, 1, Priority::Normal));
        let mut cap = caps.into_iter().next().filter(|_| home && now <= last).map(|c| c.delayed(&Epoch::new(now, 0)));
        let mut notifier: Option<ClosedNotifier> = None;
        move |frontiers| {
            for input in &mut inputs {
                input.for_each(|_, _| {});
            }
            if let Some(feed) = &mut feed {
                feed.for_each(|_, batches| model_table.learn(&pool, batches));
            }
            let Some(queue) = &mut queue else { return };
            let mut out = output.activate();
            while let Some((job, rows)) = queue.collect() {
                if let Some(rows) = rows {
                    out.session(&job).give(batch(rows, *job.time()));
                }
                now += 1;
                notifier = None;
            }
            if queue.open() > 0 {
                notify_closed(&mut notifier, |microbatch| !frontiers[0].less_equal(&Epoch::new(now, microbatch)));
                return;
            }
            if now > last {
                cap = None;
            }
            let Some(cap) = &mut cap else { return };
            // Releases earlier iterations, so that steps after this one can close them.
            cap.downgrade(&Epoch::new(now, 0));
            let waits_for = usize::from(planned.is_some());
            let mut sides = in_loop.iter().zip(frontiers).skip(waits_for);
            let closed = sides.all(|(in_loop, frontier)| !frontier.less_than(&complete_at(*in_loop, now)));
            if let Some(model) = model_table.at(now)
                && closed
            {
                let closed = planned.map(|planned| {
                    // The channel carries numbers only, at most `planned` of them.
                    let (to, numbers) = unbounded();
                    notifier = Some(ClosedNotifier { to, next: 0, planned });
                    Closed { planned, numbers }
                });
                queue.submit(cap.clone(), jobs.train(now, model, closed));
                notify_closed(&mut notifier, |microbatch| !frontiers[0].less_equal(&Epoch::new(now, microbatch)));
            }
        }
    });
    stream
}

/// Notifies a streaming training of microbatches as they close.
struct ClosedNotifier {
    to: Sender<u32>,
    next: u32,
    planned: u32,
}

fn notify_closed(training: &mut Option<ClosedNotifier>, closed: impl Fn(u32) -> bool) {
    let Some(ClosedNotifier { to, next, planned }) = training else { return };
    while *next < *planned && closed(*next) {
        // The receiver is gone if the iteration's model exists already.
        let _ended = to.send(*next).is_err();
        *next += 1;
    }
}
