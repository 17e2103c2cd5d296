//! Best-worst pairs of stored scores, and their revision: Parquet of ids and scores to Parquet of ids, as
//! `benches/peers/best_worst.py` does with DuckDB on the same file.
//!
//! `cargo bench --profile dev --bench select -- scores.parquet pairs.parquet`; the script makes the file. Rows of a prompt stand
//! together. The groups are held in differential by two workers; then 0.1% of the scores are corrected.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reflux::bench::peak_rss_mb;
use reflux::data::{Epoch, Id};
use reflux::dataflow::{Correction, Item, Kept, Key, Operator, Stage, revise};
use reflux::operators;
use reflux::pipeline::{self, Plan};
use reflux::store::ParquetFile;

type Failure = Box<dyn std::error::Error>;

const WORKERS: usize = 2;

fn main() -> Result<(), Failure> {
    let paths: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let [scores, pairs] = &paths[..] else {
        println!("select: give the scores and the pairs to write, see benches/peers/best_worst.py");
        return Ok(());
    };
    let text = "[pipeline]\nname = \"bench\"\n[step.scores]\nop = \"read\"\nschema = \"scores\"\ndataset = \"nowhere\"\n\
                [step.pairs]\nop = \"select\"\nfrom = \"scores\"\n";
    let plan: Arc<Plan<dyn Operator>> = Arc::new(pipeline::parse_str("bench.toml", text, &[], operators::ALL)?);

    let began = Instant::now();
    let shards: Vec<Vec<(Key, Item)>> = std::thread::scope(|s| {
        let read = |shard| {
            s.spawn({
                let plan = &plan;
                move || read(plan, Path::new(scores), shard).map_err(|e| e.to_string())
            })
        };
        let threads: Vec<_> = (0..WORKERS).map(read).collect();
        threads
            .into_iter()
            .map(|t| t.join().map_err(|_| "a thread panicked".to_owned())?)
            .collect::<Result<_, String>>()
    })?;
    let (rows, reading) = (shards.iter().map(Vec::len).sum::<usize>(), began.elapsed());
    // Every thousandth score is another one.
    let every = shards.iter().flatten().step_by(1000);
    let corrections: Vec<Correction> = every
        .map(|&(key, was)| Correction { key, was, is: Item { order: (was.order + 1700) % 5001, ..was } })
        .collect();
    let corrected = corrections.len();
    let revised = revise(&plan, "pairs", shards, corrections)?;
    let began = Instant::now();
    let written = write(Path::new(pairs), &revised.kept)?;
    let writing = began.elapsed();
    let full = reading + revised.full + writing;
    println!(
        "{rows} scores, {written} pairs: {:.2} s (read {:.2}, select {:.2}, write {:.2}); {corrected} corrected: {:.4} s, {:.2}% of it and \
         {:.2}% of the selecting; {} pairs withdrawn, {} added; peak memory {} MB",
        full.as_secs_f64(),
        reading.as_secs_f64(),
        revised.full.as_secs_f64(),
        writing.as_secs_f64(),
        revised.revision.as_secs_f64(),
        100. * revised.revision.as_secs_f64() / full.as_secs_f64(),
        100. * revised.revision.as_secs_f64() / revised.full.as_secs_f64(),
        revised.withdrawn.len(),
        revised.added.len(),
        peak_rss_mb(),
    );
    Ok(())
}

/// The items of every second row group.
fn read(plan: &Plan<dyn Operator>, path: &Path, shard: usize) -> Result<Vec<(Key, Item)>, Failure> {
    let step = plan.step("pairs").ok_or("no step")?;
    let Stage::Keyed(keyed) = step.op.stage() else { return Err("select is keyed".into()) };
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
    let groups = (shard..builder.metadata().num_row_groups()).step_by(WORKERS).collect();
    let columns = ProjectionMask::columns(builder.parquet_schema(), ["prompt_id", "response_id", "score"]);
    let mut items = Vec::new();
    for rows in builder.with_row_groups(groups).with_projection(columns).with_batch_size(8192).build()? {
        items.extend(keyed.items(Epoch::new(1, 0), &rows?)?);
    }
    Ok(items)
}

/// The pairs' ids and margins.
fn write(path: &Path, kept: &[(Key, Kept)]) -> Result<usize, Failure> {
    let mut file: Option<ParquetFile> = None;
    let mut written = 0;
    for part in kept.chunks(65_536) {
        let pairs = || {
            part.iter().filter_map(|((_, prompt), kept)| match kept {
                Kept::Pair { id, against, margin, .. } => Some((*prompt, *id, *against, *margin)),
                _ => None,
            })
        };
        let ids = |of: fn((u128, u128, u128, i64)) -> u128| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(pairs().map(|p| Id(of(p)).to_string())))
        };
        let margin: ArrayRef = Arc::new(Float32Array::from_iter_values(pairs().map(|p| p.3 as f32 / 1000.)));
        let columns = [
            ("prompt_id", ids(|p| p.0)),
            ("chosen_id", ids(|p| p.1)),
            ("rejected_id", ids(|p| p.2)),
            ("margin", margin),
        ];
        let rows = RecordBatch::try_from_iter(columns)?;
        written += rows.num_rows();
        let file = match &mut file {
            Some(file) => file,
            None => file.insert(ParquetFile::create(path, &rows.schema())?),
        };
        file.write(&rows)?;
    }
    if let Some(file) = file {
        file.finish()?;
    }
    Ok(written)
}
