//! Drawing a token from logits. Every operation has a fixed order, so a draw depends only on the logits, the options,
//! the tokens so far and the random number.

use wide::f32x16;

use super::numeric::{map_sum, max, sum_of};
use super::options::Sampling;

/// Buffers that are reused from token to token.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Weights relative to the likeliest token, by id.
    weights: Vec<f32>,
    /// Weights and ids of the remaining tokens, likeliest first.
    candidates: Vec<(f32, u32)>,
    seen: Vec<u32>,
}

/// The inputs of a draw.
pub(crate) struct TokenDraw<'a> {
    /// One logit per token id.
    pub logits: &'a [f32],
    pub sampling: &'a Sampling,
    /// The tokens so far: prompt, then answer.
    pub context: [&'a [u32]; 2],
    /// Tokens that must not be drawn now: the model's end tokens, and the request's stop ids.
    pub banned: [&'a [u32]; 2],
    /// Uniform in [0, 1).
    pub uniform: f64,
}

/// 53 random bits as a number in [0, 1).
pub(crate) fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Natural log-probabilities of tokens at temperature 1 over the full vocabulary, or none if a logit is not finite.
pub(crate) fn logprobs(logits: &[f32], ids: &[u32]) -> Option<Vec<f32>> {
    if sum_of(logits, |x| x * f32x16::ZERO) != 0. {
        return None;
    }
    let top = max(logits);
    // The largest logit is subtracted first, so that no exponential overflows.
    let log_total = sum_of(logits, |x| (x - f32x16::splat(top)).exp()).ln();
    ids.iter().map(|&id| Some((f64::from(*logits.get(id as usize)?) - f64::from(top) - log_total) as f32)).collect()
}

/// The `count` likeliest tokens, likeliest first, lower ids first among equals.
pub(crate) fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
    for (&logit, id) in logits.iter().zip(0u32..) {
        if best.len() == count && best.last().is_none_or(|least| logit <= least.0) {
            continue;
        }
        // Behind its equals, which have lower ids.
        best.insert(best.partition_point(|b| b.0 >= logit), (logit, id));
        best.truncate(count);
    }
    best.into_iter().map(|(_, id)| id).collect()
}

impl TokenDraw<'_> {
    /// Draws a token and returns it with its natural log-probability at temperature 1 over the full vocabulary.
    /// Returns none if a logit is not finite or every token is banned.
    pub fn token(&self, scratch: &mut Scratch) -> Option<(u32, f32)> {
        let raw = self.logits;
        let top = max(raw);
        // Finite numbers times 0 sum to 0; a number that is not finite makes the sum NaN.
        if sum_of(raw, |x| x * f32x16::ZERO) != 0. {
            return None;
        }
        let token = self.pick(scratch)?;
        let log_total = sum_of(raw, |x| (x - f32x16::splat(top)).exp()).ln();
        Some((token, (f64::from(raw[token as usize]) - f64::from(top) - log_total) as f32))
    }

    fn pick(&self, scratch: &mut Scratch) -> Option<u32> {
        let Scratch { weights, candidates, seen } = scratch;
        let s = self.sampling;
        weights.clear();
        weights.extend_from_slice(self.logits);
        if s.repetition_penalty != 1. {
            seen.clear();
            self.context.iter().for_each(|part| seen.extend_from_slice(part));
            // The penalty applies once to a token, however often it occurred.
            seen.sort_unstable();
            seen.dedup();
            for &id in seen.iter() {
                if let Some(l) = weights.get_mut(id as usize) {
                    *l = if *l < 0. { *l * s.repetition_penalty } else { *l / s.repetition_penalty };
                }
            }
        }
        for &id in self.banned.into_iter().flatten() {
            if let Some(l) = weights.get_mut(id as usize) {
                *l = f32::NEG_INFINITY;
            }
        }
        let top = max(weights);
        if top == f32::NEG_INFINITY {
            return None;
        }
        if s.temperature == 0. {
            // The first of several equal logits, so that greedy decoding does not depend on the search.
            return weights.iter().position(|&l| l == top).map(|id| id as u32);
        }
        let (highest, temperature) = (f32x16::splat(top), f32x16::splat(s.temperature));
        let total = map_sum(weights, |l| ((l - highest) / temperature).exp());
        let by_rank = s.top_k > 0 && s.top_k < weights.len();
        if !by_rank && s.top_p >= 1. && s.min_p <= 0. {
            // Without a filter, nothing has to be sorted.
            return draw_any(weights, self.uniform);
        }
        keep_likeliest(weights, total, s, by_rank, candidates);
        let total: f64 = candidates.iter().map(|c| f64::from(c.0)).sum();
        draw(candidates.iter().map(|c| (f64::from(c.0), c.1)), 0., self.uniform * total)
    }
}

