//! What a run came to: counts while it runs, and the closing summary.

mod closing;
mod contents;
mod cost;
mod difference;
mod evaluation;
mod fruitless;
mod health;
mod left_out;
mod progress;
mod rescored;
mod runs;
pub mod show;
mod spans;
mod study;
mod summary;
mod tally;
mod trace;
mod verify;

/// The step that a dataset belongs to: its own, the training whose references it holds, or the selection whose candidates.
fn owner(dataset: &str) -> &str {
    [".reference", ".candidates"].iter().find_map(|beside| dataset.strip_suffix(beside)).unwrap_or(dataset)
}

pub use contents::Contents;
pub use cost::{Cost, Hardware, ModelShape};
pub use difference::Difference;
pub use evaluation::{Drift, Evaluation, Figures, Judging, Sampled, Setting, Side, model_outputs};
pub use fruitless::Fruitless;
pub use health::Health;
pub use left_out::LeftOut;
pub use progress::{Left, Outline, Paint, Piece, ProgressState, StepOutline, duration, wrapped};
pub use rescored::Rescored;
pub use runs::Runs;
pub use spans::{Span, Spans};
pub use study::Study;
pub use summary::Summary;
pub use tally::{Count, Tally};
pub use trace::Trace;
pub use verify::Verdict;
