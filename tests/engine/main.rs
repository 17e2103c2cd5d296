//! Inference: the engines through their interface, and the commands `generate` and `logprobs`.

mod batched;
mod choice;
mod generate;
mod logprobs;
mod scripted;
