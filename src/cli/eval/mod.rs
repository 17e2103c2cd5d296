//! `reflux eval`: one file per subcommand.

mod alpaca;
mod common;
mod drift;
mod reward;
mod win_rate;

use clap::Subcommand;

use crate::cli::session::Session;
use crate::error::Result;

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(subcommand)]
    command: EvalCommand,
}

const AFTER: &str = "Examples:
  reflux eval win-rate models/M2 models/M1 --prompts held-out.jsonl --judge judge.gguf
  reflux eval reward judge.gguf --data datasets/ranked
  reflux eval alpaca export models/M2 --prompts alpaca_eval.json -o outputs.json
  reflux eval alpaca win-rate annotations.json
  reflux eval drift quickstart";

#[derive(Subcommand)]
enum EvalCommand {
    /// Compares two models, or stored answers: the share of prompts that each wins according to a judge
    WinRate(win_rate::Args),
    /// Compares a judge with answers that people have ranked (the paper's Table 4)
    Reward(reward::Args),
    /// AlpacaEval 2.0: writes outputs in its format, and computes win rates from its annotations
    #[command(subcommand)]
    Alpaca(alpaca::AlpacaCommand),
    /// Shows how the answers and scores of a run change between iterations
    Drift(drift::Args),
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let style = session.style;
    match &args.command {
        EvalCommand::WinRate(args) => win_rate::run(args, style),
        EvalCommand::Reward(args) => reward::run(args, style),
        EvalCommand::Alpaca(command) => alpaca::run(command, style),
        EvalCommand::Drift(args) => drift::run(args),
    }
}
