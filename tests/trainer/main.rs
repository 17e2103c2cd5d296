//! `train`: trainers outside that succeed, fail, hang, die, and outlive what started them.

#[path = "../common/mod.rs"]
mod common;

mod ends;
mod real;
mod support;
