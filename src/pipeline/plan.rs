//! The plan: a pipeline file that was found to be right, in the order in which it can be run.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::fields::external::External;
use super::health::Gate;
use super::kind::{OperatorDef, Shape};
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
    /// What chat templates see as the present time (`strftime_now`); templates that ask for it need it.
    pub date: Option<DateTime>,
    /// How often the loop runs (T).
    pub iterations: u32,
    /// Rows of a microbatch where it starts.
    pub microbatch: usize,
    /// Most microbatches open at once.
    pub window: usize,
    /// Settings of the inference engine.
    pub engine: Engine,
    /// `[health]`: every gate, in the order of [`super::GATES`].
    pub health: Vec<Gate>,
    /// Every `[model.NAME]`, by name, then the models that keys name by their path, which is then their name.
    pub models: Vec<ModelSource>,
    /// The loop, if there is one.
    pub loop_: Option<Loop>,
    /// In dependency order, equals by name: the same whatever the order in the file.
    pub steps: Vec<Step<O>>,
    /// The file with all overrides and defaults written out; it parses to the same plan.
    pub resolved: String,
    /// `[study]`, if the file is one.
    pub study: Option<Study>,
    /// The operators that the file may name.
    pub operators: Vec<&'static OperatorDef<O>>,
    /// What is legal but probably not meant.
    pub warnings: Diagnostics,
}

/// `[engine]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Engine {
    /// Compute threads; 0 for one a core.
    pub threads: usize,
    /// Most sequences decoded together.
    pub max_batch: usize,
    /// Bytes for keys and values; `None` for a share of what is free.
    pub kv_memory: Option<u64>,
}

/// One step.
pub struct Step<O: ?Sized + 'static> {
    /// Its name, also of its dataset.
    pub name: String,
    /// Its operator.
    pub kind: &'static OperatorDef<O>,
    /// The operator with its settings.
    pub op: Arc<O>,
    /// `from` in its order, then the steps that other keys name.
    pub inputs: Vec<Input>,
    /// What `model` means.
    pub model: Option<ModelUse>,
    /// Models that other keys name (asked for by `Fields::reference`), by key.
    pub models: Vec<(&'static str, ModelUse)>,
    /// The files outside of the run that it reads.
    pub externals: Vec<External>,
    /// What its rows are.
    pub schema: &'static Schema,
    /// When it runs.
    pub placement: Placement,
    /// The iterations it has rows in: `0..=0` for a step that runs once, else from 1.
    pub iterations: RangeInclusive<u32>,
    /// Whether its rows are kept as a dataset.
    pub keep: bool,
    /// Line of its table in the file, from 1.
    pub line: usize,
}

/// An edge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// The step read.
    pub step: String,
    /// Read whole, as a side input, instead of microbatch by microbatch: all inputs of a head, barrier or training step, and
    /// the steps that keys other than `from` name, unless they are asked for by `Fields::step_joined`.
    pub whole: bool,
    /// Joined to the first input, row by row: a second step in `from` of a step that makes a microbatch out of a
    /// microbatch, or a step asked for by `Fields::step_joined`.
    pub joined: bool,
    /// The key that named it: `from`, or the operator's own.
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
    /// Feeds the loop from a [`Shape::IterationSource`] and does not depend on the policy: iterations `1..=T`, as far ahead of
    /// the policy as the window allows.
    Ahead,
    /// Depends on the policy and leads to `loop.next`: iterations `1..=T`.
    Loop,
    /// Depends on the policy and does not lead to `loop.next`: runs for every policy, iterations `1..=T+1`, the last
    /// of which is the final model; only to T where it reads rows of the loop.
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
    /// Where it comes from.
    pub kind: ModelKind,
    /// How its weights are kept.
    pub dtype: Dtype,
    /// A config.json that tells its shape where the model is not here, for `reflux cost`.
    pub config: Option<External>,
}

/// Where a model comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModelKind {
    /// A GGUF file or a Hugging Face directory.
    Path(External),
    /// A model of the Hugging Face hub.
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
        /// Seed of the weights; the pipeline's if none.
        seed: Option<u64>,
    },
    /// Scripted answers, for tests.
    Script {
        /// The file with the answers.
        file: External,
    },
}

/// How weights are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

impl Dtype {
    /// As the file writes it.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
        }
    }
}

impl<O: ?Sized> Plan<O> {
    /// The step with this name.
    pub fn step(&self, name: &str) -> Option<&Step<O>> {
        self.steps.iter().find(|s| s.name == name)
    }
    /// The name of the model that a training step makes in an iteration: M1 is the loop's first policy, M2 the model that its
    /// first iteration makes, and so on; a model that is no policy has its step's name.
    pub fn model_name(&self, step: &str, iteration: u32) -> String {
        made_model(self.loop_.as_ref(), step, iteration)
    }
    /// The external inputs of all steps that were read with the pipeline file.
    pub fn texts(&self) -> impl Iterator<Item = &External> {
        self.steps.iter().flat_map(|s| &s.externals).filter(|e| e.is_read())
    }
    /// The model source with this name.
    pub fn model(&self, name: &str) -> Option<&ModelSource> {
        self.models.iter().find(|m| m.name == name)
    }
    /// Whether the edge brings rows of iteration 0 into each iteration of the loop.
    pub fn enters(&self, step: &Step<O>, input: &Input) -> bool {
        step.placement != Placement::Once && self.step(&input.step).is_some_and(|s| s.placement == Placement::Once)
    }
    /// The steps that read from this one, with the edge.
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

/// The name of the model that a training step makes in an iteration: M1 is the loop's first policy, M2 the model that its first
/// iteration makes, and so on; a model that is no policy has its step's name.
pub(super) fn made_model(loop_: Option<&Loop>, step: &str, iteration: u32) -> String {
    match loop_ {
        Some(l) if l.next == step => format!("M{}", iteration + 1),
        Some(l) if l.policy == ModelUse::Step(step.into()) => "M1".into(),
        _ if iteration == 0 => step.into(),
        _ => format!("{step}-{iteration}"),
    }
}
