//! The timely operators behind a step: microbatch maps, keyed maps through differential, and the training barrier.

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

/// A stream of microbatches: at most one batch a time, on the worker of its shard.
pub(super) type Flow<'s> = StreamVec<'s, Epoch, Batch>;

/// Where a step's model comes from.
pub(super) enum Models<'s> {
    /// Known from the start; `None` if the step uses no model.
    Fixed(Option<ModelAt>),
    /// One that a step before the loop makes: the same in every iteration.
    Step(Flow<'s>),
    /// The policy, which changes with the iteration; the first may be known from the start.
    Policy(Option<ModelAt>, Flow<'s>),
}

/// The models an operator has learnt of.
pub(super) enum ModelTable {
    /// The same whatever the iteration; the outer `None` if not known yet.
    Always(Option<Option<ModelAt>>),
    /// By the iteration whose policy it is.
    ByIteration(BTreeMap<u32, ModelAt>),
}

impl<'s> Models<'s> {
    /// What is known at the start, and the announcements to come.
    pub(super) fn split(self) -> (ModelTable, Option<Flow<'s>>) {
        match self {
            Models::Fixed(model) => (ModelTable::Always(Some(model)), None),
            Models::Step(flow) => (ModelTable::Always(None), Some(flow)),
            Models::Policy(first, flow) => {
                (ModelTable::ByIteration(first.map(|m| (1, m)).into_iter().collect()), Some(flow))
            }
        }
    }
}

impl ModelTable {
    /// The model of an iteration: `Some(None)` if none is needed, `None` if it is not known yet.
    pub(super) fn at(&self, iteration: u32) -> Option<Option<ModelAt>> {
        match self {
            ModelTable::Always(model) => model.clone(),
            ModelTable::ByIteration(models) => models.get(&iteration).cloned().map(Some),
        }
    }
    /// Takes in announcements.
    pub(super) fn learn(&mut self, crew: &ComputePool, batches: &mut Vec<Batch>) {
        for batch in batches.drain(..) {
            // Announcements are in memory, also those of an earlier process.
            let rows = batch.rows.held().ok_or_else(|| Error::bug("an announcement was not read"));
            let models = rows.and_then(|rows| announced(&rows)).unwrap_or_else(|e| {
                crew.fail(e.doing("reading a model's announcement"));
                Vec::new()
            });
            for model in models {
                match (&mut *self, &model) {
                    (ModelTable::Always(known), _) => *known = Some(Some(model)),
                    (ModelTable::ByIteration(known), ModelAt::Made { version, .. }) => {
                        drop(known.insert(*version, model))
                    }
                    (ModelTable::ByIteration(_), ModelAt::Source(_)) => {}
                }
            }
        }
    }
}

/// A batch that goes to the worker of its microbatch.
pub(super) fn batch(rows: Rows, epoch: Epoch) -> Batch {
    Batch::new(rows, u64::from(epoch.microbatch))
}

/// A microbatch that waits to be computed.
struct Waiting {
    cap: Capability<Epoch>,
    /// Its rows; not held where many wait, as they are on disk.
    rows: Option<RecordBatch>,
}

/// An input that a step reads whole from the run directory.
pub(super) struct Side<'s> {
    pub(super) flow: Flow<'s>,
    /// Whether it has rows in each iteration; else it has them in iteration 0 alone.
    pub(super) in_loop: bool,
}

/// The time at which a side input is complete for an iteration of its reader: once its frontier has reached it.
pub(super) fn complete_at(in_loop: bool, iteration: u32) -> Epoch {
    Epoch::new(if in_loop { iteration + 1 } else { 1 }, 0)
}

