//! Flags shared by the subcommands of `reflux eval`, and the run of an evaluation.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;

use crate::cancel::CancelFlag;
use crate::cli::interrupt::stop_on_interrupt;
use crate::cli::model::Loading;
use crate::cli::progress::Style;
use crate::cli::run::{Machine, execute};
use crate::cli::terminal;
use crate::error::{Error, ErrorContext as _, Result};
use crate::eval::bootstrap::Bootstrap;
use crate::operators;
use crate::pipeline;
use crate::report::{Evaluation, Figures, Judging, Sampled, Setting};
use crate::runner::Open;
use crate::store::Run;

/// Flags of every evaluation that uses models.
#[derive(clap::Args)]
pub(super) struct CommonEvalArgs {
    #[command(flatten)]
    pub(super) loading: Loading,
    /// Keeps the rows: the run in DIR/run, and its inputs next to it. The same command continues an
    /// unfinished run
    #[arg(long, value_name = "DIR")]
    pub(super) into: Option<PathBuf>,
    /// Seed of the random draws
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) intervals: Intervals,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Figures")]
pub(super) struct Intervals {
    /// Bootstrap resamples of prompts; 0 disables intervals
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().resamples, value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    pub(super) resamples: u32,
    /// Share of the resamples that an interval contains
    #[arg(long, value_name = "P", default_value_t = Bootstrap::default().confidence, value_parser = share)]
    pub(super) confidence: f64,
    /// Prints a JSON object
    #[arg(long)]
    pub(super) json: bool,
}

impl Intervals {
    pub(super) fn bootstrap(&self) -> Bootstrap {
        Bootstrap { resamples: self.resamples, confidence: self.confidence, ..Bootstrap::default() }
    }
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|s| (0.01..=0.9999).contains(s));
    share.ok_or_else(|| "expected a share from 0.01 to 0.9999".into())
}

/// Flags for the sampling of answers.
#[derive(clap::Args)]
#[command(next_help_heading = "Answers")]
pub(super) struct SamplingArgs {
    /// Divides the logits; 0 always takes the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.7)]
    temperature: f64,
    /// Samples from the smallest set of most likely tokens with at least this mass; 1 disables it
    #[arg(long, value_name = "P", default_value_t = 0.9)]
    top_p: f64,
    /// Maximum number of tokens in an answer
    #[arg(short, long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
}

impl SamplingArgs {
    pub(super) fn sampled(&self, samples: u32) -> Sampled {
        Sampled { samples, temperature: self.temperature, top_p: self.top_p, max_tokens: self.max_tokens }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// The judge compares two answers, in both orders; if the orders disagree, it is a tie
    Pairwise,
    /// The score of an answer is the mean of all scores, weighted by the judge's probability of each
    Expected,
    /// The score of an answer is the mean of sampled judgements
    Sampled,
}

/// Flags for the judge.
#[derive(clap::Args)]
#[command(next_help_heading = "Judge")]
pub(super) struct JudgingArgs {
    /// A built-in template or a file; the default of the mode if absent
    #[arg(long, value_name = "NAME|FILE")]
    rubric: Option<String>,
    /// A regular expression whose first group matches the verdict or the score in the judge's text
    #[arg(long, value_name = "REGEX")]
    pattern: Option<String>,
    /// Judgements of each answer, or of each pair in each order; the default of the mode if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    judgements: Option<u32>,
    /// Maximum number of tokens in a judgement
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    judge_tokens: u32,
    /// Divides the judge's logits; 0 always takes the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.7)]
    judge_temperature: f64,
}

impl JudgingArgs {
    pub(super) fn judging(&self, mode: Mode) -> Judging {
        Judging {
            mode: match mode {
                Mode::Pairwise => "pairwise",
                Mode::Expected => "expected",
                Mode::Sampled => "sampled",
            },
            rubric: self.rubric.clone(),
            pattern: self.pattern.clone(),
            samples: self.judgements,
            max_tokens: self.judge_tokens,
            temperature: self.judge_temperature,
        }
    }
}

/// The directory of an evaluation: the requested one, or a temporary one that is removed at the end.
pub(super) struct EvaluationDir {
    pub(super) dir: PathBuf,
    _gone: Option<tempfile::TempDir>,
}

impl CommonEvalArgs {
    pub(super) fn place(&self) -> Result<EvaluationDir> {
        match &self.into {
            Some(dir) => {
                std::fs::create_dir_all(dir).doing(|| dir.display())?;
                Ok(EvaluationDir { dir: dir.clone(), _gone: None })
            }
            None => {
                let gone =
                    tempfile::Builder::new().prefix("reflux-eval-").tempdir().doing(|| "a temporary directory")?;
                Ok(EvaluationDir { dir: gone.path().to_owned(), _gone: Some(gone) })
            }
        }
    }

    pub(super) fn setting(&self) -> Setting {
        Setting {
            dtype: self.loading.dtype_name(),
            threads: self.loading.threads(),
            seed: self.seed,
            bootstrap: self.intervals.bootstrap(),
        }
    }

    /// Runs the evaluation to its end and opens the resulting run.
    pub(super) fn carry_out(&self, evaluation: &Evaluation, place: &EvaluationDir, style: Style) -> Result<Run> {
        evaluation.notes.iter().for_each(|note| terminal::note(note));
        let plan =
            pipeline::parse_str("evaluation.toml", &evaluation.text(), &[], operators::ALL).map_err(|problems| {
                terminal::diagnostics(&problems);
                Error::user("")
            })?;
        let dir = place.dir.join("run");
        Evaluation::same(&dir, &plan.resolved)?;
        let stop = CancelFlag::default();
        stop_on_interrupt(&stop);
        let machine = Machine::on(&self.loading.device);
        execute(&Arc::new(plan), &dir, &Open::Continue(&[]), &machine, style, true, &stop)?;
        Run::open(&dir)
    }

    /// Runs the evaluation like [`CommonEvalArgs::carry_out`], then prints the figures.
    pub(super) fn print_figures(&self, evaluation: &Evaluation, place: &EvaluationDir, style: Style) -> Result<()> {
        let run = self.carry_out(evaluation, place, style)?;
        let figures = Figures::of(&run)?;
        let kept = self.into.as_deref().map(|_| run.dir());
        Evaluation::unread(&run, kept)?.iter().for_each(|warning| terminal::warning(warning));
        if self.intervals.json {
            return terminal::print_json(figures.json());
        }
        for name in &evaluation.names {
            terminal::print_line(name)?;
        }
        terminal::print(&figures.table())?;
        if style == Style::Quiet || self.into.is_none() {
            return Ok(());
        }
        terminal::print_lines(["".to_owned(), format!("rows: {}", run.dir().display())])
    }
}

/// Checks that a path exists.
pub(super) fn there(path: &Path, what: &str) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    Err(Error::user(format!("{what} `{}` not found", path.display())))
}
