//! Compute threads, and the job queue through which a timely operator hands them work.
//!
//! Workers never compute and never block. An operator puts a job into a queue, keeps the capability of its
//! time, and is woken when the result arrives. Capabilities hold an `Rc` and cannot leave the worker; jobs
//! carry a ticket number instead.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, unbounded};
use timely::dataflow::Scope;
use timely::dataflow::operators::Capability;
use timely::scheduling::SyncActivator;

use crate::cancel::CancelFlag;
use crate::data::{Epoch, Rows};
use crate::error::{Error, Result};
use crate::threads;

/// The result of a job: rows, or `None` if a source has no more.
pub(super) type JobResult<T = Rows> = Result<Option<T>>;
/// A job.
pub(super) type Task<T = Rows> = Box<dyn FnOnce(&ComputeThread) -> JobResult<T> + Send>;

/// Proof that the caller runs on a compute thread: no other thread can make one. Code that computes, reads
/// files or waits for locks asks for it, so worker code cannot call it.
pub(super) struct ComputeThread(());

struct Job<T> {
    ticket: u64,
    task: Task<T>,
    waker: SyncActivator,
    reply: Sender<(u64, JobResult<T>)>,
}

/// Stack size of a compute thread: candle walks a model's graph recursively.
const STACK: usize = 64 << 20;

/// How a queue's threads share the cores with other threads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// Usual priority.
    Normal,
    /// Lowest priority: the threads yield to any other that is ready to run. The threads of a training wait
    /// for each other thousands of times a second, and one that loses its core to a thread that encodes a
    /// file keeps all of them waiting.
    Low,
}

impl Priority {
    /// Sets the priority of the calling thread.
    fn assume(self) {
        #[cfg(target_os = "linux")]
        if self == Priority::Low
            && let Err(e) = thread_priority::set_current_thread_priority(thread_priority::ThreadPriority::Min)
        {
            tracing::debug!("a compute thread keeps the usual priority: {e:?}");
        }
    }
}

/// At most this many workers each add threads for a step; further workers share them. Results do not depend
/// on it, and the number of threads stays bounded.
const MAX_SHARES: usize = 16;

/// The jobs of an operator from all workers.
struct Queue {
    /// Both ends of the channel, whose type depends on the type of its jobs.
    ends: Box<dyn Any + Send>,
    /// Number of workers that have added threads.
    shares: usize,
}

/// The compute threads of a run, and the run's first failure.
#[derive(Clone, Default)]
pub(super) struct ComputePool {
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// Queues by the name of their operator.
    queues: Arc<Mutex<BTreeMap<String, Queue>>>,
    failure: Arc<Mutex<Option<Error>>>,
    pub(super) stop: CancelFlag,
}

impl ComputePool {
    pub(super) fn new(stop: CancelFlag) -> Self {
        // Threads inherit the priority of the thread that starts them, and rayon starts its threads on
        // first use.
        let _started = rayon::current_num_threads();
        Self { stop, ..Self::default() }
    }
    /// Stops the run. Only the first failure is reported.
    pub(super) fn fail(&self, error: Error) {
        // Later failures are mostly consequences of the first.
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop.set();
    }
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    /// Waits for the threads. They end when all job queues that feed them are dropped.
    pub(super) fn join(&self) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A compute thread catches the panics of its jobs, so its own result carries no information.
            drop(thread.join());
        }
    }
    /// Returns the queue of the operator `name` for one more worker, which adds `threads` threads.
    fn spawn_workers<T: Send + 'static>(
        &self,
        name: &str,
        threads: usize,
        priority: Priority,
    ) -> Result<Sender<Job<T>>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(name.to_owned());
        // All workers share one queue, so that an idle thread takes the work of any worker.
        let queue = queue.or_insert_with(|| Queue { ends: Box::new(unbounded::<Job<T>>()), shares: 0 });
        let ends = queue.ends.downcast_ref::<(Sender<Job<T>>, Receiver<Job<T>>)>();
        let (jobs, inbox) = ends.ok_or_else(|| Error::bug(format!("`{name}` has jobs of two types")))?.clone();
        let threads = if queue.shares < MAX_SHARES { threads } else { 0 };
        queue.shares += 1;
        for _ in 0..threads {
            let (inbox, stop, who) = (inbox.clone(), self.stop.clone(), name.to_string());
            let body = move || {
                priority.assume();
                for job in inbox {
                    // Jobs that were queued before the stop are answered at once, so that their capabilities
                    // are freed.
                    let answer = if stop.is_set() { Err(Error::cancelled()) } else { perform(job.task, &who) };
                    // The receiver may be dropped already when the run is stopped: then nobody waits for
                    // the result.
                    drop(job.reply.send((job.ticket, answer)));
                    let _worker_gone = job.waker.activate().is_err();
                }
            };
            let start = || std::thread::Builder::new().name(format!("compute {name}")).stack_size(STACK).spawn(body);
            let thread = threads::check_memory(1, STACK)
                .and_then(|()| start())
                .map_err(|e| Error::no_thread(format!("a compute thread of `{name}`"), e))?;
            self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(jobs)
    }
}

