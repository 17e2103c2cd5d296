//! The docs are true of the program.

#[path = "../common/mod.rs"]
mod common;

mod first_hour;
mod pages;
mod paper;
