//! The operators that start microbatches: sources before the loop, iteration sources inside it, and
//! datasets that enter it.
//!
//! timely never blocks a producer, so memory is bounded here. A starter keeps at most `window` of its
//! microbatches open, and learns that one is closed from a progress-only feedback of the last steps that
//! stream from it. These steps are always upstream of the training barrier: after the barrier, nothing
//! would close within an iteration.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

use super::compute::{ComputePool, JobQueue, Priority, Task};
use super::flow::{Flow, ModelFlow, SideInput, batch, complete_at};
use super::operator::ModelAt;
use crate::data::Epoch;

/// The settings of a starter.
pub(super) struct Start<'s> {
    pub(super) name: String,
    /// The iterations in which it starts microbatches.
    pub(super) iterations: RangeInclusive<u32>,
    /// Number of microbatches in an iteration; `None` if it is found by reaching the end.
    pub(super) microbatches: Option<u32>,
    /// Most microbatches open at once.
    pub(super) window: usize,
    /// Inputs that must be complete in an iteration before it starts.
    pub(super) wait: Vec<SideInput<'s>>,
    /// The model that its microbatches need.
    pub(super) models: ModelFlow<'s>,
    /// Progress of the microbatches it has started.
    pub(super) done: StreamVec<'s, Epoch, ()>,
}

/// Starts microbatches one after the other, on worker 0. `make` returns the job of one.
pub(super) fn start<'s>(
    scope: Scope<'s, Epoch>,
    start: Start<'s>,
    pool: &ComputePool,
    mut make: impl FnMut(Epoch, Option<ModelAt>) -> Task + 'static,
) -> Flow<'s> {
    let Start { name, iterations, microbatches, window, wait, models, done } = start;
    let mut op = OperatorBuilder::new(name.clone(), scope);
    let (output, stream) = op.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<_>>>::from(output);
    // None of the inputs causes output: the starter holds its own capability, and the window is no cycle.
    let mut done = op.new_input_connection(done, Pipeline, std::iter::empty());
    let (mut model_table, feed) = models.split();
    let mut feed = feed.map(|feed| op.new_input_connection(feed, Pipeline, std::iter::empty()));
    let first_wait = 1 + usize::from(feed.is_some());
    let in_loop: Vec<bool> = wait.iter().map(|side| side.in_loop).collect();
    let mut wait: Vec<_> =
        wait.into_iter().map(|w| op.new_input_connection(w.flow, Pipeline, std::iter::empty())).collect();
    let address = op.operator_info().address.to_vec();
    let (pool, last) = (pool.clone(), *iterations.end());
    op.build(move |caps| {
        let mut next = Epoch::new(*iterations.start(), 0);
        let home = scope.index() == 0;
        let mut queue = home.then(|| JobQueue::new(scope, &address, &pool, &name, 1, Priority::Low));
        let mut cap = caps.into_iter().next().filter(|_| home && !iterations.is_empty()).map(|c| c.delayed(&next));
        let mut open: VecDeque<Epoch> = VecDeque::new();
        move |frontiers| {
            // Only frontiers count here. Batches are drained so that timely can advance them.
            done.for_each(|_, _| {});
            for input in &mut wait {
                input.for_each(|_, _| {});
            }
            if let Some(feed) = &mut feed {
                feed.for_each(|_, batches| model_table.learn(&pool, batches));
            }
            let Some(queue) = &mut queue else { return };
            let mut out = output.activate();
            while let Some((job, rows)) = queue.collect() {
                // A source learns of its end only by asking for one more microbatch.
                let ended = rows.is_none();
                if let Some(rows) = rows {
                    open.push_back(*job.time());
                    out.session(&job).give(batch(rows, *job.time()));
                    next.microbatch += 1;
                }
                if ended || microbatches.is_some_and(|n| next.microbatch >= n) {
                    next = Epoch::new(next.iteration + 1, 0);
                }
            }
            // One at a time: a source's batches and an iteration's state depend on those before.
            if queue.open() > 0 {
                return;
            }
            if next.iteration > last {
                cap = None;
            }
            let Some(cap) = &mut cap else { return };
            cap.downgrade(&next);
            // A microbatch leaves the window when every step that is measured has closed it.
            while open.front().is_some_and(|e| !frontiers[0].less_equal(e)) {
                open.pop_front();
            }
            let mut sides = in_loop.iter().zip(&frontiers[first_wait..]);
            let complete = sides.all(|(in_loop, f)| !f.less_than(&complete_at(*in_loop, next.iteration)));
            if let Some(model) = model_table.at(next.iteration)
                && complete
                && open.len() < window
            {
                queue.submit(cap.clone(), make(next, model));
            }
        }
    });
    stream
}
