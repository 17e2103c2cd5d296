//! Starts the workers, steps them until the run is done, and releases everything when one of them fails.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use timely::communication::allocator::AllocatorBuilder;
use timely::{CommunicationConfig, WorkerConfig};

use super::compute::{ComputePool, panicked};
use super::health;
use super::inputs;
use super::join::Joins;
use super::operator::Shared;
use super::render::render;
use crate::error::{Error, Result};
use crate::threads;

/// How batches travel between the workers of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WorkerTransport {
    /// Batches move as they are, without serialisation.
    #[default]
    Typed,
    /// Batches are serialised as Arrow IPC, as between processes. Tests of exchanged batches use this.
    Serialised,
}

/// Longest time that a worker parks, so that it notices a request to stop. Work wakes it sooner.
const PARK: Duration = Duration::from_millis(50);

/// Runs a plan to its end on `workers` timely workers.
///
/// # Errors
/// An external input differs from what the run read before; a job or worker failed (the first failure is
/// returned); or the run was stopped. Committed rows remain.
pub fn run(shared: Shared, workers: usize, transport: WorkerTransport) -> Result<()> {
    check_shapes(&shared)?;
    inputs::check(&shared)?;
    let (shared, joins, began) = (Arc::new(shared), Arc::<Joins>::default(), Instant::now());
    let whole = Arc::clone(&shared);
    let refused = |e| Error::no_thread(format!("{workers} workers"), e);
    threads::check_memory(workers, threads::STACK).map_err(refused)?;
    let pool = ComputePool::new(shared.stop.clone());
    let communication = match (workers, transport) {
        (0 | 1, WorkerTransport::Typed) => CommunicationConfig::Thread,
        (n, WorkerTransport::Typed) => CommunicationConfig::Process(n),
        (n, WorkerTransport::Serialised) => CommunicationConfig::ProcessBinary(n.max(1)),
    };
    // Built by hand and not from arguments, because timely would parse those of the program.
    let (builders, guards): (Vec<AllocatorBuilder>, _) = communication.try_build().map_err(Error::system)?;
    let workers_pool = pool.clone();
    let guards = timely::execute::execute_from(builders, guards, WorkerConfig::default(), move |worker| {
        let pool = &workers_pool;
        let built =
            catch_unwind(AssertUnwindSafe(|| worker.dataflow(|scope| render(scope, &shared, &joins, pool, began))));
        match built {
            Ok(probe) => {
                // A worker that panicked must not be stepped again, and failing the pool sets `stop`.
                while !probe.done() && !pool.stop.is_set() {
                    let step = catch_unwind(AssertUnwindSafe(|| worker.step_or_park(Some(PARK))));
                    if let Err(panic) = step {
                        pool.fail(panicked("a worker", &*panic));
                    }
                }
            }
            Err(panic) => pool.fail(panicked("building the dataflow", &*panic)),
        }
        // timely would step until every dataflow ends by itself, and a stopped dataflow never does.
        for id in worker.installed_dataflows() {
            worker.drop_dataflow(id);
        }
    });
    let joined = guards.map_err(|e| Error::no_thread(format!("{workers} workers"), e))?.join();
    let died = joined.into_iter().find_map(|worker| worker.err());
    // The workers are gone, so the queues end and the threads finish what they hold.
    pool.join();
    match (pool.failure(), died) {
        (Some(error), _) => Err(error),
        (None, Some(died)) => Err(Error::bug(format!("a worker died: {died}"))),
        (None, None) if pool.stop.is_set() => Err(Error::cancelled()),
        (None, None) => {
            inputs::check_again(&whole)?;
            // A resumed run does not read what it does not need, so damage there would end up in a finished
            // run.
            whole.run.verify_unread()?;
            health::check_untrained(&whole)
        }
    }
}

/// Checks before anything runs that each operator is driven as its definition states.
fn check_shapes(shared: &Shared) -> Result<()> {
    for step in &shared.plan.steps {
        let (stated, driven) = (step.kind.shape, step.op.stage().shape());
        if stated != driven {
            let name = step.kind.name;
            return Err(Error::bug(format!("operator `{name}` is defined as {stated:?} and driven as {driven:?}")));
        }
    }
    Ok(())
}
