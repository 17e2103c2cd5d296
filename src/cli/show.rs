//! `reflux show`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::session::Session;
use super::terminal::{self, OutputKind};
use crate::cancel::CancelFlag;
use crate::dataflow::Revised;
use crate::error::{Error, Result};
use crate::operators;
use crate::report::inspect::show::{self, Condition, Show};
use crate::store::Scan;

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// RUN/STEP, RUN/errors, RUN/metrics/STEP, the folder of a revision, a Parquet file, or a directory of them
    what: PathBuf,
    /// Shows only this iteration
    #[arg(long, value_name = "N")]
    iteration: Option<u32>,
    /// Shows only rows for which this holds: COLUMN, one of = != < <= > >= and ~ (contains the text),
    /// VALUE; with several, all must hold
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    conditions: Vec<Condition>,
    /// Shows these columns in this order; by default all, but a table omits lists of numbers
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    columns: Vec<String>,
    /// Maximum number of rows, 0 for all; by default 20 for a table, otherwise all
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    format: ShowFormat,
    /// With --format csv: prefixes texts that a spreadsheet would read as formulas (those that begin with =
    /// + - @, a tab or CR) with '
    #[arg(long)]
    guard_formulas: bool,
    /// Continues as the run commits, until it is finished or Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Width of a table; by default the terminal's, or COLUMNS, or 120
    #[arg(long, value_name = "PLACES")]
    width: Option<u16>,
}

const AFTER: &str = "Examples:
  reflux show runs/quickstart/pairs                      the first pairs, to fit the terminal
  reflux show quickstart/scores --iteration 2 --where 'score>=4' --columns prompt,response
  reflux show quickstart/errors --where code=tie         rows left out, and why
  reflux show quickstart/metrics/dpo --format csv > dpo.csv
  reflux show quickstart/scores --follow --format json   as the run commits
  reflux show quickstart/pairs --format arrow > pairs.arrows
  reflux show quickstart/revised/pairs-5d0c81f2a9b3 --format parquet > pairs.parquet";

/// Opens what the argument names: a revision, or anything that [`Scan::open`] accepts.
fn scan(what: &Path) -> Result<Scan> {
    let within = Path::new("runs").join(what);
    let Some(folder) = [what, &within].into_iter().find(|path| Revised::is_at(path)) else { return Scan::open(what) };
    match Revised::written(folder)? {
        Some(pairs) => Scan::open(&pairs),
        None => Ok(Revised::open(folder, operators::ALL)?.scan(folder)),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShowFormat {
    /// An aligned table for reading
    Table,
    /// One JSON object per line
    Json,
    /// Comma-separated values; lists and structs as JSON
    Csv,
    /// An Arrow IPC stream, for pyarrow.ipc.open_stream
    Arrow,
    /// A Parquet file
    Parquet,
}

pub fn run(args: &Args, _: &Session) -> Result<()> {
    let format = match args.format {
        ShowFormat::Table => show::RowFormat::Table,
        ShowFormat::Json => show::RowFormat::Json,
        ShowFormat::Csv => show::RowFormat::Csv { guard: args.guard_formulas },
        ShowFormat::Arrow => show::RowFormat::Arrow,
        ShowFormat::Parquet => show::RowFormat::Parquet,
    };
    if args.guard_formulas && args.format != ShowFormat::Csv {
        return Err(Error::user("--guard-formulas has no effect without --format csv").help("leave it out"));
    }
    let binary = matches!(args.format, ShowFormat::Arrow | ShowFormat::Parquet);
    if binary && terminal::stdout_is_terminal() {
        return Err(Error::user("this format is binary and is not written to a terminal")
            .help("redirect it to a file with `>`, or to a pipe"));
    }
    let default = (args.format == ShowFormat::Table && !args.follow).then_some(20);
    let show = Show {
        iteration: args.iteration,
        conditions: args.conditions.clone(),
        columns: args.columns.clone(),
        limit: args.limit.or(default).filter(|n| *n > 0),
        format,
        width: args.width.map_or_else(terminal::width, usize::from),
        follow: args.follow,
    };
    let stop = CancelFlag::default();
    if args.follow {
        super::interrupt::stop_on_interrupt(&stop);
    }
    let output = match args.format {
        ShowFormat::Table => OutputKind::Text,
        ShowFormat::Json => OutputKind::Json,
        ShowFormat::Csv => OutputKind::Exact,
        ShowFormat::Arrow | ShowFormat::Parquet => OutputKind::Binary,
    };
    show.run(&mut scan(&args.what)?, terminal::output(output), &|| stop.is_set())
}
