//! `read`: reads a stored dataset, written by reflux or by others; or a revision, whose pairs are made as
//! they are read.

use std::path::{Path, PathBuf};

use arrow::compute::concat_batches;

use super::batches::{Cut, Whole, between_prompts, by_prompt, prompts_within, torn_prompt};
use crate::data::{SCHEMAS, counted, did_you_mean, quoted, unread_key};
use crate::dataflow::{Batches, Revised, Source};
use crate::operators::shared::prelude::*;
use crate::pipeline::External;
use crate::store::{Dataset, InputForm, format_of, guess};

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "read",
    about: "reads a dataset: a .parquet, .jsonl, .csv or .txt file (a prompt a line), or a folder of the first two",
    shape: Shape::Source,
    model: NeedsModel::No,
    min_inputs: 0,
    max_inputs: 0,
    example: "[step.ift]\nop = \"read\"\ndataset = \"datasets/ift\"\n",
    parse: |f| {
        let dataset = f.path("dataset", "file or folder to read", InputForm::Dataset);
        let place = f.inspect(&dataset).to_owned();
        let named = f.optional_text(
            "schema",
            "name of its schema (`reflux schema` lists them); detected from the columns if not set",
        );
        let rename = f.mapping("rename", "reflux's name of a column = its name in the files");
        let limit = f
            .optional_int(
                "limit",
                "maximum number of rows; consecutive answers to one prompt are read together or not at all",
                1..=i64::MAX,
            )
            .map(|n| n as usize);
        let about =
            "minimum number of rows; the run stops if there are fewer, for example because a file is incomplete";
        let min_rows = f.count("min_rows", about, Some(0), 0..=1 << 40);
        if limit.is_some_and(|most| most < min_rows) {
            f.problem("min_rows", "more than `limit`", "lower it, or raise `limit`");
        }
        let schema = match &named {
            Some(name) => SCHEMAS.iter().copied().find(|s| s.name == *name).ok_or_else(|| {
                let names: Vec<_> = SCHEMAS.iter().map(|s| s.name).collect();
                Error::user(format!("unknown schema `{name}`")).help(did_you_mean(name, "schemas", &names))
            }),
            None if Revised::is_at(&place) => Ok(&named::PAIRS),
            None if place.exists() => guess(&place),
            None => Ok(&named::IFT),
        };
        // One fault is one error: a schema that is not known cannot be compared with the columns.
        let comparable = schema.is_ok() && place.exists();
        let schema = schema.unwrap_or_else(|e| {
            let help = e.help_text().unwrap_or_default();
            match named {
                Some(_) => f.problem("schema", e.to_string(), help),
                None => {
                    let command = format!("reflux import {}", quoted(&place.to_string_lossy()));
                    let help = match format_of(&place) {
                        Some(format) => format!("it is of the format {}: `{command}` converts it", format.name),
                        None => help.to_owned(),
                    };
                    f.problem("dataset", e.to_string(), help);
                }
            }
            &named::IFT
        });
        let mut stored = None;
        if comparable {
            match OpenDataset::rows(&place, schema, &rename) {
                Ok(rows) => stored = rows,
                Err(e) => f.problem("dataset", e.to_string(), e.help_text().unwrap_or_default()),
            }
        }
        Box::new(Read { dataset, schema, rename, limit, min_rows, stored })
    },
};

/// A dataset on disk, with the operators that may appear in the pipeline file of a revision's run.
#[derive(Clone, Copy)]
struct DatasetPlace<'a> {
    path: &'a Path,
    operators: &'a [&'static OperatorDef<dyn Operator>],
}

/// An open dataset.
enum OpenDataset {
    Files(Dataset),
    Revised(Box<Revised>),
}

impl OpenDataset {
    /// Returns the number of rows if it is stored somewhere.
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
    fn open(place: DatasetPlace<'_>, schema: &'static Schema, rename: &[(String, String)]) -> Result<Self> {
        let path = place.path;
        if !Revised::is_at(path) {
            return Ok(Self::Files(Dataset::open_as(path, schema, rename)?));
        }
        Ok(match Revised::written(path)? {
            Some(pairs) => Self::Files(Dataset::open(&pairs, schema)?),
            None => Self::Revised(Box::new(Revised::open(path, place.operators)?)),
        })
    }
    /// Iterates over all rows, `size` at a time. `tell` says whether unread columns are reported at the
    /// end.
    fn batches(self, size: usize, tell: bool) -> Box<dyn Iterator<Item = Result<RecordBatch>> + Send> {
        match self {
            Self::Files(dataset) if tell => {
                Box::new(NotedOnDrop { batches: dataset.batches(size), path: dataset.path().into() })
            }
            Self::Files(dataset) => Box::new(dataset.batches(size)),
            Self::Revised(revised) => {
                Box::new(Cut::new(revised.batches(), size, Dataset::BATCH_BYTES, |_, size| Ok(Some(size))))
            }
        }
    }
}

/// Batches that report unread columns at their end.
struct NotedOnDrop {
    batches: crate::store::DatasetBatches,
    path: PathBuf,
}

impl Iterator for NotedOnDrop {
    type Item = Result<RecordBatch>;
    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}