fn perform<T>(task: Task<T>, name: &str) -> JobResult<T> {
    let work = AssertUnwindSafe(|| task(&ComputeThread(())));
    // A panic fails the run with a message; unwinding further would leave the worker waiting for ever.
    catch_unwind(work).unwrap_or_else(|panic| Err(panicked(name, &*panic)))
}

/// Turns a panic into an error of kind bug.
pub(super) fn panicked(who: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    let words = panic.downcast_ref::<&str>().map(ToString::to_string);
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
    Error::bug(format!("`{who}` panicked: {words}"))
        .help("this is a defect of reflux: what was committed is intact; please report it with the pipeline file")
}

/// The jobs and results of one operator on one worker.
pub(super) struct JobQueue<T = Rows> {
    pool: ComputePool,
    jobs: Sender<Job<T>>,
    reply: Sender<(u64, JobResult<T>)>,
    replies: Receiver<(u64, JobResult<T>)>,
    waker: SyncActivator,
    held: BTreeMap<u64, Capability<Epoch>>,
    next: u64,
}

impl<T: Send + 'static> JobQueue<T> {
    /// Creates the queue of the operator at `address`, with threads for this worker.
    ///
    /// It must be created on the worker's thread: the waker remembers the thread.
    pub(super) fn new(
        scope: Scope<'_, Epoch>,
        address: &[usize],
        pool: &ComputePool,
        name: &str,
        threads: usize,
        priority: Priority,
    ) -> Self {
        let waker = scope.worker().sync_activator_for(address.to_vec());
        let jobs = pool.spawn_workers(name, threads, priority).unwrap_or_else(|e| {
            // Building a dataflow is infallible; the failure of a queue without threads is noticed at its
            // first job.
            pool.fail(e);
            unbounded().0
        });
        let (reply, replies) = unbounded();
        Self { pool: pool.clone(), jobs, reply, replies, waker, held: BTreeMap::new(), next: 0 }
    }

    /// Submits a job. `cap` is kept until its result is collected.
    pub(super) fn submit(&mut self, cap: Capability<Epoch>, task: Task<T>) {
        // The capability holds the frontier back, so nothing downstream believes this time to be complete.
        self.held.insert(self.next, cap);
        let (waker, reply) = (self.waker.clone(), self.reply.clone());
        // Never blocks: the queue is unbounded. Operators bound the number of waiting jobs by `open`.
        if self.jobs.send(Job { ticket: self.next, task, waker, reply }).is_err() {
            self.pool.fail(Error::bug("a compute thread is gone"));
        }
        self.next += 1;
    }

    /// Number of jobs whose result has not been collected.
    pub(super) fn open(&self) -> usize {
        self.held.len()
    }

    /// Returns the next result with the capability of its job. A failed job stops the run and keeps its
    /// capability, so nothing downstream mistakes the missing rows for the end of an iteration.
    pub(super) fn collect(&mut self) -> Option<(Capability<Epoch>, Option<T>)> {
        while let Ok((ticket, answer)) = self.replies.try_recv() {
            match answer {
                Ok(rows) => return self.held.remove(&ticket).map(|cap| (cap, rows)),
                Err(e) => self.pool.fail(e),
            }
        }
        None
    }
}
