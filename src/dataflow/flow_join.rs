//! The timely operator of a step that joins the rows of another step to those of its first input.

use std::collections::BTreeMap;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::{Antichain, MutableAntichain};

use super::clock::Advance;
use super::compute::{ComputePool, JobQueue, Priority};
use super::flow::{Flow, IN_FLIGHT, ModelFlow, batch};
use super::jobs::StepJobs;
use crate::data::{Batch, Epoch};

/// A microbatch that is not joined yet. Its rows stay on disk.
struct Pending {
    cap: Capability<Epoch>,
    /// Whether a first attempt found rows without a partner.
    waits_for_all: bool,
}

/// Maps microbatches with a joined input. The output has a microbatch wherever either input has one. A
/// microbatch is tried when both inputs have closed it; if a row has no partner by then, it is tried again
/// when both inputs are complete in its iteration.
pub(super) fn join<'s>(
    scope: Scope<'s, Epoch>,
    [ours, theirs]: [Flow<'s>; 2],
    models: ModelFlow<'s>,
    jobs: StepJobs,
    pool: &ComputePool,
) -> Flow<'s> {
    let name = jobs.step().name.clone();
    let iterations = jobs.step().iterations.clone();
    let mut op = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = op.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    let same_time = [(0, Antichain::from_elem(Advance::default()))];
    let mut ours = op.new_input_connection(ours, Exchange::new(|b: &Batch| b.shard), same_time.clone());
    let mut theirs = op.new_input_connection(theirs, Exchange::new(|b: &Batch| b.shard), same_time);
    let (mut model_table, feed) = models.split();
    let mut feed = feed.map(|feed| op.new_input_connection(feed, Pipeline, std::iter::empty()));
    let address = op.operator_info().address.to_vec();
    let pool = pool.clone();
    op.build(move |caps| {
        drop(caps);
        let mut queue = JobQueue::new(scope, &address, &pool, &name, IN_FLIGHT, Priority::Low);
        let mut pending: BTreeMap<Epoch, Pending> = BTreeMap::new();
        move |frontiers| {
            for input in [&mut ours, &mut theirs] {
                input.for_each(|cap, batches| {
                    batches.clear();
                    let cap = cap.retain_least(0).expect("data always travels under a time");
                    // An observer of the loop has no rows in the iteration after the last training, but an
                    // input may.
                    if iterations.contains(&cap.time().iteration) {
                        pending.entry(*cap.time()).or_insert(Pending { cap, waits_for_all: false });
                    }
                });
            }
            if let Some(feed) = &mut feed {
                feed.for_each(|_, batches| model_table.learn(&pool, batches));
            }
            let mut out = output.activate();
            while let Some((cap, rows)) = queue.collect() {
                match rows {
                    Some(rows) => out.session(&cap).give(batch(rows, *cap.time())),
                    None => drop(pending.insert(*cap.time(), Pending { cap, waits_for_all: true })),
                }
            }
            let inputs = &frontiers[..2];
            let ready = |(epoch, waiting): (&Epoch, &Pending)| {
                let due = if waiting.waits_for_all { complete(inputs, *epoch) } else { closed(inputs, *epoch) };
                due && model_table.at(epoch.iteration).is_some()
            };
            while queue.open() < IN_FLIGHT
                && let Some(epoch) = pending.iter().find(|(e, p)| ready((e, p))).map(|(e, _)| *e)
                && let (Some(next), Some(model)) = (pending.remove(&epoch), model_table.at(epoch.iteration))
            {
                queue.submit(next.cap, jobs.join(epoch, model, complete(inputs, epoch)));
            }
        }
    });
    stream
}

/// Whether no input can bring more rows at this time or earlier.
fn closed(inputs: &[MutableAntichain<Epoch>], epoch: Epoch) -> bool {
    inputs.iter().all(|frontier| !frontier.less_equal(&epoch))
}

/// Whether no input can bring more rows in this iteration or earlier.
fn complete(inputs: &[MutableAntichain<Epoch>], epoch: Epoch) -> bool {
    inputs.iter().all(|frontier| !frontier.less_than(&Epoch::new(epoch.iteration + 1, 0)))
}
