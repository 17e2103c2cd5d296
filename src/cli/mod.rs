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
mod interrupt;
mod listing;
mod logprobs;
mod ls;
mod model;
mod progress;
mod replay;
mod report;
mod revise;
mod run;
mod serve;
mod server;
mod session;
mod show;
mod study;
mod summary;
mod terminal;
mod ticker;
mod trace;
mod verify;

use clap::{ColorChoice, Parser, Subcommand, ValueEnum};

use session::Session;

use crate::error::{Error, Result};
use crate::threads;

/// Runs Self-Rewarding Language Models as a streaming dataflow.
#[derive(Parser)]
#[command(name = "reflux", version, about, after_help = AFTER, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Prints only errors and the requested output
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Prints more; give it twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Form of progress and messages on standard error
    #[arg(long, global = true, value_enum, default_value = "text")]
    log: Log,
    /// Colours of messages and progress; `auto` enables them on a terminal unless NO_COLOR is set
    #[arg(long = "color", global = true, value_enum, default_value = "auto", value_name = "WHEN")]
    _color: ColorChoice,
}

const AFTER: &str = "Examples:
  reflux run pipelines/quickstart.toml         the whole loop on the embedded small world
  reflux check my.toml                         every error of a pipeline file at once
  reflux explain my.toml --format mermaid      the plan as a picture
  reflux ls                                    the runs, with their main figures
  reflux ls quickstart                         the contents of a run
  reflux summary quickstart                    the closing summary of a run
  reflux report quickstart                     a page with charts, figures and sample rows
  reflux show quickstart/pairs                 its pairs, as a table that fits the terminal
  reflux schema pairs                          the meaning of a dataset's columns
  reflux eval drift quickstart                 lengths and scores, iteration by iteration
  reflux generate model.gguf 'Name a river.'   an answer

Exit codes: 0 success; 2 an error in the pipeline file, a flag or the data; 3 a run without a result (no
readable score, no pair); 1 any other error, and runs that differ (diff) or are damaged (verify).";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Log {
    /// Bars on a terminal, otherwise plain lines
    Text,
    /// One JSON object per line
    Json,
}

/// Defines the enum of the commands and the function that runs one. Each command is one line with its help,
/// its flags and its function.
macro_rules! commands {
    ($($(#[$help:meta])* $name:ident => $file:ident::{$args:ident, $run:ident}),* $(,)?) => {
        #[derive(Subcommand)]
        enum Command {
            $($(#[$help])* $name($file::$args)),*
        }

        impl Command {
            fn run(&self, session: &Session) -> Result<()> {
                match self {
                    $(Command::$name(args) => $file::$run(args, session)),*
                }
            }
        }
    };
}

commands! {
    /// Runs a pipeline file, or continues its unfinished run
    Run => run::{Args, run},
    /// Makes a new run from a changed step or setting, and reuses what the change does not affect
    Replay => replay::{Args, run},
    /// Prints every error of a pipeline file; loads and runs nothing
    Check => check::{Args, run},
    /// Prints the plan of a pipeline file, or what an error code means
    Explain => explain::{Args, run},
    /// Estimates what a pipeline file needs: tokens, FLOPs, memory, hours; runs nothing
    Cost => cost::{Args, run},
    /// Lists the runs of a folder with their main figures, or the steps, rows, bytes, models and metrics of one run
    Ls => ls::{Args, run},
    /// Prints the closing summary of a run, or its state so far: loop, models, engines, and rows that were left out
    Summary => summary::{Args, run},
    /// Writes the page of a run: one HTML file with its charts, figures and sample rows
    Report => report::{Args, run},
    /// Shows rows of a run, or of any Parquet file, as a table, JSON, CSV, Arrow or Parquet; follows a live run
    Show => show::{Args, run},
    /// Traces a prompt through a run: answers, judgements, the pair or why it has none, the training that used it
    Trace => trace::{Args, run},
    /// Reports the first difference between two runs
    Diff => diff::{Args, run},
    /// Checks every file of a run against its manifest; --repair goes back to the last good state
    Verify => verify::{Args, run},
    /// Applies corrected scores to the pairs of a finished run: the changes, and all pairs as they then are
    Revise => revise::{Args, run},
    /// Lists the schemas of datasets, or the columns of one
    Schema => listing::{SchemaArgs, schema},
    /// Lists the operators, or the keys of one
    Operators => listing::{OperatorsArgs, operators},
    /// Lists the keys of a pipeline file's sections, or of one section
    Keys => listing::{KeysArgs, keys},
    /// Converts public datasets, and .jsonl of any schema, to Parquet
    Import => import::{Args, run},
    /// Writes a model as a GGUF file for llama.cpp
    Export => export::{Args, run},
    /// Answers prompts
    Generate => generate::{Args, run},
    /// Serves a model over HTTP, as OpenAI's interface spells it
    Serve => serve::{Args, run},
    /// Scores given answers: the log-probability of each under a model
    Logprobs => logprobs::{Args, run},
    /// Measures models, judges and runs: win rates, reward modelling, AlpacaEval, drift
    Eval => eval::{Args, run},
    /// Measures this machine, and reflux on it
    Bench => bench::{Args, run},
}

/// Runs the command line and returns the exit code.
pub fn main() -> u8 {
    // These flags also affect what clap prints, so they are read before parsing, at any position.
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
    // Clap has exit codes of its own: 0 for help, 2 for an invalid flag.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return terminal::usage(e),
    };
    terminal::set_quiet(cli.quiet);
    terminal::set_up_logging(cli.quiet, cli.verbose);
    // Panics are caught below and reported as defects; the default hook would report them twice.
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

/// Returns the last value of an option, `--option value` or `--option=value`, from the unparsed command
/// line.
fn value_of<'a>(args: &'a [String], option: &str) -> Option<&'a str> {
    let options = args.split(|arg| arg == "--").next().unwrap_or_default();
    let value = |at: usize| match options[at].strip_prefix(option)? {
        "" => options.get(at + 1).map(String::as_str),
        rest => rest.strip_prefix('='),
    };
    (0..options.len()).filter_map(value).next_back()
}

/// Starts the compute threads for commands that may need them. If the system refuses threads, rayon would
/// panic when they are first needed, so the refusal is reported here.
fn start_threads(command: &Command) -> Result<()> {
    if matches!(command, Command::Schema(_) | Command::Operators(_) | Command::Keys(_) | Command::Explain(_)) {
        return Ok(());
    }
    threads::check_memory(threads::usual(), threads::STACK)
        .map_err(|e| Error::no_thread("the threads that compute", e))?;
    let started = rayon::ThreadPoolBuilder::new().build_global();
    started.map_err(|e| Error::no_thread("the threads that compute", e))
}

fn command(cli: &Cli) -> Result<()> {
    start_threads(&cli.command)?;
    let style = progress::Style::of(cli.quiet, cli.log == Log::Json, cli.verbose);
    cli.command.run(&Session { quiet: cli.quiet, style })
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
