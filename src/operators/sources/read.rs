//! `read`: reads a stored dataset, written by reflux or by others; or a revision, whose pairs are made as
//! they are read.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use arrow::compute::{concat_batches, take_record_batch};

use crate::data::{Id, SCHEMAS, counted, did_you_mean, unread_key};
use crate::dataflow::{Batches, Revised, Source};
use crate::operators::shared::prelude::*;
use crate::pipeline::External;
use crate::store::{Dataset, InputForm, guess, row_bytes};

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
            "name of its schema (`reflux schema` lists them); guessed from its columns if absent",
        );
        let rename = f.mapping("rename", "our name of a column = the name it has in the files");
        let limit = f
            .optional_int(
                "limit",
                "reads at most this many rows; of the answers to a prompt that stand together all or none",
                1..=i64::MAX,
            )
            .map(|n| n as usize);
        let about =
            "fewest rows; a run stops where there are fewer, so that it is not of other data than the file means";
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
        let schema = schema.unwrap_or_else(|e| {
            f.problem(
                if named.is_some() { "schema" } else { "dataset" },
                e.to_string(),
                e.help_text().unwrap_or_default(),
            );
            &named::IFT
        });
        let mut stored = None;
        if place.exists() {
            match Data::rows(&place, schema, &rename) {
                Ok(rows) => stored = rows,
                Err(e) => f.problem("dataset", e.to_string(), e.help_text().unwrap_or_default()),
            }
        }
        Box::new(Read { dataset, schema, rename, limit, min_rows, stored })
    },
};

/// A dataset on disk, with the operators that may appear in the pipeline file of a revision's run.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a Path,
    operators: &'a [&'static OperatorDef<dyn Operator>],
}

/// An open dataset.
enum Data {
    Files(Dataset),
    Revised(Box<Revised>),
}

