//! A reader of Parquet files that may be damaged or hostile.
//!
//! Counts and offsets, which the `parquet` crate does not check, are compared with the file's size before
//! anything is decoded. Decoding runs under `catch_unwind`, because damaged pages can make the crate panic; a
//! panic becomes an error that names the file. Files are read in chunks of [`CHUNK`] rows, so memory is
//! bounded by a chunk and by the largest page that the format allows (2 GiB, and only if the file's
//! compressed bytes really unpack to it).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageReader};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedPageReader;

use super::footer::CheckedPages;
use super::io_error::io_error;
use super::open::open_regular;
use crate::error::{Error, Result};

/// Rows decoded at a time.
pub(crate) const CHUNK: usize = 1024;
/// Rows decoded at a time when the whole file is read.
const WHOLE: usize = 32_768;
/// Maximum nesting of a column.
const MAX_DEPTH: usize = 16;

/// Runs a decoder and turns a panic into an error. The caller discards the decoder after an error, so no
/// broken state is used again.
pub(crate) fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    let result = catch_unwind(AssertUnwindSafe(decode));
    result.unwrap_or_else(|_| Err(damaged(path, "its pages cannot be decoded")))
}

/// The error for a damaged file.
pub(crate) fn damaged(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::user(format!("`{}` is damaged or not a Parquet file: {why}", path.display()))
        .help("get the file again, or leave it out")
}

/// The error for a decoder's failure. If its cause is a system error (too many open files, a failing disk),
/// the file may be intact.
fn undecodable(path: &Path, e: &(dyn std::error::Error + 'static)) -> Error {
    let mut cause = Some(e);
    while let Some(e) = cause {
        if let Some(system) = e.downcast_ref::<std::io::Error>().filter(|e| e.raw_os_error().is_some()) {
            return io_error("reading", path, system);
        }
        cause = e.source();
    }
    // Arrow drops the source of such an error and keeps its text.
    let text = e.to_string();
    let number = text.rsplit_once("(os error ").and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
    match number {
        Some(number) => io_error("reading", path, &std::io::Error::from_raw_os_error(number)),
        None => damaged(path, e),
    }
}

/// An open Parquet file with a valid footer.
pub(crate) struct ParquetReader<R = File> {
    path: PathBuf,
    file: R,
    metadata: ArrowReaderMetadata,
}

impl ParquetReader {
    /// Opens a file and checks its footer.
    pub fn open(path: &Path) -> Result<Self> {
        Self::new(path, open_regular(path)?)
    }
}

impl<R: ChunkReader + 'static> ParquetReader<R> {
    /// Reads the footer of `file`, the file at `path` or its bytes.
    pub fn new(path: &Path, file: R) -> Result<Self> {
        guarded(path, || {
            let size = file.len();
            // The footer's copy of the Arrow schema is ignored: columns are cast to the expected types
            // anyway.
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let checked = super::footer::check(&file, size).map_err(|e| undecodable(path, &e))?;
            checked.map_err(|e| damaged(path, e))?;
            let metadata = ArrowReaderMetadata::load(&file, options).map_err(|e| undecodable(path, &e))?;
            readable_codecs(path, metadata.metadata())?;
            plausible(metadata.metadata(), size).map_err(|e| damaged(path, e))?;
            if metadata.schema().fields().iter().any(|f| depth(f.data_type()) > MAX_DEPTH) {
                return Err(damaged(path, format!("columns are nested more than {MAX_DEPTH} deep")));
            }
            Ok(Self { path: path.to_owned(), file, metadata })
        })
    }
    /// The file's columns.
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }
    /// Number of rows, according to the footer.
    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().unsigned_abs()
    }
    /// Number of rows with a value, by column. Columns without null counts in the footer get the number of
    /// all rows.
    pub fn values(&self) -> Vec<u64> {
        let fields = self.schema().fields();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (at, field) in fields.iter().enumerate() {
            places.entry(field.name()).or_insert(at);
        }
        let mut values = vec![0u64; fields.len()];
        for group in self.metadata.metadata().row_groups() {
            // By column: the number of leaves, the nulls of the first leaf, and whether it is in a list.
            let mut columns = vec![(0u32, 0u64, false); fields.len()];
            for leaf in group.columns() {
                let root = leaf.column_path().parts().first();
                let Some(&at) = root.and_then(|root| places.get(root.as_str())) else { continue };
                let (leaves, nulls, nested) = &mut columns[at];
                *leaves += 1;
                if *leaves == 1 {
                    *nulls = leaf.statistics().and_then(|statistics| statistics.null_count_opt()).unwrap_or(0);
                    *nested = leaf.column_descr().max_rep_level() > 0;
                }
            }
            let rows = group.num_rows().unsigned_abs();
            for (values, (leaves, nulls, nested)) in values.iter_mut().zip(columns) {
                *values += if nested || leaves != 1 { rows } else { rows.saturating_sub(nulls) };
            }
        }
        values
    }
    /// Reads the given columns (by position) in chunks, and checks the number of rows at the end.
    pub fn read(self, columns: &[usize]) -> Result<Chunks> {
        self.read_by(columns, CHUNK)
    }
    fn read_by(self, columns: &[usize], chunk: usize) -> Result<Chunks> {
        let promised = self.rows();
        let Self { path, file, metadata } = self;
        let chunk = rows_at_a_time(&metadata, columns, chunk).map_err(|why| damaged(&path, why))?;
        let reader = guarded(&path, || {
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(CheckedPages(file), metadata);
            let mask = ProjectionMask::roots(builder.parquet_schema(), columns.iter().copied());
            builder.with_projection(mask).with_batch_size(chunk).build().map_err(|e| undecodable(&path, &e))
        })?;
        Ok(Chunks { path, reader: Some(reader), promised, seen: 0 })
    }
}

