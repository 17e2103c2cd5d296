//! Progress on standard error: a block of lines on a terminal, otherwise a log or JSON lines.
//! [`ProgressState`] produces the text; this module adds the clock and the terminal.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde_json::{Value, json};

use super::terminal::{self, Block};
use crate::bench;
use crate::data::Epoch;
use crate::dataflow::{Event, Observer};
use crate::report::{PlanOutline, ProgressState};
use crate::runner::ReadEngines;

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// No progress.
    Quiet,
    /// A bar for each step, figures and a status line.
    Bars,
    /// A line when a step completes an iteration, occasional lines in between, and a periodic status.
    Lines {
        /// Whether every microbatch gets a line.
        all: bool,
    },
    /// A JSON object for every microbatch, and a periodic status.
    Json,
}

impl Style {
    /// Chooses the style from the flags and from the type of standard error.
    pub fn of(quiet: bool, json: bool, verbose: u8) -> Self {
        match (quiet, json) {
            (true, _) => Style::Quiet,
            (_, true) => Style::Json,
            _ if terminal::stderr_is_terminal() && verbose == 0 => Style::Bars,
            _ => Style::Lines { all: verbose > 0 },
        }
    }
}

/// Minimum time between two lines of one step, except when it completes an iteration.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two status lines of the run.
const STATUS_INTERVAL: Duration = Duration::from_secs(20);
/// Time between two examples in a log.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(60);
/// Time between two redraws of the screen.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);
/// Time between two samples of the memory and of what engines have done.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Width of the time at the start of a log line.
const STAMP: usize = 10;

/// Shows a run's progress, updated by events and by its own clock.
pub struct RunProgress {
    view: Arc<View>,
    clock: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

struct View {
    style: Style,
    start: Instant,
    engines: ReadEngines,
    shown: Mutex<ShownProgress>,
}

struct ShownProgress {
    state: ProgressState,
    block: Option<Block>,
    /// Time of the last printed line of each step.
    lines: BTreeMap<String, Instant>,
    status: Instant,
    sample: Instant,
    looked: Option<Instant>,
}

impl RunProgress {
    /// Starts showing the progress of a run in this style.
    pub fn new(style: Style, outline: PlanOutline, engines: ReadEngines) -> Self {
        let start = Instant::now();
        let block = (style == Style::Bars).then(Block::new);
        let shown = ShownProgress {
            state: ProgressState::new(outline),
            block,
            lines: BTreeMap::new(),
            status: start,
            sample: start,
            looked: None,
        };
        let view = Arc::new(View { style, start, engines, shown: Mutex::new(shown) });
        let clock = (style != Style::Quiet).then(|| Self::clock(&view)).flatten();
        Self { view, clock: Mutex::new(clock) }
    }

    /// Starts a thread that refreshes the display between events. If no thread can be started, only events
    /// update it.
    fn clock(view: &Arc<View>) -> Option<(Sender<()>, JoinHandle<()>)> {
        let (stop, stopped) = bounded(0);
        let view = Arc::clone(view);
        let interval = if view.style == Style::Bars { REDRAW_INTERVAL } else { LOOK_INTERVAL };
        let run = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                view.tick();
            }
        };
        std::thread::Builder::new().name("progress".to_owned()).spawn(run).ok().map(|thread| (stop, thread))
    }

    /// Stops the clock and leaves the bars as they are.
    pub fn finish(&self) {
        let clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, thread)) = clock {
            drop(stop);
            // The thread itself has reported its panic, and the run's result does not depend on it.
            let _ = thread.join();
        }
        if self.view.style == Style::Quiet {
            return;
        }
        let mut shown = self.view.lock();
        self.view.look(&mut shown);
        match (&shown.block, self.view.style) {
            (Some(block), _) => {
                self.view.draw(&shown);
                block.abandon();
            }
            (None, Style::Json) => terminal::event(&shown.state.json(self.view.start.elapsed())),
            (None, _) => {}
        }
    }
}

