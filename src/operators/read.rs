//! `read`: a stored dataset, Parquet or JSON lines, ours or a stranger's.

use std::path::{Path, PathBuf};

use arrow::compute::concat_batches;

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
        let size = cx.shared.plan.microbatch;
        let limited = dataset.batches(size).map_while(move |batch| {
            if left == 0 {
                return None;
            }
            Some(batch.map(|rows| {
                let rows = rows.slice(0, rows.num_rows().min(left));
                left -= rows.num_rows();
                rows
            }))
        });
        // What compares the answers of a prompt needs them in one microbatch.
        if self.schema.columns.iter().any(|c| c.name == "prompt_id") && self.schema.columns.iter().any(|c| c.name == "response_id") {
            let whole = Prompts { batches: limited, rest: None, size };
            return Ok(Box::new(whole.map(|rows| rows.map(Output::from))));
        }
        let limited = limited.map(|rows| rows.map(Output::from));
        Ok(Box::new(limited))
    }
}

/// Batches cut between prompts, each of at most `size` rows; a prompt with more than that is cut where it must be.
struct Prompts<I> {
    batches: I,
    /// Rows that are still to come out; none at the end.
    rest: Option<RecordBatch>,
    size: usize,
}

impl<I: Iterator<Item = Result<RecordBatch>>> Iterator for Prompts<I> {
    type Item = Result<RecordBatch>;
    fn next(&mut self) -> Option<Self::Item> {
        while self.rest.as_ref().is_none_or(|r| r.num_rows() <= self.size) {
            let more = match self.batches.next() {
                Some(Ok(more)) => more,
                Some(Err(e)) => return Some(Err(e)),
                None => return self.rest.take().filter(|r| r.num_rows() > 0).map(Ok),
            };
            self.rest = Some(match self.rest.take() {
                None => more,
                Some(rest) => match concat_batches(&rest.schema(), [&rest, &more]) {
                    Ok(both) => both,
                    Err(e) => return Some(Err(e.into())),
                },
            });
        }
        let rest = self.rest.take()?;
        let at = match Columns(&rest).text("prompt_id") {
            // Where a prompt begins, at most `size` rows on.
            Ok(ids) => (1..=self.size).rev().find(|&i| ids.value(i) != ids.value(i - 1)).unwrap_or(self.size),
            Err(e) => return Some(Err(e)),
        };
        self.rest = Some(rest.slice(at, rest.num_rows() - at));
        Some(Ok(rest.slice(0, at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_stay_whole() {
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new("prompt_id", arrow::datatypes::DataType::Utf8, false)]));
        let batch = |ids: &str| {
            let ids: Vec<String> = ids.chars().map(String::from).collect();
            Ok(RecordBatch::try_new(schema.clone(), vec![Arc::new(StringArray::from(ids))]).unwrap())
        };
        let cut = |batches: &[&str], size| -> Vec<String> {
            let batches: Vec<_> = batches.iter().map(|b| batch(b)).collect();
            let whole = Prompts { batches: batches.into_iter(), rest: None, size };
            whole.map(|b| Columns(&b.unwrap()).text("prompt_id").unwrap().iter().flatten().collect()).collect()
        };
        assert_eq!(cut(&["aab", "bcc", "d"], 3), ["aa", "bb", "ccd"]);
        assert_eq!(cut(&["aaaaaaa", "b"], 3), ["aaa", "aaa", "ab"]);
        assert_eq!(cut(&["abcdef"], 3), ["abc", "def"]);
        assert_eq!(cut(&["ab", "c"], 3), ["abc"]);
        assert_eq!(cut(&[], 3), [""; 0]);
    }
}
