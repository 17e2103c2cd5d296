//! Starts of an external trainer: its log, its end, and whether it is started again.

use std::path::Path;
use std::time::Duration;

use crate::data::counted;
use crate::operators::shared::prelude::*;
use crate::operators::shared::program_environment::ProgramEnvironment;
use crate::operators::shared::program_log;
use crate::operators::shared::subprocess::{self, GRACE, Launch, MAX_LOG, ProgramEnd};

/// The exit code of a trainer that cannot use what it was given. Starting it again would change nothing.
const BAD_INPUT: i32 = 2;

/// An external trainer with everything filled in.
pub(crate) struct ExternalTrainer<'a> {
    /// The training step, for messages.
    pub step: &'a str,
    /// Program and arguments.
    pub command: &'a [String],
    /// Its variables.
    pub environment: &'a ProgramEnvironment,
    /// The log, below the run's directory.
    pub log: &'a Path,
    /// The scratch folder, which marks its processes.
    pub scratch: &'a Path,
    /// Time that one start may take.
    pub time_limit: Option<Duration>,
    /// How often it may be started again.
    pub restarts: usize,
}

impl ExternalTrainer<'_> {
    /// Starts the trainer until it ends with exit code 0. The number of starts is in the log: what is
    /// committed does not depend on it.
    ///
    /// # Errors
    /// It ended with another exit code; it was ended by a signal or its time limit once too often; the run is
    /// stopped.
    pub fn run(&self, cancelled: &dyn Fn() -> bool) -> Result<()> {
        let launch = Launch {
            command: self.command,
            environment: self.environment,
            log: self.log,
            max_log: MAX_LOG,
            mark: self.scratch,
            time_limit: self.time_limit,
            grace: GRACE,
        };
        for start in 1.. {
            let before = program_log::note(self.log, start, self.restarts, self.command)?;
            let ended = subprocess::run(&launch, cancelled).doing(|| format!("step `{}`", self.step))?;
            let what = match ended {
                ProgramEnd::Code(0) => return Ok(()),
                ProgramEnd::Code(code) => return Err(self.failed(code, before)),
                ProgramEnd::Signal(_) => ended.to_string(),
                ProgramEnd::TimedOut => {
                    let limit = self.time_limit.unwrap_or_default().as_secs();
                    format!("was stopped at its time limit of {}", counted(limit, "second"))
                }
            };
            if start > self.restarts {
                return Err(self.error(&format!("{what} ({})", counted(start, "start")), before).help(
                    "look at the log; the same command again goes on with the same output folder, and \
                     `time_limit` and `restarts` may be changed",
                ));
            }
            tracing::warn!(
                "step `{}`: the trainer {what}; it is started again with the same output folder (log: {})",
                self.step,
                self.log.display()
            );
        }
        Err(Error::bug("a trainer was started without end"))
    }

    fn failed(&self, code: i32, before: u64) -> Error {
        let what = if code == BAD_INPUT {
            "ended with exit code 2, which says that it cannot use its input".to_owned()
        } else {
            format!("ended with exit code {code}")
        };
        self.error(&what, before)
            .help("mend what its log says, and give the same command again: what the run has made stays")
    }

    /// The error for what happened to the trainer, with the last lines that it printed since `before`.
    fn error(&self, what: &str, before: u64) -> Error {
        let (step, said) = (self.step, self.environment.scrub(&program_log::last_words(self.log, before)));
        Error::user(format!("the trainer of `{step}` {what}{said}"))
    }
}