impl Drop for NotedOnDrop {
    /// This also runs if a limit or a bad row ends the reading early.
    fn drop(&mut self) {
        let unread: Vec<String> = self.batches.unread().iter().map(|(key, rows)| unread_key(key, *rows)).collect();
        if !unread.is_empty() {
            tracing::warn!("{}: not read: {}", self.path.display(), unread.join(", "));
        }
    }
}

struct Read {
    dataset: External,
    schema: &'static Schema,
    rename: Vec<(String, String)>,
    limit: Option<usize>,
    min_rows: usize,
    /// Number of rows in the files, if they store it.
    stored: Option<u64>,
}

impl StepSpec for Read {
    fn explain(&self) -> String {
        let limit = self.limit.map(|n| format!(", at most {}", counted(n, "row"))).unwrap_or_default();
        let least =
            if self.min_rows > 0 { format!(", at least {}", counted(self.min_rows, "row")) } else { String::new() };
        format!("{}{least}{limit}", self.dataset.shown())
    }
    fn work(&self, _: u32, _: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let limit = self.limit.map(|n| n as f64);
        let rows = match self.stored {
            Some(stored) => (stored as f64).min(limit.unwrap_or(f64::INFINITY)),
            None => limit.unwrap_or(0.),
        };
        let rows = rows.max(self.min_rows as f64);
        let answer = if self.schema.name == named::PROMPTS.name { 0. } else { assume.answer };
        CostEstimate::rows(RowStats { rows, prompt: assume.prompt, answer, per_prompt: 1. })
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
    /// Checks that the dataset has at least `min_rows` rows. Files are read for it only if they do not
    /// store their number of rows.
    fn enough(&self, place: DatasetPlace<'_>) -> Result<()> {
        if self.min_rows == 0 {
            return Ok(());
        }
        let said = OpenDataset::rows(place.path, self.schema, &self.rename)?;
        let mut rows = said.unwrap_or(0);
        if said.is_none() {
            for batch in OpenDataset::open(place, self.schema, &self.rename)?.batches(1024, false) {
                rows += batch?.num_rows() as u64;
                if rows >= self.min_rows as u64 {
                    break;
                }
            }
        }
        if rows >= self.min_rows as u64 {
            return Ok(());
        }
        Err(Error::user(format!(
            "{} has {}, but `min_rows` asks for {}",
            place.path.display(),
            counted(rows, "row"),
            self.min_rows
        ))
        .help("name the data that the file is meant for as `dataset`, or lower `min_rows`"))
    }
}

impl Source for Read {
    fn open(&self, cx: &Context<'_>) -> Result<Batches> {
        let place = DatasetPlace { path: self.dataset.open(cx.run())?, operators: &cx.shared.plan.operators };
        self.enough(place)?;
        let size = cx.shared.plan.microbatch;
        // Steps that compare the answers to a prompt need them in one microbatch.
        let has = |name: &str| self.schema.columns.iter().any(|c| c.name == name);
        if has("prompt_id") && has("response_id") {
            return Ok(Box::new(self.grouped(place, size)?.map(|rows| rows.map(Output::from))));
        }
        let rows = Whole::new(self.rows(place, size, true)?, self.limit, |_, most| Ok(most));
        Ok(Box::new(rows.map(|rows| rows.map(Output::from))))
    }
}

/// Batches of a dataset, in order.
type RowBatches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

impl Read {
    /// Iterates over all rows, `size` at a time.
    fn rows(&self, place: DatasetPlace<'_>, size: usize, tell: bool) -> Result<RowBatches> {
        Ok(OpenDataset::open(place, self.schema, &self.rename)?.batches(size, tell))
    }

    /// Reads the rows up to `limit` in batches of about `size`, with the rows of each prompt together. Most
    /// datasets store them together and are read as they are; otherwise all rows are first read into
    /// memory. With a limit only rows up to it are considered: if a prompt continues after it, those rows
    /// are not read.
    fn grouped(&self, place: DatasetPlace<'_>, size: usize) -> Result<RowBatches> {
        let whole = |rows: RowBatches| {
            Whole::new(Cut::new(rows, size, Dataset::BATCH_BYTES, between_prompts), self.limit, prompts_within)
        };
        let Some(torn) = torn_prompt(whole(self.rows(place, size, false)?))? else {
            return Ok(Box::new(whole(self.rows(place, size, true)?)));
        };
        let batches: Vec<RecordBatch> = self.rows(place, size, true)?.collect::<Result<_>>()?;
        let Some(first) = batches.first() else { return self.rows(place, size, false) };
        let all = concat_batches(&first.schema(), &batches)?;
        tracing::warn!(
            "{}: the rows of prompt `{torn}` do not stand together; all {} rows are read into memory, to bring those of each \
             prompt together. A dataset sorted by prompt_id needs no such memory",
            place.path.display(),
            all.num_rows()
        );
        let grouped = by_prompt(&all)?;
        let batches = (0..grouped.num_rows()).step_by(size).map(move |at| {
            let rows = size.min(grouped.num_rows() - at);
            Ok(grouped.slice(at, rows))
        });
        Ok(Box::new(whole(Box::new(batches))))
    }
}
