//! Which optimizer steps of a training took which pairs, as its metrics have it.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, UInt32Type};

use crate::error::Result;
use crate::store::Part;

/// The optimizer steps of a training that took a pair, by the pair.
pub(super) type Uses = BTreeMap<String, Vec<u32>>;

/// Where a training used which of the pairs `own`; nothing where its metrics do not say.
pub(super) fn uses(metrics: &Part, own: &BTreeSet<String>) -> Result<Option<Uses>> {
    let schema = metrics.schema()?;
    let at = ["step", "pairs"].map(|name| schema.index_of(name).ok());
    let [Some(step), Some(pairs)] = at else { return Ok(None) };
    // A name of the list's items is not to be relied on.
    let texts = matches!(schema.field(pairs).data_type(), DataType::List(item) if *item.data_type() == DataType::Utf8);
    if !texts || *schema.field(step).data_type() != DataType::UInt32 {
        return Ok(None);
    }
    let (mut uses, mut told) = (Uses::new(), false);
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
