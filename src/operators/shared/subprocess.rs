//! A program outside, in a process group of its own, of which nothing outlives its step.
//!
//! Three things see to that. When the program has ended, or must stop, the group gets SIGTERM and, after
//! [`GRACE`], SIGKILL. If this process dies itself, even by SIGKILL, a shell in the group notices: its standard
//! input, which this process holds open, ends, and it stops the group. Processes that left the group (torchrun
//! starts its workers in sessions of their own) are recognised by a variable of their environment.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::program_environment::ProgramEnvironment;
use crate::error::{Error, ErrorContext as _, Result};

/// The variable in the environment of everything that is started: the path of its scratch folder.
pub(crate) const MARK: &str = "REFLUX_PROGRAM";

/// Time that a program has to end after SIGTERM, if it is not given another.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Bytes at which a log is cut.
pub(crate) const MAX_LOG: u64 = 256 << 20;
/// What is kept of a log that was cut.
const KEPT_OF_LOG: u64 = 64 << 10;

/// Time between two looks at a program.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Time between two looks at processes that were killed.
#[cfg(unix)]
const KILL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until its input ends, which is when reflux has died, and then stops the group that it leads.
const WATCHDOG: &str = "trap '' TERM INT HUP; read -r _; kill -TERM 0; sleep 10; kill -KILL 0";

/// A program to start.
pub(crate) struct Launch<'a> {
    /// Program and arguments.
    pub command: &'a [String],
    /// Its variables, beside those of this process.
    pub environment: &'a ProgramEnvironment,
    /// File to which its standard output and error are appended.
    pub log: &'a Path,
    /// Length in bytes at which the log is cut: its last lines stay, and the program runs on.
    pub max_log: u64,
    /// Value of [`MARK`].
    pub mark: &'a Path,
    /// Time after which [`run`] stops it.
    pub time_limit: Option<Duration>,
    /// Time that it has to end after SIGTERM.
    pub grace: Duration,
}

impl std::fmt::Display for ProgramEnd {
    /// What became of the program.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with exit code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}{}", signal_name(*signal)),
            Self::TimedOut => f.write_str("was stopped at its time limit"),
        }
    }
}

/// The name of a signal that often ends programs.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        6 => " (SIGABRT)",
        9 => " (SIGKILL; out of memory?)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ProgramEnd {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was stopped because its time was over.
    TimedOut,
}

/// Runs a program to its end. When this returns, nothing of it is left.
///
/// # Errors
/// It cannot be started, or `cancelled` returned true.
pub(crate) fn run(launch: &Launch<'_>, cancelled: &dyn Fn() -> bool) -> Result<ProgramEnd> {
    let mut group = ProcessGroup::start(launch)?;
    let deadline = launch.time_limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let end = group.try_wait()?;
        cut_log(launch).doing(|| launch.log.display())?;
        if let Some(end) = end {
            return Ok(end);
        }
        if cancelled() {
            return Err(Error::cancelled());
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(ProgramEnd::TimedOut);
        }
        sleep(POLL_INTERVAL);
    }
}

/// Cuts a log that is too long. The program appends to it, so that it goes on behind what is kept.
pub(crate) fn cut_log(launch: &Launch<'_>) -> std::io::Result<()> {
    // The program may have removed it.
    let length = std::fs::metadata(launch.log).map_or(0, |log| log.len());
    if length <= launch.max_log {
        return Ok(());
    }
    let kept = KEPT_OF_LOG.min(launch.max_log / 2);
    let mut log = OpenOptions::new().read(true).append(true).open(launch.log)?;
    log.seek(SeekFrom::Start(length - kept))?;
    let mut end = Vec::new();
    (&mut log).take(kept).read_to_end(&mut end)?;
    log.set_len(0)?;
    writeln!(log, "reflux: the log had {length} bytes and was cut here")?;
    log.write_all(&end)?;
    tracing::warn!("{}: the log had {length} bytes and was cut; only its end is kept", launch.log.display());
    Ok(())
}

/// Stops what an earlier process with this mark left running. Returns the number of processes.
pub(crate) fn stop_leftovers(mark: &Path) -> usize {
    let found = system::marked(mark);
    found.iter().for_each(|pid| system::terminate(*pid));
    let deadline = Instant::now() + GRACE;
    while !system::marked(mark).is_empty() && Instant::now() < deadline {
        sleep(POLL_INTERVAL);
    }
    system::kill_marked(mark);
    found.len()
}

/// A running program and its group. Dropping it stops all of the group.
pub(crate) struct ProcessGroup {
    program: Child,
    /// Leads the group.
    watchdog: Child,
    mark: PathBuf,
    grace: Duration,
}