fn depth(t: &DataType) -> usize {
    match t {
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
            1 + depth(f.data_type())
        }
        DataType::Struct(fields) => 1 + fields.iter().map(|f| depth(f.data_type())).max().unwrap_or(0),
        _ => 0,
    }
}

/// Refuses files with a codec that reflux does not read.
fn readable_codecs(path: &Path, metadata: &ParquetMetaData) -> Result<()> {
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        if matches!(column.compression(), Compression::LZO) {
            let name = column.column_path().string();
            return Err(Error::user(format!(
                "`{}`: the column `{name}` is compressed with LZO, which reflux does not read",
                path.display()
            ))
            .help("write the file again with another codec: none, snappy, gzip, brotli, lz4 or zstd"));
        }
    }
    Ok(())
}

/// Size of a batch's rows in bytes, without unused parts of shared buffers.
pub fn row_bytes(rows: &RecordBatch) -> u64 {
    let sizes = rows.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(usize::MAX));
    sizes.fold(0u64, |sum, size| sum.saturating_add(size as u64))
}

/// Target size of a decoded chunk in bytes, estimated from the footer.
const CHUNK_BYTES: u64 = 256 << 20;
/// Size in bytes to which a list column may always unpack.
const MAX_UNPACKED: u64 = 512 << 20;
/// Maximum expansion of a larger list column, relative to its compressed size.
const MAX_EXPANSION: u64 = 5000;

