//! `reflux import`.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::PossibleValuesParser;

use super::session::Session;
use super::terminal::{self, MessageKind};
use crate::data::{SCHEMAS, counted, did_you_mean, unread_key};
use crate::error::{Error, Result};
use crate::store::{FORMATS, FormatDef, ImportOptions, Rename, Turns, import, import_jsonl};

/// Description of `--format reflux`.
const REFLUX: &str =
    "rows that already follow a schema (`reflux schema`), as .jsonl, .json or .csv; Parquet with bad rows";

const AFTER: &str = "Files are JSON lines, one JSON array, CSV whose first row names the columns, or plain text, each optionally
gzipped; or Parquet.

A conversation of several turns, or with a system message, is kept as messages in the column `prompt_messages`. A row with
tools or images is left out with that reason. The closing lines list every key that was not read, with the number of rows
that have it.

Examples:
  reflux import 2023-04-12_oasst_ready.trees.jsonl.gz --turns first      the paper's 3,200 first turns, and more
  reflux import 2023-04-12_oasst_ready.trees.jsonl.gz --schema ranked    the input of `build_eft`
  reflux import alpaca_data.json --out datasets/alpaca.parquet
  reflux import ultrafeedback/train_prefs.parquet --bad-rows skip        pairs for `dpo`
  reflux import prompts.txt                                              one prompt per line
  reflux import mine.jsonl --rename q=instruction --rename a=output
  reflux import datasets/ift/ift.jsonl";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhichTurns {
    /// Every answer of a conversation, each with all messages before it
    All,
    /// The first answer
    First,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BadRowsArg {
    /// The first bad row ends the import
    Refuse,
    /// Bad rows are left out and reported
    Skip,
}

#[derive(clap::Args)]
#[command(after_help = after_help())]
pub struct Args {
    /// The file, or a folder of .parquet or .jsonl files
    file: PathBuf,
    /// The format of the rows
    #[arg(long, value_parser = format_names(), default_value = "auto", hide_possible_values = true)]
    format: String,
    /// The schema to convert to; the default of the format if absent
    #[arg(long)]
    schema: Option<String>,
    /// With oasst: the language of messages, or `any`
    #[arg(long, default_value = "en")]
    language: String,
    /// Which answers of a conversation become rows
    #[arg(long, value_enum, default_value = "all")]
    turns: WhichTurns,
    /// Reads the key A of the file as B; may be given several times
    #[arg(long, value_name = "A=B")]
    rename: Vec<String>,
    /// What happens to rows that cannot be read
    #[arg(long, value_enum, default_value = "refuse")]
    bad_rows: BadRowsArg,
    /// The Parquet file to write; next to the input if absent
    #[arg(long)]
    out: Option<PathBuf>,
}

/// The values of `--format`.
fn format_names() -> PossibleValuesParser {
    PossibleValuesParser::new(["auto", "reflux"].into_iter().chain(FORMATS.iter().map(|format| format.name)))
}

/// The formats with their descriptions, and the rest of the help.
fn after_help() -> String {
    let formats = FORMATS.iter().map(|format| (format.name, format.about)).chain([("reflux", REFLUX)]);
    let lines: Vec<String> = formats.flat_map(|(name, about)| described(name, about)).collect();
    format!(
        "Formats, in the order in which the first row is compared with them unless --format names one:\n{}\n\n{AFTER}",
        lines.join("\n")
    )
}

/// Column at which the description of a format begins in the help.
const INDENT: usize = 17;

/// Maximum number of columns of such a line. Longer ones would be wrapped without the indent.
const WIDTH: usize = 100;

/// Lines of the help for a format.
fn described(name: &str, about: &str) -> Vec<String> {
    let mut lines = vec![format!("  {name:0$}", INDENT - 3)];
    for word in about.split(' ') {
        let fits = lines.last().is_some_and(|line| line.chars().count() + 1 + word.chars().count() <= WIDTH);
        if !fits {
            lines.push(" ".repeat(INDENT - 1));
        }
        if let Some(line) = lines.last_mut() {
            *line += " ";
            *line += word;
        }
    }
    lines
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let quiet = session.quiet;
    let find = |name: &String| {
        let found = SCHEMAS.iter().copied().find(|s| s.name == *name);
        let names: Vec<&str> = SCHEMAS.iter().map(|s| s.name).collect();
        found.ok_or_else(|| {
            Error::user(format!("schema `{name}` not found")).help(did_you_mean(name, "available", &names))
        })
    };
    let how = ImportOptions {
        // `auto` and `reflux` are no public formats.
        format: FormatDef::by_name(&args.format),
        schema: args.schema.as_ref().map(find).transpose()?,
        language: (args.language != "any").then(|| args.language.clone()),
        turns: match args.turns {
            WhichTurns::All => Turns::All,
            WhichTurns::First => Turns::First,
        },
        rename: Rename::parse(&args.rename)?,
        skip_bad: args.bad_rows == BadRowsArg::Skip,
        out: args.out.clone(),
    };
    let made = match args.format.as_str() {
        "reflux" => import_jsonl(&args.file, &how)?,
        _ => import(&args.file, &how)?,
    };
    // These are printed even with -q, because rows were lost.
    for row in &made.bad_rows {
        terminal::message(MessageKind::Error, &format!("left out: {row}"), None);
    }
    if made.bad > made.bad_rows.len() as u64 {
        let more = made.bad - made.bad_rows.len() as u64;
        terminal::message(MessageKind::Error, &format!("left out: {}", counted(more, "more bad row")), None);
    }
    if quiet {
        return Ok(());
    }
    let of = made.format.map(|f| format!(" from {}", f.name)).unwrap_or_default();
    let mut head = format!("{}: {} of `{}`{of}", made.path.display(), counted(made.written.rows, "row"), made.schema);
    if !made.extra.is_empty() {
        head += &format!(", with the columns {}", made.extra.join(", "));
    }
    let left_out = made.left_out.iter().map(|(why, count)| format!("  left out {count} with {why}"));
    let unread = made.unread.iter().map(|(key, rows)| format!("  not read: {}", unread_key(key, *rows)));
    terminal::print_lines([head].into_iter().chain(left_out).chain(unread))
}
