//! DPO on pairs that arrive while others are still being made: one pass over microbatches in their order.

use super::checkpoint::Checkpoint;
use super::dpo::{DpoConfig, Steps};
use super::metrics::Trained;
use super::progress::Progress;
use super::rows::{Example, Pair, check_reference};
use super::training_loop::DataFingerprint;
use super::usable::{nothing_left, usable_pairs};
use crate::error::Result;
use crate::model::Llama;

/// A received pair.
struct ReceivedPair {
    pair: Pair,
    /// Its position in microbatches: the third of four pairs of microbatch 7 has 7.5.
    place: f64,
    /// The position of the next pair.
    end: f64,
}

/// Trains `llama` on pairs in the order in which `microbatches` yields them. An optimizer step is taken as soon as its
/// `batch_size x accumulation` pairs are received, and the remaining pairs make a last step. There is one pass
/// without a shuffle: `epochs` and `shuffle` of the settings have no effect.
///
/// The learning rate of a step is the schedule's rate at the position of its first pair in the `planned`
/// microbatches, so it depends neither on timing nor on the number of later pairs. `epoch` in the metrics is the
/// share of microbatches that a step has finished.
///
/// A training that resumes from a checkpoint must get the same microbatches again, from the first one.
///
/// # Errors
/// As [`dpo`](super::dpo()), and the errors of `microbatches`.
pub fn dpo_stream(
    llama: &Llama,
    planned: usize,
    microbatches: &mut dyn Iterator<Item = Result<Vec<Pair>>>,
    replay: &[Example],
    config: &DpoConfig,
    progress: &mut dyn Progress,
) -> Result<Trained> {
    let mut problems = Vec::new();
    let mut steps = Steps::new(llama.config(), replay, config, &mut problems)?;
    let mut training = steps.start(llama, 0, Some(planned), progress)?;
    let (size, planned) = (steps.size, planned.max(1) as f64);
    let mut waiting: Option<Checkpoint> = training.latest()?;
    // Received pairs that no step has taken yet, and the number of pairs before them, which are dropped to save memory.
    let mut received: Vec<ReceivedPair> = Vec::new();
    let mut dropped = 0;
    let mut ids: Vec<String> = Vec::new();
    let mut last = false;
    for microbatch in 0u32.. {
        match microbatches.next().transpose()? {
            Some(pairs) => {
                let (usable, bad) = usable_pairs(llama.config(), &pairs, config.max_length);
                problems.extend(bad);
                let place = |i: usize| f64::from(microbatch) + i as f64 / usable.len() as f64;
                let mut pairs: Vec<Option<Pair>> = pairs.into_iter().map(Some).collect();
                for (i, &at) in usable.iter().enumerate() {
                    let Some(pair) = pairs[at].take() else { continue };
                    check_reference(&pair)?;
                    ids.push(pair.id.clone());
                    received.push(ReceivedPair { pair, place: place(i), end: place(i + 1) });
                }
            }
            None => last = true,
        }
        if let Some(checkpoint) = &waiting {
            // No pair is dropped before the checkpoint is resumed, so `received` starts at the first pair.
            if received.len() < checkpoint.rows && !last {
                continue;
            }
            let seen = DataFingerprint::from_rows(received.iter().take(checkpoint.rows).map(|c| &c.pair))?;
            if training.resume(checkpoint, &seen)? {
                training.seen = seen;
            }
            waiting = None;
        }
        // Takes full steps, and after the last microbatch a step of the remaining pairs.
        while training.steps() * size < ids.len() && (last || (training.steps() + 1) * size <= ids.len()) {
            if !training.should_continue()? {
                break; // Later microbatches are still read, so the reported problems do not depend on an early stop.
            }
            let (start, end) = (training.steps() * size, ids.len().min((training.steps() + 1) * size));
            let here = &received[start - dropped..end - dropped];
            let (Some(first), Some(end)) = (here.first(), here.last().map(|c| c.end)) else { break };
            here.iter().skip(training.seen.rows - start).try_for_each(|c| training.seen.add(&c.pair))?;
            let pairs: Vec<&Pair> = here.iter().map(|c| &c.pair).collect();
            // An estimate for the progress display.
            let total = ((training.steps() + 1) as f64 * planned / end).round() as usize;
            let rate = config.schedule.at_place(first.place, planned);
            steps.take(&mut training, &pairs, end / planned, total, Some(rate))?;
        }
        let done = (training.steps() * size).min(ids.len());
        received.drain(..done - dropped);
        dropped = done;
        if last {
            break;
        }
    }
    if ids.is_empty() {
        nothing_left("pairs", &[], &problems)?;
    }
    let mut trained = training.finish(problems)?;
    let named = |step: &[String]| step.iter().map(|id| id.as_str().into()).collect();
    trained.pairs = ids.chunks(size).take(trained.metrics.len()).map(named).collect();
    Ok(trained)
}
