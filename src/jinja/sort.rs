//! Stable sorting by Python's order.

use std::cmp::Ordering;

use super::budget::Budget;
use super::error::Result;
use super::value::Value;

/// Sorts stably by Python's order; the comparison may fail, and need not be an order.
pub(super) fn sorted(
    mut items: Vec<(Value, Value)>,
    reverse: bool,
    budget: &mut Budget,
) -> Result<Vec<(Value, Value)>> {
    budget.spend_items(items.len())?;
    // Merges runs of 1, 2, 4, .. elements; with `reverse`, equal elements keep their order as in Python.
    let mut width = 1;
    while width < items.len() {
        let mut merged = Vec::with_capacity(items.len());
        for run in items.chunks(2 * width) {
            let (left, right) = run.split_at(width.min(run.len()));
            let (mut l, mut r) = (0, 0);
            while l < left.len() && r < right.len() {
                let (a, b) = if reverse { (&left[l].0, &right[r].0) } else { (&right[r].0, &left[l].0) };
                let right_first = a.compare(b, "<", budget)? == Some(Ordering::Less);
                if right_first {
                    merged.push(right[r].clone());
                    r += 1;
                } else {
                    merged.push(left[l].clone());
                    l += 1;
                }
            }
            merged.extend_from_slice(&left[l..]);
            merged.extend_from_slice(&right[r..]);
        }
        items = merged;
        width *= 2;
    }
    Ok(items)
}
