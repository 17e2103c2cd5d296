//! The plan: a valid pipeline file, with its steps in the order in which they can run.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::fields::external::External;
use super::health::Gate;
use super::kind::{OperatorDef, Shape};
use super::server::ServerSource;
use super::server_section::ServerProgram;
use super::study::Study;
use super::syntax::diagnostic::Diagnostics;
use crate::data::Schema;
use crate::jinja::DateTime;

/// A checked pipeline.
pub struct Plan<O: ?Sized + 'static> {
    /// Name of the run.
    pub name: String,
    /// Seed of all randomness.
    pub seed: u64,
    /// The present time for chat templates that ask for it (`strftime_now`).
    pub date: Option<DateTime>,
    /// Number of iterations of the loop (T).
    pub iterations: u32,
    /// Number of rows in a microbatch at its start.
    pub microbatch: usize,
    /// Maximum number of open microbatches.
    pub window: usize,
    /// Settings of the inference engine.
    pub engine: EngineSection,
    /// `[health]`: every gate, in the order of [`super::GATES`].
    pub health: Vec<Gate>,
    /// Every `[model.NAME]`, by name, followed by models that keys name by path, whose name is the path.
    pub models: Vec<ModelSource>,
    /// The loop, if there is one.
    pub loop_: Option<Loop>,
    /// Steps in dependency order, ties by name: independent of the order in the file.
    pub steps: Vec<Step<O>>,
    /// The file with all overrides and defaults written out; it parses to the same plan.
    pub resolved: String,
    /// `[study]`, if the file is one.
    pub study: Option<Study>,
    /// The operators that the file may name.
    pub operators: Vec<&'static OperatorDef<O>>,
    /// Warnings: legal settings that are probably not intended.
    pub warnings: Diagnostics,
}

/// `[engine]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineSection {
    /// Number of compute threads; 0 for one per core.
    pub threads: usize,
    /// Maximum number of sequences decoded together.
    pub max_batch: usize,
    /// Bytes for keys and values; `None` for a share of the free memory.
    pub kv_memory: Option<u64>,
}

/// A step.
pub struct Step<O: ?Sized + 'static> {
    /// Its name, also the name of its dataset.
    pub name: String,
    /// Its operator.
    pub kind: &'static OperatorDef<O>,
    /// The operator with its settings.
    pub op: Arc<O>,
    /// The steps of `from` in its order, then those that other keys name.
    pub inputs: Vec<Input>,
    /// The model that `model` names.
    pub model: Option<ModelUse>,
    /// Models that other keys name (read by `Fields::reference`), by key.
    pub models: Vec<(&'static str, ModelUse)>,
    /// The files outside the run that it reads.
    pub externals: Vec<External>,
    /// Schema of its rows.
    pub schema: &'static Schema,
    /// When it runs.
    pub placement: Placement,
    /// The iterations in which it has rows: `0..=0` for a step that runs once, else from 1.
    pub iterations: RangeInclusive<u32>,
    /// Whether its rows are kept as a dataset.
    pub keep: bool,
    /// Line of its table in the file, from 1.
    pub line: usize,
}

/// An edge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// Name of the step that is read.
    pub step: String,
    /// Whether the input is read whole, as a side input, instead of microbatch by microbatch. This holds
    /// for all inputs of an iteration source, collecting or training step, and for steps named by keys
    /// other than `from`, unless they are read by `Fields::step_joined`.
    pub whole: bool,
    /// Whether the input is joined to the first one, row by row: a second step in `from` of a step that
    /// makes a microbatch from a microbatch, or a step read by `Fields::step_joined`.
    pub joined: bool,
    /// The key that names it: `from`, or the operator's own.
    pub key: &'static str,
}

/// The model that a step uses.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ModelUse {
    /// A `[model.NAME]`.
    Source(String),
    /// The model of a training step that runs once.
    Step(String),
    /// The model of the current iteration.
    Policy,
}

impl fmt::Display for ModelUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelUse::Source(name) | ModelUse::Step(name) => f.write_str(name),
            ModelUse::Policy => f.write_str("policy"),
        }
    }
}

/// When a step runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Placement {
    /// In iteration 0, before the loop.
    Once,
    /// In iterations `1..=T`, ahead of the policy as far as the window allows: it feeds the loop from a
    /// [`Shape::IterationSource`] and does not depend on the policy.
    Ahead,
    /// In iterations `1..=T`: it depends on the policy and leads to `loop.next`.
    Loop,
    /// In iterations `1..=T+1`, for every policy including the final model: it depends on the policy and
    /// does not lead to `loop.next`. Only up to T if it reads rows of the loop.
    Observer,
}

