//! `read`: a stored dataset, Parquet or JSON lines, ours or a stranger's.

use std::path::{Path, PathBuf};

use super::prelude::*;
use crate::dataflow::{Batches, Source};
use crate::data::SCHEMAS;
use crate::store::{Dataset, guess};

pub static KIND: Kind<dyn Operator> = Kind {
    name: "read",
    about: "reads a dataset: a .parquet or .jsonl file, or a folder of them",
    shape: Shape::Source,
    model: NeedsModel::No,
    min_inputs: 0,
    max_inputs: 0,
    example: "[step.ift]\nop = \"read\"\ndataset = \"datasets/ift\"\n",
    parse: |f| {
        let dataset: PathBuf = f.path("dataset", "file or folder to read", None).into();
        let named = f.optional_text("schema", "name of its schema (`reflux schema` lists them); guessed from its columns if absent");
        let rename = f.mapping("rename", "our name of a column = the name it has in the files");
        let limit = f.optional_int("limit", "reads at most this many rows", 1..=i64::MAX).map(|n| n as usize);
        let schema = match &named {
            Some(name) => SCHEMAS.iter().copied().find(|s| s.name == *name).ok_or_else(|| {
                let names: Vec<_> = SCHEMAS.iter().map(|s| s.name).collect();
                Error::user(format!("there is no schema `{name}`")).help(format!("schemas: {}", names.join(", ")))
            }),
            None if dataset.exists() => guess(&dataset),
            None => Ok(&named::IFT),
        };
        let schema = schema.unwrap_or_else(|e| {
            f.problem(if named.is_some() { "schema" } else { "dataset" }, e.to_string(), e.help_text().unwrap_or_default());
            &named::IFT
        });
        if dataset.exists()
            && let Err(e) = Dataset::open_as(&dataset, schema, &rename)
        {
            f.problem("dataset", e.to_string(), e.help_text().unwrap_or_default());
        }
        Box::new(Read { dataset, schema, rename, limit })
    },
};

struct Read {
    dataset: PathBuf,
    schema: &'static Schema,
    rename: Vec<(String, String)>,
    limit: Option<usize>,
}

impl Configured for Read {
    fn explain(&self) -> String {
        let limit = self.limit.map(|n| format!(", at most {n} rows")).unwrap_or_default();
        format!("{}{limit}", self.dataset.display())
    }
    fn output(&self, _: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        Ok(self.schema)
    }
}
impl Operator for Read {
    fn stage(&self) -> Stage<'_> {
        Stage::Source(self)
    }
}
impl Source for Read {
    fn open(&self, cx: &Context<'_>) -> Result<Batches> {
        let dataset = Dataset::open_as(Path::new(&self.dataset), self.schema, &self.rename)?;
        let mut left = self.limit.unwrap_or(usize::MAX);
        let limited = dataset.batches(cx.shared.plan.microbatch).map_while(move |batch| {
            if left == 0 {
                return None;
            }
            Some(batch.map(|rows| {
                let rows = rows.slice(0, rows.num_rows().min(left));
                left -= rows.num_rows();
                Output::from(rows)
            }))
        });
        Ok(Box::new(limited))
    }
}
