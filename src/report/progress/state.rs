//! State of a run's progress, updated by events. This module neither reads a clock nor writes to a
//! terminal, so that tests can script events and compare the text.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;

use super::rate::Rate;
use super::scores::{ScoreCounts, ScoredSample};
use super::servers::{EngineReading, ShownServer, update};
use super::timing::{RunningJob, Timing};

use crate::data::{Epoch, named};
use crate::dataflow::{Event, Operator};
use crate::pipeline::{Placement, Plan};

/// Minimum time for which an example stays on the screen.
const SAMPLE_STAYS: Duration = Duration::from_secs(20);

/// The properties of a step that progress needs.
#[derive(Clone, Debug, Default)]
pub struct StepOutline {
    /// The step's name.
    pub name: String,
    /// Input steps whose microbatches the step processes one by one.
    pub inputs: Vec<String>,
    /// Whether the step is in the loop and not an observer.
    pub in_loop: bool,
    /// Number of iterations in which the step runs.
    pub iterations: u32,
    /// The least and greatest possible score, if the step scores.
    pub scale: Option<(f32, f32)>,
}

/// The steps of a plan, in order.
#[derive(Clone, Debug, Default)]
pub struct PlanOutline {
    /// The steps.
    pub steps: Vec<StepOutline>,
    /// Iterations of the loop; 0 without a loop.
    pub iterations: u32,
}

impl PlanOutline {
    /// Creates the outline of a plan.
    pub fn new(plan: &Plan<dyn Operator>) -> Self {
        let mut outline = Self::default();
        for step in &plan.steps {
            let in_loop = matches!(step.placement, Placement::Loop | Placement::Ahead);
            if in_loop {
                outline.iterations = outline.iterations.max(*step.iterations.end());
            }
            let follows = step.inputs.iter().filter(|i| !i.whole);
            outline.steps.push(StepOutline {
                name: step.name.clone(),
                inputs: follows.map(|i| i.step.clone()).collect(),
                in_loop,
                iterations: (step.iterations.end() + 1).saturating_sub(*step.iterations.start()),
                scale: step.op.scale().filter(|_| step.schema.name == named::SCORES.name),
            });
        }
        outline
    }
}

/// Committed microbatches of a step in one iteration, and their rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CommittedCount {
    pub(super) microbatches: u32,
    pub(super) rows: u64,
}

/// Progress of one step.
#[derive(Debug, Default)]
pub(super) struct StepState {
    pub(super) outline: StepOutline,
    /// Indices of the input steps; `None` for an input that does not come before the step.
    pub(super) inputs: Vec<Option<usize>>,
    /// Microbatches per iteration, as planned or as found when the source ended.
    pub(super) planned: Option<u32>,
    /// As `planned`, or derived from the inputs if they are known.
    pub(super) microbatches: Option<u32>,
    pub(super) by_iteration: BTreeMap<u32, CommittedCount>,
    pub(super) done: CommittedCount,
    pub(super) restored: u32,
    pub(super) timing: Timing,
    pub(super) scores: BTreeMap<u32, ScoreCounts>,
}

/// Values of the last optimizer step of a training.
#[derive(Debug)]
pub(super) struct Training {
    pub(super) step: usize,
    pub(super) iteration: u32,
    pub(super) values: Vec<(&'static str, Option<f64>)>,
}

/// Everything that progress displays.
#[derive(Debug)]
pub struct ProgressState {
    pub(super) steps: Vec<StepState>,
    pub(super) iterations: u32,
    pub(super) jobs: BTreeMap<(usize, Epoch), RunningJob>,
    /// Time up to which the running jobs have been charged.
    pub(super) charged: Duration,
    pub(super) training: Option<Training>,
    pub(super) sample: Option<ScoredSample>,
    pub(super) sampled: Rate,
    pub(super) trained: Rate,
    pub(super) servers: Vec<ShownServer>,
    pub(super) memory: Option<u64>,
}

impl ProgressState {
    /// Shares the elapsed time among the running jobs.
    fn charge(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.charged).as_secs_f64();
        self.charged = self.charged.max(now);
        let share = passed / self.jobs.len().max(1) as f64;
        self.jobs.values_mut().for_each(|job| job.charged += share);
    }

    /// Creates the state of a run that has not started.
    pub fn new(outline: PlanOutline) -> Self {
        let mut steps: Vec<StepState> = Vec::new();
        for outline in outline.steps {
            let place = |name: &String| steps.iter().position(|s| s.outline.name == *name);
            let inputs = outline.inputs.iter().map(place).collect();
            steps.push(StepState { outline, inputs, ..StepState::default() });
        }
        Self {
            steps,
            iterations: outline.iterations,
            jobs: BTreeMap::new(),
            charged: Duration::ZERO,
            training: None,
            sample: None,
            sampled: Rate::default(),
            trained: Rate::default(),
            servers: Vec::new(),
            memory: None,
        }
    }

