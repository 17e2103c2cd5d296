//! The command line: one file per subcommand, with no logic of its own.

mod answers;
mod bench;
mod check;
mod cost;
mod diff;
mod eval;
mod explain;
mod export;
mod generate;
mod import;
mod listing;
mod logprobs;
mod ls;
mod model;
mod progress;
mod replay;
mod revise;
mod run;
mod show;
mod study;
mod summary;
mod terminal;
mod ticker;
mod trace;
mod verify;

use clap::{ColorChoice, Parser, Subcommand, ValueEnum};

use crate::error::{Error, Result};

/// Runs Self-Rewarding Language Models as a streaming dataflow.
#[derive(Parser)]
#[command(name = "reflux", version, about, after_help = AFTER, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Prints nothing but errors and what was asked for
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Prints more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// How progress and messages are written to standard error
    #[arg(long, global = true, value_enum, default_value = "text")]
    log: Log,
    /// Whether messages and progress have colours: `auto` is on a terminal, unless NO_COLOR is set
    #[arg(long = "color", global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    _color: ColorChoice,
}

const AFTER: &str = "Examples:
  reflux run pipelines/quickstart.toml         the whole loop on the embedded small world
  reflux check my.toml                         every error of a pipeline file at once
  reflux explain my.toml --format mermaid      the plan as a picture
  reflux ls                                    the runs, with their main figures
  reflux ls quickstart                         what a run holds
  reflux summary quickstart                    what a run closed with
  reflux show quickstart/pairs                 its pairs, as a table that fits the terminal
  reflux schema pairs                          what the columns of a dataset mean
  reflux eval drift quickstart                 lengths and scores, iteration by iteration
  reflux generate model.gguf 'Name a river.'   an answer

Exit codes: 0 it worked; 2 the pipeline file, a flag or the data is wrong; 3 nothing came of a run (no readable score, no pair); 1 anything else, and runs that differ (diff)
or are damaged (verify).";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Log {
    /// Bars on a terminal, plain lines otherwise
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a pipeline file, or goes on with its unfinished run
    Run(run::Args),
    /// Makes anew, as another run, what follows from a step or a changed setting; takes the rest over
    Replay(replay::Args),
    /// Prints every error of a pipeline file; loads and runs nothing
    Check(check::Args),
    /// Prints the plan of a pipeline file, or what an error code means
    Explain(explain::Args),
    /// Prints what a pipeline file would need: tokens, FLOPs, memory, hours; runs nothing
    Cost(cost::Args),
    /// Lists the runs of a folder with their main figures, or what one run holds: steps, rows, bytes, models, metrics
    Ls(ls::Args),
    /// Prints what a run closed with, or has so far: its loop, models, engines, and what was left out
    Summary(summary::Args),
    /// Shows rows of a run, or of any Parquet file: as a table, JSON, CSV, Arrow or Parquet; of a live run as they come
    Show(show::Args),
    /// Tells one prompt's whole life: answers, judgements, the pair or why there is none, the training that used it
    Trace(trace::Args),
    /// Says where two runs first differ
    Diff(diff::Args),
    /// Checks every file of a run against its manifest; --repair goes back to the last good point
    Verify(verify::Args),
    /// Brings corrected scores into a finished run's pairs: what changes, and all pairs as they then are
    Revise(revise::Args),
    /// Lists the schemas of datasets, or the columns of one
    Schema(listing::SchemaArgs),
    /// Lists the operators, or the keys of one
    Operators(listing::OperatorsArgs),
    /// Lists the keys of a pipeline file's sections, or of one section
    Keys(listing::KeysArgs),
    /// Turns public datasets, and .jsonl of any schema, into Parquet
    Import(import::Args),
    /// Writes a model as a GGUF file for llama.cpp
    Export(export::Args),
    /// Answers prompts
    Generate(generate::Args),
    /// Scores given answers: the log-probability of each under a model
    Logprobs(logprobs::Args),
    /// Measures models, judges and runs: win rates, reward modelling, AlpacaEval, drift
    Eval(eval::Args),
    /// Measures this machine, and reflux on it
    Bench(bench::Args),
}

