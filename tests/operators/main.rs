//! What operators make of rows: judging, comparing, selecting, evaluation data, health gates, and the small world.

#[path = "../common/mod.rs"]
mod common;

mod compare;
mod eft;
mod health;
mod judging;
mod listworld;
mod rubrics;
mod select;
