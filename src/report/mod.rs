//! Reports on a run: progress while it runs, the closing summary, costs, evaluations and views of its rows.

pub mod inspect;
pub mod page;
pub mod summary;

mod cost;
mod evaluate;
mod progress;

/// Returns the step that owns a dataset: for `.reference` datasets the training, for `.candidates` datasets
/// the selection, otherwise the step of the same name.
fn owner(dataset: &str) -> &str {
    [".reference", ".candidates"].iter().find_map(|beside| dataset.strip_suffix(beside)).unwrap_or(dataset)
}

pub use cost::{Cost, Hardware, ModelShape};
pub use evaluate::{Drift, Evaluation, Figures, Judging, Sampled, Setting, Side, model_outputs};
pub use inspect::contents::RunContents;
pub use inspect::diff::Difference;
pub use inspect::runs::Runs;
pub use inspect::trace::Trace;
pub use inspect::verify::Verification;
pub use progress::{
    EngineReading, Paint, Piece, PlanOutline, ProgressState, ServerReading, StepOutline, TimeLeft, duration, wrapped,
};
pub use summary::counters::{RunCounters, StepCounts};
pub use summary::fruitless::Fruitless;
pub use summary::health::Health;
pub use summary::left_out::LeftOut;
pub use summary::rescored::Rescored;
pub use summary::run_summary::Summary;
pub use summary::study::StudyReport;
