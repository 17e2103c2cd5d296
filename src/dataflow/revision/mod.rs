//! A run's pairs under corrected scores.
//!
//! What a step went by is kept beside its pairs ([`DecisionInputs`]): the groups with a corrected answer are arranged again in
//! differential, each correction comes as a withdrawal and an addition, and what becomes of the pairs is known without reading
//! an answer. The pairs themselves are then made as they are read ([`Revised`]), or written.

mod again;
mod changes;
mod lineage;
mod quick;
mod view;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

pub use view::Revised;

use super::candidates::{DecisionInputs, candidates_of};
use super::join::Joins;
use super::operator::{Keyed, Operator, RuntimeEnv, Shared, Stage};
use super::progress::Silent;
use crate::cancel::CancelFlag;
use crate::data::{Epoch, named, or_else};
use crate::error::{Error, Result};
use crate::pipeline::{Plan, Step};
use crate::store::{Corrections, FileEntry, ParquetFile, Run, make_folder, write_parquet};
use changes::Changes;
use lineage::{Given, Line, Lineage};

/// What corrections came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// Microbatches of the step.
    pub microbatches: usize,
    /// Those that hold a corrected answer.
    pub touched: usize,
    /// Pairs that are no more, or are not as they were.
    pub withdrawn: usize,
    /// Pairs that were not there, or not so.
    pub added: usize,
    /// Pairs there are now.
    pub pairs: u64,
}

/// The step that makes pairs of scores: the one of this name, or the only one there is.
///
/// # Errors
/// There is none, or several and none is named.
pub fn revisable<'a>(plan: &'a Plan<dyn Operator>, name: Option<&str>) -> Result<&'a Step<dyn Operator>> {
    // Groups that go beyond a microbatch cannot be made again from the microbatches concerned.
    let whole = |s: &Step<dyn Operator>| matches!(s.op.stage(), Stage::Keyed(keyed) if keyed.complete());
    let all: Vec<_> = plan.steps.iter().filter(|s| whole(s) && s.schema.name == named::PAIRS.name).collect();
    let names: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
    match (name, &all[..]) {
        (None, [one]) => Ok(one),
        (None, []) => Err(Error::user("no step of the run makes pairs of scores, as `select` does")),
        (None, _) => {
            Err(Error::user(format!("several steps make pairs: {}", names.join(", "))).help("name one with --step"))
        }
        (Some(name), _) => all.iter().copied().find(|s| s.name == name).ok_or_else(|| {
            let error = Error::user(format!("`{name}` is not a step of the run that makes pairs of scores"));
            if names.is_empty() { error } else { error.help(or_else(name, "there are", &names)) }
        }),
    }
}

/// What a revision is made of.
struct Revising {
    shared: Shared,
    joins: Joins,
    /// The step's name.
    step: String,
    /// The step that has its scores.
    input: String,
    parts: Vec<Part>,
    corrections: Arc<Corrections>,
}

/// A microbatch of pairs with the files that it was made of.
struct Part {
    pairs: FileEntry,
    scores: FileEntry,
    candidates: Option<FileEntry>,
}

impl Revising {
    fn new(plan: &Arc<Plan<dyn Operator>>, run: &Arc<Run>, step: &str, corrections: Arc<Corrections>) -> Result<Self> {
        if !run.finished() {
            return Err(Error::user(format!("the run `{}` is not finished", run.dir().display()))
                .help("`reflux run` with its pipeline file goes on with it"));
        }
        let step = revisable(plan, Some(step))?;
        let input = step.inputs.iter().find(|i| i.key == "from" && !i.whole);
        let input = &input.ok_or_else(|| Error::bug("a keyed step has an input that streams"))?.step;
        if let Some((least, most)) = plan.step(input).and_then(|s| s.op.scale())
            && let Some(error) = corrections.outside(least, most)
        {
            return Err(error.help(format!("the scores of `{input}` go from {least} to {most}")));
        }
        let parts = parts(run, &step.name, input)?;
        let shared = Shared {
            plan: Arc::clone(plan),
            run: Arc::clone(run),
            env: RuntimeEnv::new(()),
            observer: Arc::new(Silent),
            stop: CancelFlag::default(),
        };
        Ok(Self { shared, joins: Joins::default(), step: step.name.clone(), input: input.clone(), parts, corrections })
    }

    fn run(&self) -> &Run {
        &self.shared.run
    }
    fn step(&self) -> Result<&Step<dyn Operator>> {
        self.shared.plan.step(&self.step).ok_or_else(|| Error::bug(format!("step `{}` is not in the plan", self.step)))
    }
    fn keyed(&self) -> Result<&dyn Keyed> {
        match self.step()?.op.stage() {
            Stage::Keyed(keyed) => Ok(keyed),
            _ => Err(Error::bug(format!("`{}` is not a keyed step", self.step))),
        }
    }
    /// The step as one that has kept what it went by, in every microbatch.
    fn candidates(&self) -> Result<Option<&dyn DecisionInputs>> {
        let all = self.parts.iter().all(|part| part.candidates.is_some());
        Ok(self.keyed()?.candidates().filter(|_| all))
    }
    /// That every correction is of an answer that is there.
    fn all_known(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        let help = || format!("`{}` holds the scores of the run `{}`", self.input, self.run().name());
        self.corrections.unknown(known).map_or(Ok(()), |error| Err(error.help(help())))
    }
}