impl ProcessGroup {
    /// Starts a program.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(launch: &Launch<'_>) -> Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(launch.log).doing(|| launch.log.display())?;
        let errors = log.try_clone().doing(|| launch.log.display())?;
        // The shell starts first, so that the program is never without it.
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCHDOG]).env(MARK, launch.mark);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        system::lead_group(&mut shell)?;
        let mut watchdog = shell.spawn().doing(|| "starting `sh`")?;
        let (name, arguments) =
            launch.command.split_first().ok_or_else(|| Error::bug("a program without a name is started"))?;
        let mut program = Command::new(name);
        program.args(arguments);
        launch.environment.set(&mut program);
        program.env(MARK, launch.mark);
        program.stdin(Stdio::null()).stdout(log).stderr(errors);
        system::join_group(&mut program, &watchdog);
        match program.spawn() {
            Ok(program) => Ok(Self { program, watchdog, mark: launch.mark.to_owned(), grace: launch.grace }),
            Err(e) => {
                // The shell has nothing to watch; whether this succeeds changes nothing about the error.
                let _ = watchdog.kill().and_then(|()| watchdog.wait());
                Err(Error::user(format!("`{name}` cannot be started: {e}"))
                    .help("a program is searched in PATH, and a path starts from the directory reflux is run in"))
            }
        }
    }

    /// How the program ended, if it has.
    ///
    /// # Errors
    /// The system does not say.
    pub fn try_wait(&mut self) -> Result<Option<ProgramEnd>> {
        Ok(self.program.try_wait().doing(|| "waiting for a program")?.map(ended))
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.program.try_wait(), Ok(None))
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if !self.has_ended() {
            system::terminate_group(&self.watchdog);
            let deadline = Instant::now() + self.grace;
            while !self.has_ended() && Instant::now() < deadline {
                sleep(POLL_INTERVAL);
            }
        }
        // The group has at least the shell, which ignores SIGTERM and is reaped below.
        system::kill_group(&self.watchdog);
        system::kill_marked(&self.mark);
        // Both are dead; an error would say that they were reaped.
        let _ = self.program.wait();
        let _ = self.watchdog.wait();
    }
}

fn ended(status: ExitStatus) -> ProgramEnd {
    match (status.code(), system::signal(status)) {
        // Shells and launchers report a program that a signal ended as 128 and the signal's number.
        (Some(code @ 129..=192), _) => ProgramEnd::Signal(code - 128),
        (Some(code), _) => ProgramEnd::Code(code),
        (None, signal) => ProgramEnd::Signal(signal.unwrap_or(0)),
    }
}

/// Groups and signals.
#[cfg(unix)]
mod system {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::path::Path;
    use std::process::{Child, Command, ExitStatus};

    use nix::sys::signal::{Signal, kill, killpg};
    use nix::unistd::Pid;

    use super::{GRACE, Instant, KILL_INTERVAL, MARK, sleep};
    use crate::error::Result;

