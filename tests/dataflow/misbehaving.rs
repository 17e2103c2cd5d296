//! The dataflow with operators that panic, count and dawdle.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use reflux::cancel::CancelFlag;
use reflux::data::{Columns, Epoch, List, Schema, named};
use reflux::dataflow::{
    self, Context, IterationSource, IterationState, Ledger, Map, NullObserver, Operator, Output, RuntimeEnv, Shared,
    Stage, Train, WorkerTransport,
};
use reflux::error::{Error, ErrorKind as Fault, Result};
use reflux::pipeline::{self, NeedsModel, OperatorDef, Port, Shape, StepSpec};
use reflux::store::Run;

/// The counters are shared, so the tests take turns.
static TURN: Mutex<()> = Mutex::new(());
static OPEN: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn prompts(text: &str) -> Result<RecordBatch> {
    let column = |s: &str| -> ArrayRef { Arc::new(StringArray::from(vec![s])) };
    let none: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
    named::PROMPTS.batch(vec![
        column(text),
        column(text),
        column("test"),
        List::of_texts(&[Vec::<String>::new()]),
        none,
    ])
}

/// Every row as it is.
fn passed_on(input: &RecordBatch) -> Result<Output> {
    let mut ledger = Ledger::new(input);
    ledger.all_kept();
    ledger.close(input.clone())
}

macro_rules! configured {
    ($name:ident, $schema:expr) => {
        impl StepSpec for $name {
            fn explain(&self) -> String {
                stringify!($name).into()
            }
            fn output(&self, _: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
                Ok($schema)
            }
        }
    };
}

/// Writes one row a microbatch, and counts how many are open.
struct Writer;
configured!(Writer, &named::PROMPTS);
impl Operator for Writer {
    fn stage(&self) -> Stage<'_> {
        Stage::IterationSource(self)
    }
}
impl IterationSource for Writer {
    fn per_iteration(&self) -> usize {
        12
    }
    fn start(&self, _: &Context<'_>) -> Result<Box<dyn IterationState>> {
        Ok(Box::new(Writer))
    }
}
impl IterationState for Writer {
    fn next(&mut self, cx: &Context<'_>, _: usize) -> Result<Output> {
        MOST.fetch_max(OPEN.fetch_add(1, SeqCst) + 1, SeqCst);
        Ok(prompts(&format!("{}.{}", cx.epoch.iteration, cx.epoch.microbatch))?.into())
    }
    fn restore(&mut self, _: Epoch, _: &RecordBatch) -> Result<()> {
        Ok(())
    }
}

/// Takes its time, later microbatches less of it, so that they finish out of order.
struct Slow;
configured!(Slow, &named::PROMPTS);
impl Operator for Slow {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}
impl Map for Slow {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let text = Columns(input).text("prompt")?.value(0).to_string();
        assert_eq!(text, format!("{}.{}", cx.epoch.iteration, cx.epoch.microbatch));
        std::thread::sleep(Duration::from_millis(if cx.epoch.microbatch.is_multiple_of(2) { 12 } else { 2 }));
        OPEN.fetch_sub(1, SeqCst);
        passed_on(input)
    }
}

/// Panics at one microbatch.
struct Panics;
configured!(Panics, &named::PROMPTS);
impl Operator for Panics {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}
impl Map for Panics {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        assert!(cx.epoch != Epoch::new(1, 3), "boom");
        passed_on(input)
    }
}

/// Loses the row of one microbatch.
struct Loses;
configured!(Loses, &named::PROMPTS);
impl Operator for Loses {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}
impl Map for Loses {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        if cx.epoch == Epoch::new(1, 3) { Ok(input.slice(0, 0).into()) } else { passed_on(input) }
    }
}

/// Checks that its iteration is complete, and makes no model.
struct Barrier;
configured!(Barrier, &named::MODELS);
impl Operator for Barrier {
    fn stage(&self) -> Stage<'_> {
        Stage::Train(self)
    }
}
impl Train for Barrier {
    fn train(&self, cx: &Context<'_>, name: &str) -> Result<Output> {
        let rows = cx.whole(&cx.step.inputs[0].step)?;
        let texts: Vec<String> = Columns(&rows).text("prompt")?.iter().flatten().map(String::from).collect();
        let expected: Vec<String> = (0..12).map(|m| format!("{}.{m}", cx.epoch.iteration)).collect();
        if texts != expected {
            return Err(Error::bug(format!("the iteration has {texts:?}")));
        }
        cx.run().commit_model(name, &cx.step.name, cx.epoch.iteration, |dir| {
            std::fs::write(dir.join("weights"), name)?;
            Ok(name.into())
        })?;
        cx.announce(name)
    }
}

