//! Reduces the groups of a keyed step whose groups each lie within one microbatch.

use arrow::array::RecordBatch;

use super::items::{GroupResult, Item, Key, RngSource};
use super::operator::{Context, Keyed};
use crate::error::Result;

/// Reduces the groups of a microbatch, in the order of their keys. No group has items in another
/// microbatch, so no earlier microbatch is remembered.
pub(super) fn reduce_local(keyed: &dyn Keyed, cx: &Context<'_>, rows: &RecordBatch) -> Result<Vec<(Key, GroupResult)>> {
    let rng_source = RngSource { seed: cx.shared.plan.seed, step: &cx.step.name };
    let mut items = keyed.items(cx.epoch, rows)?;
    items.sort_unstable();
    let mut all = Vec::new();
    for same in items.chunk_by(|a, b| a.0 == b.0) {
        let key = same[0].0;
        let group = same.iter().map(|(_, item)| *item).collect();
        all.extend(reduce_group(keyed, &rng_source, &key, group).into_iter().map(|result| (key, result)));
    }
    Ok(all)
}

/// Reduces one group. Its items may be in any order. The results are sorted.
pub(super) fn reduce_group(
    keyed: &dyn Keyed,
    rng_source: &RngSource<'_>,
    key: &Key,
    mut items: Vec<Item>,
) -> Vec<GroupResult> {
    items.sort_unstable();
    items.dedup();
    let mut results = Vec::new();
    keyed.reduce(rng_source, key, &items, &mut results);
    results.sort_unstable();
    // A duplicate answer must not produce a duplicate pair.
    results.dedup();
    results
}
