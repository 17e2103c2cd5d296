//! The agreement of two judges about a prompt, for CREAM (arXiv 2410.12735).

use std::collections::HashMap;

use crate::dataflow::Joined;
use crate::eval::statistics::kendall_tau;
use crate::operators::shared::prelude::*;

/// Computes C of CREAM by prompt id from two judges' scores of the same answers.
pub(super) fn consistencies(ours: &RecordBatch, joined: &Joined) -> Result<HashMap<String, f32>> {
    let (prompts, scores) = (Columns(ours).text("prompt_id")?, Columns(ours).float("score")?);
    let others = Columns(&joined.partners).float("score")?;
    let mut rankings: HashMap<String, (Vec<f64>, Vec<f64>)> = HashMap::new();
    for (i, partner) in joined.partner_of.iter().enumerate() {
        let both = rankings.entry(prompts.value(i).to_owned()).or_default();
        let other = partner.and_then(|at| valid(others, at));
        if let Some((score, other)) = valid(scores, i).zip(other).filter(|(a, b)| a.is_finite() && b.is_finite()) {
            both.0.push(f64::from(score));
            both.1.push(f64::from(other));
        }
    }
    let c = |(x, y): (Vec<f64>, Vec<f64>)| ((kendall_tau(&x, &y).unwrap_or(0.) + 1.) / 2.) as f32;
    Ok(rankings.into_iter().map(|(prompt, both)| (prompt, c(both))).collect())
}

/// Makes rows of `errors` for scores of either judge that the other judge lacks.
pub(super) fn without_partner(
    rows: &RecordBatch,
    joined: &Joined,
    [first, other]: [&str; 2],
    ledger: &mut Ledger,
) -> Result<()> {
    let error = |id: &str, of: &str| {
        let message =
            format!("`{of}` has no row for this answer, so the consistency of its prompt is found without it");
        RowError::failed(id, "no_partner", message)
    };
    let ours = Columns(rows).text("response_id")?;
    let alone = joined.partner_of.iter().enumerate().filter(|(_, partner)| partner.is_none());
    alone.for_each(|(i, _)| ledger.note(error(ours.value(i), other)));
    let theirs = Columns(&joined.unmatched).text("response_id")?;
    (0..theirs.len()).for_each(|i| ledger.unmatched_left_out(i, error(theirs.value(i), first)));
    Ok(())
}

pub(super) fn valid(scores: &Float32Array, row: usize) -> Option<f32> {
    scores.is_valid(row).then(|| scores.value(row))
}
