//! The streaming dataflow: the clock, how a plan becomes a timely graph, and how its compute leaves the workers.
//!
//! This is the only folder that names timely or differential. Operators are known through [`Operator`] alone.

mod candidates;
mod clock;
mod cluster;
mod compute;
mod flow;
mod flow_join;
mod groups;
mod health;
mod inputs;
mod jobs;
mod join;
mod keep;
mod ledger;
mod operator;
mod progress;
mod render;
mod replay;
mod revision;
mod start;

pub use candidates::{Candidate, Decision, DecisionInputs, candidates_of};
pub use clock::Advance;
pub use cluster::{Transport, run};
pub use health::{GateValues, Measure, Phase, TrainingIteration, gate_values};
pub use inputs::check_finished;
pub use join::{Join, Joined, KeysOf, Matching, Place};
pub use keep::drop_unkept;
pub use ledger::{Ledger, Output};
pub use operator::{
    Batches, Collect, Context, GroupResult, HeadState, Item, IterationSource, Key, Keyed, Map, ModelAt, Operator,
    RejectKind, RngSource, RowError, RuntimeEnv, Shared, Source, Stage, Train, model_name,
};
pub use progress::{Event, Observer, Silent};
pub use replay::{Replay, advice};
pub use revision::{Revised, Revision, revisable, revise_run};
