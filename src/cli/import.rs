//! `reflux import`.

use std::path::PathBuf;

use crate::data::SCHEMAS;
use crate::error::{Error, Result};
use crate::store::import_jsonl;

#[derive(clap::Args)]
pub struct Args {
    /// The .jsonl file
    file: PathBuf,
    /// Name of its rows' schema; guessed from the first row if absent
    #[arg(long)]
    schema: Option<String>,
    /// Where the Parquet file goes; beside the input if absent
    #[arg(long)]
    out: Option<PathBuf>,
}

pub fn run(args: &Args, quiet: bool) -> Result<()> {
    let find = |name: &String| {
        let found = SCHEMAS.iter().copied().find(|s| s.name == *name);
        found.ok_or_else(|| Error::user(format!("there is no schema `{name}`")).help("`reflux schema` lists them"))
    };
    let schema = args.schema.as_ref().map(find).transpose()?;
    let made = import_jsonl(&args.file, schema, args.out.as_deref())?;
    if quiet {
        return Ok(());
    }
    let mut text = format!("{}: {} rows of `{}`", made.path.display(), made.written.rows, made.schema);
    if !made.extra.is_empty() {
        text += &format!(", with the columns {}", made.extra.join(", "));
    }
    if !made.ignored.is_empty() {
        text += &format!("; left out, as they hold no text: {}", made.ignored.join(", "));
    }
    super::print(&text)
}
