//! Evaluation: the small world with its oracle, win rates, ratings from battles, reward modelling, ROUGE-L, texts,
//! drift and statistics. The measures are plain functions over slices, each tested against a reference.

pub mod alpaca;
pub mod bootstrap;
pub mod drift;
pub mod figures;
pub mod health;
pub mod listworld;
pub mod ratings;
pub mod reward;
pub mod rouge;
pub mod statistics;
pub mod student;
pub mod text;
pub mod win_rate;
