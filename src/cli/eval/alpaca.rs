//! `reflux eval alpaca`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::common::{CommonEvalArgs, SamplingArgs};
use crate::cli::progress::Style;
use crate::cli::terminal;
use crate::data::{counted, read_regular};
use crate::error::{Error, ErrorContext as _, Result};
use crate::eval::alpaca::{Glm, LengthControl, WinRate, annotations, gamed, same_instructions};
use crate::report::{Evaluation, Side, model_outputs};
use crate::store::{load_answers, load_prompts, output_target, write_output};

#[derive(Subcommand)]
pub enum AlpacaCommand {
    /// Writes a model's answers, or stored answers, in the format of `alpaca_eval --model_outputs`
    Export(ExportArgs),
    /// Computes the win rate and the length-controlled win rate from alpaca_eval's annotations.json
    WinRate(Rates),
}

const EXPORT: &str = "Examples:
  reflux eval alpaca export models/M2 --prompts alpaca_eval.json -o outputs.json --temperature 0 -m 2048
  reflux eval alpaca export runs/mine/answers@3 --prompts alpaca_eval.json -o outputs.json --generator M3

Every output is {instruction, output, generator, dataset}, in the order of the prompts. A prompt without \
an answer gets an empty output, which counts as lost, and a warning.";

#[derive(clap::Args)]
#[command(after_help = EXPORT)]
pub struct ExportArgs {
    /// A model, or answers: JSON, Parquet or RUN/STEP, with @N for one iteration
    from: PathBuf,
    /// The instructions: AlpacaEval's own set, or any prompts
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// The model's name in the outputs; the name of its file if absent
    #[arg(long, value_name = "NAME")]
    generator: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    common: CommonEvalArgs,
}

const RATES: &str = "Examples:
  reflux eval alpaca win-rate annotations.json
  reflux eval alpaca win-rate annotations.json --gamed df_gamed.csv         the leaderboard's figures
  reflux eval alpaca win-rate M1/annotations.json M2/annotations.json --json

Figures are percentages, as in the alpaca_eval package (0.6.6). length_controlled_v1 and \
length_controlled_noreg need df_gamed.csv of the dataset tatsu-lab/alpaca_eval; without it the regression \
is length_controlled_minimal, which uses only length and model.";

#[derive(clap::Args)]
#[command(after_help = RATES)]
pub struct Rates {
    /// Annotation files, each of one model against one baseline
    #[arg(required = true)]
    annotations: Vec<PathBuf>,
    /// df_gamed.csv: the difficulty of the instructions, and baselines of varied length
    #[arg(long, value_name = "FILE")]
    gamed: Option<PathBuf>,
    /// The regression; v1 with --gamed, otherwise minimal
    #[arg(long, value_enum)]
    glm: Option<Which>,
    /// Prints a JSON object for each file
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// The leaderboard's regression
    V1,
    /// The regression without the baselines of varied length
    Noreg,
    /// The regression that also omits the difficulty of the instructions
    Minimal,
}

pub fn run(command: &AlpacaCommand, style: Style) -> Result<()> {
    match command {
        AlpacaCommand::Export(args) => export(args, style),
        AlpacaCommand::WinRate(args) => rates(args),
    }
}

fn export(args: &ExportArgs, style: Style) -> Result<()> {
    let out = output_target(&args.out)?;
    let (prompts, answers) = match Side::of(&args.from) {
        Side::Answers(path) => (load_prompts(&args.prompts)?.rows, load_answers(&path)?.rows),
        Side::Model(model) => {
            let place = args.common.place()?;
            let mut evaluation = Evaluation::new("alpaca", &place.dir, args.common.setting());
            let prompts = evaluation.answer(&model, &args.prompts, &args.sampling.sampled(1))?;
            let run = args.common.carry_out(&evaluation, &place, style)?;
            (prompts, load_answers(&run.dir().join("a"))?.rows)
        }
    };
    // A point in a directory's name does not begin an extension.
    let own = if args.from.is_dir() { args.from.file_name() } else { args.from.file_stem() };
    let own = own.map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    let (outputs, missing) = model_outputs(&prompts, answers, args.generator.as_ref().unwrap_or(&own));
    let mut text = serde_json::to_string_pretty(&outputs).map_err(|e| Error::bug(format!("the outputs: {e}")))?;
    text.push('\n');
    write_output(&out, text.as_bytes())?;
    if missing > 0 {
        terminal::warning(&format!(
            "{missing} of {} have no answer; their outputs are empty",
            counted(outputs.len(), "prompt")
        ));
    }
    if style == Style::Quiet {
        return Ok(());
    }
    terminal::print_line(&format!("{}: {}", args.out.display(), counted(outputs.len(), "output")))
}

fn rates(args: &Rates) -> Result<()> {
    let read = |path: &PathBuf| read_regular(path).user(|| path.display());
    let table = args.gamed.as_ref().map(|path| gamed(&read(path)?).doing(|| path.display())).transpose()?;
    let glm = match args.glm {
        Some(Which::V1) => Glm::V1,
        Some(Which::Noreg) => Glm::NoRegularisation,
        Some(Which::Minimal) => Glm::Minimal,
        None => table.as_ref().map_or(Glm::Minimal, |_| Glm::V1),
    };
    let mut models = Vec::new();
    for path in &args.annotations {
        models.push((path.display().to_string(), annotations(&read(path)?).doing(|| path.display())?));
    }
    same_instructions(&models)?;
    for (name, annotations) in &models {
        let plain = WinRate::of(annotations);
        let control = LengthControl { glm, gamed: table.as_deref() }.of(annotations).doing(|| name);
        let control = match control {
            Ok(control) => Some(control),
            // No regression was requested, so the plain win rate is still a valid result.
            Err(e) if args.glm.is_none() && args.gamed.is_none() => {
                terminal::note(&format!("no length-controlled win rate: {e}"));
                None
            }
            Err(e) => return Err(e),
        };
        let (model, baseline) = annotations.first().map_or(("", ""), |a| (&a.generator_2, &a.generator_1));
        if args.json {
            let mut row = json!({"file": name, "model": model, "baseline": baseline});
            let figures = serde_json::to_value(plain).map_err(|e| Error::bug(format!("the figures: {e}")))?;
            for (key, value) in figures.as_object().into_iter().flatten() {
                row[key] = value.clone();
            }
            row["length_controlled_winrate"] = json!(control.map(|c| c.win_rate));
            row["lc_standard_error"] = json!(control.and_then(|c| c.standard_error));
            row["glm"] = json!(glm.name());
            terminal::print_json(&row)?;
            continue;
        }
        let percent = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.2}"));
        terminal::print_line(&format!(
            "{model} against {baseline}: win rate {} (standard error {}), length-controlled {} ({}, {}); {} wins, {} losses, {} draws, {} without a preference; {:.0} characters",
            percent(plain.win_rate),
            percent(plain.standard_error),
            percent(control.map(|c| c.win_rate)),
            percent(control.and_then(|c| c.standard_error)),
            glm.name(),
            plain.n_wins,
            plain.n_wins_base,
            plain.n_draws,
            plain.n_null,
            plain.avg_length,
        ))?;
    }
    Ok(())
}
