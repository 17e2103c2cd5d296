//! The frame around a job: its result is taken from the run directory if it is there, else computed and
//! committed, and reported to the observer either way. Downstream operators see rows only when they are on
//! disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use crossbeam_channel::Receiver;

use super::compute::{ComputeThread, JobResult, Task};
use super::decision_inputs::{DecisionInputs, candidates_of};
use super::groups;
use super::health;
use super::items::{GroupResult, Item, Key};
use super::join::{self, Joins};
use super::joined::Joined;
use super::ledger::{self, Output, RowError};
use super::operator::{Batches, Context, IterationState, ModelAt, Operator, Phase, Shared, Stage, model_name};
use super::progress::Event;
use crate::data::{Epoch, Rows, named};
use crate::error::{Error, Result};
use crate::pipeline::{Input, Step};
use crate::store::FileEntry;

/// What all jobs of one step need.
#[derive(Clone)]
pub(super) struct StepJobs {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) start: Instant,
    /// The join indices of the run.
    pub(super) joins: Arc<Joins>,
}

/// A microbatch to be made.
struct Microbatch {
    epoch: Epoch,
    model: Option<ModelAt>,
    /// Number of rows given to the operator, without joined rows. It must account for each of them.
    given: u64,
    joined: Option<Joined>,
}

impl Microbatch {
    /// A microbatch made from no rows.
    fn new(epoch: Epoch, model: Option<ModelAt>) -> Self {
        Self { epoch, model, given: 0, joined: None }
    }
    /// A microbatch made from these rows.
    fn from_rows(rows: &RecordBatch, epoch: Epoch, model: Option<ModelAt>) -> Self {
        Self { given: rows.num_rows() as u64, ..Self::new(epoch, model) }
    }
}

impl StepJobs {
    pub(super) fn step(&self) -> &Step<dyn Operator> {
        &self.shared.plan.steps[self.index]
    }

    /// `step `scores`, iteration 1, microbatch 2`.
    fn place(&self, epoch: Epoch) -> String {
        format!("step `{}`, iteration {}, microbatch {}", self.step().name, epoch.iteration, epoch.microbatch)
    }

    /// Returns the microbatch if an earlier process committed it. Its rows are not read, except by
    /// `restore` if it needs them, so that a run of many microbatches resumes at once. Readers of the rows
    /// check their hash.
    fn restored(
        &self,
        _: &ComputeThread,
        epoch: Epoch,
        restore: impl FnOnce(&FileEntry) -> Result<Rows>,
    ) -> Result<Option<Rows>> {
        let (shared, step) = (&*self.shared, self.step());
        let (began, watch) = (self.start.elapsed(), Instant::now());
        let Some(entry) = shared.run.committed(&step.name, epoch) else { return Ok(None) };
        shared.observer.event(&Event::Started { step: &step.name, epoch });
        // Rows that are gone stop the run here, and not at the reader that misses them.
        shared.run.check_present(&entry).map_err(|e| e.doing(self.place(epoch)))?;
        let restored = restore(&entry).map_err(|e| e.doing(self.place(epoch)))?;
        let errors = entry.errors.as_ref().map_or(0, |e| usize::try_from(e.rows).unwrap_or(usize::MAX));
        let (rows, bytes) = (usize::try_from(entry.rows).unwrap_or(usize::MAX), entry.bytes);
        let (step, busy) = (step.name.as_str(), watch.elapsed());
        shared.observer.event(&Event::Done { step, epoch, rows, errors, bytes, began, busy, restored: true });
        Ok(Some(restored))
    }