/// Collects the tokens that pass top-k, top-p and min-p, likeliest first, lower ids first among equals.
///
/// These filters keep a head of the sorted vocabulary. So only the tokens above a cut are sorted, and the cut is
/// lowered until they surely include that head.
fn keep_likeliest(weights: &[f32], total: f64, s: &Sampling, by_rank: bool, kept: &mut Vec<(f32, u32)>) {
    let nucleus = f64::from(s.top_p);
    for cut in [1e-1, 2e-2, 4e-3, 6e-4, 5e-5, 1e-7, 0f32] {
        let above = |w: f32x16| w.simd_ge(f32x16::splat(cut)).select(w, f32x16::ZERO);
        let enough = cut == 0.
            || if by_rank {
                weights.iter().map(|&w| usize::from(w >= cut)).sum::<usize>() >= s.top_k
            } else if s.top_p < 1. {
                // Asks for slightly more mass than needed, because the sums here and below round differently.
                sum_of(weights, above) >= nucleus * total * (1. + 1e-4)
            } else {
                cut <= s.min_p
            };
        if enough {
            kept.clear();
            // Few tokens are kept, and most stretches have none: one comparison of their maximum skips them.
            for (stretch, start) in weights.chunks(64).zip((0u32..).step_by(64)) {
                if max(stretch) >= cut {
                    let kept_here = stretch.iter().zip(start..).filter(|&(&w, _)| w >= cut && w > 0.);
                    kept.extend(kept_here.map(|(&w, id)| (w, id)));
                }
            }
            break;
        }
    }
    // Ids break ties, so that the order is total and the same on every machine.
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if by_rank && kept.len() > s.top_k {
        kept.select_nth_unstable_by(s.top_k, order);
        kept.truncate(s.top_k);
    }
    kept.sort_unstable_by(order);
    if s.top_p < 1. {
        // After top-k, the nucleus is a share of the mass that top-k left.
        let total = if by_rank { kept.iter().map(|c| f64::from(c.0)).sum() } else { total };
        let mut mass = 0.;
        let enough = kept.iter().position(|c| {
            mass += f64::from(c.0);
            mass >= nucleus * total
        });
        kept.truncate(enough.map_or(kept.len(), |i| i + 1));
    }
    let best = kept.first().map_or(0., |c| c.0);
    kept.truncate(kept.partition_point(|c| c.0 >= s.min_p * best));
}

/// The first id at which the running sum of weights, from `start`, exceeds `target`. If rounding prevents that, the
/// last id with a weight.
fn draw(weights: impl Iterator<Item = (f64, u32)>, start: f64, target: f64) -> Option<u32> {
    let (mut sum, mut last) = (start, None);
    for (w, id) in weights {
        if w > 0. {
            sum += w;
            last = Some(id);
            if sum > target {
                break;
            }
        }
    }
    last
}

/// Draws from the whole vocabulary, in id order, a stretch at a time.
fn draw_any(weights: &[f32], uniform: f64) -> Option<u32> {
    const STRETCH: usize = 1024;
    let sums: Vec<f64> = weights.chunks(STRETCH).map(|c| sum_of(c, |w| w)).collect();
    let target = uniform * sums.iter().sum::<f64>();
    let (mut before, mut found) = (0., 0);
    for (i, &sum) in sums.iter().enumerate() {
        if sum > 0. {
            found = i;
            if before + sum > target {
                break;
            }
            before += sum;
        }
    }
    // If no stretch exceeded the target, `before` already includes the last one, and its last token is drawn.
    let ids = (found * STRETCH) as u32..;
    draw(weights[found * STRETCH..].iter().take(STRETCH).map(|&w| f64::from(w)).zip(ids), before, target)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
