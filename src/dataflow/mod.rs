//! The streaming dataflow: its clock, the timely graph of a plan, and the compute threads.
//!
//! This is the only folder that names timely or differential. It knows operators only through [`Operator`].

mod advice;
mod clock;
mod cluster;
mod compute;
mod context;
mod decision_inputs;
mod flow;
mod flow_join;
mod groups;
mod health;
mod inputs;
mod items;
mod jobs;
mod join;
mod joined;
mod keep;
mod ledger;
mod operator;
mod progress;
mod render;
mod replay;
mod revision;
mod start;

pub use advice::advice;
pub use clock::Advance;
pub use cluster::{WorkerTransport, run};
pub use decision_inputs::{Candidate, Decision, DecisionInputs, candidates_of};
pub use health::gate_values;
pub use inputs::check_finished;
pub use items::{GroupResult, Item, Key, RngSource};
pub use join::{Matching, Place};
pub use joined::{Join, Joined, KeysOf};
pub use keep::drop_unkept;
pub use ledger::{Ledger, Output, RejectKind, RowError};
pub use operator::{
    Batches, Collect, Context, GateValues, IterationSource, IterationState, Keyed, Map, MeasureRows, ModelAt, Operator,
    Phase, RuntimeEnv, Shared, Source, Stage, Train, TrainingIteration, model_name,
};
pub use progress::{Event, NullObserver, Observer};
pub use replay::Replay;
pub use revision::{Revised, Revision, revisable, revise_run};
