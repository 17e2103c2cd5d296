//! `read`: a stored dataset, Parquet or JSON lines, ours or a stranger's; or a revision, whose pairs are made as they are read.

use std::path::{Path, PathBuf};

use arrow::compute::concat_batches;

use super::prelude::*;
use super::revised;
use crate::dataflow::{Batches, Revised, Source};
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
        let about = "fewest rows; a run stops where there are fewer, so that it is not of other data than the file means";
        let min_rows = f.count("min_rows", about, Some(0), 0..=1 << 40);
        if limit.is_some_and(|most| most < min_rows) {
            f.problem("min_rows", "more than `limit`", "lower it, or raise `limit`");
        }
        let schema = match &named {
            Some(name) => SCHEMAS.iter().copied().find(|s| s.name == *name).ok_or_else(|| {
                let names: Vec<_> = SCHEMAS.iter().map(|s| s.name).collect();
                Error::user(format!("there is no schema `{name}`")).help(format!("schemas: {}", names.join(", ")))
            }),
            None if Revised::is_at(&dataset) => Ok(&named::PAIRS),
            None if dataset.exists() => guess(&dataset),
            None => Ok(&named::IFT),
        };
        let schema = schema.unwrap_or_else(|e| {
            f.problem(if named.is_some() { "schema" } else { "dataset" }, e.to_string(), e.help_text().unwrap_or_default());
            &named::IFT
        });
        let mut stored = None;
        if dataset.exists() {
            match Data::rows(&dataset, schema, &rename) {
                Ok(rows) => stored = rows,
                Err(e) => f.problem("dataset", e.to_string(), e.help_text().unwrap_or_default()),
            }
        }
        Box::new(Read { dataset, schema, rename, limit, min_rows, stored })
    },
};

/// What there is to read.
enum Data {
    Files(Dataset),
    Revised(Box<Revised>),
}

impl Data {
    /// How many rows there are, where that is said somewhere.
    fn rows(path: &Path, schema: &'static Schema, rename: &[(String, String)]) -> Result<Option<u64>> {
        if !Revised::is_at(path) {
            return Ok(Dataset::open_as(path, schema, rename)?.rows());
        }
        if schema.name != named::PAIRS.name || !rename.is_empty() {
            return Err(Error::user(format!("`{}` is a revision, which has `pairs`", path.display()))
                .help("leave `schema` and `rename` out"));
        }
        match Revised::written(path)? {
            Some(pairs) => Ok(Dataset::open(&pairs, schema)?.rows()),
            None => Revised::count(path).map(Some),
        }
    }
    fn open(path: &Path, schema: &'static Schema, rename: &[(String, String)]) -> Result<Self> {
        if !Revised::is_at(path) {
            return Ok(Self::Files(Dataset::open_as(path, schema, rename)?));
        }
        Ok(match Revised::written(path)? {
            Some(pairs) => Self::Files(Dataset::open(&pairs, schema)?),
            None => Self::Revised(Box::new(revised::open(path)?)),
        })
    }
    /// All rows, `size` at a time.
    fn batches(self, size: usize) -> Box<dyn Iterator<Item = Result<RecordBatch>> + Send> {
        match self {
            Self::Files(dataset) => Box::new(dataset.batches(size)),
            Self::Revised(revised) => Box::new(Cut { batches: revised.batches(), rest: None, size, at: |_, size| Ok(size) }),
        }
    }
}

struct Read {
    dataset: PathBuf,
    schema: &'static Schema,
    rename: Vec<(String, String)>,
    limit: Option<usize>,
    min_rows: usize,
    /// Rows of the files, where they say so.
    stored: Option<u64>,
}

impl Configured for Read {
    fn explain(&self) -> String {
        let limit = self.limit.map(|n| format!(", at most {n} rows")).unwrap_or_default();
        let least = if self.min_rows > 0 { format!(", at least {} rows", self.min_rows) } else { String::new() };
        format!("{}{least}{limit}", self.dataset.display())
    }
    fn work(&self, _: u32, _: &[Load], assume: &Assume) -> Work {
        let limit = self.limit.map(|n| n as f64);
        let rows = match self.stored {
            Some(stored) => (stored as f64).min(limit.unwrap_or(f64::INFINITY)),
            None => limit.unwrap_or(0.),
        };
        let rows = rows.max(self.min_rows as f64);
        let answer = if self.schema.name == named::PROMPTS.name { 0. } else { assume.answer };
        Work::rows(Amount { rows, prompt: assume.prompt, answer, per_prompt: 1. })
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
impl Read {
    /// That there are as many rows as there have to be; only files that do not say how many they have are read for it.
    fn enough(&self) -> Result<()> {
        if self.min_rows == 0 {
            return Ok(());
        }
        let said = Data::rows(&self.dataset, self.schema, &self.rename)?;
        let mut rows = said.unwrap_or(0);
        if said.is_none() {
            for batch in Data::open(&self.dataset, self.schema, &self.rename)?.batches(1024) {
                rows += batch?.num_rows() as u64;
                if rows >= self.min_rows as u64 {
                    break;
                }
            }
        }
        if rows >= self.min_rows as u64 {
            return Ok(());
        }
        Err(Error::user(format!("{} has {rows} rows, but `min_rows` asks for {}", self.dataset.display(), self.min_rows))
            .help("name the data that the file is meant for as `dataset`, or lower `min_rows`"))
    }
}

impl Source for Read {
    fn open(&self, cx: &Context<'_>) -> Result<Batches> {
        self.enough()?;
        let data = Data::open(&self.dataset, self.schema, &self.rename)?;
        let mut left = self.limit.unwrap_or(usize::MAX);
        let size = cx.shared.plan.microbatch;
        let limited = data.batches(size).map_while(move |batch| {
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
            let whole = Cut { batches: limited, rest: None, size, at: between_prompts };
            return Ok(Box::new(whole.map(|rows| rows.map(Output::from))));
        }
        let limited = limited.map(|rows| rows.map(Output::from));
        Ok(Box::new(limited))
    }
}

/// Batches cut anew, each of at most `size` rows.
struct Cut<I> {
    batches: I,
    /// Rows that are still to come out; none at the end.
    rest: Option<RecordBatch>,
    size: usize,
    /// Where to cut more than `size` rows.
    at: fn(&RecordBatch, usize) -> Result<usize>,
}

/// Where the last prompt begins that can, at most `size` rows on; a prompt with more than that is cut where it must be.
fn between_prompts(rows: &RecordBatch, size: usize) -> Result<usize> {
    let ids = Columns(rows).text("prompt_id")?;
    Ok((1..=size).rev().find(|&i| ids.value(i) != ids.value(i - 1)).unwrap_or(size))
}

impl<I: Iterator<Item = Result<RecordBatch>>> Iterator for Cut<I> {
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
        let at = match (self.at)(&rest, self.size) {
            Ok(at) => at,
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
            let whole = Cut { batches: batches.into_iter(), rest: None, size, at: between_prompts };
            whole.map(|b| Columns(&b.unwrap()).text("prompt_id").unwrap().iter().flatten().collect()).collect()
        };
        assert_eq!(cut(&["aab", "bcc", "d"], 3), ["aa", "bb", "ccd"]);
        assert_eq!(cut(&["aaaaaaa", "b"], 3), ["aaa", "aaa", "ab"]);
        assert_eq!(cut(&["abcdef"], 3), ["abc", "def"]);
        assert_eq!(cut(&["ab", "c"], 3), ["abc"]);
        assert_eq!(cut(&[], 3), [""; 0]);
    }
}