    /// Makes and commits a microbatch; `None` means that the input has ended.
    fn make(
        &self,
        _: &ComputeThread,
        microbatch: Microbatch,
        compute: impl FnOnce(&Context<'_>) -> Result<Option<Output>>,
    ) -> JobResult {
        let Microbatch { epoch, model, given, joined } = microbatch;
        let (shared, step) = (&*self.shared, self.step());
        let (began, watch) = (self.start.elapsed(), Instant::now());
        let place = || self.place(epoch);
        shared.observer.event(&Event::Started { step: &step.name, epoch });
        let mut lineage = self.lineage(epoch, model.as_ref());
        // Joined rows without a partner are input too: the operator must account for them.
        let given = given + joined.as_ref().map_or(0, |j| j.unmatched.num_rows() as u64);
        lineage.extend(joined.iter().flat_map(|j| j.files.iter().cloned()));
        let cx = Context { joined, ..Context::new(shared, step, epoch, model) };
        let Some(output) = compute(&cx).map_err(|e| e.doing(place()))? else {
            shared.observer.event(&Event::Ended { step: &step.name, epoch });
            return Ok(None);
        };
        // Checked before the commit: rows that are not accounted for must not become durable.
        let errors = error_rows(&step.name, epoch, &output.errors)?;
        ledger::check(&step.name, &output, given)?;
        let unused = output.unused.iter().map(|(reason, rows)| ((*reason).to_owned(), *rows)).collect();
        let entry = shared.run.commit_counted(&step.name, epoch, &output.rows, &errors, &lineage, unused);
        let entry = entry.map_err(|e| e.doing(place()))?;
        // Observers learn of rows only once a crash cannot take them back.
        shared.observer.event(&Event::Rows { step: &step.name, epoch, rows: &output.rows });
        let (rows, errors, bytes) = (output.rows.num_rows(), output.errors.len(), entry.bytes);
        let (step, busy) = (step.name.as_str(), watch.elapsed());
        shared.observer.event(&Event::Done { step, epoch, rows, errors, bytes, began, busy, restored: false });
        Ok(Some(Rows::Held(output.rows)))
    }

    /// Returns the hashes of what a microbatch is made from: its model, and the input files of the same
    /// time. Hashes of joined rows are added where they are known.
    fn lineage(&self, epoch: Epoch, model: Option<&ModelAt>) -> Vec<String> {
        let mut lineage = Vec::new();
        // The same model may be named by several keys; it is listed once.
        let others = self.step().models.iter().filter_map(|(_, m)| self.shared.model_at(m, model).ok());
        for model in model.cloned().into_iter().chain(others.filter(|other| Some(other) != model)) {
            lineage.push(match model {
                ModelAt::Made { hash, .. } => hash,
                ModelAt::Source(name) => name,
            });
        }
        for input in self.step().inputs.iter().filter(|i| !i.whole && !i.joined) {
            // An input of the loop has this time; one from before the loop has iteration 0.
            let at = [epoch, Epoch::new(0, epoch.microbatch)];
            let file = at.iter().find_map(|&e| self.shared.run.committed(&input.step, e));
            lineage.extend(file.map(|f| f.hash));
        }
        lineage
    }

    /// Makes the next microbatch of a source, which is opened on first use.
    pub(super) fn source(&self, epoch: Epoch, state: &Arc<Mutex<Option<(Batches, u32)>>>) -> Task {
        let (jobs, state) = (self.clone(), Arc::clone(state));
        Box::new(move |thread| {
            let compute = |cx: &Context<'_>| {
                // One source has one reader, so its batches are made one at a time and in order.
                let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
                if guard.is_none() {
                    let Stage::Source(source) = cx.step.op.stage() else { return Err(mismatch(cx)) };
                    *guard = Some((source.open(cx)?, 0));
                }
                let Some((batches, position)) = &mut *guard else { return Ok(None) };
                // Batches that an earlier run committed are skipped.
                while *position < epoch.microbatch {
                    *position += 1;
                    if batches.next().transpose()?.is_none() {
                        return Ok(None);
                    }
                }
                *position += 1;
                batches.next().transpose()
            };
            match jobs.restored(thread, epoch, |_| Ok(Rows::OnDisk))? {
                None => jobs.make(thread, Microbatch::new(epoch, None), compute),
                restored => Ok(restored),
            }
        })
    }

    /// Brings a microbatch of a dataset made before the loop into an iteration, at the time `at`; `None`
    /// past its end. Only its place is brought if there is no `reader` (index of a step), because the step
    /// reads the rows itself, or if the reader has committed its result.
    pub(super) fn enter(&self, at: Epoch, reader: Option<usize>) -> Task {
        let jobs = self.clone();
        Box::new(move |_| {
            let (run, step, epoch) = (&jobs.shared.run, jobs.step(), Epoch::new(0, at.microbatch));
            let reader = reader.map(|index| &jobs.shared.plan.steps[index].name);
            match reader.filter(|reader| run.committed(reader, at).is_none()) {
                // The reader will need the rows, so they are read on this thread and not on a worker.
                Some(_) => Ok(run.load(&step.name, epoch)?.map(Rows::Held)),
                None => Ok(run.committed(&step.name, epoch).map(|_| Rows::OnDisk)),
            }
        })
    }

