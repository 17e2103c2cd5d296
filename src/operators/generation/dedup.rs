//! `dedup`: keeps the first of several prompts with the same text, whatever the order in which microbatches
//! arrive.
//!
//! Hashes of the texts meet in a differential reduce that keeps the earliest position; later copies change
//! nothing.

use std::collections::HashSet;

use arrow::compute::take;

use super::generate::prompt_ids;
use crate::data::Id;
use crate::dataflow::{GroupResult, Item, Key, Keyed, RngSource};
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "dedup",
    about: "keeps the first of prompts with the same text",
    shape: Shape::Keyed,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.fresh]\nop = \"dedup\"\nfrom = \"prompts\"\n",
    parse: |f| {
        let scopes = [("iteration", "within each iteration"), ("run", "in the whole run")];
        let whole_run = f.choice("within", "where duplicates are searched", &scopes, Some("run")) == "run";
        f.only_in_loop("within");
        Box::new(Dedup { whole_run })
    },
};

struct Dedup {
    whole_run: bool,
}

impl StepSpec for Dedup {
    fn explain(&self) -> String {
        format!("first of each text {}", if self.whole_run { "in the run" } else { "in an iteration" })
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(inputs, &["prompt"], "prompts")?;
        Ok(inputs.first().map_or(&named::PROMPTS, |i| i.schema))
    }
    fn leaves_null(&self, inputs: &[Port<'_>]) -> Vec<&'static str> {
        inputs.first().map_or_else(Vec::new, |i| i.lacks.to_vec())
    }
}
impl Operator for Dedup {
    fn stage(&self) -> Stage<'_> {
        Stage::Keyed(self)
    }
}

/// Position of a row in the run, as an integer that sorts like it: 16 bits of iteration, 24 of microbatch, 23 of row.
fn position(epoch: Epoch, row: usize) -> Result<i64> {
    if epoch.iteration >= 1 << 16 || epoch.microbatch >= 1 << 24 || row >= 1 << 23 {
        return Err(Error::user("too many rows to deduplicate").help("use a larger `pipeline.microbatch`"));
    }
    Ok(i64::from(epoch.iteration) << 47 | i64::from(epoch.microbatch) << 23 | row as i64)
}

impl Keyed for Dedup {
    fn items(&self, epoch: Epoch, rows: &RecordBatch) -> Result<Vec<(Key, Item)>> {
        let prompts = Prompts::new(rows)?;
        let scope = if self.whole_run { 0 } else { u64::from(epoch.iteration) };
        let item =
            |i| Ok(((scope, Id::from_text(&prompts.id(i)).0), Item { order: position(epoch, i)?, ..Item::default() }));
        (0..rows.num_rows()).map(item).collect()
    }
    fn reduce(&self, _: &RngSource<'_>, _: &Key, group: &[Item], kept: &mut Vec<GroupResult>) {
        kept.extend(group.first().map(|first| GroupResult::One(first.order)));
    }
    fn finish(&self, _: &Context<'_>, rows: &RecordBatch, kept: &[(Key, GroupResult)]) -> Result<Output> {
        let row = |kept: &GroupResult| {
            if let GroupResult::One(position) = kept { Some((position & ((1 << 23) - 1)) as u32) } else { None }
        };
        let mut indices: Vec<u32> = kept.iter().filter_map(|(_, k)| row(k)).collect();
        indices.sort_unstable();
        let kept: HashSet<u32> = indices.iter().copied().collect();
        let ids = prompt_ids(rows)?;
        let mut ledger = Ledger::new(rows);
        for (i, id) in ids.iter().enumerate() {
            if kept.contains(&(i as u32)) {
                ledger.kept(i);
            } else {
                ledger.left_out([i], RowError::dropped(id, "duplicate", "a prompt with the same text came before"));
            }
        }
        let indices = UInt32Array::from(indices);
        let columns = rows.columns().iter().map(|c| Ok(take(c, &indices, None)?)).collect::<Result<Vec<_>>>()?;
        ledger.close(RecordBatch::try_new(rows.schema(), columns)?)
    }
}
