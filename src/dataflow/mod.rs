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

pub use candidates::{Candidate, Candidates, Decision, candidates_of};
pub use clock::Advance;
pub use cluster::{Transport, run};
pub use health::{Known, Measure, Readings, Round, readings};
pub use inputs::check_finished;
pub use join::{Join, Joined, KeysOf, Matching, Place};
pub use keep::drop_unkept;
pub use ledger::{Ledger, Output};
pub use operator::{
    Batches, Context, Draws, Head, HeadState, Item, Kept, Key, Keyed, LeftOut, Map, ModelAt, Operator, RowError,
    Services, Shared, Source, Stage, Stop, Train, Whole, model_name,
};
pub use progress::{Event, Observer, Silent};
pub use replay::{Replay, advice};
pub use revision::{Revised, Revision, revisable, revise_run};