    /// Makes the next microbatch of an iteration source.
    pub(super) fn iteration_source(
        &self,
        epoch: Epoch,
        rows: usize,
        model: Option<ModelAt>,
        state: &Arc<Mutex<Option<Box<dyn IterationState>>>>,
    ) -> Task {
        let (jobs, state) = (self.clone(), Arc::clone(state));
        Box::new(move |thread| {
            let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
            if guard.is_none() {
                let (shared, step) = (&*jobs.shared, jobs.step());
                let cx = Context::new(shared, step, epoch, model.clone());
                let Stage::IterationSource(iteration_source) = step.op.stage() else { return Err(mismatch(&cx)) };
                *guard = Some(iteration_source.start(&cx)?);
            }
            let Some(state) = &mut *guard else { return Err(Error::bug("an iteration source has no state")) };
            // The state after this microbatch depends on the rows made before.
            let restored = jobs.restored(thread, epoch, |entry| {
                state.restore(epoch, &jobs.shared.run.load_entry(entry)?).map(|()| Rows::OnDisk)
            })?;
            match restored {
                None => jobs.make(thread, Microbatch::new(epoch, model), |cx| state.next(cx, rows).map(Some)),
                restored => Ok(restored),
            }
        })
    }

    /// Makes a microbatch of a map, or of a keyed map with complete groups. Reads the rows if they are not
    /// in memory.
    pub(super) fn map(&self, epoch: Epoch, rows: Option<RecordBatch>, model: Option<ModelAt>) -> Task {
        let jobs = self.clone();
        Box::new(move |thread| {
            let input = || rows.clone().map_or_else(|| jobs.input_rows(epoch), Ok);
            // The rows are cloned only if they are needed again; a batch is a handful of pointers.
            let restored = jobs.restored(thread, epoch, |_| jobs.with_candidates(epoch, input))?;
            if restored.is_some() {
                return Ok(restored);
            }
            let rows = input()?;
            jobs.make(thread, Microbatch::from_rows(&rows, epoch, model), |cx| jobs.map_rows(cx, &rows).map(Some))
        })
    }

    /// Makes a microbatch of a join; `None` if a row has no partner yet and the inputs are not `complete`
    /// in the iteration.
    pub(super) fn join(&self, epoch: Epoch, model: Option<ModelAt>, complete: bool) -> Task {
        let jobs = self.clone();
        Box::new(move |thread| {
            let (shared, step) = (&*jobs.shared, jobs.step());
            let cx = Context::new(shared, step, epoch, model.clone());
            let restored = jobs.restored(thread, epoch, |_| jobs.with_candidates(epoch, || join::first_rows(&cx)))?;
            if restored.is_some() {
                return Ok(restored);
            }
            let join = step.op.join().ok_or_else(|| mismatch(&cx))?;
            // The caller submits the job again once both inputs are complete.
            let Some((rows, joined)) = jobs.joins.join(&cx, join, complete)? else { return Ok(None) };
            let microbatch = Microbatch { joined: Some(joined), ..Microbatch::from_rows(&rows, epoch, model) };
            jobs.make(thread, microbatch, |cx| jobs.map_rows(cx, &rows).map(Some))
        })
    }

    /// Returns the only microbatch of a barrier in an iteration. A collecting step must account for all its
    /// input rows. A training accounts for its rows in its reference and its metrics.
    fn barrier(&self, iteration: u32, model: Option<ModelAt>) -> Microbatch {
        let (run, step, epoch) = (&self.shared.run, self.step(), Epoch::new(iteration, 0));
        let cx = Context::new(&self.shared, step, epoch, None);
        let rows_of = |input: &Input| {
            let at = cx.iteration_of(&input.step);
            run.files(&input.step).iter().filter(|f| f.iteration == at).map(|f| f.rows).sum::<u64>()
        };
        // Only rows of `from` are accounted for; other inputs are looked up and may stay unused.
        let whole = matches!(step.op.stage(), Stage::Collect(_));
        let given = step.inputs.iter().filter(|i| whole && i.key == "from").map(rows_of).sum();
        Microbatch { given, ..Microbatch::new(epoch, model) }
    }