/// A microbatch map. `sides` are inputs that it reads whole from the run directory, once they are complete in the microbatch's
/// iteration.
pub(super) fn map<'s>(
    scope: Scope<'s, Epoch>,
    input: Flow<'s>,
    models: Models<'s>,
    sides: Vec<Side<'s>>,
    jobs: StepJobs,
    crew: &ComputePool,
) -> Flow<'s> {
    let name = jobs.step().name.clone();
    let mut op = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = op.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    let same_time = [(0, Antichain::from_elem(Advance::default()))];
    let mut input = op.new_input_connection(input, Exchange::new(|b: &Batch| b.shard), same_time);
    // Neither announcements nor side inputs cause output: what waits for them keeps its own capability.
    let (mut known, feed) = models.split();
    let mut feed = feed.map(|feed| op.new_input_connection(feed, Pipeline, std::iter::empty()));
    let first_side = 1 + usize::from(feed.is_some());
    let in_loop: Vec<bool> = sides.iter().map(|s| s.in_loop).collect();
    let mut sides: Vec<_> =
        sides.into_iter().map(|s| op.new_input_connection(s.flow, Pipeline, std::iter::empty())).collect();
    let address = op.operator_info().address.to_vec();
    let crew = crew.clone();
    op.build(move |caps| {
        drop(caps);
        let mut desk = JobQueue::new(scope, &address, &crew, &name, IN_FLIGHT, Priority::Low);
        let mut waiting: BTreeMap<Epoch, Waiting> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|cap, batches| {
                let cap = cap.retain_least(0).expect("data always travels under a time");
                for batch in batches.drain(..) {
                    let rows = batch.rows.held().filter(|_| waiting.len() < HELD);
                    waiting.insert(*cap.time(), Waiting { cap: cap.clone(), rows });
                }
            });
            if let Some(feed) = &mut feed {
                feed.for_each(|_, batches| known.learn(&crew, batches));
            }
            for side in &mut sides {
                side.for_each(|_, _| {});
            }
            let mut out = output.activate();
            while let Some((cap, rows)) = desk.collect() {
                if let Some(rows) = rows {
                    out.session(&cap).give(batch(rows, *cap.time()));
                }
            }
            let ready = |epoch: &Epoch| {
                let mut sides = in_loop.iter().zip(&frontiers[first_side..]);
                known.at(epoch.iteration).is_some()
                    && sides.all(|(in_loop, f)| !f.less_than(&complete_at(*in_loop, epoch.iteration)))
            };
            // Every answer wakes the operator, so a job more than there are threads keeps all of them at work.
            while desk.open() <= IN_FLIGHT
                && let Some(epoch) = waiting.keys().copied().find(ready)
                && let (Some(next), Some(model)) = (waiting.remove(&epoch), known.at(epoch.iteration))
            {
                desk.submit(next.cap, jobs.map(epoch, next.rows, model));
            }
        }
    });
    stream
}

/// Microbatches of a map that are computed at once, so that an engine can fill one's tail with the next one's head.
pub(super) const IN_FLIGHT: usize = 2;
/// Microbatches whose rows are held by a map while they wait; those of further ones are read from the run directory when
/// their turn comes. So a map that is slower than what feeds it does not need more memory the longer it takes.
const HELD: usize = 4;

