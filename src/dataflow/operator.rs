//! What an operator is to the dataflow: a function of one job, run on a compute thread. Operators never see timely.

use std::any::Any;
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::decision_inputs::DecisionInputs;
use super::items::{GroupResult, Item, Key, RngSource};
use super::joined::{Join, Joined};
use super::ledger::Output;
use super::progress::Observer;
use crate::cancel::CancelFlag;
use crate::data::{Columns, Epoch};
use crate::error::{Error, Result};
use crate::pipeline::{ModelUse, Plan, Shape, Step, StepSpec};
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

impl Stage<'_> {
    /// The shape that the operator's definition must have. The definition states it a second time because the plan
    /// needs it for steps that do not parse, and for the docs, where no operator exists.
    pub fn shape(&self) -> Shape {
        match self {
            Stage::Source(_) => Shape::Source,
            Stage::Map(_) => Shape::Map,
            Stage::Keyed(_) => Shape::Keyed,
            Stage::IterationSource(_) => Shape::IterationSource,
            Stage::Collect(_) => Shape::Collect,
            Stage::Train(_) => Shape::Train,
        }
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

/// An iteration of a step.
#[derive(Clone, Copy)]
pub struct TrainingIteration<'a> {
    /// The plan.
    pub plan: &'a Plan<dyn Operator>,
    /// The run directory.
    pub run: &'a Run,
    /// The training step, or the last step of those that judge and select.
    pub step: &'a Step<dyn Operator>,
    /// Which of its iterations.
    pub iteration: u32,
}

/// What is to be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// What the rows say that it is trained on.
    Rows,
    /// What the training itself says.
    Training,
}

/// Values by the name of their gate.
pub type GateValues = Vec<(&'static str, f64)>;

/// What measures the rows of a step that trains nothing.
pub type Measure = fn(TrainingIteration<'_>) -> Result<GateValues>;

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