    /// Applies the map to a microbatch.
    fn map_rows(&self, cx: &Context<'_>, rows: &RecordBatch) -> Result<Output> {
        match cx.step.op.stage() {
            Stage::Map(map) => map.map(cx, rows),
            Stage::Keyed(keyed) => {
                let output = keyed.finish(cx, rows, &groups::reduce_local(keyed, cx, rows)?)?;
                // Committed before the rows, so that rows never exist without the inputs of their decision.
                self.candidates(cx.epoch, rows)?;
                Ok(output)
            }
            _ => Err(mismatch(cx)),
        }
    }

    /// Reads the rows of the first input's microbatch, which are on disk before anyone is notified of them.
    fn input_rows(&self, epoch: Epoch) -> Result<RecordBatch> {
        let input = self.step().inputs.iter().find(|i| !i.whole && !i.joined);
        let input = input.ok_or_else(|| Error::bug("a map has an input that streams"))?;
        let at = Context::new(&self.shared, self.step(), epoch, None).iteration_of(&input.step);
        let rows = self.shared.run.load(&input.step, Epoch::new(at, epoch.microbatch))?;
        rows.ok_or_else(|| Error::bug(format!("`{}`: microbatch {} is not there", input.step, epoch.microbatch)))
    }

    /// Commits the decision inputs of a microbatch, if the step stores them. A resumed run adds those that
    /// are missing.
    fn candidates(&self, epoch: Epoch, rows: &RecordBatch) -> Result<()> {
        let (step, run) = (self.step(), &self.shared.run);
        let Some(keeps) = keeps_candidates(step) else { return Ok(()) };
        let dataset = candidates_of(&step.name);
        if run.committed(&dataset, epoch).is_none() {
            let lineage = self.lineage(epoch, None);
            run.commit(&dataset, epoch, &keeps.candidates(rows)?, &named::ERRORS.empty(), &lineage)?;
        }
        Ok(())
    }

    /// Adds decision inputs that a restored microbatch lacks, because an earlier build or a repair left it
    /// without them.
    fn with_candidates(&self, epoch: Epoch, input: impl FnOnce() -> Result<RecordBatch>) -> Result<Rows> {
        let step = self.step();
        // Looked up first: reading the input again is the expensive part.
        let lacks = || self.shared.run.committed(&candidates_of(&step.name), epoch).is_none();
        if keeps_candidates(step).is_some() && lacks() {
            self.candidates(epoch, &input()?)?;
        }
        Ok(Rows::OnDisk)
    }

    /// Computes the keyed items of a microbatch for the reduce. Reads the rows if they are not in memory.
    pub(super) fn items(&self, epoch: Epoch, rows: Option<RecordBatch>) -> Task<Vec<(Key, Item)>> {
        let jobs = self.clone();
        Box::new(move |_| {
            let step = jobs.step();
            let rows = rows.map_or_else(|| jobs.input_rows(epoch), Ok)?;
            let Stage::Keyed(keyed) = step.op.stage() else {
                return Err(mismatch(&Context::new(&jobs.shared, step, epoch, None)));
            };
            keyed.items(epoch, &rows).map(Some).map_err(|e| e.doing(format!("step `{}`", step.name)))
        })
    }

    /// Makes a microbatch of a keyed map from the results of its groups. Reads the rows if they are not in
    /// memory.
    pub(super) fn finish(&self, epoch: Epoch, rows: Option<RecordBatch>, results: Vec<(Key, GroupResult)>) -> Task {
        let jobs = self.clone();
        Box::new(move |thread| {
            let restored = jobs.restored(thread, epoch, |_| Ok(Rows::OnDisk))?;
            if restored.is_some() {
                return Ok(restored);
            }
            let rows = rows.map_or_else(|| jobs.input_rows(epoch), Ok)?;
            jobs.make(thread, Microbatch::from_rows(&rows, epoch, None), |cx| match cx.step.op.stage() {
                Stage::Keyed(keyed) => keyed.finish(cx, &rows, &results).map(Some),
                _ => Err(mismatch(cx)),
            })
        })
    }