impl View {
    fn lock(&self) -> std::sync::MutexGuard<'_, ShownProgress> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Samples the values that no event carries.
    fn look(&self, shown: &mut ShownProgress) {
        let due = shown.looked.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL);
        let (engines, memory) =
            if due { ((self.engines)(), bench::memory("/proc/self/status", "VmRSS:")) } else { (None, None) };
        if due {
            shown.looked = Some(Instant::now());
        }
        shown.state.observe(self.start.elapsed(), engines, memory);
    }

    /// Runs at every tick of the clock.
    fn tick(&self) {
        let mut shown = self.lock();
        self.look(&mut shown);
        let due = shown.status.elapsed() >= STATUS_INTERVAL;
        match self.style {
            Style::Quiet => {}
            Style::Bars => self.draw(&shown),
            Style::Json if due => {
                shown.status = Instant::now();
                terminal::event(&shown.state.json(self.start.elapsed()));
            }
            Style::Lines { .. } if due => {
                shown.status = Instant::now();
                self.log(&shown.state.status_lines(self.room()));
                if shown.sample.elapsed() >= SAMPLE_INTERVAL {
                    shown.sample = Instant::now();
                    self.log(&shown.state.sample_lines(self.room()));
                }
            }
            Style::Json | Style::Lines { .. } => {}
        }
    }

    fn draw(&self, shown: &ShownProgress) {
        let Some(block) = &shown.block else { return };
        let (width, height) = terminal::screen();
        block.show(&shown.state.screen(self.start.elapsed(), width, height));
    }

    /// Width of a log line after its time.
    fn room(&self) -> usize {
        terminal::screen().0.saturating_sub(STAMP).max(20)
    }

    /// Prints lines to the log: the first with the time, the others below it.
    fn log(&self, lines: &[String]) {
        let when = self.start.elapsed().as_secs_f64();
        for (i, line) in lines.iter().enumerate() {
            match i {
                0 => terminal::line(&format!("{when:7.1}s  {line}")),
                _ => terminal::line(&format!("{:STAMP$}{line}", "")),
            }
        }
    }

    fn step_line(&self, step: &str, iteration: u32, words: &str) {
        let place = if iteration == 0 { step.to_owned() } else { format!("{step}, iteration {iteration}") };
        self.log(&crate::report::wrapped(&format!("{place}: {words}"), self.room()));
    }

    fn json(&self, mut object: Value) {
        object["seconds"] = json!(self.start.elapsed().as_secs_f64());
        terminal::event(&object);
    }

    /// Whether a step should print a line now.
    fn due(shown: &mut ShownProgress, step: &str, now: bool) -> bool {
        let due = now || shown.lines.get(step).is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if due {
            shown.lines.insert(step.to_owned(), Instant::now());
        }
        due
    }

    fn told(&self, shown: &mut ShownProgress, event: &Event<'_>) {
        match (self.style, event) {
            (Style::Lines { all }, &Event::Within { step, epoch, done, planned, unit })
                if Self::due(shown, step, all) =>
            {
                let words = shown.state.training_words(step, done, planned, unit);
                self.step_line(step, epoch.iteration, &words);
            }
            (Style::Lines { all }, &Event::Done { step, epoch, .. }) => {
                let now = all || shown.state.is_complete(step, epoch.iteration);
                if Self::due(shown, step, now) {
                    let words = shown.state.step_words(step, epoch.iteration);
                    self.step_line(step, epoch.iteration, &words);
                }
            }
            (Style::Json, &Event::Within { step, epoch, done, planned, unit }) => {
                let Epoch { iteration, microbatch } = epoch;
                self.json(json!({
                    "event": "within", "step": step, "iteration": iteration, "microbatch": microbatch, "done": done,
                    "planned": planned, "unit": unit,
                }));
            }
            (Style::Json, &Event::Measured { step, epoch, values }) => {
                let metrics: serde_json::Map<String, Value> =
                    values.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
                let iteration = epoch.iteration;
                self.json(json!({ "event": "measured", "step": step, "iteration": iteration, "metrics": metrics }));
            }
            (Style::Json, &Event::Done { step, epoch, rows, errors, busy, restored, .. }) => {
                let (Epoch { iteration, microbatch }, busy) = (epoch, busy.as_secs_f64());
                self.json(json!({
                    "event": "done", "step": step, "iteration": iteration, "microbatch": microbatch, "rows": rows,
                    "errors": errors, "busy_seconds": busy, "restored": restored,
                }));
            }
            _ => {}
        }
    }
}

impl Observer for RunProgress {
    fn event(&self, event: &Event<'_>) {
        if self.view.style == Style::Quiet {
            return;
        }
        let mut shown = self.view.lock();
        shown.state.event(self.view.start.elapsed(), event);
        self.view.told(&mut shown, event);
    }
}