    /// Applies an event that happened at `now`, measured from the start of the run.
    pub fn event(&mut self, now: Duration, event: &Event<'_>) {
        self.charge(now);
        let Some(at) = self.steps.iter().position(|s| s.outline.name == event.step()) else { return };
        match *event {
            Event::Planned { microbatches, .. } => {
                self.steps[at].planned = microbatches;
                self.count_microbatches();
            }
            Event::Started { epoch, .. } => {
                self.jobs.insert((at, epoch), RunningJob::default());
            }
            Event::Within { epoch, done, planned, unit, .. } => {
                if let Some(job) = self.jobs.get_mut(&(at, epoch)) {
                    job.within(done, planned, unit);
                }
            }
            Event::Measured { epoch, values, .. } => {
                if let Some((_, Some(tokens))) = values.iter().find(|(name, _)| *name == "num_tokens") {
                    self.trained.add(now, *tokens);
                }
                self.training = Some(Training { step: at, iteration: epoch.iteration, values: values.to_vec() });
            }
            Event::Rows { epoch, rows, .. } => self.rows(now, at, epoch, rows),
            Event::Ended { epoch, .. } => {
                // The source has no such microbatch, so the number of this one is their total.
                self.jobs.remove(&(at, epoch));
                let step = &mut self.steps[at];
                step.planned = Some(step.planned.map_or(epoch.microbatch, |n| n.min(epoch.microbatch)));
                self.count_microbatches();
            }
            Event::Done { epoch, rows, restored, .. } => self.done(at, epoch, rows as u64, restored),
        }
    }

    /// Updates values that no event carries: what all engines have done so far, and the memory of the process
    /// in bytes.
    pub fn observe(&mut self, now: Duration, engines: Option<EngineReading>, memory: Option<u64>) {
        self.charge(now);
        if let Some(EngineReading { sampled_tokens, servers }) = engines {
            self.sampled.add(now, sampled_tokens as f64);
            update(&mut self.servers, now, servers);
        }
        self.memory = memory.or(self.memory);
    }

    fn done(&mut self, at: usize, epoch: Epoch, rows: u64, restored: bool) {
        let job = self.jobs.remove(&(at, epoch)).unwrap_or_default();
        let step = &mut self.steps[at];
        for count in [&mut step.done, step.by_iteration.entry(epoch.iteration).or_default()] {
            count.microbatches += 1;
            count.rows += rows;
        }
        if restored {
            step.restored += 1;
        } else {
            step.timing.add(job.charged, rows);
        }
        // The last figures stay, but the rate ends with the training.
        if self.training.as_ref().is_some_and(|t| t.step == at && t.iteration == epoch.iteration) {
            self.trained = Rate::default();
        }
    }

    fn rows(&mut self, now: Duration, at: usize, epoch: Epoch, rows: &RecordBatch) {
        let scale = self.steps[at].outline.scale;
        let Some(scores) = ScoreCounts::of(rows, scale) else { return };
        let shown = self.sample.as_ref().map(|s| now.saturating_sub(s.at));
        if shown.is_none_or(|shown| shown >= SAMPLE_STAYS)
            && let Some(sample) = ScoredSample::of(rows, now, &self.steps[at].outline.name)
        {
            self.sample = Some(sample);
        }
        self.steps[at].scores.entry(epoch.iteration).or_default().add(&scores);
    }

    /// Updates the microbatch counts of all steps. Inputs come before their steps, so one pass suffices.
    fn count_microbatches(&mut self) {
        for at in 0..self.steps.len() {
            let step = &self.steps[at];
            let of_input = |input: &Option<usize>| self.steps[(*input)?].microbatches;
            let count = match (step.planned, step.inputs.is_empty()) {
                (None, false) => {
                    let inputs: Option<Vec<u32>> = step.inputs.iter().map(of_input).collect();
                    inputs.and_then(|counts| counts.into_iter().max())
                }
                (planned, _) => planned,
            };
            self.steps[at].microbatches = count;
        }
    }

    /// Microbatches of a step in one iteration, if known.
    pub(super) fn microbatches(&self, at: usize) -> Option<u32> {
        self.steps[at].microbatches
    }

    /// Microbatches of a step in all iterations, if known.
    pub(super) fn total(&self, at: usize) -> Option<u32> {
        Some(self.microbatches(at)?.saturating_mul(self.steps[at].outline.iterations))
    }

    /// The current iteration of the loop: `None` before the loop, `iterations + 1` after it.
    pub(super) fn iteration(&self) -> Option<u32> {
        let in_loop = || self.steps.iter().enumerate().filter(|(_, s)| s.outline.in_loop);
        let started = self.jobs.keys().filter(|(at, _)| self.steps[*at].outline.in_loop).map(|(_, e)| e.iteration);
        let done = in_loop().filter_map(|(_, s)| s.by_iteration.keys().next_back().copied());
        let last = started.chain(done).max()?;
        let over = in_loop().all(|(at, s)| self.total(at) == Some(s.done.microbatches));
        Some(if over { self.iterations + 1 } else { last.min(self.iterations) })
    }

    /// Names of the running steps, in plan order.
    pub(super) fn running(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.jobs.keys().map(|(at, _)| self.steps[*at].outline.name.as_str()).collect();
        names.dedup();
        names
    }
}