    /// Runs a barrier. `closed` notifies a streaming training of the microbatches of its first input, in
    /// order, as they close.
    pub(super) fn train(&self, iteration: u32, model: Option<ModelAt>, closed: Option<Closed>) -> Task {
        let jobs = self.clone();
        Box::new(move |thread| {
            let compute = |cx: &Context<'_>| {
                let name = model_name(&cx.shared.plan, &cx.step.name, iteration);
                match cx.step.op.stage() {
                    // If the model is committed but its announcement is not, the run was killed between the
                    // two.
                    Stage::Train(train) if cx.run().model(&name).is_some() => train.announce(cx, &name).map(Some),
                    Stage::Collect(whole) => whole.whole(cx).map(Some),
                    Stage::Train(train) => match &closed {
                        None => {
                            health::check(cx.shared, cx.step, iteration, Phase::Rows)?;
                            train.train(cx, &name).map(Some)
                        }
                        Some(closed) => {
                            let mut microbatches = (0..closed.planned).map(|_| closed.next(cx));
                            train.stream(cx, &name, closed.planned, &mut microbatches).map(Some)
                        }
                    },
                    _ => Err(mismatch(cx)),
                }
            };
            let (shared, step) = (&*jobs.shared, jobs.step());
            // A barrier makes few rows, and announcements are read in memory.
            let restored =
                jobs.restored(thread, Epoch::new(iteration, 0), |e| Ok(Rows::Held(shared.run.load_entry(e)?)))?;
            let rows = match restored {
                None => jobs.make(thread, jobs.barrier(iteration, model), compute)?,
                restored => restored,
            };
            // The model is committed, so nothing will resume from a checkpoint or a scratch folder.
            shared.run.remove_checkpoints(&step.name, iteration)?;
            shared.run.remove_scratch(&step.name, iteration)?;
            // Health is checked after the commit, and also if the result is restored: a run that was
            // stopped here is checked again when it resumes.
            for phase in closed.is_some().then_some(Phase::Rows).into_iter().chain([Phase::Training]) {
                health::check(shared, step, iteration, phase)?;
            }
            Ok(rows)
        })
    }
}

/// The closed microbatches of a training's first input.
pub(super) struct Closed {
    /// Number of microbatches that will close.
    pub(super) planned: u32,
    /// Numbers of the closed microbatches, in order.
    pub(super) numbers: Receiver<u32>,
}

impl Closed {
    /// Waits for the next microbatch and returns its rows. This runs on a compute thread and ends when the
    /// worker is gone.
    fn next(&self, cx: &Context<'_>) -> Result<RecordBatch> {
        // The sender is dropped when the run stops, which ends the wait.
        let microbatch = self.numbers.iter().next().ok_or_else(Error::cancelled)?;
        let input = &cx.step.inputs[0].step;
        let epoch = Epoch::new(cx.iteration_of(input), microbatch);
        let rows = cx.run().load(input, epoch)?;
        rows.ok_or_else(|| Error::bug(format!("`{input}`: microbatch {microbatch} has closed, but is not there")))
    }
}

/// Returns the decision inputs of a step that stores them.
fn keeps_candidates(step: &Step<dyn Operator>) -> Option<&dyn DecisionInputs> {
    let Stage::Keyed(keyed) = step.op.stage() else { return None };
    keyed.candidates()
}

fn mismatch(cx: &Context<'_>) -> Error {
    Error::bug(format!("operator `{}` is not driven as its kind says", cx.step.kind.name))
}

/// Makes rows of `errors` for the rows that a microbatch left out.
pub(super) fn error_rows(step: &str, epoch: Epoch, errors: &[RowError]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&RowError) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(errors.iter().map(of)))
    };
    let number = |n: u32| -> ArrayRef { Arc::new(UInt32Array::from(vec![n; errors.len()])) };
    named::ERRORS.batch(vec![
        text(&|_| step.into()),
        number(epoch.iteration),
        number(epoch.microbatch),
        text(&|e| e.row.clone()),
        text(&|e| e.kind.as_str().into()),
        text(&|e| e.code.clone()),
        text(&|e| e.message.clone()),
    ])
}
