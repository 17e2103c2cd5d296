//! DPO on pairs that come while others are still being made: microbatches in their order, one pass.

use super::checkpoint::Checkpoint;
use super::dpo::{DpoConfig, Steps};
use super::metrics::Trained;
use super::progress::Progress;
use super::rows::{Example, Pair, check_reference};
use super::training_loop::DataFingerprint;
use super::usable::{nothing_left, usable_pairs};
use crate::error::Result;
use crate::model::Llama;

/// A pair that has come.
struct Came {
    pair: Pair,
    /// Its place, in microbatches: the third of four pairs of microbatch 7 has 7.5.
    place: f64,
    /// Where the next one is.
    end: f64,
}

/// Trains `llama` on pairs in the order in which `microbatches` yields them, each optimizer step as soon as its
/// `batch_size x accumulation` pairs are there; what is left at the end is a last step. One pass, never shuffled:
/// `epochs` and `shuffle` of the settings do not count.
///
/// The learning rate of a step is the schedule at the place of its first pair, counted in microbatches (and parts of one),
/// of the `planned` microbatches: neither timing nor the number of pairs to come has a part in it. `epoch` in the metrics
/// is the share of the microbatches behind a step.
///
/// A training that goes on from a checkpoint takes the same microbatches again from the first one.
///
/// # Errors
/// As [`dpo`](super::dpo()), and what `microbatches` yields.
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
    let mut course = steps.course(llama, 0, Some(planned), progress)?;
    let (size, planned) = (steps.size, planned.max(1) as f64);
    let mut waiting: Option<Checkpoint> = course.latest()?;
    // Those that a step has not taken yet, and how many stood before them: a training does not hold the pairs it is done with.
    let mut came: Vec<Came> = Vec::new();
    let mut gone = 0;
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
                    came.push(Came { pair, place: place(i), end: place(i + 1) });
                }
            }
            None => last = true,
        }
        if let Some(checkpoint) = &waiting {
            // Nothing is gone yet.
            if came.len() < checkpoint.rows && !last {
                continue;
            }
            let seen = DataFingerprint::of(came.iter().take(checkpoint.rows).map(|c| &c.pair))?;
            if course.resume(checkpoint, &seen)? {
                course.seen = seen;
            }
            waiting = None;
        }
        // Full steps, and at the end what is left.
        while course.steps() * size < ids.len() && (last || (course.steps() + 1) * size <= ids.len()) {
            if !course.should_continue()? {
                break; // the rest is still taken in: what cannot be used does not depend on where training stopped
            }
            let (start, end) = (course.steps() * size, ids.len().min((course.steps() + 1) * size));
            let here = &came[start - gone..end - gone];
            let (Some(first), Some(end)) = (here.first(), here.last().map(|c| c.end)) else { break };
            here.iter().skip(course.seen.rows - start).try_for_each(|c| course.seen.add(&c.pair))?;
            let pairs: Vec<&Pair> = here.iter().map(|c| &c.pair).collect();
            // An estimate, for those who watch.
            let total = ((course.steps() + 1) as f64 * planned / end).round() as usize;
            let rate = config.schedule.at_place(first.place, planned);
            steps.take(&mut course, &pairs, end / planned, total, Some(rate))?;
        }
        let done = (course.steps() * size).min(ids.len());
        came.drain(..done - gone);
        gone = done;
        if last {
            break;
        }
    }
    if ids.is_empty() {
        nothing_left("pairs", &[], &problems)?;
    }
    let mut trained = course.finish(problems)?;
    let named = |step: &[String]| step.iter().map(|id| id.as_str().into()).collect();
    trained.pairs = ids.chunks(size).take(trained.metrics.len()).map(named).collect();
    Ok(trained)
}
