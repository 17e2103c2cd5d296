//! What an operator is to the dataflow: a function of one job, run on a compute thread. Operators never see timely.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, UInt32Array};
use arrow::compute::concat_batches;

use super::candidates::DecisionInputs;
use super::health::{GateValues, Measure, Phase, TrainingIteration};
use super::join::{Join, Joined};
use super::ledger::Output;
use super::progress::{Event, Observer};
use crate::cancel::CancelFlag;
use crate::data::{Columns, Epoch, RngKey, named};
use crate::error::{Error, Result};
use crate::pipeline::{ModelSource, ModelUse, Placement, Plan, Step, StepSpec};
use crate::store::Run;

/// A configured step that can be run. All faults of the user's file have been found before one of these exists.
pub trait Operator: StepSpec {
    /// How the dataflow drives it.
    fn stage(&self) -> Stage<'_>;
    /// How the rows of a joined input ([`crate::pipeline::Input::joined`]) belong to those of the first. An operator that
    /// takes such an input must say so, and finds them as [`Context::joined`].
    fn join(&self) -> Option<Join> {
        None
    }
    /// What measures its rows for the bounds of `[health]`, where nothing is trained on them.
    fn measure(&self) -> Option<Measure> {
        None
    }
}

/// The ways in which the dataflow drives an operator, one per [`crate::pipeline::Shape`].
pub enum Stage<'a> {
    /// Rows known at the start.
    Source(&'a dyn Source),
    /// Microbatch in, microbatch out.
    Map(&'a dyn Map),
    /// A map whose rows meet by key in a differential reduce.
    Keyed(&'a dyn Keyed),
    /// Starts the microbatches of an iteration.
    IterationSource(&'a dyn IterationSource),
    /// Waits for an iteration to close and makes rows of all of it.
    Collect(&'a dyn Collect),
    /// Waits for an iteration to close and makes a model.
    Train(&'a dyn Train),
}

/// Why a row was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectKind {
    /// The step could not handle it.
    Failed,
    /// It was dropped on purpose: by a filter, by a tie.
    Dropped,
}

impl RejectKind {
    /// As in the `errors` dataset.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectKind::Failed => "failed",
            RejectKind::Dropped => "dropped",
        }
    }
}

/// A row that a step left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Why.
    pub kind: RejectKind,
    /// Id of the row, or where it stands.
    pub row: String,
    /// Short code, as `empty_prompt`.
    pub code: String,
    /// What went wrong and what to do.
    pub message: String,
}

impl RowError {
    /// A row that the step could not handle.
    pub fn failed(row: impl Into<String>, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: RejectKind::Failed, row: row.into(), code: code.into(), message: message.into() }
    }
    /// A row that the step left out on purpose.
    pub fn dropped(row: impl Into<String>, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: RejectKind::Dropped, ..Self::failed(row, code, message) }
    }
}

/// Batches one after the other, each at most the plan's microbatch long.
pub type Batches = Box<dyn Iterator<Item = Result<Output>> + Send>;

/// Reads or makes rows that need no input.
pub trait Source: Send + Sync {
    /// Opens the source.
    ///
    /// # Errors
    /// The source cannot be read.
    fn open(&self, cx: &Context<'_>) -> Result<Batches>;
}

/// Turns a microbatch into a microbatch.
pub trait Map: Send + Sync {
    /// One microbatch. Must be a function of its input and the context alone.
    ///
    /// # Errors
    /// Only what must stop the run; a bad row is an error row.
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output>;
}

/// What meets in a differential reduce: ids and integers only, text stays in Arrow. 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Item {
    /// First, so that a group is sorted from least to greatest: a score in thousandths, or a position.
    pub order: i64,
    /// Content-hash id.
    pub id: u128,
    /// How long it is, where the operator asks for it.
    pub length: u32,
    /// How much its judgements vary, in millionths of a squared point, where the operator asks for it.
    pub variance: u32,
}

/// What a group comes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum GroupResult {
    /// The item of this `order`.
    One(i64),
    /// One item preferred to another. With their `order`s, so that a corrected score is a change.
    Pair {
        /// The item preferred.
        id: u128,
        /// The other.
        against: u128,
        /// `order` of the first.
        high: i64,
        /// `order` of the other.
        low: i64,
        /// What the operator takes the difference to be.
        margin: i64,
    },
    /// Nothing of the group, and the operator's number for the reason.
    Nothing(u8),
}

