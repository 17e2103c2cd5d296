//! Finds what corrections change from the stored decision inputs alone.

use std::collections::HashSet;

use rayon::prelude::*;

use super::changes::{Changes, PairRow};
use super::inputs::{RevisedPart, RevisionInputs};
use super::record::RevisionRecord;
use crate::dataflow::decision_inputs::{Candidate, CorrectedGroup, Decision, DecisionInputs, groups};
use crate::dataflow::groups::reduce_group;
use crate::dataflow::items::RngSource;
use crate::error::{Error, Result};

/// Finds the groups that hold a corrected answer and records the changes to their pairs.
pub(super) fn revise(inputs: &RevisionInputs, keeps: &dyn DecisionInputs, record: &mut RevisionRecord) -> Result<()> {
    let mut found_ids: HashSet<String> = HashSet::new();
    let revise = |part| {
        let touched = touched(inputs, keeps, part)?;
        Ok((changes(inputs, keeps, &touched)?, touched))
    };
    // This many microbatches are in memory at once.
    for some in inputs.parts.chunks(8 * rayon::current_num_threads()) {
        for (part, revised) in some.iter().zip(some.par_iter().map(revise).collect::<Vec<Result<_>>>()) {
            let (changes, touched) = revised?;
            let ids = touched.into_iter().flat_map(|group| group.answers).map(|answer| answer.response_id);
            found_ids.extend(ids.filter(|id| inputs.corrections.get(id).is_some()));
            // Microbatches that no correction touches cost one read of their candidates.
            if let Some(changes) = changes {
                record.add(part, &changes, None)?;
            }
        }
    }
    inputs.all_known(|id| found_ids.contains(id))
}

fn touched(inputs: &RevisionInputs, keeps: &dyn DecisionInputs, part: &RevisedPart) -> Result<Vec<CorrectedGroup>> {
    let file = part.candidates.as_ref().ok_or_else(|| Error::bug("a microbatch has no candidates"))?;
    groups(keeps, part.pairs.epoch(), &inputs.run().load_verified(file)?, &inputs.corrections)
}

/// Reduces each group before and after the corrections and returns the difference, if there is a group.
fn changes(inputs: &RevisionInputs, keeps: &dyn DecisionInputs, groups: &[CorrectedGroup]) -> Result<Option<Changes>> {
    let keyed = inputs.keyed()?;
    let rng_source = RngSource { seed: inputs.shared.plan.seed, step: &inputs.step };
    let mut changes = Changes::default();
    for group in groups {
        let decide = |after: bool| {
            let candidates = group.candidates(after);
            let results = reduce_group(keyed, &rng_source, &group.key, group.items(keeps, after));
            Ok::<_, Error>(match keeps.decide(&candidates, &results)? {
                Ok(pairs) => (pairs.iter().map(|d| row(group, &candidates, d)).collect::<Result<Vec<_>>>()?, None),
                Err(reason) => (Vec::new(), Some(reason.to_owned())),
            })
        };
        let ((were, _), (are, reason)) = (decide(false)?, decide(true)?);
        // A pair that is the same before and after is no change, although its group was decided again.
        let lacks = |rows: &[PairRow], row: &PairRow| !rows.iter().any(|other| other.same(row));
        let gone = were.iter().filter(|row| lacks(&are, row));
        changes.withdrawn.extend(gone.map(|row| (row.clone(), reason.clone())));
        changes.added.extend(are.into_iter().filter(|row| lacks(&were, row)));
    }
    Ok((!groups.is_empty()).then_some(changes))
}

fn row(group: &CorrectedGroup, candidates: &[Candidate], decision: &Decision) -> Result<PairRow> {
    let id = |place: usize| group.answers[place].response_id.clone();
    let score = |place: usize| candidates[place].score.ok_or_else(|| Error::bug("a pair's answer has no score"));
    Ok(PairRow {
        prompt_id: group.prompt_id.clone(),
        chosen_id: id(decision.chosen),
        rejected_id: id(decision.rejected),
        chosen_score: score(decision.chosen)?,
        rejected_score: score(decision.rejected)?,
        margin: decision.margin,
        consistency: None,
    })
}