/// Runs the command line and returns the exit code.
pub fn main() -> u8 {
    // Before anything else, so that what clap prints heeds these too, wherever they stand.
    let args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    terminal::set_colour(match value_of(&args, "--color").and_then(|value| ColorChoice::from_str(value, false).ok()) {
        Some(ColorChoice::Always) => Some(true),
        Some(ColorChoice::Never) => Some(false),
        Some(ColorChoice::Auto) | None => None,
    });
    terminal::set_form(match value_of(&args, "--log").and_then(|value| Log::from_str(value, false).ok()) {
        Some(Log::Json) => terminal::Form::Json,
        Some(Log::Text) | None => terminal::Form::Text,
    });
    // What clap prints goes with its own exit codes: 0 for help, 2 for a wrong flag.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return terminal::usage(e),
    };
    terminal::set_quiet(cli.quiet);
    terminal::set_up_logging(cli.quiet, cli.verbose);
    // Panics are caught where they happen and told as defects; the default hook would tell them a second time.
    std::panic::set_hook(Box::new(|info| tracing::debug!("{info}")));
    let run = std::panic::AssertUnwindSafe(|| command(&cli));
    let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
        Err(Error::bug("reflux panicked").help("run again with -vv for the place, and please report it"))
    });
    match result {
        Ok(()) => 0,
        Err(e) => {
            terminal::error(&e);
            e.exit_code()
        }
    }
}

/// The last value that the command line gives an option, `--option value` or `--option=value`, before it is parsed.
fn value_of<'a>(args: &'a [String], option: &str) -> Option<&'a str> {
    let options = args.split(|arg| arg == "--").next().unwrap_or_default();
    let value = |at: usize| match options[at].strip_prefix(option)? {
        "" => options.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    };
    (0..options.len()).filter_map(value).next_back()
}

/// Starts the threads that compute, where a command may need them: where the system gives none, asking for them later panics.
fn start_threads(command: &Command) -> Result<()> {
    if matches!(command, Command::Schema(_) | Command::Operators(_) | Command::Keys(_) | Command::Explain(_)) {
        return Ok(());
    }
    let started = rayon::ThreadPoolBuilder::new().build_global();
    started.map_err(|e| Error::no_thread("the threads that compute", e))
}

fn command(cli: &Cli) -> Result<()> {
    start_threads(&cli.command)?;
    let style = progress::Style::of(cli.quiet, cli.log == Log::Json, cli.verbose);
    match &cli.command {
        Command::Run(args) => run::run(args, &style),
        Command::Replay(args) => replay::run(args, &style),
        Command::Check(args) => check::run(args, cli.quiet),
        Command::Explain(args) => explain::run(args),
        Command::Cost(args) => cost::run(args),
        Command::Ls(args) => ls::run(args),
        Command::Summary(args) => summary::run(args),
        Command::Show(args) => show::run(args),
        Command::Trace(args) => trace::run(args),
        Command::Diff(args) => diff::run(args, cli.quiet),
        Command::Verify(args) => verify::run(args, cli.quiet),
        Command::Revise(args) => revise::run(args, cli.quiet),
        Command::Schema(args) => listing::schema(args),
        Command::Operators(args) => listing::operators(args),
        Command::Keys(args) => listing::keys(args),
        Command::Import(args) => import::run(args, cli.quiet),
        Command::Export(args) => export::run(args, cli.quiet),
        Command::Generate(args) => generate::run(args, style),
        Command::Logprobs(args) => logprobs::run(args, style),
        Command::Eval(args) => eval::run(args, style),
        Command::Bench(args) => bench::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::value_of;

    #[test]
    fn options_are_found_wherever_they_stand() {
        let found = |line: &str, option: &str| {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            value_of(&args, option).map(str::to_owned)
        };
        for (line, value) in [
            ("reflux --log json run", Some("json")),
            ("reflux run x.toml --log=json", Some("json")),
            ("reflux --log text run --log=json", Some("json")),
            ("reflux --log=json run --log text", Some("text")),
            ("reflux generate m -- --log json", None),
            ("reflux --logs json", None),
            ("reflux run --log", None),
        ] {
            assert_eq!(found(line, "--log").as_deref(), value, "{line}");
        }
    }
}
