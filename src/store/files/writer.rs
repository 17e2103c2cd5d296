//! A deterministic Parquet writer: fixed properties and no timestamps, so that the same rows give the same
//! bytes.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

use super::atomic::{AtomicFile, Written};
use crate::error::Result;

/// Writer name in every file. It is part of the bytes, so it changes only with the format.
pub(crate) const CREATED_BY: &str = "reflux version 1";
/// Rows per row group, which bounds the memory of a reader.
const ROW_GROUP: usize = 65_536;

/// Batches of fewer bytes are compressed with Snappy: zstd allocates a context of a few hundred kilobytes for
/// each column of a file, which costs more than a small microbatch itself.
const SMALL_BATCH: usize = 256 << 10;

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
    // The footer's copy of the Arrow schema would have metadata in hash-map order, which is not
    // deterministic. Our types do not need it.
    ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true)
}

/// A Parquet file that is being written. If it is dropped before [`ParquetFile::finish`], it leaves nothing
/// behind.
pub struct ParquetFile {
    writer: ArrowWriter<AtomicFile>,
    rows: u64,
}

impl ParquetFile {
    /// Starts the file `path` and creates its directory.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn create(path: &Path, schema: &SchemaRef) -> Result<Self> {
        Self::packed(AtomicFile::create(path)?, schema, Compression::ZSTD(ZstdLevel::default()))
    }

    /// As [`ParquetFile::create`], for an output that a user named. Removes unfinished outputs of dead
    /// processes from that directory.
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

    /// Starts a file with exactly these rows.
    pub(crate) fn from_batch(path: &Path, rows: &RecordBatch) -> Result<Self> {
        // The size of the values, not of the buffers: the codec must depend on the rows alone.
        let bytes = rows.columns().iter().map(|c| c.to_data().get_slice_memory_size()).sum::<Result<usize, _>>()?;
        // Tables with hashes compress badly.
        let small = bytes < SMALL_BATCH || rows.schema_ref().fields().iter().any(|f| is_hash(f));
        let codec = if small { Compression::SNAPPY } else { Compression::ZSTD(ZstdLevel::default()) };
        let mut file = Self::packed(AtomicFile::create(path)?, rows.schema_ref(), codec)?;
        file.write(rows)?;
        Ok(file)
    }

    /// Appends rows. The file's bytes depend on how the rows are split into calls, so split them the same way
    /// every time.
    ///
    /// # Errors
    /// The disk is full, or the batch has another schema.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        self.writer.write(rows).map_err(|e| self.writer.inner_mut().error(e))
    }

    /// Makes the rows durable under the temporary name. Nothing can be written afterwards.
    pub(crate) fn close(&mut self) -> Result<Written> {
        // `finish` empties the writer's buffer, so closing the underlying file loses nothing.
        self.writer.finish().map_err(|e| self.writer.inner_mut().error(e))?;
        Ok(Written { rows: self.rows, ..self.writer.inner_mut().close()? })
    }

    /// Renames the closed file to its final name.
    pub(crate) fn publish(mut self) -> Result<()> {
        self.writer.inner_mut().publish()
    }

    /// Closes the file and renames it to its final name.
    ///
    /// # Errors
    /// The disk is full; nothing is left behind.
    pub fn finish(mut self) -> Result<Written> {
        let written = self.close()?;
        self.publish()?;
        Ok(written)
    }
}

/// Writes one batch as a Parquet file, atomically and durably. The same rows give the same bytes.
///
/// # Errors
/// A full disk or a directory that cannot be written; nothing is left behind.
pub fn write_parquet(path: &Path, rows: &RecordBatch) -> Result<Written> {
    ParquetFile::from_batch(path, rows)?.finish()
}
