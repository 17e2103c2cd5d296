//! The interface between operators and the dataflow: an operator is a function of one job and runs on a
//! compute thread. Operators never see timely.

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
use crate::pipeline::{EnvironmentVariable, ModelUse, Plan, Shape, Step, StepSpec};
use crate::store::Run;

/// A configured step that can run. All faults of the pipeline file are reported before one of these exists.
pub trait Operator: StepSpec {
    /// Returns the interface through which the dataflow drives it.
    fn stage(&self) -> Stage<'_>;
    /// Returns how the rows of a joined input ([`crate::pipeline::Input::joined`]) match those of the first
    /// one. An operator with such an input must implement it and finds the rows in [`Context::joined`].
    fn join(&self) -> Option<Join> {
        None
    }
    /// Returns the program outside that it starts. It must be found before a run starts.
    fn program(&self) -> Option<&str> {
        None
    }
    /// Returns the variables that this program gets, beside reflux's own.
    fn environment(&self) -> &[EnvironmentVariable] {
        &[]
    }
    /// Whether its model is also left as an adapter of the one that it started from.
    fn trains_adapter(&self) -> bool {
        false
    }
    /// Returns the function that measures its rows for the bounds of `[health]` if nothing is trained on
    /// them.
    fn measure(&self) -> Option<MeasureRows> {
        None
    }
}

