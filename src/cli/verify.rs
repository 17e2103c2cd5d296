//! `reflux verify`.

use std::path::PathBuf;

use super::model::weights;
use super::session::Session;
use super::terminal;
use crate::data::{counted, quoted};
use crate::error::{Error, Result};
use crate::operators;
use crate::pipeline;
use crate::report::Verification;
use crate::store::{Repair, find_run};

#[derive(clap::Args)]
#[command(
    after_help = "Checks hash, size, rows, schema and lineage of every file, models and checkpoints, and lists files
that are not the run's. --repair removes damaged files, and everything made from them, from the manifest;
a copy of the old manifest is kept. Then `reflux run` of the same file continues, and ends with the same
bytes as an undisturbed run.

Exit codes: 0 nothing is damaged, or it was repaired; 1 something is damaged; 2 the run does not exist.

Examples:
  reflux verify quickstart
  reflux verify quickstart --repair && reflux run pipelines/quickstart.toml"
)]
pub struct Args {
    /// The run: a directory, or a name in runs
    run: PathBuf,
    /// Goes back to the last good state, so that `reflux run` can continue
    #[arg(long)]
    repair: bool,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let quiet = session.quiet;
    let dir = find_run(&args.run);
    // The repair is held until the end, so that no other process writes the run in the meantime.
    let repair = args.repair.then(|| Repair::begin(&dir)).transpose()?;
    let plan = pipeline::load_without_data(&dir.join("pipeline.toml"), &[], operators::ALL).ok();
    let verdict = Verification::of(&dir, plan.as_ref(), &weights)?;
    if args.json {
        terminal::print_json(verdict.json())?;
    } else if !quiet {
        terminal::print_lines(verdict.lines())?;
    }
    let (place, damaged) = (dir.display(), verdict.damaged());
    let Some(repair) = repair else {
        return if verdict.sound() {
            Ok(())
        } else {
            if verdict.unreadable() > 0 {
                return Err(Error::system(format!(
                    "{} of the run `{place}` cannot be read and may be damaged",
                    counted(verdict.unreadable(), "file")
                ))
                .help("make them readable (permissions, the limit of open files, the disk), and verify again"));
            }
            let help = match Repair::check(verdict.found(), verdict.seed()) {
                Err(hopeless) => format!("{hopeless}; {}", hopeless.help_text().unwrap_or_default()),
                Ok(()) => format!(
                    "`reflux verify {} --repair` goes back to the last good state and removes {}",
                    quoted(&dir.to_string_lossy()),
                    verdict.going_in_words()
                ),
            };
            Err(Error::system(format!("the run `{place}` is damaged in {}", counted(damaged, "place"))).help(help))
        };
    };
    let repaired = repair.apply(verdict.found(), verdict.goes(), verdict.seed())?;
    if verdict.sound() || quiet || args.json {
        return Ok(());
    }
    let words = match repaired.kept {
        Some(kept) => format!("repaired: removed {}; the old manifest is {kept}", verdict.going_in_words()),
        None => "repaired: no committed file was removed".to_owned(),
    };
    let mut lines = vec![words.as_str()];
    if repaired.settings_lost {
        lines.push("pipeline.toml has lost its settings of [engine] and [health]; `reflux run` of the pipeline file restores them");
    }
    lines.push("`reflux run` of the run's pipeline file continues it");
    terminal::print_lines(lines)
}