/// A keyed map whose groups go on from one microbatch to the next: ids and integers go through a differential reduce, and the rows wait for what their groups come to.
pub(super) fn keyed<'s>(scope: Scope<'s, Epoch>, input: Flow<'s>, jobs: StepJobs, crew: &ComputePool) -> Flow<'s> {
    let name = jobs.step().name.clone();
    let items = items(scope, input.clone(), &jobs, crew);
    let reducer = jobs.clone();
    let (mut items_of_group, mut kept_of_group) = (Vec::new(), Vec::new());
    let kept = items.as_collection().reduce_named(
        &name,
        move |key: &Key, group: &[(&Item, isize)], out: &mut Vec<(GroupResult, isize)>| {
            let step = reducer.step();
            if let Stage::Keyed(keyed) = step.op.stage() {
                items_of_group.clear();
                items_of_group.extend(group.iter().map(|(item, _)| **item));
                let draws = RngSource { seed: reducer.shared.plan.seed, step: &step.name };
                keyed.reduce(&draws, key, &items_of_group, &mut kept_of_group);
                out.extend(kept_of_group.drain(..).map(|k| (k, 1)));
            }
        },
    );
    let mut op = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = op.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    let same_time = [(0, Antichain::from_elem(Advance::default()))];
    let mut input = op.new_input_connection(input, Exchange::new(|b: &Batch| b.shard), same_time.clone());
    let home = Exchange::new(|u: &Update<(Key, GroupResult)>| u64::from(u.1.microbatch));
    let mut kept = op.new_input_connection(kept.inner, home, same_time);
    let (address, crew) = (op.operator_info().address.to_vec(), crew.clone());
    op.build(move |caps| {
        drop(caps);
        let mut desk = JobQueue::new(scope, &address, &crew, &name, 1, Priority::Low);
        let mut rows: BTreeMap<Epoch, Waiting> = BTreeMap::new();
        let mut changes: BTreeMap<Epoch, Vec<(Key, GroupResult)>> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|cap, batches| {
                let cap = cap.retain_least(0).expect("data always travels under a time");
                for batch in batches.drain(..) {
                    let held = batch.rows.held().filter(|_| rows.len() + desk.open() < HELD);
                    rows.insert(*cap.time(), Waiting { cap: cap.clone(), rows: held });
                }
            });
            kept.for_each(|_, updates| {
                for ((key, kept), epoch, diff) in updates.drain(..) {
                    // The scope of a key is such that its group is complete within one microbatch, or that later
                    // items never displace an earlier one; so nothing is ever withdrawn.
                    debug_assert!(diff == 1, "a kept item was withdrawn");
                    changes.entry(epoch).or_default().push((key, kept));
                }
            });
            while let Some(first) = rows.first_entry() {
                if frontiers.iter().any(|f| f.less_equal(first.key())) {
                    break;
                }
                let (epoch, next) = first.remove_entry();
                let mut kept = changes.remove(&epoch).unwrap_or_default();
                kept.sort_unstable();
                desk.submit(next.cap, jobs.finish(epoch, next.rows, kept));
            }
            let mut out = output.activate();
            while let Some((cap, rows)) = desk.collect() {
                if let Some(rows) = rows {
                    out.session(&cap).give(batch(rows, *cap.time()));
                }
            }
        }
    });
    stream
}

/// An update of a differential collection.
type Update<D> = (D, Epoch, isize);

/// The keyed items of each microbatch, made on a compute thread: hashing texts is no work for a worker.
fn items<'s>(
    scope: Scope<'s, Epoch>,
    input: Flow<'s>,
    jobs: &StepJobs,
    crew: &ComputePool,
) -> StreamVec<'s, Epoch, Update<(Key, Item)>> {
    let name = format!("{}: items", jobs.step().name);
    let mut op = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = op.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    let same_time = [(0, Antichain::from_elem(Advance::default()))];
    let mut input = op.new_input_connection(input, Pipeline, same_time);
    let (address, crew, jobs) = (op.operator_info().address.to_vec(), crew.clone(), jobs.clone());
    op.build(move |caps| {
        drop(caps);
        let mut desk: JobQueue<Vec<(Key, Item)>> = JobQueue::new(scope, &address, &crew, &name, 1, Priority::Low);
        move |_| {
            input.for_each(|cap, batches| {
                let cap = cap.retain_least(0).expect("data always travels under a time");
                for batch in batches.drain(..) {
                    let rows = batch.rows.held().filter(|_| desk.open() < HELD);
                    desk.submit(cap.clone(), jobs.items(*cap.time(), rows));
                }
            });
            let mut out = output.activate();
            while let Some((cap, items)) = desk.collect() {
                let epoch = *cap.time();
                let items = items.into_iter().flatten();
                out.session(&cap).give_iterator(items.map(|item| (item, epoch, 1isize)));
            }
        }
    });
    stream
}