impl Data {
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
    fn open(place: Place<'_>, schema: &'static Schema, rename: &[(String, String)]) -> Result<Self> {
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
    batches: crate::store::Batches,
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
    fn enough(&self, place: Place<'_>) -> Result<()> {
        if self.min_rows == 0 {
            return Ok(());
        }
        let said = Data::rows(place.path, self.schema, &self.rename)?;
        let mut rows = said.unwrap_or(0);
        if said.is_none() {
            for batch in Data::open(place, self.schema, &self.rename)?.batches(1024, false) {
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
        let place = Place { path: self.dataset.open(cx.run())?, operators: &cx.shared.plan.operators };
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
type Rows = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

impl Read {
    /// Iterates over all rows, `size` at a time.
    fn rows(&self, place: Place<'_>, size: usize, tell: bool) -> Result<Rows> {
        Ok(Data::open(place, self.schema, &self.rename)?.batches(size, tell))
    }

    /// Reads the rows up to `limit` in batches of about `size`, with the rows of each prompt together. Most
    /// datasets store them together and are read as they are; otherwise all rows are first read into
    /// memory. With a limit only rows up to it are considered: if a prompt continues after it, those rows
    /// are not read.
    fn grouped(&self, place: Place<'_>, size: usize) -> Result<Rows> {
        let whole = |rows: Rows| {
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

/// Returns how many of the first rows of a batch fit into a number of rows.
type Within = fn(&RecordBatch, usize) -> Result<usize>;

/// Batches up to a limit of rows.
struct Whole<I> {
    batches: I,
    /// Remaining rows up to the limit; `None` without a limit.
    left: Option<usize>,
    within: Within,
    /// Whether any row was read.
    taken: bool,
}

impl<I: Iterator<Item = Result<RecordBatch>>> Whole<I> {
    fn new(batches: I, limit: Option<usize>, within: Within) -> Self {
        Self { batches, left: limit, within, taken: false }
    }

    fn take(&mut self, rows: RecordBatch) -> Result<Option<RecordBatch>> {
        let Some(left) = self.left else { return Ok(Some(rows)) };
        let count = if rows.num_rows() <= left { rows.num_rows() } else { (self.within)(&rows, left)? };
        // A prompt that does not fit ends the reading, even if a later one would fit.
        self.left = Some(if count < rows.num_rows() { 0 } else { left - count });
        self.taken |= count > 0;
        if count == 0 && !self.taken {
            return Err(Error::user(format!("the first prompt has more than the {left} rows that `limit` allows"))
                .help("raise `limit`: the answers to a prompt are read together, or not at all"));
        }
        Ok((count > 0).then(|| rows.slice(0, count)))
    }
}

impl<I: Iterator<Item = Result<RecordBatch>>> Iterator for Whole<I> {
    type Item = Result<RecordBatch>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == Some(0) {
            return None;
        }
        match self.batches.next()? {
            Ok(rows) => self.take(rows).transpose(),
            Err(error) => Some(Err(error)),
        }
    }
}

/// Returns the number of rows of the first prompts that together have at most `most` rows. The batch has
/// more rows than that.
fn prompts_within(rows: &RecordBatch, most: usize) -> Result<usize> {
    let ids = Columns(rows).text("prompt_id")?;
    let begins = |i: &usize| *i == 0 || ids.value(*i) != ids.value(*i - 1);
    Ok((0..=most).rev().find(begins).unwrap_or(0))
}

/// Finds the first prompt whose rows are not contiguous.
fn torn_prompt(batches: impl Iterator<Item = Result<RecordBatch>>) -> Result<Option<String>> {
    let (mut seen, mut last) = (HashSet::new(), None);
    for batch in batches {
        let batch = batch?;
        for id in Columns(&batch).text("prompt_id")?.iter().flatten() {
            let hash = Id::from_parts([id]);
            if last == Some(hash) {
                continue;
            }
            if !seen.insert(hash) {
                return Ok(Some(id.to_owned()));
            }
            last = Some(hash);
        }
    }
    Ok(None)
}

/// Groups the rows by prompt: prompts in the order of their first rows, and the rows of each in their
/// order.
fn by_prompt(rows: &RecordBatch) -> Result<RecordBatch> {
    let ids = Columns(rows).text("prompt_id")?;
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for (row, id) in (0..).zip(ids) {
        let place = *places.entry(id.unwrap_or_default()).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Vec::new());
        }
        groups[place].push(row);
    }
    Ok(take_record_batch(rows, &UInt32Array::from(groups.concat()))?)
}

/// Returns where to cut a batch to a number of rows; `None` if it depends on later rows.
type CutAt = fn(&RecordBatch, usize) -> Result<Option<usize>>;

/// Batches of about `size` rows each, and fewer if they exceed `budget` bytes.
struct Cut<I> {
    batches: I,
    /// Rows not yet returned; `None` at the end.
    rest: Option<RecordBatch>,
    size: usize,
    budget: u64,
    at: CutAt,
}

/// Returns the start of the last prompt that begins within `size` rows. A prompt with more rows is not cut;
/// its microbatch grows.
fn between_prompts(rows: &RecordBatch, size: usize) -> Result<Option<usize>> {
    let ids = Columns(rows).text("prompt_id")?;
    let begins = |i: &usize| ids.value(*i) != ids.value(*i - 1);
    Ok((1..=size).rev().find(begins).or_else(|| (size + 1..ids.len()).find(begins)))
}

impl<I: Iterator<Item = Result<RecordBatch>>> Cut<I> {
    fn new(batches: I, size: usize, budget: u64, at: CutAt) -> Self {
        Self { batches, rest: None, size, budget, at }
    }

    /// Reads until more than `rows` rows or `bytes` bytes are in memory. Returns whether more rows may
    /// follow, and whether the byte limit was reached.
    fn fill(&mut self, rows: usize, bytes: u64) -> Result<(bool, bool)> {
        let mut parts: Vec<RecordBatch> = self.rest.take().into_iter().collect();
        let mut held: usize = parts.iter().map(RecordBatch::num_rows).sum();
        let mut size: u64 = parts.iter().map(row_bytes).sum();
        let mut more = true;
        while held <= rows && size < bytes {
            let Some(next) = self.batches.next().transpose()? else {
                more = false;
                break;
            };
            held += next.num_rows();
            size = size.saturating_add(row_bytes(&next));
            parts.push(next);
        }
        self.rest = match &parts[..] {
            [] => None,
            [one] => Some(one.clone()),
            [first, ..] => Some(concat_batches(&first.schema(), &parts).map_err(|e| {
                Error::user(format!("the rows of one prompt have more text than a microbatch can hold: {e}"))
                    .help("leave out answers, or shorten them: those of a prompt are compared in one microbatch")
            })?),
        };
        Ok((more, size >= bytes))
    }

    fn cut(&mut self) -> Result<Option<RecordBatch>> {
        let (mut rows, mut bytes) = (self.size, self.budget);
        loop {
            let (more, full) = self.fill(rows, bytes)?;
            let Some(rest) = self.rest.take().filter(|rest| rest.num_rows() > 0) else { return Ok(None) };
            let most = self.size.min(rest.num_rows() - 1);
            let large = rest.num_rows() > self.size || full;
            let at = if large && most > 0 { (self.at)(&rest, most)? } else { None };
            if let Some(at) = at {
                self.rest = Some(rest.slice(at, rest.num_rows() - at));
                return Ok(Some(rest.slice(0, at)));
            }
            if !more {
                return Ok(Some(rest));
            }
            // The amount doubles each time, so a long prompt is not copied for each of its batches.
            (rows, bytes) = (2 * rest.num_rows(), row_bytes(&rest).saturating_mul(2));
            self.rest = Some(rest);
        }
    }
}

impl<I: Iterator<Item = Result<RecordBatch>>> Iterator for Cut<I> {
    type Item = Result<RecordBatch>;
    fn next(&mut self) -> Option<Self::Item> {
        self.cut().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_prompt_are_brought_together() {
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
            "prompt_id",
            arrow::datatypes::DataType::Utf8,
            false,
        )]));
        let batch = |ids: &str| {
            let ids: Vec<String> = ids.chars().map(String::from).collect();
            RecordBatch::try_new(schema.clone(), vec![Arc::new(StringArray::from(ids))]).unwrap()
        };
        let torn = |batches: &[&str]| {
            let batches: Vec<_> = batches.iter().map(|b| Ok(batch(b))).collect();
            torn_prompt(batches.into_iter()).unwrap()
        };
        assert_eq!(torn(&["aab", "bcc", "d"]), None);
        assert_eq!(torn(&["aab", "bca"]).as_deref(), Some("a"));
        let grouped = by_prompt(&batch("abacb")).unwrap();
        let ids: String = Columns(&grouped).text("prompt_id").unwrap().iter().flatten().collect();
        assert_eq!(ids, "aabbc");
    }

    #[test]
    fn prompts_stay_whole() {
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
            "prompt_id",
            arrow::datatypes::DataType::Utf8,
            false,
        )]));
        let batch = |ids: &str| {
            let ids: Vec<String> = ids.chars().map(String::from).collect();
            Ok(RecordBatch::try_new(schema.clone(), vec![Arc::new(StringArray::from(ids))]).unwrap())
        };
        let within = |batches: &[&str], size, budget| -> Vec<String> {
            let batches: Vec<_> = batches.iter().map(|b| batch(b)).collect();
            let whole = Cut::new(batches.into_iter(), size, budget, between_prompts);
            whole.map(|b| Columns(&b.unwrap()).text("prompt_id").unwrap().iter().flatten().collect()).collect()
        };
        let cut = |batches: &[&str], size| within(batches, size, u64::MAX);
        assert_eq!(cut(&["aab", "bcc", "d"], 3), ["aa", "bb", "ccd"]);
        assert_eq!(cut(&["aaaaaaa", "b"], 3), ["aaaaaaa", "b"]);
        assert_eq!(cut(&["aaa", "aab", "cc"], 2), ["aaaaa", "b", "cc"]);
        assert_eq!(cut(&["aaa", "aaa"], 2), ["aaaaaa"]);
        assert_eq!(cut(&["abcdef"], 3), ["abc", "def"]);
        assert_eq!(cut(&["ab", "c"], 3), ["abc"]);
        assert_eq!(cut(&[], 3), [""; 0]);
        // A limit takes whole prompts, or says that it cannot.
        let limited = |batches: &[&str], limit| -> Result<String> {
            let batches: Vec<_> = batches.iter().map(|b| batch(b)).collect();
            let rows =
                Whole::new(Cut::new(batches.into_iter(), 3, u64::MAX, between_prompts), Some(limit), prompts_within);
            rows.map(|b| Ok(Columns(&b?).text("prompt_id")?.iter().flatten().collect::<String>())).collect()
        };
        for (limit, taken) in
            [(2, "aa"), (3, "aa"), (4, "aabb"), (5, "aabb"), (6, "aabb"), (7, "aabbccc"), (99, "aabbcccd")]
        {
            assert_eq!(limited(&["aab", "bcc", "cd"], limit).unwrap(), taken, "{limit}");
        }
        assert!(limited(&["aab"], 1).unwrap_err().to_string().contains("more than the 1 rows that `limit` allows"));
        // So many bytes as three rows of a batch each have.
        let three = 3 * row_bytes(&batch("a").unwrap());
        assert_eq!(within(&["a", "b", "c", "d", "e"], 9, three), ["ab", "cd", "e"]);
        assert_eq!(within(&["a", "b", "b", "c"], 9, three), ["a", "bbc"]);
        assert_eq!(within(&["a", "a", "a", "a", "a", "b"], 9, three), ["aaaaa", "b"]);
        assert_eq!(within(&["aaaaaaaaaaaa"], 3, three), ["aaaaaaaaaaaa"]);
    }
}
