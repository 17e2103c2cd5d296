//! The reduce of a keyed step whose groups are whole within a microbatch.

use arrow::array::RecordBatch;

use super::operator::{Context, Draws, Kept, Key, Keyed};
use crate::error::Result;

/// What the groups of a microbatch come to, where none has items in another: no memory of earlier microbatches is needed.
pub(super) fn alone(keyed: &dyn Keyed, cx: &Context<'_>, rows: &RecordBatch) -> Result<Vec<(Key, Kept)>> {
    let draws = Draws { seed: cx.shared.plan.seed, step: &cx.step.name };
    let mut items = keyed.items(cx.epoch, rows)?;
    items.sort_unstable();
    items.dedup();
    let (mut group, mut of_group, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for same in items.chunk_by(|a, b| a.0 == b.0) {
        group.clear();
        group.extend(same.iter().map(|(_, item)| *item));
        keyed.reduce(&draws, &same[0].0, &group, &mut of_group);
        all.extend(of_group.drain(..).map(|kept| (same[0].0, kept)));
    }
    all.sort_unstable();
    Ok(all)
}