/// The barrier: waits, on worker 0, until all rows of an iteration are on disk, then trains on them and announces the
/// model, or makes rows of them. It buffers nothing: the rows are in the run directory. With `planned`, the number of microbatches that an
/// iteration of its first input has, the training streams: it starts when everything else is there, and is told of each
/// of them as it closes.
pub(super) fn train<'s>(
    scope: Scope<'s, Epoch>,
    inputs: Vec<Side<'s>>,
    models: Models<'s>,
    iterations: RangeInclusive<u32>,
    planned: Option<u32>,
    jobs: StepJobs,
    crew: &ComputePool,
) -> Flow<'s> {
    let name = jobs.step().name.clone();
    let mut op = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = op.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    let in_loop: Vec<bool> = inputs.iter().map(|side| side.in_loop).collect();
    let mut inputs: Vec<_> =
        inputs.into_iter().map(|side| op.new_input_connection(side.flow, Pipeline, std::iter::empty())).collect();
    let (mut known, feed) = models.split();
    let mut feed = feed.map(|feed| op.new_input_connection(feed, Pipeline, std::iter::empty()));
    let (address, crew) = (op.operator_info().address.to_vec(), crew.clone());
    op.build(move |caps| {
        let home = scope.index() == 0;
        let (mut now, last) = (*iterations.start(), *iterations.end());
        let mut desk = home.then(|| JobQueue::new(scope, &address, &crew, &name, 1, Priority::Normal));
        let mut cap = caps.into_iter().next().filter(|_| home && now <= last).map(|c| c.delayed(&Epoch::new(now, 0)));
        let mut telling: Option<ClosedNotifier> = None;
        move |frontiers| {
            for input in &mut inputs {
                input.for_each(|_, _| {});
            }
            if let Some(feed) = &mut feed {
                feed.for_each(|_, batches| known.learn(&crew, batches));
            }
            let Some(desk) = &mut desk else { return };
            let mut out = output.activate();
            while let Some((job, rows)) = desk.collect() {
                if let Some(rows) = rows {
                    out.session(&job).give(batch(rows, *job.time()));
                }
                now += 1;
                telling = None;
            }
            if desk.open() > 0 {
                tell(&mut telling, |microbatch| !frontiers[0].less_equal(&Epoch::new(now, microbatch)));
                return;
            }
            if now > last {
                cap = None;
            }
            let Some(cap) = &mut cap else { return };
            cap.downgrade(&Epoch::new(now, 0));
            let waits_for = usize::from(planned.is_some());
            let mut sides = in_loop.iter().zip(frontiers).skip(waits_for);
            let closed = sides.all(|(in_loop, frontier)| !frontier.less_than(&complete_at(*in_loop, now)));
            if let Some(model) = known.at(now)
                && closed
            {
                let closed = planned.map(|planned| {
                    // Numbers only, at most as many as are planned.
                    let (to, numbers) = unbounded();
                    telling = Some(ClosedNotifier { to, next: 0, planned });
                    Closed { planned, numbers }
                });
                desk.submit(cap.clone(), jobs.train(now, model, closed));
                tell(&mut telling, |microbatch| !frontiers[0].less_equal(&Epoch::new(now, microbatch)));
            }
        }
    });
    stream
}

/// A streaming training under way, to be told of microbatches as they close.
struct ClosedNotifier {
    to: Sender<u32>,
    next: u32,
    planned: u32,
}

fn tell(training: &mut Option<ClosedNotifier>, closed: impl Fn(u32) -> bool) {
    let Some(ClosedNotifier { to, next, planned }) = training else { return };
    while *next < *planned && closed(*next) {
        // Nobody listens where the iteration's model is there already.
        let _ended = to.send(*next).is_err();
        *next += 1;
    }
}
