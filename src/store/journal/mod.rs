//! The run directory: its manifest, its lock, and how it is written, read, verified, repaired and forked.

pub(crate) mod checkpoint_files;
pub(crate) mod checkpoints;
pub(crate) mod commit;
pub(crate) mod compact_entry;
pub(crate) mod damage;
pub(crate) mod diff;
pub mod entry;
pub(crate) mod find;
pub(crate) mod findings;
pub(crate) mod folder;
pub(crate) mod fork;
pub(crate) mod gc;
pub(crate) mod index;
pub(crate) mod input_files;
pub(crate) mod inputs;
pub(crate) mod load;
pub(crate) mod lock;
pub mod manifest;
pub(crate) mod owned;
pub(crate) mod paths;
pub(crate) mod pipeline_file;
pub(crate) mod repair;
pub(crate) mod run;
pub(crate) mod running;
pub(crate) mod summary;
pub(crate) mod verify;
