//! `reflux explain`.

use std::path::Path;

use clap::ValueEnum;

use super::check::{Warnings, load_without_data};
use super::session::Session;
use crate::data::nearest;
use crate::error::{Error, Result};
use crate::pipeline::{self, codes};

#[derive(clap::Args)]
pub struct Args {
    /// The pipeline file, or an error code
    pub what: String,
    /// Output format of the plan
    #[arg(long, value_enum, default_value = "tree")]
    pub format: ExplainFormat,
    /// Overrides a key, e.g. --set step.dpo.beta=0.2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ExplainFormat {
    /// Indented text
    Tree,
    /// A Mermaid flowchart
    Mermaid,
    /// Graphviz
    Dot,
}

pub fn run(args: &Args, _: &Session) -> Result<()> {
    if !Path::new(&args.what).exists()
        && let Some(code) = codes::find(&args.what)
    {
        return super::terminal::print(&format!("{} {}\n\n{}", code.id, code.name, code.explanation));
    }
    let known: Vec<&str> = codes::ALL.iter().flat_map(|code| [code.id, code.name]).collect();
    if !Path::new(&args.what).exists()
        && let Some(near) = nearest(&args.what, known)
    {
        return Err(Error::user(format!("`{}` is neither a file nor an error code", args.what))
            .help(format!("did you mean `{near}`?")));
    }
    let plan = load_without_data(Path::new(&args.what), &args.set, Warnings::Shown)?;
    let format = match args.format {
        ExplainFormat::Tree => pipeline::PlanFormat::Tree,
        ExplainFormat::Mermaid => pipeline::PlanFormat::Mermaid,
        ExplainFormat::Dot => pipeline::PlanFormat::Dot,
    };
    super::terminal::print(&pipeline::explain(&plan, format))
}