/// How the dataflow drives an operator, one variant per [`crate::pipeline::Shape`].
pub enum Stage<'a> {
    /// Reads or makes rows without an input.
    Source(&'a dyn Source),
    /// Makes a microbatch from a microbatch.
    Map(&'a dyn Map),
    /// A map whose rows meet by key in a reduce.
    Keyed(&'a dyn Keyed),
    /// Starts the microbatches of an iteration.
    IterationSource(&'a dyn IterationSource),
    /// Waits for an iteration to close and makes rows from all its rows.
    Collect(&'a dyn Collect),
    /// Waits for an iteration to close and makes a model.
    Train(&'a dyn Train),
}

impl Stage<'_> {
    /// Returns the shape that the operator's definition must state. The definition repeats it because the
    /// plan needs it for steps that do not parse, and the docs where no operator exists.
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

/// Batches in order, each with at most the plan's number of rows in a microbatch.
pub type Batches = Box<dyn Iterator<Item = Result<Output>> + Send>;

/// Reads or makes rows that need no input.
pub trait Source: Send + Sync {
    /// Opens the source.
    ///
    /// # Errors
    /// The source cannot be read.
    fn open(&self, cx: &Context<'_>) -> Result<Batches>;
}

/// Makes a microbatch from a microbatch.
pub trait Map: Send + Sync {
    /// Maps one microbatch. The result must depend only on the input and the context.
    ///
    /// # Errors
    /// Only faults that must stop the run; a bad row is an error row.
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output>;
}

/// A map whose rows meet by key.
pub trait Keyed: Send + Sync {
    /// Returns the keyed items of a microbatch.
    ///
    /// # Errors
    /// A column is missing or has another type.
    fn items(&self, epoch: Epoch, rows: &RecordBatch) -> Result<Vec<(Key, Item)>>;
    /// Whether each group lies within one microbatch. Such groups are reduced microbatch by microbatch and
    /// take no memory over time; others stay in a differential arrangement for the whole run.
    fn complete(&self) -> bool {
        false
    }
    /// Returns the step's decision inputs, if it stores them.
    fn candidates(&self) -> Option<&dyn DecisionInputs> {
        None
    }
    /// Reduces one group, which is sorted and without duplicates. The result must depend only on key, group
    /// and keyed random numbers, so that a changed group can be reduced again.
    fn reduce(&self, rng_source: &RngSource<'_>, key: &Key, group: &[Item], results: &mut Vec<GroupResult>);
    /// Makes the microbatch's rows from the results of its groups.
    ///
    /// # Errors
    /// Only faults that must stop the run.
    fn finish(&self, cx: &Context<'_>, rows: &RecordBatch, results: &[(Key, GroupResult)]) -> Result<Output>;
}

/// Starts the microbatches of each iteration and keeps a state for the whole run.
pub trait IterationSource: Send + Sync {
    /// Returns the number of rows in an iteration.
    fn per_iteration(&self) -> usize;
    /// Returns the state before the first microbatch.
    ///
    /// # Errors
    /// The inputs cannot be read.
    fn start(&self, cx: &Context<'_>) -> Result<Box<dyn IterationState>>;
}

/// The state of an [`IterationSource`].
pub trait IterationState: Send {
    /// Makes the next microbatch, of at most `rows` rows.
    ///
    /// # Errors
    /// Only faults that must stop the run.
    fn next(&mut self, cx: &Context<'_>, rows: usize) -> Result<Output>;
    /// Advances the state over a microbatch that an earlier run committed, as if it had been made now.
    ///
    /// # Errors
    /// The rows do not have the step's schema.
    fn restore(&mut self, epoch: Epoch, rows: &RecordBatch) -> Result<()>;
}

/// Makes rows from all rows of an iteration together.
pub trait Collect: Send + Sync {
    /// Makes the rows from inputs that are on disk; [`Context::microbatches`] reads them one microbatch at
    /// a time. The result must depend only on them and the context.
    ///
    /// # Errors
    /// Only faults that must stop the run; a bad row is an error row.
    fn whole(&self, cx: &Context<'_>) -> Result<Output>;
}

/// An iteration of a step.
#[derive(Clone, Copy)]
pub struct TrainingIteration<'a> {
    /// The plan.
    pub plan: &'a Plan<dyn Operator>,
    /// The run directory.
    pub run: &'a Run,
    /// The training step, or the last step that judges or selects.
    pub step: &'a Step<dyn Operator>,
    /// Number of the iteration.
    pub iteration: u32,
}

/// What a health check measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The rows to train on.
    Rows,
    /// The result of the training.
    Training,
}

/// Measured values by the name of their gate.
pub type GateValues = Vec<(&'static str, f64)>;

/// Measures the rows of a step that trains nothing.
pub type MeasureRows = fn(TrainingIteration<'_>) -> Result<GateValues>;

/// Trains a model on the rows of an iteration.
pub trait Train: Send + Sync {
    /// Measures an iteration for the bounds of `[health]`, from committed files. The dataflow calls it
    /// before the training starts (or, if it [streams](StepSpec::streams), when it has ended) and after it;
    /// the summary calls it again.
    ///
    /// # Errors
    /// A committed file cannot be read.
    fn health(&self, training: TrainingIteration<'_>, phase: Phase) -> Result<GateValues> {
        let _ = (training, phase);
        Ok(Vec::new())
    }
    /// Returns the announcement of the committed model `name`, with the rows that its training left out. It
    /// is called again if a run was killed before the announcement was committed.
    ///
    /// # Errors
    /// The model is not committed, or its folder cannot be read.
    fn announce(&self, cx: &Context<'_>, name: &str) -> Result<Output> {
        cx.announce(name)
    }
    /// Trains and commits the model `name`, and returns what [`Train::announce`] makes of it.
    ///
    /// # Errors
    /// Faults that must stop the run, such as no rows or a loss that is not finite.
    fn train(&self, cx: &Context<'_>, name: &str) -> Result<Output>;
    /// Trains like [`Train::train`], for an operator that [streams](StepSpec::streams). `microbatches`
    /// yields the `planned` microbatches of the first input in order, and waits until each is on disk. The
    /// training must take all of them.
    ///
    /// # Errors
    /// As [`Train::train`], and errors from `microbatches`, such as a cancelled run.
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

/// The model that a step uses in an iteration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelAt {
    /// A `[model.NAME]` of the pipeline file.
    Source(String),
    /// A model that a step made.
    Made {
        /// Name, as in `models/NAME`.
        name: String,
        /// Hash of its weights.
        hash: String,
        /// The iteration in which it is the policy.
        version: u32,
    },
}

/// State that the operators share beyond the run directory, such as engines and loaded models. The dataflow
/// only carries it.
#[derive(Clone)]
pub struct RuntimeEnv(Arc<dyn Any + Send + Sync>);

impl RuntimeEnv {
    /// Wraps the shared state.
    pub fn new<T: Any + Send + Sync>(shared: T) -> Self {
        Self(Arc::new(shared))
    }
    /// Returns the wrapped state.
    ///
    /// # Errors
    /// A bug: the state has another type.
    pub fn get<T: Any>(&self) -> Result<&T> {
        self.0.downcast_ref().ok_or_else(|| Error::bug("the operators' services are of another type"))
    }
}

/// State common to all jobs of a run.
pub struct Shared {
    /// The plan.
    pub plan: Arc<Plan<dyn Operator>>,
    /// The run directory.
    pub run: Arc<Run>,
    /// State that the operators share.
    pub env: RuntimeEnv,
    /// Receives progress events.
    pub observer: Arc<dyn Observer>,
    /// Flag that stops the run.
    pub stop: CancelFlag,
}

impl Shared {
    /// Resolves a model named in the plan. `policy` is the step's own model.
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

/// The context of a job: its step, time and model.
pub struct Context<'a> {
    /// State common to all jobs.
    pub shared: &'a Shared,
    /// The step.
    pub step: &'a Step<dyn Operator>,
    /// The time of the microbatch.
    pub epoch: Epoch,
    /// The step's model, if it uses one.
    pub model: Option<ModelAt>,
    /// Rows joined to the microbatch, if the step joins.
    pub(super) joined: Option<Joined>,
}

impl<'a> Context<'a> {
    /// Makes a context without joined rows.
    pub(super) fn new(shared: &'a Shared, step: &'a Step<dyn Operator>, epoch: Epoch, model: Option<ModelAt>) -> Self {
        Self { shared, step, epoch, model, joined: None }
    }
}

/// Returns the models that an announcement names.
pub(super) fn announced(rows: &RecordBatch) -> Result<Vec<ModelAt>> {
    let columns = Columns(rows);
    let (name, hash, version) = (columns.text("name")?, columns.text("hash")?, columns.uint("version")?);
    let model = |i| ModelAt::Made { name: name.value(i).into(), hash: hash.value(i).into(), version: version.value(i) };
    Ok((0..rows.num_rows()).map(model).collect())
}

/// Returns the name of a model, like [`Plan::model_name`].
pub fn model_name<O: ?Sized>(plan: &Plan<O>, step: &str, iteration: u32) -> String {
    plan.model_name(step, iteration)
}