/// The key of a group: a scope (rows of other scopes never meet) and an id.
pub type Key = (u64, u128);

/// Where a step's random numbers come from, without a context.
#[derive(Clone, Copy, Debug)]
pub struct RngSource<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The step.
    pub step: &'a str,
}

impl RngSource<'_> {
    /// As [`Context::key`].
    pub fn key(&self, iteration: u32, row: &str, sample: u32) -> RngKey {
        RngKey::new(self.seed, self.step, iteration, row, sample)
    }
}

/// A map whose rows meet by key.
pub trait Keyed: Send + Sync {
    /// The keyed items of a microbatch.
    ///
    /// # Errors
    /// A column is missing or of another type.
    fn items(&self, epoch: Epoch, rows: &RecordBatch) -> Result<Vec<(Key, Item)>>;
    /// Whether all items of a group are always in one microbatch. Such groups are reduced microbatch by microbatch, and a run's
    /// memory does not grow with them; others are held in a differential arrangement as long as the run goes on.
    fn complete(&self) -> bool {
        false
    }
    /// The step as one that keeps what it went by, if it does.
    fn candidates(&self) -> Option<&dyn DecisionInputs> {
        None
    }
    /// Reduces one group, sorted and without duplicates: a function of key, group and keyed draws alone, so that a group
    /// that changes can be reduced again.
    fn reduce(&self, draws: &RngSource<'_>, key: &Key, group: &[Item], kept: &mut Vec<GroupResult>);
    /// Makes the microbatch's rows from what its groups came to.
    ///
    /// # Errors
    /// Only what must stop the run.
    fn finish(&self, cx: &Context<'_>, rows: &RecordBatch, kept: &[(Key, GroupResult)]) -> Result<Output>;
}

/// Starts the microbatches of each iteration, with a state that lives through the run.
pub trait IterationSource: Send + Sync {
    /// How many rows an iteration is to have.
    fn per_iteration(&self) -> usize;
    /// The state before the first microbatch.
    ///
    /// # Errors
    /// The inputs cannot be read.
    fn start(&self, cx: &Context<'_>) -> Result<Box<dyn HeadState>>;
}

/// The state of a [`IterationSource`].
pub trait HeadState: Send {
    /// The next microbatch, of at most `rows` rows.
    ///
    /// # Errors
    /// Only what must stop the run.
    fn next(&mut self, cx: &Context<'_>, rows: usize) -> Result<Output>;
    /// Takes in a microbatch that an earlier run committed, so that what follows is as if it had been made now.
    ///
    /// # Errors
    /// The rows are not of the step's schema.
    fn restore(&mut self, epoch: Epoch, rows: &RecordBatch) -> Result<()>;
}

/// Makes rows of all rows of an iteration together.
pub trait Collect: Send + Sync {
    /// The rows, from inputs that are on disk: [`Context::microbatches`] reads them one at a time. Must be a function of
    /// them and the context alone.
    ///
    /// # Errors
    /// Only what must stop the run; a bad row is an error row.
    fn whole(&self, cx: &Context<'_>) -> Result<Output>;
}

/// Makes a model out of an iteration's rows.
pub trait Train: Send + Sync {
    /// What is measured of an iteration for the bounds of `[health]`, from what is committed. The dataflow asks before the
    /// training starts (or, where it [streams](Configured::streams), when it has ended) and after it; the summary again.
    ///
    /// # Errors
    /// A committed file cannot be read.
    fn health(&self, round: TrainingIteration<'_>, known: Phase) -> Result<GateValues> {
        let _ = (round, known);
        Ok(Vec::new())
    }
    /// The announcement of the committed model `name`, with the rows that its training left out. A run that was killed
    /// before the announcement was committed asks for it again.
    ///
    /// # Errors
    /// The model is not committed, or its folder cannot be read.
    fn announce(&self, cx: &Context<'_>, name: &str) -> Result<Output> {
        cx.announce(name)
    }
    /// Trains and commits the model `name`; returns what [`Train::announce`] makes of it.
    ///
    /// # Errors
    /// Whatever must stop the run: no rows, a loss that is not finite.
    fn train(&self, cx: &Context<'_>, name: &str) -> Result<Output>;
    /// The same for an operator that [streams](Configured::streams): `microbatches` yields the `planned` microbatches of
    /// the first input in order, each as soon as it is on disk, and waits for it until then. All are to be taken.
    ///
    /// # Errors
    /// As [`Train::train`], and what `microbatches` yields: that the run is being stopped, say.
    fn stream(
        &self,
        cx: &Context<'_>,
        name: &str,
        planned: u32,
        microbatches: &mut dyn Iterator<Item = Result<RecordBatch>>,
    ) -> Result<Output> {
        let _ = (name, planned, microbatches);
        Err(Error::bug(format!("operator `{}` cannot stream", cx.step.kind.name)))
    }
}

/// Which model a step uses now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelAt {
    /// A `[model.NAME]` of the pipeline file.
    Source(String),
    /// One that a step made.
    Made {
        /// Name, as in `models/NAME`.
        name: String,
        /// Hash of its weights.
        hash: String,
        /// The iteration whose policy it is.
        version: u32,
    },
}

/// Whatever the operators share beyond the run directory: engines, loaded models. The dataflow only carries it.
#[derive(Clone)]
pub struct RuntimeEnv(Arc<dyn Any + Send + Sync>);

impl RuntimeEnv {
    /// Wraps what the operators share.
    pub fn new<T: Any + Send + Sync>(shared: T) -> Self {
        Self(Arc::new(shared))
    }
    /// What was wrapped.
    ///
    /// # Errors
    /// A bug: something else was wrapped.
    pub fn get<T: Any>(&self) -> Result<&T> {
        self.0.downcast_ref().ok_or_else(|| Error::bug("the operators' services are of another type"))
    }
}

/// What is common to all jobs of a run.
pub struct Shared {
    /// The plan.
    pub plan: Arc<Plan<dyn Operator>>,
    /// The run directory.
    pub run: Arc<Run>,
    /// What the operators share.
    pub env: RuntimeEnv,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Whether to stop.
    pub stop: CancelFlag,
}

impl Shared {
    /// What a name of the plan stands for; `policy` is the step's own model.
    pub(super) fn model_at(&self, meant: &ModelUse, policy: Option<&ModelAt>) -> Result<ModelAt> {
        match meant {
            ModelUse::Source(name) => Ok(ModelAt::Source(name.clone())),
            ModelUse::Policy => policy.cloned().ok_or_else(|| Error::bug("a step without a model names the policy")),
            ModelUse::Step(step) => {
                let name = model_name(&self.plan, step, 0);
                let made =
                    self.run.model(&name).ok_or_else(|| Error::bug(format!("`{step}` has made no model yet")))?;
                let policy = self.plan.loop_.as_ref().is_some_and(|l| l.policy == *meant);
                Ok(ModelAt::Made { name, hash: made.hash, version: u32::from(policy) })
            }
        }
    }
}

/// What a job may know: its step, when it is, and the model it uses.
pub struct Context<'a> {
    /// What is common to all jobs.
    pub shared: &'a Shared,
    /// The step.
    pub step: &'a Step<dyn Operator>,
    /// When.
    pub epoch: Epoch,
    /// The model it uses, if it uses one.
    pub model: Option<ModelAt>,
    /// What was joined to the microbatch, if the step joins.
    pub(super) joined: Option<Joined>,
}

impl<'a> Context<'a> {
    /// What a job may know of a step, but for what is joined to its rows.
    pub(super) fn new(shared: &'a Shared, step: &'a Step<dyn Operator>, epoch: Epoch, model: Option<ModelAt>) -> Self {
        Self { shared, step, epoch, model, joined: None }
    }
}

impl Context<'_> {
    /// The run directory.
    pub fn run(&self) -> &Run {
        &self.shared.run
    }
    /// What the operators share.
    ///
    /// # Errors
    /// A bug: it is of another type.
    pub fn env<T: Any>(&self) -> Result<&T> {
        self.shared.env.get()
    }
    /// The key of this step's random draws for a row.
    pub fn key(&self, row: &str, sample: u32) -> RngKey {
        RngSource { seed: self.shared.plan.seed, step: &self.step.name }.key(self.epoch.iteration, row, sample)
    }
    /// Whether the run is being stopped.
    pub fn cancelled(&self) -> bool {
        self.shared.stop.is_set()
    }
    /// Tells those who watch how far this job is.
    pub fn progress(&self, done: usize, planned: usize, unit: &'static str) {
        let (step, epoch) = (self.step.name.as_str(), self.epoch);
        self.shared.observer.event(&Event::Within { step, epoch, done, planned, unit });
    }
    /// Tells those who watch what a training measured at an optimizer step.
    pub fn measured(&self, values: &[(&'static str, Option<f64>)]) {
        self.shared.observer.event(&Event::Measured { step: &self.step.name, epoch: self.epoch, values });
    }
    /// The iteration of the rows of an input: its own rows of this iteration if it is in the loop, else its only ones.
    pub fn iteration_of(&self, input: &str) -> u32 {
        let step = self.shared.plan.step(input);
        if step.is_some_and(|s| s.placement != Placement::Once) { self.epoch.iteration } else { 0 }
    }
    /// All rows of an input by its key (`from`, or the key that names it), a batch per microbatch, in order.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn whole(&self, input: &str) -> Result<RecordBatch> {
        let step = self.shared.plan.step(input);
        let step = step.ok_or_else(|| Error::bug(format!("step `{input}` is not in the plan")))?;
        let batches: Vec<RecordBatch> = self.microbatches(input).map(|b| Ok(b?.1)).collect::<Result<_>>()?;
        let schema = batches.first().map_or_else(|| step.schema.arrow(), RecordBatch::schema);
        Ok(concat_batches(&schema, &batches)?)
    }
    /// The same microbatch by microbatch, each with its number, read one at a time.
    pub fn microbatches<'a>(&'a self, input: &'a str) -> impl Iterator<Item = Result<(u32, RecordBatch)>> + 'a {
        let iteration = self.iteration_of(input);
        self.run().batches(input, Some(iteration)).map(|b| b.map(|(epoch, rows)| (epoch.microbatch, rows)))
    }
    /// The same of this and earlier iterations, at most `iterations` of them, the oldest first.
    pub fn window<'a>(
        &'a self,
        input: &'a str,
        iterations: u32,
    ) -> impl Iterator<Item = Result<(Epoch, RecordBatch)>> + 'a {
        let last = self.iteration_of(input);
        let first = (last + 1).saturating_sub(iterations.max(1)).max(last.min(1));
        (first..=last).flat_map(move |iteration| self.run().batches(input, Some(iteration)))
    }
    /// What was joined to the microbatch.
    ///
    /// # Errors
    /// A bug: the step joins nothing.
    pub fn joined(&self) -> Result<&Joined> {
        self.joined.as_ref().ok_or_else(|| Error::bug(format!("step `{}` joins nothing", self.step.name)))
    }
    /// The model that another key than `model` names; `None` if the step has no such key.
    ///
    /// # Errors
    /// A bug: a step that the plan puts before this one has not made it.
    pub fn other_model(&self, key: &str) -> Result<Option<ModelAt>> {
        let Some((_, meant)) = self.step.models.iter().find(|(k, _)| *k == key) else { return Ok(None) };
        self.shared.model_at(meant, self.model.as_ref()).map(Some)
    }
    /// The source of a `[model.NAME]`.
    ///
    /// # Errors
    /// A bug: the plan has no such model.
    pub fn model_source(&self, name: &str) -> Result<&ModelSource> {
        self.shared.plan.model(name).ok_or_else(|| Error::bug(format!("model `{name}` is not in the plan")))
    }
    /// The announcement of a model that this step has committed.
    ///
    /// # Errors
    /// A bug: the model is not committed.
    pub fn announce(&self, name: &str) -> Result<Output> {
        let entry = self.run().model(name).ok_or_else(|| Error::bug(format!("model `{name}` is not committed")))?;
        let text = |s: &str| Arc::new(StringArray::from(vec![s])) as _;
        let version: UInt32Array = vec![self.epoch.iteration + 1].into();
        let columns = vec![text(&entry.name), text(&entry.path), text(&entry.hash), Arc::new(version) as _];
        Ok(named::MODELS.batch(columns)?.into())
    }
}

/// The models that an announcement names.
pub(super) fn announced(rows: &RecordBatch) -> Result<Vec<ModelAt>> {
    let columns = Columns(rows);
    let (name, hash, version) = (columns.text("name")?, columns.text("hash")?, columns.uint("version")?);
    let model = |i| ModelAt::Made { name: name.value(i).into(), hash: hash.value(i).into(), version: version.value(i) };
    Ok((0..rows.num_rows()).map(model).collect())
}

/// As [`Plan::model_name`].
pub fn model_name<O: ?Sized>(plan: &Plan<O>, step: &str, iteration: u32) -> String {
    plan.model_name(step, iteration)
}
