//! Workers: starts them, steps them until the run is done, and lets go of everything when one of them fails.

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

/// How batches travel between the workers of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Transport {
    /// As they are.
    #[default]
    Typed,
    /// As Arrow IPC, as between processes: what a test of exchanged batches uses.
    Serialised,
}

/// A worker parks at most this long, so that a request to stop is seen; work wakes it sooner.
const PARK: Duration = Duration::from_millis(50);

/// Runs a plan to its end on `workers` timely workers.
///
/// # Errors
/// An external input is not what the run has read before; the first failure of any job or worker, or that the run was stopped.
/// What was committed stays.
pub fn run(shared: Shared, workers: usize, transport: Transport) -> Result<()> {
    check_shapes(&shared)?;
    inputs::check(&shared)?;
    let (shared, joins, began) = (Arc::new(shared), Arc::<Joins>::default(), Instant::now());
    let whole = Arc::clone(&shared);
    let crew = ComputePool::new(shared.stop.clone());
    let communication = match (workers, transport) {
        (0 | 1, Transport::Typed) => CommunicationConfig::Thread,
        (n, Transport::Typed) => CommunicationConfig::Process(n),
        (n, Transport::Serialised) => CommunicationConfig::ProcessBinary(n.max(1)),
    };
    let (builders, guards): (Vec<AllocatorBuilder>, _) = communication.try_build().map_err(Error::system)?;
    let workers_crew = crew.clone();
    let guards = timely::execute::execute_from(builders, guards, WorkerConfig::default(), move |worker| {
        let crew = &workers_crew;
        let built =
            catch_unwind(AssertUnwindSafe(|| worker.dataflow(|scope| render(scope, &shared, &joins, crew, began))));
        match built {
            Ok(probe) => {
                while !probe.done() && !crew.stop.is_set() {
                    let step = catch_unwind(AssertUnwindSafe(|| worker.step_or_park(Some(PARK))));
                    if let Err(panic) = step {
                        crew.fail(panicked("a worker", &*panic));
                    }
                }
            }
            Err(panic) => crew.fail(panicked("building the dataflow", &*panic)),
        }
        // timely would go on stepping until every dataflow ends by itself, which a stopped one never does.
        for id in worker.installed_dataflows() {
            worker.drop_dataflow(id);
        }
    });
    let joined = guards.map_err(|e| Error::no_thread(format!("{workers} workers"), e))?.join();
    let died = joined.into_iter().find_map(|worker| worker.err());
    crew.join();
    match (crew.failure(), died) {
        (Some(error), _) => Err(error),
        (None, Some(died)) => Err(Error::bug(format!("a worker died: {died}"))),
        (None, None) if crew.stop.is_set() => Err(Error::cancelled()),
        (None, None) => {
            inputs::check_again(&whole)?;
            whole.run.verify_unread()?;
            health::check_untrained(&whole)
        }
    }
}

/// Checks that each operator is driven as its definition states, before anything runs.
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
