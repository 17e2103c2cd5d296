//! What a run came to: counts while it runs, and the closing summary.

mod summary;
mod tally;

pub use summary::Summary;
pub use tally::{Count, Span, Tally};
