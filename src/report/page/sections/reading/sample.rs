//! Which prompts the reading room shows: evenly spaced files, and evenly spaced prompts in them.

use std::collections::BTreeSet;

use crate::data::Columns;
use crate::error::Result;
use crate::report::page::limits::spread;
use crate::report::page::source::PageSource;
use crate::store::FileEntry;

/// Positions of files, with the ids of the prompts that are shown of each.
pub(super) type SampledPrompts = Vec<(usize, BTreeSet<String>)>;

/// Chooses at most `most` prompts. The choice depends on the places of rows only.
pub(super) fn sample(source: &PageSource<'_>, files: &[FileEntry], most: usize) -> Result<SampledPrompts> {
    let chosen: Vec<usize> = spread(most, files.len()).collect();
    let (mut sampled, mut open) = (SampledPrompts::new(), most);
    for (nth, &file) in chosen.iter().enumerate() {
        let here = open.div_ceil(chosen.len() - nth);
        let (mut ids, mut seen) = (Vec::new(), BTreeSet::new());
        for rows in source.columns(&files[file], &["prompt_id"])? {
            let rows = rows?;
            for id in Columns(&rows).text("prompt_id")?.iter().flatten() {
                if seen.insert(id.to_owned()) {
                    ids.push(id.to_owned());
                }
            }
        }
        let ids: BTreeSet<String> = spread(here, ids.len()).map(|at| ids[at].clone()).collect();
        open -= ids.len();
        sampled.push((file, ids));
    }
    Ok(sampled)
}
