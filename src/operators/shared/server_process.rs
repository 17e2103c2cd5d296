//! [`ServerProcess`]: a server that reflux has started for one model. A thread of its own looks after it: it waits until
//! the server takes requests, and starts it again when it ends by itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::program_environment::ProgramEnvironment;
use super::program_log;
use super::subprocess::{Launch, MAX_LOG, ProcessGroup, ProgramEnd, cut_log};
use crate::cancel::CancelFlag;
use crate::data::counted;
use crate::engine::remote::is_ready;
use crate::engine::remote::transport::{Endpoint, Transport, TransportConfig};
use crate::error::{Error, ErrorContext as _, Result};
use crate::pipeline::ServerProgram;
use crate::threads;

/// Time between two looks at a server.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two questions to a server that is starting.
const ASK_INTERVAL: Duration = Duration::from_millis(200);
/// Time that a server that is starting has to list its models.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes of that list.
const MAX_LIST: usize = 1 << 20;

/// What to start.
pub(super) struct ServerLaunch {
    /// The server and its model, for messages.
    pub who: String,
    pub program: Arc<ServerProgram>,
    /// Program and arguments.
    pub command: Vec<String>,
    pub environment: ProgramEnvironment,
    /// How often it is started again when it ends by itself.
    pub restarts: usize,
    /// Where it will listen.
    pub endpoint: Endpoint,
    pub log: PathBuf,
    /// Marks its processes.
    pub mark: PathBuf,
    /// The run is being stopped.
    pub cancel: CancelFlag,
}

/// A server with the thread that looks after it. Dropping it stops both.
pub(super) struct ServerProcess {
    server: Arc<WatchedServer>,
    watcher: Option<JoinHandle<()>>,
}

struct WatchedServer {
    launch: ServerLaunch,
    /// It is not needed any more.
    stop: CancelFlag,
    /// It will answer no request any more.
    lost: CancelFlag,
    state: Mutex<WatchedState>,
    changed: Condvar,
}

enum WatchedState {
    Starting,
    Ready,
    Failed(Error),
}

impl ServerProcess {
    /// Starts a server and waits until it takes requests.
    ///
    /// # Errors
    /// It cannot be started, ends at once or takes too long; the run is being stopped.
    pub fn start(launch: ServerLaunch) -> Result<Self> {
        let server = Arc::new(WatchedServer {
            launch,
            stop: CancelFlag::new(),
            lost: CancelFlag::new(),
            state: Mutex::new(WatchedState::Starting),
            changed: Condvar::new(),
        });
        let watched = Arc::clone(&server);
        let name = format!("server {}", server.launch.program.name);
        let start = || std::thread::Builder::new().name(name).spawn(move || watched.watch());
        let watcher = threads::check_memory(1, threads::STACK)
            .and_then(|()| start())
            .map_err(|e| Error::no_thread("the thread that looks after a server", e))?;
        let process = Self { server, watcher: Some(watcher) };
        process.server.wait()?;
        Ok(process)
    }

    /// A flag that is set when it will answer no request any more.
    pub fn lost(&self) -> &CancelFlag {
        &self.server.lost
    }

    /// Why it will answer no request any more, if so.
    pub fn failure(&self) -> Option<Error> {
        match &*self.server.state() {
            WatchedState::Failed(reason) => Some(again(reason)),
            _ => None,
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.server.stop.set();
        if let Some(watcher) = self.watcher.take() {
            // A panic of the thread has ended the server too.
            let _ = watcher.join();
        }
    }
}

/// The same error for one more job that meets it. Whichever of them is first stops the run.
pub(super) fn again(e: &Error) -> Error {
    let error = Error::new(e.kind(), e.message());
    match e.help_text() {
        Some(help) => error.help(help),
        None => error,
    }
}

/// What became of a start.
enum StartOutcome {
    /// It is not needed any more.
    Stopped,
    /// It ended by itself. Whether it had been ready, in this start or an earlier one, is known by the caller.
    Ended(ProgramEnd),
    /// It took too long.
    NotReady,
}

impl WatchedServer {
    fn state(&self) -> MutexGuard<'_, WatchedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: WatchedState) {
        let is_lost = matches!(state, WatchedState::Failed(_));
        *self.state() = state;
        // Whoever sees the flag finds the reason.
        if is_lost {
            self.lost.set();
        }
        self.changed.notify_all();
    }

