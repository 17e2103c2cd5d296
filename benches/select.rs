//! Best-worst selection over stored scores, and its revision, as the program does both; `benches/peers/best_worst.py` does the
//! selection with DuckDB on the same files.
//!
//! `cargo bench --profile dev --bench select [-- DIR [ANSWERS [MICROBATCH]]]`: a run of ANSWERS scores, four to a prompt, in
//! microbatches of so many rows, is made in DIR (and stays there where one is given). Then, each in a process of its own with its
//! own peak memory: `reflux replay --from pairs`, that is every score read from the stored run and all pairs written again; and
//! `reflux revise` of a thousandth of the scores, once those of answers that stand together and once of answers everywhere.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float32Array, StringArray, UInt32Array};
use reflux::bench::peak_rss_mb;
use reflux::cancel::CancelFlag;
use reflux::data::{Columns, Id, List, RngKey, named};
use reflux::dataflow::{self, NullObserver, Operator, Replay, RuntimeEnv, Shared, WorkerTransport, revise_run};
use reflux::operators;
use reflux::pipeline::{self, Plan};
use reflux::store::{Corrections, ParquetFile, Run};

use rand_chacha::rand_core::Rng;

type Failure = Box<dyn std::error::Error>;

/// Rows written at a time.
const CHUNK: usize = 65_536;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let answers: usize = args.get(1).map_or(Ok(100_000), |a| a.parse())?;
    let microbatch: usize = args.get(2).map_or(Ok(16_384), |a| a.parse())?;
    let kept = args.first().map(std::path::PathBuf::from);
    let dir = kept.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("reflux-bench-{}", std::process::id())));
    if let Ok(phase) = std::env::var("REFLUX_BENCH_PHASE") {
        return work(&phase, &dir, answers, microbatch);
    }
    std::fs::create_dir_all(&dir)?;
    for phase in ["make", "run", "select", "together", "everywhere", "whole"] {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(&dir).arg(answers.to_string()).arg(microbatch.to_string()).env("REFLUX_BENCH_PHASE", phase);
        let status = command.status()?;
        if !status.success() {
            return Err(format!("the phase `{phase}` ended with {status}").into());
        }
    }
    if kept.is_none() {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

fn work(phase: &str, dir: &Path, answers: usize, microbatch: usize) -> Result<(), Failure> {
    let (scores, run) = (dir.join("scores.parquet"), dir.join("run"));
    let text = format!(
        "[pipeline]\nname = \"bench\"\nmicrobatch = {microbatch}\n[step.scores]\nop = \"read\"\nschema = \"scores\"\ndataset = {scores:?}\n\
         [step.pairs]\nop = \"select\"\nfrom = \"scores\"\n"
    );
    let parse = || -> Result<Arc<Plan<dyn Operator>>, Failure> {
        Ok(Arc::new(pipeline::parse_str("bench.toml", &text, &[], operators::ALL)?))
    };
    match phase {
        "make" if scores.exists() => {}
        "make" => make(&scores, answers)?,
        "run" if run.exists() => {}
        "run" => to_the_end(&parse()?, &run)?,
        "select" => {
            let again = dir.join("again");
            if again.exists() {
                std::fs::remove_dir_all(&again)?;
            }
            let began = Instant::now();
            let plan = parse()?;
            let source = Run::open(&run)?;
            let replay = Replay::new(&source, &plan, &plan, &["pairs".to_owned()])?;
            replay.begin(&again, &|_| Ok(String::new()))?;
            let taken = began.elapsed();
            to_the_end(&plan, &again)?;
            let all = began.elapsed();
            let pairs: u64 = Run::open(&again)?.files("pairs").iter().map(|f| f.rows).sum();
            println!(
                "selection of {answers} scores in microbatches of {microbatch}: {pairs} pairs in {:.2} s, of it {:.2} s to check and take over \
                 the scores; peak memory {} MB",
                all.as_secs_f64(),
                taken.as_secs_f64(),
                peak_rss_mb()
            );
        }
        _ => {
            let fix = dir.join(format!("{phase}.jsonl"));
            corrections(&fix, &run, answers, phase != "together")?;
            let into = dir.join("revised");
            if into.exists() {
                std::fs::remove_dir_all(&into)?;
            }
            let began = Instant::now();
            let plan = parse()?;
            let (all, run) = (Arc::new(Corrections::read(&fix)?), Arc::new(Run::open(&run)?));
            let done = revise_run(&plan, &run, "pairs", &all, &into, phase == "whole")?;
            println!(
                "revision of {} scores {phase}: {:.3} s; {} of {} microbatches, {} pairs withdrawn, {} added; peak memory {} MB",
                all.len(),
                began.elapsed().as_secs_f64(),
                done.touched,
                done.microbatches,
                done.withdrawn,
                done.added,
                peak_rss_mb()
            );
        }
    }
    Ok(())
}

fn to_the_end(plan: &Arc<Plan<dyn Operator>>, dir: &Path) -> Result<(), Failure> {
    let run = Arc::new(Run::create_or_open(dir, &plan.resolved, plan.seed, false)?.0);
    let shared = Shared {
        plan: Arc::clone(plan),
        run: Arc::clone(&run),
        env: RuntimeEnv::new(()),
        observer: Arc::new(NullObserver),
        stop: CancelFlag::default(),
    };
    dataflow::run(shared, 1, WorkerTransport::Typed)?;
    Ok(run.finish()?)
}

/// Scores as a judge of five points gives them in three judgements, of short answers.
fn make(path: &Path, answers: usize) -> Result<(), Failure> {
    let mut file = ParquetFile::create(path, &named::SCORES.arrow())?;
    for start in (0..answers).step_by(CHUNK) {
        let rows: Vec<usize> = (start..(start + CHUNK).min(answers)).collect();
        let mut rng = RngKey::new(1, "bench", 0, &start.to_string(), 0).rng();
        let mut draw = |n: u64| rng.next_u64() % n;
        let given: Vec<[u64; 3]> = rows.iter().map(|_| [draw(6), draw(6), draw(6)]).collect();
        let tokens: Vec<Vec<u32>> = rows.iter().map(|_| (0..8).map(|_| draw(49_152) as u32).collect()).collect();
        let logprobs: Vec<Vec<f32>> =
            rows.iter().map(|_| (0..8).map(|_| -(draw(1 << 20) as f32) / 1e5).collect()).collect();
        let text = |of: &dyn Fn(usize) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(|&i| of(i))))
        };
        let prompt = |i: usize| (i / 4).to_string();
        let judged = |g: &[u64; 3]| {
            g.iter().map(|s| (format!("Relevant.\nScore: {s}"), "score".to_owned(), Some(*s as f32))).collect()
        };
        file.write(&named::SCORES.batch(vec![
            text(&|i| Id::from_parts([prompt(i)]).to_string()),
            text(&|i| format!("Tell me something new about the number {}", i / 4)),
            text(&|i| Id::from_parts([prompt(i), i.to_string()]).to_string()),
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|i| *i as u32 % 4))),
            text(&|i| format!("It is the square of something near {} and odd", i % 1000)),
            text(&|_| "stop".into()),
            List::of_tokens(
                &rows.iter().map(|&i| (0..8).map(|k| (i / 4 % 1000 + k) as u32).collect()).collect::<Vec<_>>(),
            ),
            List::of_tokens(&tokens),
            List::of_floats(&logprobs),
            text(&|_| "9f2c51d0a7".into()),
            Arc::new(Float32Array::from_iter_values(given.iter().map(|g| g.iter().sum::<u64>() as f32 / 3.))),
            List::of_judgements(&given.iter().map(judged).collect::<Vec<_>>()),
            text(&|_| "9f2c51d0a7".into()),
        ])?)?;
    }
    file.finish()?;
    Ok(())
}

/// A thousandth of the scores, each another one: a stretch from the middle, or every thousandth.
fn corrections(path: &Path, run: &Path, answers: usize, everywhere: bool) -> Result<(), Failure> {
    use std::io::Write;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let run = Run::open(run)?;
    let (mut at, middle) = (0, answers / 2 / 4 * 4);
    for entry in run.files("scores") {
        let after = at + entry.rows as usize;
        let within =
            |at: usize| if everywhere { at % 1000 == 500 } else { (middle..middle + answers / 1000).contains(&at) };
        if (at..after).any(within) {
            let rows = run.load_entry(&entry)?;
            let (ids, scores) = (Columns(&rows).text("response_id")?, Columns(&rows).float("score")?);
            for i in (0..rows.num_rows()).filter(|i| within(at + i)) {
                let score = (scores.value(i) + 1.7) % 5.;
                writeln!(file, "{{\"response_id\": \"{}\", \"score\": {score}}}", ids.value(i))?;
            }
        }
        at = after;
    }
    Ok(file.flush()?)
}
