//! Finds which optimizer steps of a training used which pairs, from the training's metrics.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, UInt32Type};

use crate::error::Result;
use crate::store::Part;

/// Optimizer steps by pair.
pub(crate) type StepsByPair = BTreeMap<String, Vec<u32>>;

/// Finds the steps that used each pair in `own`; returns `None` if the metrics do not record pairs.
pub(crate) fn uses(metrics: &Part, own: &BTreeSet<String>) -> Result<Option<StepsByPair>> {
    let schema = metrics.schema()?;
    let at = ["step", "pairs"].map(|name| schema.index_of(name).ok());
    let [Some(step), Some(pairs)] = at else { return Ok(None) };
    // The name of the list's item field varies between writers, so only its type is checked.
    let texts = matches!(schema.field(pairs).data_type(), DataType::List(item) if *item.data_type() == DataType::Utf8);
    if !texts || *schema.field(step).data_type() != DataType::UInt32 {
        return Ok(None);
    }
    let (mut uses, mut told) = (StepsByPair::new(), false);
    for rows in metrics.read(&schema.project(&[step, pairs])?.into())? {
        let rows = rows?;
        let (steps, lists) = (rows.column(0).as_primitive::<UInt32Type>(), rows.column(1).as_list::<i32>());
        for row in (0..rows.num_rows()).filter(|&row| lists.is_valid(row)) {
            told = true;
            for id in lists.value(row).as_string::<i32>().iter().flatten().filter(|id| own.contains(*id)) {
                uses.entry(id.to_owned()).or_default().push(steps.value(row));
            }
        }
    }
    Ok(told.then_some(uses))
}
