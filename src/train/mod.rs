//! Training: SFT and DPO on [`Llama`](crate::model::Llama) with AdamW, in float order that never varies.
//!
//! [`sft`] and [`dpo`] are loops over a [`Trainer`], which takes one batch at a time. So the same trainer serves
//! streams of microbatches and checkpoints. Rows are packed without padding. A DPO pair computes its prompt once,
//! with the two completions as branches, and log-probabilities at completion tokens only. A batch is split into
//! forwards of bounded size whose gradients are summed in order: the same inputs give bit-identical weights on a CPU,
//! with any number of threads. Metrics have TRL's names and definitions (huggingface/trl, `dpo_trainer.py`).

mod adamw;
mod checkpoint;
mod dpo;
mod logprobs;
pub mod losses;
mod metrics;
mod objective;
mod order;
mod pack;
mod progress;
mod reference;
mod rows;
mod schedule;
mod sft;
mod stream;
mod trainer;
mod training_loop;
mod usable;
mod validation;

pub use adamw::{AdamW, AdamWConfig};
pub use checkpoint::{Checkpoint, Checkpoints};
pub use dpo::{DpoConfig, dpo};
pub use logprobs::{Scored, Scoring, logprobs};
pub use metrics::{StepMetrics, Trained};
pub use objective::Objective;
pub use order::{ReplaySampler, order};
pub use pack::ForwardLimits;
pub use progress::{Progress, Quiet};
pub use reference::reference;
pub use rows::{Example, Pair, Problem, Reference};
pub use schedule::{Decay, Schedule, Warmup};
pub use sft::{BatchSize, SftConfig, sft};
pub use stream::dpo_stream;
pub use trainer::Trainer;
pub use usable::{usable_examples, usable_pairs};
pub use validation::{KeepWeights, Validation, ValidationMetric};
