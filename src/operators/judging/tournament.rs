//! `mode = "pairwise"` of `judge`: the answers to a prompt are compared two by two, and a score is the
//! share of wins.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::pairwise::{AnswerPair, Pairwise};
use super::scored::{ScoredResponse, scored};
use crate::data::counted;
use crate::engine::Engine;
use crate::operators::shared::prelude::*;

/// Lists pairs of `n` answers by their distance in a circle: the first n pairs have each answer twice, the
/// next n twice more.
fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let half = move |d: usize| if 2 * d == n { n / 2 } else { n };
    (1..=n / 2).flat_map(move |d| (0..half(d)).map(move |i| (i.min((i + d) % n), i.max((i + d) % n))))
}

/// Compares the answers of each prompt in at most `most` pairs, and scores them on the scale.
pub(crate) fn round_robin(
    cx: &Context<'_>,
    engine: &dyn Engine,
    input: &RecordBatch,
    by: &Pairwise,
    most: usize,
    scale: RangeInclusive<f32>,
) -> Result<Output> {
    let columns = Columns(input);
    let (prompts, responses, ids) = (columns.text("prompt")?, columns.text("response")?, columns.text("response_id")?);
    let prompt_ids = columns.text("prompt_id")?;
    // All answers to a prompt are in one microbatch.
    let mut answers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    (0..input.num_rows()).for_each(|i| answers.entry(prompt_ids.value(i)).or_default().push(i));
    let of_prompt =
        |rows: &Vec<usize>| pairs(rows.len()).take(most).map(|(a, b)| (rows[a], rows[b])).collect::<Vec<_>>();
    let met: Vec<(usize, usize)> = answers.values().flat_map(of_prompt).collect();
    let names: Vec<String> = met.iter().map(|&(a, b)| format!("{} {}", ids.value(a), ids.value(b))).collect();
    let asked: Vec<AnswerPair<'_>> = std::iter::zip(&names, &met)
        .map(|(row, &(a, b))| AnswerPair {
            row,
            prompt: prompts.value(a),
            a: responses.value(a),
            b: responses.value(b),
        })
        .collect();
    let mut judged = vec![ScoredResponse::default(); input.num_rows()];
    let mut wins: Vec<Vec<f64>> = vec![Vec::new(); input.num_rows()];
    let span = f64::from(scale.end() - scale.start());
    let scaled = |share: f64| (f64::from(*scale.start()) + share * span) as f32;
    for (&(a, b), comparison) in met.iter().zip(by.compare(cx, engine, &asked)?) {
        wins[a].extend(comparison.verdict.map(|v| v.share()));
        wins[b].extend(comparison.verdict.map(|v| v.swapped().share()));
        for (i, is_a) in [(a, true), (b, false)] {
            let mut judgements = comparison.judgements(is_a);
            for judgement in &mut judgements {
                judgement.score = judgement.score.map(|share| scaled(share.into()));
            }
            judged[i].judgements.extend(judgements);
        }
    }
    let mut ledger = Ledger::new(input);
    ledger.all_kept();
    for (i, (row, wins)) in std::iter::zip(&mut judged, &wins).enumerate() {
        if !wins.is_empty() {
            row.score = Some(scaled(wins.iter().sum::<f64>() / wins.len() as f64));
            continue;
        }
        let (id, said) = (ids.value(i), row.judgements.len());
        let readable = row.judgements.iter().filter(|j| j.score.is_some()).count();
        ledger.note(if said == 0 {
            let message = "the prompt has too few answers, or `max_pairs` too few pairs, for this one to be compared with another";
            RowError::failed(id, "not_compared", message)
        } else if readable == 0 {
            row.unreadable(id)
        } else {
            let message = format!("{readable} of {} could be read, but no pair in both orders; the answer has no score", counted(said, "comparison"));
            RowError::failed(id, "no_match", message)
        });
    }
    ledger.close(scored(input, &judged, engine.id(), engine.tokenizer())?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn pairs_meet_once_and_evenly() {
        for n in 0..9usize {
            let all: Vec<_> = super::pairs(n).collect();
            let distinct: std::collections::BTreeSet<_> = all.iter().collect();
            assert_eq!((all.len(), distinct.len()), (n * n.saturating_sub(1) / 2, n * n.saturating_sub(1) / 2));
            assert!(all.iter().all(|(a, b)| a < b && *b < n));
            let mut met = vec![0; n];
            all.iter().take(n).for_each(|&(a, b)| [a, b].iter().for_each(|&i| met[i] += 1));
            assert!(n < 3 || met.iter().all(|&m| m == 2), "{n}: {met:?}");
        }
    }
}
