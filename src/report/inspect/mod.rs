//! Inspects runs on disk: lists, rows, traces, differences, damage.

pub(crate) mod contents;
pub(crate) mod diff;
pub(crate) mod runs;
pub mod show;
pub(crate) mod trace;
pub(crate) mod verify;