    /// Waits for the end of the start.
    fn wait(&self) -> Result<()> {
        let mut state = self.state();
        loop {
            match &*state {
                WatchedState::Ready => return Ok(()),
                WatchedState::Failed(reason) => return Err(again(reason)),
                WatchedState::Starting => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The thread.
    fn watch(&self) {
        // After a panic nobody would set the state, and those who wait for it would wait for ever.
        let failed = match catch_unwind(AssertUnwindSafe(|| self.keep_running())) {
            Ok(Ok(())) => Error::cancelled(),
            Ok(Err(e)) => e,
            Err(_) => Error::bug(format!("the thread that looks after {} panicked", self.launch.who)),
        };
        self.set(WatchedState::Failed(failed));
    }

    /// Starts the server again and again, until it is not needed any more.
    ///
    /// # Errors
    /// It cannot be used.
    fn keep_running(&self) -> Result<()> {
        let ServerLaunch { program, command, environment, restarts, log, who, .. } = &self.launch;
        for start in 1.. {
            let before = program_log::note(log, start, *restarts, command)?;
            let what = match self.run_once()? {
                StartOutcome::Stopped => return Ok(()),
                StartOutcome::NotReady => {
                    let limit = counted(program.ready_within.as_secs(), "second");
                    format!("did not list its models within {limit} at {}/models", self.launch.endpoint.url())
                }
                StartOutcome::Ended(end) => end.to_string(),
            };
            let was_ready = matches!(*self.state(), WatchedState::Ready);
            if !was_ready || start > *restarts {
                let said = environment.scrub(&program_log::last_words(log, before));
                let starts = if start > 1 { format!(" ({})", counted(start, "start")) } else { String::new() };
                let help = match was_ready {
                    false => {
                        "mend what its log says, or the `command`; `ready_within` bounds the time of a start, and what \
                         the run has made stays"
                    }
                    true => "look at the log; the same command again goes on, and `restarts` may be changed",
                };
                return Err(Error::user(format!("{who} {what}{starts}{said}")).help(help));
            }
            tracing::warn!("{who} {what}; it is started again with the same weights (log: {})", log.display());
        }
        Err(Error::bug("a server was started without end"))
    }

    /// Runs the server until it ends, or is not needed any more. Nothing of it is left when this returns.
    fn run_once(&self) -> Result<StartOutcome> {
        let ServerLaunch { program, command, environment, log, mark, endpoint, cancel, .. } = &self.launch;
        let transport = Transport::new(TransportConfig {
            endpoints: vec![endpoint.clone()],
            key: None,
            max_in_flight: 1,
            row_budget: ASK_TIMEOUT,
            request_timeout: ASK_TIMEOUT,
            max_body: MAX_LIST,
        })?;
        let grace = program.stop_within;
        let launch = Launch { command, environment, log, max_log: MAX_LOG, mark, time_limit: None, grace };
        let mut group = ProcessGroup::start(&launch)?;
        let deadline = Instant::now().checked_add(program.ready_within);
        let mut is_listening = false;
        loop {
            if self.stop.is_set() || cancel.is_set() {
                return Ok(StartOutcome::Stopped);
            }
            if let Some(end) = group.try_wait()? {
                return Ok(StartOutcome::Ended(end));
            }
            cut_log(&launch).doing(|| log.display())?;
            if is_listening {
                sleep(POLL_INTERVAL);
            } else if is_ready(&transport, endpoint, cancel) {
                is_listening = true;
                self.set(WatchedState::Ready);
            } else if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(StartOutcome::NotReady);
            } else {
                sleep(ASK_INTERVAL);
            }
        }
    }
}