    pub(super) fn lead_group(command: &mut Command) -> Result<()> {
        command.process_group(0);
        Ok(())
    }
    pub(super) fn join_group(command: &mut Command, leader: &Child) {
        command.process_group(pid(leader).as_raw());
    }
    pub(super) fn terminate_group(leader: &Child) {
        send_group(leader, Signal::SIGTERM);
    }
    pub(super) fn kill_group(leader: &Child) {
        send_group(leader, Signal::SIGKILL);
    }
    pub(super) fn terminate(process: i32) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(process), Signal::SIGTERM);
    }
    pub(super) fn signal(status: ExitStatus) -> Option<i32> {
        status.signal()
    }
    /// Kills the processes with this mark, and waits until they are gone. One that starts another while it is found
    /// is found again; one that waits for a device dies when the device answers, which is not waited for longer. A
    /// program that is just being started has no environment for a moment, so that one look is not enough.
    pub(super) fn kill_marked(mark: &Path) {
        let deadline = Instant::now() + GRACE;
        let mut looks_without = 0;
        while looks_without < 2 && Instant::now() < deadline {
            let found = marked(mark);
            looks_without = if found.is_empty() { looks_without + 1 } else { 0 };
            for process in found {
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
            sleep(KILL_INTERVAL);
        }
    }
    /// The processes with this mark in their environment. Only Linux shows environments.
    pub(super) fn marked(mark: &Path) -> Vec<i32> {
        let wanted = format!("{MARK}={}", mark.display());
        let has = |process: &i32| {
            // Processes of other users cannot be read, and those of this step are not among them.
            let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        let own = std::process::id().cast_signed();
        let names = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
        let processes = names.filter_map(|name| name.to_str()?.parse::<i32>().ok());
        processes.filter(|process| *process > 1 && *process != own).filter(has).collect()
    }

    fn send_group(leader: &Child, signal: Signal) {
        // The leader is not reaped yet, so its number is still that of the group.
        let _ = killpg(pid(leader), signal);
    }
    fn pid(child: &Child) -> Pid {
        Pid::from_raw(child.id().cast_signed())
    }
}

#[cfg(not(unix))]
mod system {
    use std::path::Path;
    use std::process::{Child, Command, ExitStatus};

    use crate::error::{Error, Result};

    pub(super) fn lead_group(_: &mut Command) -> Result<()> {
        Err(Error::user("a program outside can only be stopped with all that it starts on Linux and macOS")
            .help("train with `dpo` or `sft`"))
    }
    pub(super) fn join_group(_: &mut Command, _: &Child) {}
    pub(super) fn terminate_group(_: &Child) {}
    pub(super) fn kill_group(_: &Child) {}
    pub(super) fn terminate(_: i32) {}
    pub(super) fn signal(_: ExitStatus) -> Option<i32> {
        None
    }
    pub(super) fn kill_marked(_: &Path) {}
    pub(super) fn marked(_: &Path) -> Vec<i32> {
        Vec::new()
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn shell(script: &str, time_limit: Option<Duration>, cancelled: &dyn Fn() -> bool) -> (Result<ProgramEnd>, String) {
        let dir = tempfile::tempdir().unwrap();
        let (log, command) = (dir.path().join("log"), ["sh", "-c", script].map(str::to_owned));
        let launch = Launch {
            command: &command,
            environment: &ProgramEnvironment::default(),
            log: &log,
            max_log: 1 << 20,
            mark: dir.path(),
            time_limit,
            grace: GRACE,
        };
        let result = run(&launch, cancelled);
        assert_eq!(system::marked(dir.path()), Vec::<i32>::new(), "something is left");
        (result, std::fs::read_to_string(&log).unwrap_or_default())
    }

    #[test]
    fn the_end_of_a_program_is_told_apart() {
        let never = || false;
        for (script, want) in [
            ("echo out; echo err >&2; exit 0", ProgramEnd::Code(0)),
            ("exit 2", ProgramEnd::Code(2)),
            ("kill -KILL $$", ProgramEnd::Signal(9)),
            ("sh -c 'kill -KILL $$'; exit $?", ProgramEnd::Signal(9)),
        ] {
            assert_eq!(shell(script, None, &never).0.unwrap(), want, "{script}");
        }
        let (_, log) = shell("echo out; echo err >&2", None, &never);
        assert_eq!(log, "out\nerr\n");
        let limit = Some(Duration::from_millis(300));
        assert_eq!(shell("sleep 1000", limit, &never).0.unwrap(), ProgramEnd::TimedOut);
        let cancelled = shell("sleep 1000", None, &|| true).0.unwrap_err();
        assert_eq!(cancelled.kind(), crate::error::ErrorKind::Cancelled);
    }

    /// Children that go on, that ignore SIGTERM, or that have a session of their own.
    #[test]
    fn nothing_of_a_program_survives() {
        let never = || false;
        for child in ["sleep 1000", "sh -c 'trap \"\" TERM; sleep 1000; sleep 1000'", "setsid sleep 1000"] {
            // `shell` looks for what is left.
            assert_eq!(shell(&format!("{child} & exit 0"), None, &never).0.unwrap(), ProgramEnd::Code(0), "{child}");
            let limit = Some(Duration::from_millis(300));
            assert_eq!(shell(&format!("{child} & wait"), limit, &never).0.unwrap(), ProgramEnd::TimedOut, "{child}");
        }
    }

    /// A log without end does not fill the disk, and its last lines are there.
    #[test]
    fn a_log_is_cut_and_the_program_runs_on() {
        let script =
            "i=0; while [ $i -lt 40 ]; do head -c 100000 /dev/zero | tr '\\0' x; i=$((i+1)); done; echo; echo end";
        let (ended, log) = shell(script, None, &|| false);
        assert_eq!(ended.unwrap(), ProgramEnd::Code(0));
        assert!(log.len() <= 1 << 20, "{}", log.len());
        assert!(log.starts_with("reflux: the log had ") && log.ends_with("x\nend\n"), "{}", &log[..100]);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let launch = Launch {
            environment: &ProgramEnvironment::default(),
            command: &["no-such-trainer".to_owned()],
            log: &log,
            max_log: 1 << 20,
            mark: dir.path(),
            time_limit: None,
            grace: GRACE,
        };
        let error = run(&launch, &|| false).unwrap_err();
        assert!(error.to_string().starts_with("`no-such-trainer` cannot be started: "), "{error}");
    }

    /// What a dead process left runs on; the next one stops it.
    #[test]
    fn leftovers_are_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut orphan = Command::new("sleep").arg("1000").env(MARK, dir.path()).spawn().unwrap();
        // For a moment after its start, it has no environment.
        while system::marked(dir.path()).is_empty() {
            sleep(POLL_INTERVAL);
        }
        // Reaped as soon as it ends: a zombie has no environment and is not found.
        assert_eq!(stop_leftovers(dir.path()), 1);
        assert_eq!(system::signal(orphan.wait().unwrap()), Some(15));
        assert_eq!(stop_leftovers(dir.path()), 0);
    }
}
