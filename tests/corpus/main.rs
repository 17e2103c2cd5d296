//! The inputs of fuzz/corpus, and inputs made of them by chance.
//!
//! A binary of their own: `text_inputs` changes the working directory of the process, so no test here may use a relative
//! path.

#[path = "../fuzzing/mod.rs"]
mod fuzzing;
#[path = "../store_inputs/mod.rs"]
mod store_inputs;
#[path = "../text_inputs/mod.rs"]
mod text_inputs;

mod store;
mod text;
