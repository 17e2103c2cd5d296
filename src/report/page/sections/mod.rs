//! The parts of the page, in the order in which it shows them: what came out, how it came about, and where it is.

mod evaluation;
mod flow;
mod funnel;
mod health;
mod lineage;
mod overview;
mod reading;
mod rows;
mod scores;
mod time;
mod training;

use super::section::Section;

/// Every part of the page.
pub(super) static ALL: &[&Section] = &[
    &overview::OVERVIEW,
    &funnel::FUNNEL,
    &flow::FLOW,
    &scores::SCORES,
    &training::TRAINING,
    &evaluation::EVALUATION,
    &health::HEALTH,
    &reading::READING,
    &rows::ROWS_SECTION,
    &time::TIME,
    &lineage::LINEAGE,
];
