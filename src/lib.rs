//! reflux runs Self-Rewarding Language Models (Yuan et al. 2024, arXiv 2401.10020) as a streaming dataflow.
//!
//! # A tour
//!
//! A pipeline file is read by [`pipeline`]: parsed with spans, resolved, checked with every error at once, and planned.
//! [`dataflow`] renders the plan as a timely graph in which microbatches of Arrow rows ([`data`]) flow; it drives the
//! [`operators`], each a function of one job in a file of its own, on compute threads. What a job makes is committed to
//! the run directory by [`store`] before anybody downstream sees it, and taken from there if it was committed before:
//! that is how an unfinished run goes on.
//!
//! Operators that need a model ask the shared [`operators::Models`] for it: answers come from [`engine`], which batches
//! the requests of all steps that use the same weights; weights come from [`model`], one differentiable Llama for
//! inference and training; [`train`] is SFT and DPO. [`eval`] holds the small world that the quickstart runs on.
//! [`report`] counts and sums up, [`runner`] runs a plan from the opening of its directory to its summary, [`mod@bench`]
//! measures, and [`cli`] is the program.
//!
//! Imports point down this list: cli, runner, bench, report, operators, dataflow, pipeline, store, data; and from the operators to
//! engine, train and eval, and from these to model. Only `dataflow` names timely and differential.
//!
//! # Running a pipeline from Rust
//!
//! ```no_run
//! use std::sync::Arc;
//! use reflux::{cancel, operators, pipeline, runner};
//!
//! let plan = Arc::new(pipeline::load("pipelines/quickstart.toml".as_ref(), &[], operators::ALL)?);
//! let (options, cancel) = (runner::Options::default(), cancel::CancelFlag::new());
//! runner::run(&plan, "runs/quickstart".as_ref(), &options, &runner::Unwatched, &cancel)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod bench;
pub mod cancel;
pub mod cli;
pub mod data;
pub mod dataflow;
pub mod engine;
pub mod error;
pub mod eval;
pub mod jinja;
pub mod model;
pub mod operators;
pub mod pipeline;
pub mod report;
pub mod runner;
pub mod store;
pub mod train;
