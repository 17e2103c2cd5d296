//! Progress of a run: its state from events, the remaining time, and the printed text.

mod left;
mod rate;
mod scores;
mod servers;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod timing;

pub use left::TimeLeft;
pub use servers::{EngineReading, ServerReading};
pub use state::{PlanOutline, ProgressState, StepOutline};
pub use text::{Paint, Piece, duration, wrapped};
