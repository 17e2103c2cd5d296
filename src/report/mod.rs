//! What a run came to: counts while it runs, and the closing summary.

pub mod inspect;
pub mod summary;

mod cost;
mod evaluate;
mod progress;

/// The step that a dataset belongs to: its own, the training whose references it holds, or the selection whose candidates.
fn owner(dataset: &str) -> &str {
    [".reference", ".candidates"].iter().find_map(|beside| dataset.strip_suffix(beside)).unwrap_or(dataset)
}

pub use cost::{Cost, Hardware, ModelShape};
pub use evaluate::{Drift, Evaluation, Figures, Judging, Sampled, Setting, Side, model_outputs};
pub use inspect::contents::Contents;
pub use inspect::diff::Difference;
pub use inspect::runs::Runs;
pub use inspect::trace::Trace;
pub use inspect::verify::Verdict;
pub use progress::{Left, Outline, Paint, Piece, ProgressState, StepOutline, duration, wrapped};
pub use summary::counters::{Count, RunCounters};
pub use summary::fruitless::Fruitless;
pub use summary::health::Health;
pub use summary::left_out::LeftOut;
pub use summary::rescored::Rescored;
pub use summary::run_summary::Summary;
pub use summary::spans::{Span, Spans};
pub use summary::study::Study;