/// Number of rows of the given columns (by position) to decode at a time: `most`, or fewer if rows are large.
///
/// A list of 200 million zeros takes a kilobyte in the file. Only lists can expand like this: the values of
/// other columns are limited by the rows decoded at a time.
fn rows_at_a_time(
    metadata: &ArrowReaderMetadata,
    columns: &[usize],
    most: usize,
) -> std::result::Result<usize, String> {
    let schema = metadata.schema();
    let names: HashSet<&str> = columns.iter().map(|at| schema.field(*at).name().as_str()).collect();
    let mut rows = most as u64;
    for group in metadata.metadata().row_groups() {
        let mut group_bytes = 0u64;
        for leaf in group.columns() {
            let root = leaf.column_path().parts().first().map_or("", String::as_str);
            if !names.contains(root) {
                continue;
            }
            let values = leaf.num_values().unsigned_abs().saturating_mul(4);
            let text = leaf.unencoded_byte_array_data_bytes().unwrap_or(0).unsigned_abs();
            let bytes = values.saturating_add(text.max(leaf.uncompressed_size().unsigned_abs()));
            let packed = leaf.compressed_size().unsigned_abs().max(1);
            let lists = leaf.column_descr().max_rep_level() > 0;
            if lists && bytes > MAX_UNPACKED && bytes / packed > MAX_EXPANSION {
                let name = leaf.column_path().string();
                return Err(format!("its column `{name}` would unpack from {packed} bytes to {} MiB", bytes >> 20));
            }
            group_bytes = group_bytes.saturating_add(bytes);
        }
        let row = group_bytes / group.num_rows().unsigned_abs().max(1);
        rows = rows.min(CHUNK_BYTES / row.max(1));
    }
    Ok(rows.max(1) as usize)
}

/// Checks counts and offsets that the crate trusts.
fn plausible(metadata: &ParquetMetaData, size: u64) -> Result<(), String> {
    let mut rows = 0i64;
    for (g, group) in metadata.row_groups().iter().enumerate() {
        if group.num_rows() < 0 {
            return Err(format!("row group {g} has {} rows", group.num_rows()));
        }
        rows = rows.checked_add(group.num_rows()).ok_or("more rows than can be counted")?;
        for column in group.columns() {
            let name = column.column_path().string();
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let inside = start >= 0
                && column.compressed_size() >= 0
                && (start as u64).checked_add(column.compressed_size() as u64).is_some_and(|end| end <= size);
            if !inside {
                return Err(format!("column `{name}` of row group {g} lies outside of the file"));
            }
            if column.num_values() < 0 || column.uncompressed_size() < 0 {
                return Err(format!("column `{name}` of row group {g} has a negative size"));
            }
            if column.column_descr().max_rep_level() == 0 && column.num_values() != group.num_rows() {
                let (values, rows) = (column.num_values(), group.num_rows());
                return Err(format!("column `{name}` of row group {g} has {values} values for {rows} rows"));
            }
        }
    }
    let said = metadata.file_metadata().num_rows();
    if said == rows { Ok(()) } else { Err(format!("it says {said} rows, its row groups say {rows}")) }
}

/// The rows of a file in chunks, in order.
pub(crate) struct Chunks {
    path: PathBuf,
    /// `None` after the end or an error.
    reader: Option<ParquetRecordBatchReader>,
    promised: u64,
    seen: u64,
}

impl Chunks {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Iterator for Chunks {
    type Item = Result<RecordBatch>;
    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = self.reader.take()?;
        let path = &self.path;
        match guarded(path, || {
            let chunk = reader.next().transpose().map_err(|e| undecodable(path, &e))?;
            Ok((chunk, reader))
        }) {
            Ok((Some(chunk), reader)) => {
                self.seen += chunk.num_rows() as u64;
                if self.seen > self.promised {
                    return Some(Err(damaged(path, format!("it says {} rows and has more", self.promised))));
                }
                self.reader = Some(reader);
                Some(Ok(chunk))
            }
            Ok((None, _)) if self.seen != self.promised => {
                Some(Err(damaged(path, format!("it says {} rows and has {}", self.promised, self.seen))))
            }
            Ok((None, _)) => None,
            Err(e) => Some(Err(e)),
        }
    }
}

/// Reads all columns of a whole Parquet file that fits in memory, such as a microbatch.
///
/// # Errors
/// The file is missing or damaged.
pub fn read_parquet(path: &Path) -> Result<RecordBatch> {
    whole(ParquetReader::open(path)?)
}

