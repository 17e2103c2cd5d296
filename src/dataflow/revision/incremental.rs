//! Finds what corrections change from the stored decision inputs alone.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::changes::{Changes, Row};
use super::inputs::{Part, RevisionInputs};
use super::record::Record;
use crate::dataflow::decision_inputs::{Candidate, Decision, DecisionInputs, Group, groups};
use crate::dataflow::groups::{Correction, corrected};
use crate::dataflow::items::{GroupResult, Key};
use crate::error::{Error, Result};

/// About this many answers go through differential together.
const ANSWERS_PER_BATCH: usize = 1 << 13;

/// Finds the groups that hold a corrected answer and records the changes to their pairs.
pub(super) fn revise(inputs: &RevisionInputs, keeps: &dyn DecisionInputs, record: &mut Record) -> Result<()> {
    let mut found_ids: HashSet<String> = HashSet::new();
    let mut waiting: Vec<(&Part, Vec<Group>)> = Vec::new();
    let mut answers = 0;
    let groups = |part| touched(inputs, keeps, part);
    for some in inputs.parts.chunks(8 * rayon::current_num_threads()) {
        // Larger batches spread the cost of a reduce over more groups.
        let ready = if answers >= ANSWERS_PER_BATCH { std::mem::take(&mut waiting) } else { Vec::new() };
        answers = if ready.is_empty() { answers } else { 0 };
        // One core computes the groups found so far while the others search on.
        let (found, done) = rayon::join(
            || some.par_iter().map(groups).collect::<Vec<_>>(),
            || if ready.is_empty() { Ok(()) } else { together(inputs, keeps, ready, record) },
        );
        done?;
        for (part, found) in some.iter().zip(found) {
            let found = found?;
            let all = || found.iter().flat_map(|group| &group.answers);
            answers += all().count();
            found_ids.extend(all().map(|a| &a.response_id).filter(|id| inputs.corrections.get(id).is_some()).cloned());
            // Microbatches that no correction touches cost one read of their candidates.
            if !found.is_empty() {
                waiting.push((part, found));
            }
        }
    }
    together(inputs, keeps, waiting, record)?;
    inputs.all_known(|id| found_ids.contains(id))
}

fn touched(inputs: &RevisionInputs, keeps: &dyn DecisionInputs, part: &Part) -> Result<Vec<Group>> {
    let file = part.candidates.as_ref().ok_or_else(|| Error::bug("a microbatch has no candidates"))?;
    groups(keeps, part.pairs.epoch(), &inputs.run().load_verified(file)?, &inputs.corrections)
}

/// Computes the groups of some microbatches together in differential.
fn together(
    inputs: &RevisionInputs,
    keeps: &dyn DecisionInputs,
    parts: Vec<(&Part, Vec<Group>)>,
    record: &mut Record,
) -> Result<()> {
    let (mut items, mut corrections) = (Vec::new(), Vec::new());
    for group in parts.iter().flat_map(|(_, groups)| groups) {
        for (before, after) in group.items(keeps) {
            items.push((group.key, before));
            if before != after {
                corrections.push(Correction { key: group.key, before, after });
            }
        }
    }
    let results = corrected(&inputs.shared.plan, &inputs.step, items, corrections)?;
    let (before, after) = (by_key(&results.before), by_key(&results.after));
    // A pair that is the same before and after is no change, although its group was decided again.
    let changes = |(_, groups): &(&Part, Vec<Group>)| {
        let mut changes = Changes::default();
        for group in groups {
            let of = |result: &HashMap<Key, Vec<GroupResult>>, after: bool| {
                let candidates = group.candidates(after);
                let result = result.get(&group.key).map_or(&[][..], Vec::as_slice);
                Ok::<_, Error>(match keeps.decide(&candidates, result)? {
                    Ok(pairs) => (pairs.iter().map(|d| row(group, &candidates, d)).collect::<Result<Vec<_>>>()?, None),
                    Err(reason) => (Vec::new(), Some(reason.to_owned())),
                })
            };
            let ((were, _), (are, reason)) = (of(&before, false)?, of(&after, true)?);
            let lacks = |rows: &[Row], row: &Row| !rows.iter().any(|other| other.same(row));
            let gone = were.iter().filter(|row| lacks(&are, row));
            changes.withdrawn.extend(gone.map(|row| (row.clone(), reason.clone())));
            changes.added.extend(are.into_iter().filter(|row| lacks(&were, row)));
        }
        Ok(changes)
    };
    for ((part, _), changes) in parts.iter().zip(parts.par_iter().map(changes).collect::<Vec<Result<_>>>()) {
        record.add(part, &changes?, None)?;
    }
    Ok(())
}

fn by_key(result: &[(Key, GroupResult)]) -> HashMap<Key, Vec<GroupResult>> {
    result
        .chunk_by(|a, b| a.0 == b.0)
        .map(|same| (same[0].0, same.iter().map(|(_, result)| *result).collect()))
        .collect()
}

fn row(group: &Group, candidates: &[Candidate], decision: &Decision) -> Result<Row> {
    let id = |place: usize| group.answers[place].response_id.clone();
    let score = |place: usize| candidates[place].score.ok_or_else(|| Error::bug("a pair's answer has no score"));
    Ok(Row {
        prompt_id: group.prompt_id.clone(),
        chosen_id: id(decision.chosen),
        rejected_id: id(decision.rejected),
        chosen_score: score(decision.chosen)?,
        rejected_score: score(decision.rejected)?,
        margin: decision.margin,
        consistency: None,
    })
}
