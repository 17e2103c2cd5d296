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
//! ```
//! use std::sync::Arc;
//! use reflux::{cancel, operators, pipeline, runner, store};
//!
//! let place = tempfile::tempdir()?;
//! let file = r#"
//! [step.prompts]
//! op = "listworld"
//! data = "requests"
//! rows = 100
//!
//! [step.train]
//! op = "split"
//! from = "prompts"
//! part = "train"
//! held_out = 0.25
//! "#;
//! let plan = pipeline::parse_str("example.toml", file, &[], operators::ALL).map_err(|problems| problems.render(false))?;
//! let run = place.path().join("example");
//! let (options, cancel) = (runner::RunOptions::default(), cancel::CancelFlag::new());
//! runner::run(&Arc::new(plan), &run, &options, &runner::Unwatched, &cancel)?;
//!
//! let run = store::Run::open(&run)?;
//! let rows = |step: &str| run.entries().iter().filter(|file| file.step == step).map(|file| file.rows).sum::<u64>();
//! assert_eq!(rows("prompts"), 100);
//! assert!((60..100).contains(&rows("train")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Reading rows
//!
//! ```
//! use reflux::data::{Columns, named};
//! use reflux::store::Dataset;
//!
//! let place = tempfile::tempdir()?;
//! let file = place.path().join("prompts.jsonl");
//! std::fs::write(&file, "{\"prompt\": \"Name a river.\"}\n{\"prompt\": \"Name a hill.\"}\n")?;
//! for batch in Dataset::open(&file, &named::PROMPTS)?.batches(1000) {
//!     let batch = batch?;
//!     assert_eq!(Columns(&batch).text("prompt")?.value(1), "Name a hill.");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Asking a model
//!
//! ```
//! use candle_core::{DType, Device};
//! use reflux::cancel::CancelFlag;
//! use reflux::data::RngKey;
//! use reflux::engine::{EngineConfig, Message, Request, Sampling, open};
//!
//! let engine = open("pipelines/listworld/m0".as_ref(), &Device::Cpu, DType::F32, EngineConfig::default())?;
//! let request = Request {
//!     messages: vec![Message::new("user", "list three animals")],
//!     sampling: Sampling { max_tokens: 8, ..Sampling::default() },
//!     key: RngKey::new(17, "example", 1, "first request", 0),
//! };
//! let answers = engine.generate(vec![request], &CancelFlag::new())?;
//! assert!(answers[0].as_ref().is_ok_and(|answer| answer.tokens.len() <= 8));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Training
//!
//! ```
//! use candle_core::{DType, Device};
//! use reflux::model::Model;
//! use reflux::train::losses::PairColumns;
//! use reflux::train::{DpoConfig, ForwardLimits, Pair, Quiet, dpo, reference};
//!
//! let model = Model::load("pipelines/listworld/m0".as_ref(), &Device::Cpu, DType::F32, true)?;
//! let text = |text: &str| model.tokenizer.encode_text(text);
//! let mut pairs = vec![Pair {
//!     id: "one".into(),
//!     prompt: text("list two animals")?,
//!     chosen: text("cat dog")?,
//!     rejected: text("red blue")?,
//!     reference: None,
//!     columns: PairColumns::default(),
//! }];
//! reference(&model.llama, &mut pairs, ForwardLimits::default(), &mut Quiet)?;
//! let trained = dpo(&model.llama, &pairs, &[], &DpoConfig::default(), &mut Quiet)?;
//! // The policy starts as its own reference, so the first loss is ln 2.
//! assert!((trained.metrics[0].loss - std::f64::consts::LN_2).abs() < 1e-6);
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
#[cfg(feature = "servers")]
pub mod serve;
#[cfg(not(feature = "servers"))]
#[path = "serve/absent.rs"]
pub mod serve;
pub mod store;
pub mod threads;
pub mod train;
