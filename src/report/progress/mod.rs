//! How far a run is: what is known of it from its events, how long it still takes, and how that is printed.

mod left;
mod scores;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod timing;

pub use left::Left;
pub use state::{Outline, ProgressState, StepOutline};
pub use text::{Paint, Piece, duration, wrapped};