/// Writes into the new folder `into` what becomes of the step's pairs: `changes.parquet` with those withdrawn and added,
/// `corrections.parquet` with the corrections, and `revision.json` with the lineage, by hash. With `whole` also `data/STEP` with all
/// pairs as they are now and `data/errors/STEP` with the prompts that give none, the very files that a run over corrected scores
/// has; without, they are made as the folder is read ([`Revised`]). The run itself stays as it is.
///
/// # Errors
/// The run is not finished, or did not keep the step or its scores; a correction is of an answer that is not there, or off the
/// judge's scale; a file is damaged; the disk is full. Nothing is left behind.
pub fn revise_run(
    plan: &Arc<Plan<dyn Operator>>,
    run: &Arc<Run>,
    step: &str,
    corrections: &Arc<Corrections>,
    into: &Path,
    whole: bool,
) -> Result<Revision> {
    let revising = Revising::new(plan, run, step, Arc::clone(corrections))?;
    make_folder(into, |dir| {
        let mut record = Record::begin(dir, &revising)?;
        match revising.candidates()? {
            Some(keeps) if !whole => quick::revise(&revising, keeps, &mut record)?,
            _ => revising.again_all(whole.then_some(dir), &mut record)?,
        }
        write_parquet(&dir.join("corrections.parquet"), &corrections.rows()?)?;
        record.finish(&revising, into)
    })
}

/// Rows of `changes.parquet` that are written at a time, or a few more.
const WRITTEN_TOGETHER: usize = 8192;

/// What is written of a revision as it is made.
struct Record {
    dir: PathBuf,
    changes: ParquetFile,
    /// Rows of `changes` that are still to be written, and how many.
    waiting: (Vec<RecordBatch>, usize),
    revision: Revision,
    lines: Vec<Line>,
}

impl Record {
    fn begin(dir: &Path, revising: &Revising) -> Result<Self> {
        let changes = ParquetFile::create(&dir.join("changes.parquet"), &named::CHANGES.arrow())?;
        let pairs = revising.parts.iter().map(|part| part.pairs.rows).sum();
        let revision = Revision { microbatches: revising.parts.len(), pairs, ..Revision::default() };
        Ok(Self { dir: dir.to_owned(), changes, waiting: Default::default(), revision, lines: Vec::new() })
    }

    /// A microbatch with a corrected answer; `hash` is that of its file, where one was written.
    fn add(&mut self, part: &Part, changes: &Changes, hash: Option<String>) -> Result<()> {
        if changes.len() > 0 {
            self.waiting.0.push(changes.batch(part.pairs.epoch())?);
            self.waiting.1 += changes.len();
        }
        if self.waiting.1 >= WRITTEN_TOGETHER {
            self.write()?;
        }
        let (withdrawn, added) = (changes.withdrawn.len(), changes.added.len());
        let rows = part.pairs.rows.saturating_sub(withdrawn as u64) + added as u64;
        let all = &mut self.revision;
        all.touched += 1;
        all.withdrawn += withdrawn;
        all.added += added;
        all.pairs = all.pairs.saturating_sub(part.pairs.rows) + rows;
        let (path, was, scores) = (part.pairs.path.clone(), part.pairs.hash.clone(), part.scores.hash.clone());
        self.lines.push(Line { path, rows, withdrawn, added, hash, was, scores });
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let (batches, _) = std::mem::take(&mut self.waiting);
        self.changes.write(&concat_batches(&named::CHANGES.arrow(), &batches)?)
    }

    fn finish(mut self, revising: &Revising, into: &Path) -> Result<Revision> {
        self.write()?;
        let Self { dir, changes, revision, lines, .. } = self;
        changes.finish()?;
        let (run, corrections) = (revising.run(), &revising.corrections);
        let lineage = Lineage {
            reflux: env!("CARGO_PKG_VERSION").to_owned(),
            run: run.name(),
            directory: lineage::from_there(run.dir(), into)?,
            pipeline: run.pipeline(),
            step: revising.step.clone(),
            from: revising.input.clone(),
            corrections: Given {
                file: corrections.path().file_name().map(|n| n.to_string_lossy().into_owned()),
                hash: corrections.hash().to_owned(),
                rows: corrections.len(),
                scores_withdrawn: corrections.withdrawn(),
            },
            microbatches: revision.microbatches,
            pairs: revision.pairs,
            withdrawn: revision.withdrawn,
            added: revision.added,
            revised: lines,
        };
        lineage.write(&dir)?;
        Ok(revision)
    }
}

fn parts(run: &Run, step: &str, input: &str) -> Result<Vec<Part>> {
    let place = run.dir().display();
    let mut parts = Vec::new();
    for pairs in run.files(step) {
        // A dataset of before the loop enters it in every iteration.
        let at = [pairs.epoch(), Epoch::new(0, pairs.microbatch)];
        let scores = at.iter().find_map(|&e| run.committed(input, e));
        let scores =
            scores.ok_or_else(|| Error::user(format!("`{place}`: there are no scores for `{}`", pairs.path)))?;
        let candidates = run.committed(&candidates_of(step), pairs.epoch());
        parts.push(Part { pairs, scores, candidates });
    }
    if parts.is_empty() {
        return Err(Error::user(format!("`{place}` has no rows of the step `{step}`"))
            .help("a step with `keep = false` cannot be revised"));
    }
    Ok(parts)
}