/// As [`read_parquet`], from the bytes of the file at `path`.
pub(crate) fn parquet_rows(path: &Path, bytes: Vec<u8>) -> Result<RecordBatch> {
    whole(ParquetReader::new(path, Bytes::from(bytes))?)
}

fn whole<R: ChunkReader + 'static>(file: ParquetReader<R>) -> Result<RecordBatch> {
    let path = file.path.clone();
    let schema = file.schema().clone();
    let columns: Vec<usize> = (0..schema.fields().len()).collect();
    let rows = usize::try_from(file.rows()).unwrap_or(usize::MAX);
    let chunks: Vec<_> = file.read_by(&columns, rows.clamp(CHUNK, WHOLE))?.collect::<Result<_>>()?;
    guarded(&path, || match &chunks[..] {
        [one] => Ok(one.clone()),
        many => Ok(concat_batches(&schema, many)?),
    })
}

/// The values of a text column that are `wanted`, possibly more than once: a fast search for a few values
/// among many. Pages of required columns are searched without decoding rows.
///
/// # Errors
/// The file is missing or damaged, or lacks the text column.
pub(crate) fn texts(path: &Path, column: &str, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Vec<String>> {
    let file = ParquetReader::open(path)?;
    let Ok(at) = file.schema().index_of(column) else {
        return Err(damaged(path, format!("it has no column `{column}`")));
    };
    if let Some(found) = guarded(path, || in_pages(&file, column, wanted))? {
        return Ok(found);
    }
    let mut found = Vec::new();
    for rows in file.read(&[at])? {
        let rows = rows?;
        let texts = rows.column(0).as_string_opt::<i32>();
        let texts = texts.ok_or_else(|| damaged(path, format!("its column `{column}` is not text")))?;
        found.extend(texts.iter().flatten().filter(|t| wanted(t.as_bytes())).map(str::to_owned));
    }
    Ok(found)
}

/// Searches the encoded pages; `None` if they are neither plain nor dictionary-encoded text.
fn in_pages(file: &ParquetReader, column: &str, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Option<Vec<String>>> {
    let (path, metadata) = (&file.path, file.metadata.metadata());
    let leaves = metadata.file_metadata().schema_descr().columns();
    let Some(leaf) = leaves.iter().position(|c| c.path().parts() == [column]) else { return Ok(None) };
    let flat = leaves[leaf].max_def_level() == 0 && leaves[leaf].max_rep_level() == 0;
    if !flat || leaves[leaf].physical_type() != Type::BYTE_ARRAY {
        return Ok(None);
    }
    let mut found = Vec::new();
    let bytes = Arc::new(CheckedPages(file.file.try_clone()?));
    for group in metadata.row_groups() {
        let rows = group.num_rows().unsigned_abs() as usize;
        let mut pages = SerializedPageReader::new(Arc::clone(&bytes), group.column(leaf), rows, None)?;
        while let Some(page) = pages.get_next_page().map_err(|e| undecodable(path, &e))? {
            let dictionary = matches!(page, Page::DictionaryPage { .. });
            match page.encoding() {
                Encoding::PLAIN | Encoding::PLAIN_DICTIONARY if dictionary => {}
                Encoding::PLAIN => {}
                // These are indices into the dictionary, which was searched before.
                Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => continue,
                _ => return Ok(None),
            }
            let mut rest: &[u8] = page.buffer();
            for _ in 0..page.num_values() {
                let text = rest.split_first_chunk().and_then(|(length, after)| {
                    let text = after.get(..u32::from_le_bytes(*length) as usize)?;
                    rest = &after[text.len()..];
                    Some(text)
                });
                let text = text.ok_or_else(|| damaged(path, "a page is cut short"))?;
                if wanted(text) {
                    let text = std::str::from_utf8(text).map_err(|e| damaged(path, e))?;
                    found.push(text.to_owned());
                }
            }
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests;
