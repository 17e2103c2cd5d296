//! Code that operators share: models and engines, programs outside, templates, keys, and checks before a run.

pub(crate) mod adapter_chain;
pub(crate) mod datasets;
pub(crate) mod fence;
pub(crate) mod first_difference;
pub(crate) mod health;
pub mod hub;
pub(crate) mod hub_files;
pub(crate) mod models;
pub(crate) mod own_servers;
pub(crate) mod preflight;
pub(crate) mod prelude;
pub(crate) mod program_environment;
pub(crate) mod program_log;
pub(crate) mod served_model;
pub(crate) mod server_process;
pub mod servers;
pub(crate) mod settings;
pub(crate) mod subprocess;
pub(crate) mod template;
