//! `reflux serve`: an engine behind OpenAI's HTTP interface.
//!
//! A connection is a task of an asynchronous runtime, and whatever computes runs on a thread that may block. All
//! requests for a model share its engine. The answer to a request depends on the request only, never on what else is
//! served.

mod api_error;
mod chat;
mod clients;
mod completions;
mod connections;
mod fields;
mod info;
mod job;
mod loading;
mod logprobs;
mod metrics;
mod options;
mod race;
mod serve_options;
mod server;
mod state;
mod stream;
mod tokens;

pub use serve_options::{ModelLoader, ServeOptions};
pub use server::{available, serve};