macro_rules! kind {
    ($id:ident, $name:literal, $shape:expr, $model:expr, $inputs:expr, $op:expr) => {
        static $id: OperatorDef<dyn Operator> = OperatorDef {
            name: $name,
            about: "for tests",
            shape: $shape,
            model: $model,
            min_inputs: $inputs,
            max_inputs: $inputs,
            example: "",
            parse: |_| Box::new($op),
        };
    };
}
kind!(WRITER, "writer", Shape::IterationSource, NeedsModel::Yes, 0, Writer);
kind!(SLOW, "slow", Shape::Map, NeedsModel::No, 1, Slow);
kind!(PANICS, "panics", Shape::Map, NeedsModel::No, 1, Panics);
kind!(LOSES, "loses", Shape::Map, NeedsModel::No, 1, Loses);
kind!(BARRIER, "barrier", Shape::Train, NeedsModel::Yes, 1, Barrier);

fn run(dir: &std::path::Path, map: &str, window: usize, workers: usize, transport: WorkerTransport) -> Result<()> {
    let text = format!(
        "[pipeline]\nname = \"t\"\niterations = 3\nmicrobatch = 1\nwindow = {window}\n\
         [model.m]\ninit = \"pipelines/listworld/model\"\n[loop]\npolicy = \"m\"\nnext = \"train\"\n\
         [step.write]\nop = \"writer\"\nmodel = \"policy\"\n[step.map]\nop = \"{map}\"\nfrom = \"write\"\n\
         [step.train]\nop = \"barrier\"\nfrom = \"map\"\nmodel = \"policy\"\n"
    );
    let kinds = [&WRITER, &SLOW, &PANICS, &LOSES, &BARRIER];
    let plan =
        Arc::new(pipeline::parse_str("t.toml", &text, &[], &kinds).unwrap_or_else(|d| panic!("{}", d.render(false))));
    let (run, _) = Run::create_or_open(dir, &plan.resolved, plan.seed, false)?;
    let env = RuntimeEnv::new(());
    let shared =
        Shared { plan, run: Arc::new(run), env, observer: Arc::new(NullObserver), stop: CancelFlag::default() };
    dataflow::run(shared, workers, transport)
}

#[test]
fn the_window_bounds_what_is_open_and_the_barrier_waits_for_all() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let temp = tempfile::tempdir().unwrap();
    for (window, workers, transport) in [
        (1, 1, WorkerTransport::Typed),
        (3, 2, WorkerTransport::Typed),
        (3, 2, WorkerTransport::Serialised),
        (50, 1, WorkerTransport::Typed),
    ] {
        OPEN.store(0, SeqCst);
        MOST.store(0, SeqCst);
        let dir = temp.path().join(format!("{window}-{workers}-{transport:?}"));
        run(&dir, "slow", window, workers, transport).unwrap();
        let most = MOST.load(SeqCst);
        assert!(most <= window, "{most} microbatches were open, the window is {window}");
        assert!(most >= window.min(3), "only {most} microbatches were ever open");
        let models: Vec<String> = Run::open(&dir).unwrap().models().into_iter().map(|m| m.name).collect();
        assert_eq!(models, ["M2", "M3", "M4"]);
    }
}

#[test]
fn a_panic_ends_the_run_on_all_workers_and_leaves_what_was_committed() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let temp = tempfile::tempdir().unwrap();
    for workers in [1, 2, 3] {
        let dir = temp.path().join(workers.to_string());
        let e = run(&dir, "panics", 2, workers, WorkerTransport::Typed).unwrap_err();
        assert_eq!(e.kind(), Fault::Bug);
        assert!(e.to_string().contains("`map` panicked") && e.to_string().contains("boom"), "{e}");
        let run = Run::open(&dir).unwrap();
        assert!(!run.finished());
        run.files("map").iter().for_each(|entry| run.verify(entry).unwrap());
        assert!(run.files("map").len() <= 5);
    }
}

/// An operator cannot drop a row without a row, an error or a count: the dataflow compares its account with what it was given.
#[test]
fn a_row_that_an_operator_loses_stops_the_run() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let temp = tempfile::tempdir().unwrap();
    let e = run(&temp.path().join("run"), "loses", 2, 1, WorkerTransport::Typed).unwrap_err();
    assert_eq!(e.kind(), Fault::Bug);
    assert!(e.to_string().contains("step `map` was given 1 rows and accounts for 0"), "{e}");
    let run = Run::open(&temp.path().join("run")).unwrap();
    assert!(run.committed("map", Epoch::new(1, 2)).is_some() && run.committed("map", Epoch::new(1, 3)).is_none());
}
