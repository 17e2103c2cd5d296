//! What the fuzz targets `manifest` and `parquet` of fuzz/ do with an input, and what tests/corpus/store.rs does with the
//! inputs that are kept: a run or a table is read and looked at in every way, or refused with an error that the user can
//! act on.

use std::fs;
use std::io;

use reflux::error::{Error, ErrorKind};
use reflux::report::inspect::show::{RowFormat, Show};
use reflux::report::{Difference, RunContents, Trace, Verification};
use reflux::store::journal::manifest;
use reflux::store::{Dataset, OnBadRow, Repair, Run, Scan, guess, read_parquet};

/// A broken file is the user's to mend; a defect of ours, or an error of the machine, is a finding.
fn users(e: Error) {
    assert_eq!(e.kind(), ErrorKind::User, "{e}");
    assert!(!e.to_string().is_empty());
}

fn show(format: RowFormat, columns: Vec<String>) -> Show {
    let limit = Some(50);
    Show { iteration: None, conditions: Vec::new(), columns, limit, format, width: 60, follow: false }
}

/// A manifest with nothing beside it: what can be read is, and what cannot is repaired so that it can.
pub fn manifest(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path();
    let path = dir.join("manifest.jsonl");
    fs::write(&path, bytes).expect("a file in the temporary directory");
    let whole = manifest::read(&path).map_err(users);
    if let Ok(run) = Run::open(dir).map_err(users) {
        let contents = RunContents::of(&run);
        assert!(!contents.lines().is_empty() && contents.json().is_object());
        assert!(Difference::of(&run, &run, Default::default()).is_ok_and(|d| d.same()));
        // Its files are not there.
        drop(Trace::of(&run, None, "0").map_err(users));
        for step in run.steps() {
            assert!(whole.is_ok());
            if let Ok(mut scan) = Scan::open(&dir.join(&step)).map_err(users) {
                let _ = show(RowFormat::Json, Vec::new()).run(&mut scan, io::sink(), &|| false).map_err(users);
            }
        }
    }
    let weights = |_: &std::path::Path| Err(Error::user("no weights"));
    let Ok(verdict) = Verification::of(dir, None, &weights).map_err(users) else { return };
    assert!(!verdict.lines().is_empty() && verdict.json().is_object());
    let repair = Repair::begin(dir).expect("nobody else writes it");
    // Without a pipeline file a damaged first line stays what it is.
    if repair.apply(verdict.found(), verdict.goes(), verdict.seed()).map_err(users).is_ok() {
        drop(repair);
        manifest::read(&path).expect("a repaired manifest is read");
        let again = Verification::of(dir, None, &weights).expect("a repaired run is looked at");
        let left: Vec<_> = again.found().findings.iter().filter(|f| f.path != "pipeline.toml").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A Parquet file, read whole, as rows of the schema it fits best, and shown.
pub fn parquet(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("x.parquet");
    fs::write(&path, bytes).expect("a file in the temporary directory");
    drop(read_parquet(&path).map_err(users));
    if let Ok(schema) = guess(&path).map_err(users)
        && let Ok(dataset) = Dataset::open(&path, schema).map_err(users)
    {
        let mut batches = dataset.on_bad_row(OnBadRow::Collect).batches(100);
        let mut rows = 0;
        while let Some(batch) = batches.next() {
            rows += batch.map_or_else(|e| (users(e), 0).1, |b| b.num_rows());
            batches.take_bad_rows();
            // What is compressed may unpack to more than anybody has time for.
            if rows > 10_000 {
                break;
            }
        }
    }
    for format in
        [RowFormat::Table, RowFormat::Json, RowFormat::Csv { guard: false }, RowFormat::Arrow, RowFormat::Parquet]
    {
        if let Ok(mut scan) = Scan::open(&path).map_err(users) {
            let _ = show(format, Vec::new()).run(&mut scan, io::sink(), &|| false).map_err(users);
        }
    }
}
