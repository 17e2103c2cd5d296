use super::*;
use parquet::file::metadata::{FileMetaData, ParquetMetaData};

/// Counts and offsets that no honest file has are refused before anything is allocated for them.
#[test]
fn absurd_counts_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let column = || std::sync::Arc::new(arrow::array::StringArray::from(vec!["a"; 100])) as _;
    let rows = crate::data::named::IFT.batch(vec![column(), column()]).unwrap();
    let size = crate::store::files::writer::write_parquet(&path, &rows).unwrap().bytes;
    let honest = ParquetReader::open(&path).unwrap().metadata.metadata().as_ref().clone();
    assert_eq!(plausible(&honest, size), Ok(()));
    // A file cut within its first column.
    assert!(plausible(&honest, 8).unwrap_err().contains("outside of the file"));
    let forged = |rows: i64, group_rows: i64, length: i64| {
        let old = honest.file_metadata();
        let file = FileMetaData::new(1, rows, None, None, old.schema_descr_ptr(), None);
        let mut group = honest.row_group(0).clone().into_builder().set_num_rows(group_rows);
        let columns = group.take_columns().into_iter();
        let columns = columns.map(|c| c.into_builder().set_total_compressed_size(length).build().unwrap()).collect();
        ParquetMetaData::new(file, vec![group.set_column_metadata(columns).build().unwrap()])
    };
    assert_eq!(plausible(&forged(100, 100, 20), size), Ok(()));
    assert!(plausible(&forged(i64::MAX, 100, 20), size).unwrap_err().contains("its row groups say 100"));
    assert!(plausible(&forged(i64::MAX, i64::MAX, 20), size).unwrap_err().contains("values for"));
    assert!(plausible(&forged(-1, -1, 20), size).unwrap_err().contains("-1 rows"));
    assert!(plausible(&forged(100, 100, i64::MAX), size).unwrap_err().contains("outside of the file"));
    assert!(plausible(&forged(100, 100, -5), size).unwrap_err().contains("outside of the file"));
}

/// The crate looks ahead to the next page of a list column, to see whether a list goes on.
#[test]
fn lists_of_several_pages_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let mut state = 1u32;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let lists: Vec<Vec<u32>> = (0..60_000).map(|i| (0..i % 17).map(|_| draw()).collect()).collect();
    let column = crate::data::List::of_tokens(&lists);
    let rows = RecordBatch::try_from_iter([("tokens", column)]).unwrap();
    crate::store::files::writer::write_parquet(&path, &rows).unwrap();
    let metadata = ParquetReader::open(&path).unwrap().metadata.metadata().as_ref().clone();
    // Pages have a megabyte at most.
    assert!(metadata.row_group(0).column(0).uncompressed_size() > 1_800_000);
    let again = read_parquet(&path).unwrap();
    assert_eq!(again.num_rows(), lists.len());
    let again = crate::data::Columns(&again).tokens("tokens").unwrap();
    assert!(lists.iter().enumerate().all(|(i, list)| again.row(i) == &list[..]));
}

/// However a file spells its texts, the same are found as its rows have; what is cut short is told.
#[test]
fn texts_are_found_in_pages() {
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::{WriterProperties, WriterVersion};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let texts: Vec<String> = (0..5000).map(|i| format!("{:0>1$}", i % 4000, i % 40)).collect();
    let wanted = |t: &[u8]| t.ends_with(b"77");
    let expected: std::collections::BTreeSet<&String> = texts.iter().filter(|t| wanted(t.as_bytes())).collect();
    assert!(expected.len() >= 40);
    let column = || std::sync::Arc::new(arrow::array::StringArray::from_iter_values(&texts)) as arrow::array::ArrayRef;
    for nullable in [false, true] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            // All in a dictionary, some, none; and in an encoding that is not read here.
            for (dictionary, delta) in [(1 << 20, false), (1 << 10, false), (0, false), (0, true)] {
                let properties = WriterProperties::builder()
                    .set_writer_version(version)
                    .set_dictionary_enabled(dictionary > 0)
                    .set_dictionary_page_size_limit(dictionary)
                    .set_max_row_group_row_count(Some(1500))
                    .set_data_page_row_count_limit(200)
                    .set_write_batch_size(100)
                    .set_compression(parquet::basic::Compression::SNAPPY);
                let encoding = if delta { Encoding::DELTA_BYTE_ARRAY } else { Encoding::PLAIN };
                let properties = properties.set_encoding(encoding).build();
                let rows =
                    RecordBatch::try_from_iter_with_nullable([("other", column(), true), ("t", column(), nullable)]);
                let rows = rows.unwrap();
                let file = File::create(&path).unwrap();
                let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
                writer.write(&rows).unwrap();
                writer.close().unwrap();
                let found = super::texts(&path, "t", &wanted).unwrap();
                assert_eq!(found.iter().collect::<std::collections::BTreeSet<_>>(), expected);
                let open = ParquetReader::open(&path).unwrap();
                assert_eq!(in_pages(&open, "t", &wanted).unwrap().is_some(), !nullable && !delta);
            }
        }
    }
    assert!(super::texts(&path, "u", &wanted).unwrap_err().to_string().contains("no column `u`"));
}
