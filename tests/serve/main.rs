//! `reflux serve`: answers, errors and ends of the server.

mod answers;
mod client;
mod errors;
mod fuzz;
mod loading;
mod process;
mod scores;
mod streams;
