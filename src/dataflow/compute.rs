//! Compute threads, and the desk at which a timely operator hands them work.
//!
//! Workers never compute and never block: an operator leaves a job in a queue, keeps the capability of its
//! time, and is woken when the answer is there. Capabilities hold an `Rc` and stay; tickets travel.

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

/// What a job comes to: rows, or none where a source has no more.
pub(super) type Answer<T = Rows> = Result<Option<T>>;
/// A job.
pub(super) type Task<T = Rows> = Box<dyn FnOnce(&ComputeThread) -> Answer<T> + Send>;

/// Proof that the caller is on a compute thread: no other thread can make one. What computes, reads files or waits for locks
/// asks for it, so that code of a worker cannot call it.
pub(super) struct ComputeThread(());

struct Job<T> {
    ticket: u64,
    task: Task<T>,
    waker: SyncActivator,
    reply: Sender<(u64, Answer<T>)>,
}

/// Stack of a compute thread: candle walks a model's graph recursively.
const STACK: usize = 64 << 20;

/// How a desk's threads share the cores with others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    /// They are served as any thread is.
    Normal,
    /// They step aside for whoever else is ready to run. A training's threads wait for each other thousands of times a
    /// second: one that finds its core taken by somebody who encodes a file keeps all of them waiting.
    Low,
}

impl Priority {
    /// To be called on the thread itself.
    fn assume(self) {
        #[cfg(target_os = "linux")]
        if self == Priority::Low
            && let Err(e) = thread_priority::set_current_thread_priority(thread_priority::ThreadPriority::Min)
        {
            tracing::debug!("a compute thread keeps the usual priority: {e:?}");
        }
    }
}

/// Most workers of which each brings threads for a step. Further ones share them: what is made does not depend on it, and the
/// system has no threads without end.
const MAX_SHARES: usize = 16;

/// The jobs of an operator, which all workers leave in one place.
struct Queue {
    /// Both ends of its channel, for the type of its jobs.
    ends: Box<dyn Any + Send>,
    /// How many workers have brought threads.
    shares: usize,
}

/// The compute threads of a run, and the first thing that went wrong in it.
#[derive(Clone, Default)]
pub(super) struct ComputePool {
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    /// By the name of the operator.
    queues: Arc<Mutex<BTreeMap<String, Queue>>>,
    failure: Arc<Mutex<Option<Error>>>,
    pub(super) stop: CancelFlag,
}

impl ComputePool {
    pub(super) fn new(stop: CancelFlag) -> Self {
        // Threads inherit the priority of whoever starts them, and rayon's start when they are first asked for.
        let _started = rayon::current_num_threads();
        Self { stop, ..Self::default() }
    }
    /// Stops the run; the first failure is the one that is told.
    pub(super) fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop.set();
    }
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    /// Waits for the threads; they end when the desks and queues that feed them are gone.
    pub(super) fn join(&self) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A compute thread catches the panics of its jobs, so there is nothing to learn from its end.
            drop(thread.join());
        }
    }
    /// The queue of the operator `name`, for one more worker, who brings `threads` threads.
    fn spawn_workers<T: Send + 'static>(
        &self,
        name: &str,
        threads: usize,
        urgency: Priority,
    ) -> Result<Sender<Job<T>>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(name.to_owned());
        let queue = queue.or_insert_with(|| Queue { ends: Box::new(unbounded::<Job<T>>()), shares: 0 });
        let ends = queue.ends.downcast_ref::<(Sender<Job<T>>, Receiver<Job<T>>)>();
        let (jobs, inbox) = ends.ok_or_else(|| Error::bug(format!("`{name}` has jobs of two types")))?.clone();
        let threads = if queue.shares < MAX_SHARES { threads } else { 0 };
        queue.shares += 1;
        for _ in 0..threads {
            let (inbox, stop, who) = (inbox.clone(), self.stop.clone(), name.to_string());
            let body = move || {
                urgency.assume();
                for job in inbox {
                    let answer = if stop.is_set() { Err(Error::cancelled()) } else { perform(job.task, &who) };
                    // The desk may be gone already when the run is stopped: then nobody waits for the answer.
                    drop(job.reply.send((job.ticket, answer)));
                    let _worker_gone = job.waker.activate().is_err();
                }
            };
            let thread = std::thread::Builder::new().name(format!("compute {name}")).stack_size(STACK).spawn(body);
            let thread = thread.map_err(|e| Error::no_thread(format!("a compute thread of `{name}`"), e))?;
            self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(jobs)
    }
}

fn perform<T>(task: Task<T>, name: &str) -> Answer<T> {
    let work = AssertUnwindSafe(|| task(&ComputeThread(())));
    catch_unwind(work).unwrap_or_else(|panic| Err(panicked(name, &*panic)))
}

/// A panic as an error of ours.
pub(super) fn panicked(who: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    let words = panic.downcast_ref::<&str>().map(ToString::to_string);
    let words = words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
    Error::bug(format!("`{who}` panicked: {words}"))
        .help("this is a defect of reflux: what was committed is intact; please report it with the pipeline file")
}

/// Where one operator on one worker leaves jobs and picks up answers.
pub(super) struct JobQueue<T = Rows> {
    crew: ComputePool,
    jobs: Sender<Job<T>>,
    reply: Sender<(u64, Answer<T>)>,
    replies: Receiver<(u64, Answer<T>)>,
    waker: SyncActivator,
    held: BTreeMap<u64, Capability<Epoch>>,
    next: u64,
}

impl<T: Send + 'static> JobQueue<T> {
    /// A desk for the operator at `address`, with threads for its worker.
    ///
    /// Must be made on the worker's thread: the waker remembers it.
    pub(super) fn new(
        scope: Scope<'_, Epoch>,
        address: &[usize],
        crew: &ComputePool,
        name: &str,
        threads: usize,
        urgency: Priority,
    ) -> Self {
        let waker = scope.worker().sync_activator_for(address.to_vec());
        let jobs = crew.spawn_workers(name, threads, urgency).unwrap_or_else(|e| {
            // Building a dataflow is infallible; a queue that nobody serves is seen at the first job.
            crew.fail(e);
            unbounded().0
        });
        let (reply, replies) = unbounded();
        Self { crew: crew.clone(), jobs, reply, replies, waker, held: BTreeMap::new(), next: 0 }
    }

    /// Leaves a job; `cap` is kept until its answer has been picked up.
    pub(super) fn submit(&mut self, cap: Capability<Epoch>, task: Task<T>) {
        self.held.insert(self.next, cap);
        let (waker, reply) = (self.waker.clone(), self.reply.clone());
        // Never blocks: the queue takes any number. How many jobs wait is for the operators to bound, by `open`.
        if self.jobs.send(Job { ticket: self.next, task, waker, reply }).is_err() {
            self.crew.fail(Error::bug("a compute thread is gone"));
        }
        self.next += 1;
    }

    /// Jobs whose answer has not been picked up.
    pub(super) fn open(&self) -> usize {
        self.held.len()
    }

    /// The next answer, with the capability of its job. A failed job stops the run and keeps its capability, so that
    /// nothing downstream can take the missing rows for the end of an iteration.
    pub(super) fn collect(&mut self) -> Option<(Capability<Epoch>, Option<T>)> {
        while let Ok((ticket, answer)) = self.replies.try_recv() {
            match answer {
                Ok(rows) => return self.held.remove(&ticket).map(|cap| (cap, rows)),
                Err(e) => self.crew.fail(e),
            }
        }
        None
    }
}
