//! Parquet out: fixed properties and no timestamps, so that the same rows give the same bytes.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

use super::atomic::{AtomicFile, Written};
use crate::error::Result;

/// Named in every file; part of its bytes, so it only changes when the format does.
pub(crate) const CREATED_BY: &str = "reflux version 1";
/// Rows per row group: bounds the memory of whoever reads the file.
const ROW_GROUP: usize = 65_536;

/// Batches of fewer bytes are packed by Snappy: zstd sets up a context of a few hundred kilobytes for each column of a
/// file, which costs more than a small microbatch itself.
const SMALL: usize = 256 << 10;

fn is_hash(field: &Field) -> bool {
    matches!(field.data_type(), DataType::FixedSizeBinary(_))
}

fn options(schema: &Schema, compression: Compression) -> ArrowWriterOptions {
    let mut properties = WriterProperties::builder()
        .set_compression(compression)
        .set_created_by(CREATED_BY.to_owned())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_max_row_group_row_count(Some(ROW_GROUP));
    // Hashes do not compress.
    for field in schema.fields().iter().filter(|f| is_hash(f)) {
        properties = properties.set_column_compression(field.name().as_str().into(), Compression::UNCOMPRESSED);
    }
    // The Arrow schema's copy in the footer would carry hash-map ordered metadata; our types survive without it.
    ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true)
}

/// A Parquet file in the making; dropped before [`ParquetFile::finish`], it leaves nothing behind.
pub struct ParquetFile {
    writer: ArrowWriter<AtomicFile>,
    rows: u64,
}

impl ParquetFile {
    /// Starts the file that will be `path`; makes its directory.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn create(path: &Path, schema: &SchemaRef) -> Result<Self> {
        Self::packed(AtomicFile::create(path)?, schema, Compression::ZSTD(ZstdLevel::default()))
    }

    /// As [`ParquetFile::create`], of an output that a user named. What outputs of processes that died left in that directory is
    /// removed.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn create_output(path: &Path, schema: &SchemaRef) -> Result<Self> {
        Self::packed(AtomicFile::create_output(path)?, schema, Compression::ZSTD(ZstdLevel::default()))
    }

    fn packed(file: AtomicFile, schema: &SchemaRef, compression: Compression) -> Result<Self> {
        let options = options(schema, compression);
        let writer = ArrowWriter::try_new_with_options(file, schema.clone(), options)?;
        Ok(Self { writer, rows: 0 })
    }

    /// A file of just these rows, not finished yet.
    pub(crate) fn of(path: &Path, rows: &RecordBatch) -> Result<Self> {
        // What the rows hold, not what their buffers happen to have room for: the choice must be a function of the rows.
        let bytes = rows.columns().iter().map(|c| c.to_data().get_slice_memory_size()).sum::<Result<usize, _>>()?;
        // Where there are hashes there is little that compresses.
        let small = bytes < SMALL || rows.schema_ref().fields().iter().any(|f| is_hash(f));
        let codec = if small { Compression::SNAPPY } else { Compression::ZSTD(ZstdLevel::default()) };
        let mut file = Self::packed(AtomicFile::create(path)?, rows.schema_ref(), codec)?;
        file.write(rows)?;
        Ok(file)
    }

    /// Adds rows. The bytes depend on how the rows are cut into calls, so cut them the same way every time.
    ///
    /// # Errors
    /// A full disk; a batch of another schema.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        self.writer.write(rows).map_err(|e| self.writer.inner_mut().error(e))
    }

    /// Makes the rows durable under the temporary name; nothing may be written after it.
    pub(crate) fn close(&mut self) -> Result<Written> {
        // `finish` leaves nothing in the writer's own buffer, so going on with the file below it is sound.
        self.writer.finish().map_err(|e| self.writer.inner_mut().error(e))?;
        Ok(Written { rows: self.rows, ..self.writer.inner_mut().close()? })
    }

    /// Gives the closed file its name.
    pub(crate) fn publish(mut self) -> Result<()> {
        self.writer.inner_mut().publish()
    }

    /// Makes the file appear.
    ///
    /// # Errors
    /// A full disk; nothing is left behind.
    pub fn finish(mut self) -> Result<Written> {
        let written = self.close()?;
        self.publish()?;
        Ok(written)
    }
}

/// Writes one batch as a Parquet file, whole or not at all, durably. Same rows, same bytes.
///
/// # Errors
/// A full disk or a directory that cannot be written; nothing is left behind.
pub fn write_parquet(path: &Path, rows: &RecordBatch) -> Result<Written> {
    ParquetFile::of(path, rows)?.finish()
}