/// `[loop]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loop {
    /// The policy of the first iteration.
    pub policy: ModelUse,
    /// The training step whose model is the policy of the next iteration.
    pub next: String,
}

/// `[model.NAME]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelSource {
    /// NAME.
    pub name: String,
    /// Its source.
    pub kind: ModelKind,
    /// The type of its weights.
    pub dtype: Dtype,
    /// A config.json with its shape, for `reflux cost` if the model is not available.
    pub config: Option<External>,
    /// The server that reflux starts for it, and for the models that are trained from it.
    pub program: Option<Arc<ServerProgram>>,
}

/// The source of a model.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModelKind {
    /// A GGUF file or a Hugging Face directory.
    Path(External),
    /// A model on the Hugging Face hub.
    Hub {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit.
        revision: Option<String>,
    },
    /// Random weights.
    Init {
        /// A directory with config.json and tokenizer.json.
        config: External,
        /// Seed of the weights; the pipeline's seed if absent.
        seed: Option<u64>,
    },
    /// Scripted answers, for tests.
    Script {
        /// The file with the answers.
        file: External,
    },
    /// A model that runs on servers.
    Server(ServerSource),
}

/// The type of weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Dtype {
    /// Returns the name used in the file.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
        }
    }
}

impl<O: ?Sized> Plan<O> {
    /// Returns the step with this name.
    pub fn step(&self, name: &str) -> Option<&Step<O>> {
        self.steps.iter().find(|s| s.name == name)
    }
    /// Returns the name of the model that a training step makes in an iteration: M1 for the loop's first
    /// policy, M2 for the model of its first iteration, and so on. Other models have the name of their
    /// step.
    pub fn model_name(&self, step: &str, iteration: u32) -> String {
        made_model(self.loop_.as_ref(), step, iteration)
    }
    /// Returns the external inputs of all steps that were read with the pipeline file.
    pub fn texts(&self) -> impl Iterator<Item = &External> {
        self.steps.iter().flat_map(|s| &s.externals).filter(|e| e.is_read())
    }
    /// Returns the model source with this name.
    pub fn model(&self, name: &str) -> Option<&ModelSource> {
        self.models.iter().find(|m| m.name == name)
    }
    /// Returns the `[model.NAME]` of a model, or the one from which a training step's model descends. Both have the same
    /// tokenizer and context.
    pub fn source_of<'a>(&'a self, used: &'a ModelUse) -> Option<&'a ModelSource> {
        let mut used = used;
        // A training cannot start from its own model, so the chain is no longer than the list of steps.
        for _ in 0..=self.steps.len() + 1 {
            used = match used {
                ModelUse::Source(name) => return self.model(name),
                ModelUse::Policy => &self.loop_.as_ref()?.policy,
                ModelUse::Step(name) => self.step(name)?.model.as_ref()?,
            };
        }
        None
    }
    /// Whether the rows of a step come from a model on servers.
    pub fn from_servers(&self, step: &Step<O>) -> bool {
        let source = step.model.as_ref().and_then(|used| self.source_of(used));
        source.is_some_and(|source| matches!(source.kind, ModelKind::Server(_)) || source.program.is_some())
            && !step.is_training()
    }
    /// Whether the edge brings rows of iteration 0 into each iteration of the loop.
    pub fn enters(&self, step: &Step<O>, input: &Input) -> bool {
        step.placement != Placement::Once && self.step(&input.step).is_some_and(|s| s.placement == Placement::Once)
    }
    /// Returns the steps that read from this one, with the edge.
    pub fn readers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Step<O>, &'a Input)> {
        self.steps.iter().flat_map(move |s| s.inputs.iter().filter(move |i| i.step == name).map(move |i| (s, i)))
    }
}

impl<O: ?Sized> Step<O> {
    /// Whether it makes a model, and so waits for its iteration to close.
    pub fn is_training(&self) -> bool {
        self.kind.shape == Shape::Train
    }
    /// Whether it waits for its iteration to close.
    pub fn is_barrier(&self) -> bool {
        matches!(self.kind.shape, Shape::Collect | Shape::Train)
    }
}

impl<O: ?Sized> fmt::Debug for Plan<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resolved)
    }
}

/// Returns the name of the model that a training step makes in an iteration; see [`Plan::model_name`].
pub(super) fn made_model(loop_: Option<&Loop>, step: &str, iteration: u32) -> String {
    match loop_ {
        Some(l) if l.next == step => format!("M{}", iteration + 1),
        Some(l) if l.policy == ModelUse::Step(step.into()) => "M1".into(),
        _ if iteration == 0 => step.into(),
        _ => format!("{step}-{iteration}"),
    }
}
