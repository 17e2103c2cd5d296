//! `reflux logprobs`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::interrupt::stop_on_interrupt;
use super::model::ModelArgs;
use super::session::Session;
use super::terminal;
use super::ticker::Ticker;
use crate::cancel::CancelFlag;
use crate::data::{counted, unread_key};
use crate::error::{Error, Result};
use crate::jinja::DateTime;
use crate::model::{Message, Model, Unwritten, device};
use crate::store::{ComparisonReader, Lines, Turn};
use crate::train::{Scored, Scoring};

const AFTER: &str = "Examples:
  reflux logprobs model.gguf pairs.jsonl > scored.jsonl
  reflux logprobs models/M2 pairs.jsonl | jq '.chosen_logprob - .rejected_logprob'

A row has `prompt`, `chosen` and `rejected`, or `prompt` and `completion`, each a list of {role, content} \
or a text. One object per row is printed, in order: line, prompt_tokens, chosen_tokens and rejected_tokens \
(counts), chosen_logprob and rejected_logprob: the natural log-probability of the whole answer and of the \
token that ends its turn, after the prompt, at temperature 1. DPO computes the same in training. A row \
that cannot be scored has `error`. If the chat template does not write an answer as it was given, the \
answer is scored as given and the row has `note`.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The .jsonl file; `-` for standard input
    file: PathBuf,
    /// Number of tokens computed at once; limits memory, does not change results
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    batch_tokens: u32,
    /// Maximum length of prompt and answer in tokens; longer rows are errors and never cut. The model's own
    /// limit if absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_length: Option<u32>,
}

/// A row in progress: its line, and the names of its completions or the reason why it cannot be scored.
struct RowInProgress {
    line: u64,
    names: Result<Vec<&'static str>, String>,
    /// Notes on completions that the chat template would write differently.
    notes: Vec<String>,
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let style = session.style;
    let lines = match args.file.as_os_str() == "-" {
        true => Lines::new("standard input", std::io::BufReader::new(std::io::stdin())),
        false => Lines::open(&args.file)?,
    };
    let device = device(&args.model.loading.device)?;
    let stop = CancelFlag::default();
    stop_on_interrupt(&stop);
    let mut ticker = Ticker::new(style, format!("loading {}", args.model.model.display()));
    let model = Model::load(&args.model.model, &device, args.model.dtype(), false)?;
    let model = Model { tokenizer: model.tokenizer.with_date(Some(DateTime::now())), ..model };
    ticker.restart("scoring");
    let work = || score(args, lines, &model, &stop, ticker);
    args.model.on_threads(work)
}

fn score(args: &Args, lines: Lines, model: &Model, stop: &CancelFlag, mut ticker: Ticker) -> Result<()> {
    let name = lines.name().to_owned();
    let max_length = args.max_length.map(|n| n as usize);
    let (mut rows, mut failed, mut tokens, mut apart) = (0, 0, 0, 0);
    let mut scoring = Scoring::new(&model.llama, args.batch_tokens as usize);
    let mut print = |place: RowInProgress, sums: Option<(Scored, Vec<f64>)>| -> Result<bool> {
        rows += 1;
        let mut row = json!({ "line": place.line });
        match (place.names, sums) {
            (Ok(names), Some((scored, sums))) if sums.iter().all(|s| s.is_finite()) => {
                row["prompt_tokens"] = json!(scored.prompt.len());
                for (name, completion) in names.iter().zip(&scored.completions) {
                    row[format!("{name}_tokens")] = json!(completion.len());
                }
                for (name, sum) in names.iter().zip(&sums) {
                    row[format!("{name}_logprob")] = json!(sum);
                }
                if !place.notes.is_empty() {
                    apart += 1;
                    row["note"] = json!(place.notes.join("; "));
                }
                tokens += scored.rows() as u64;
            }
            (names, _) => {
                failed += 1;
                let why = names.err().unwrap_or_else(|| {
                    format!("line {}: the log-probability is not finite; try another --dtype", place.line)
                });
                ticker.row_error(&format!("`{name}` {why}"));
                row["error"] = json!(why);
            }
        }
        let rate = tokens as f64 / ticker.seconds().max(1e-9);
        let words = || format!("{}, {rate:.1} tokens/s", counted(rows, "row"));
        ticker.tick(words, || json!({ "rows": rows, "errors": failed, "tokens_per_second": rate }));
        super::terminal::put_json(&row)
    };
    let mut reads = true;
    let mut comparisons = ComparisonReader::new(lines);
    for row in comparisons.by_ref() {
        if stop.is_set() {
            return Err(Error::cancelled());
        }
        let (line, comparison) = row?;
        let encoded = comparison.map_err(|why| format!("line {line} {why}")).and_then(|c| {
            let (names, turns): (Vec<_>, Vec<_>) = c.completions.into_iter().unzip();
            let turns: Vec<Vec<Message>> = turns.into_iter().map(messages).collect();
            let scored = Scored::encode_with(&model.tokenizer, &messages(c.prompt), &turns, Unwritten::Apart);
            let (scored, notes) = scored.map_err(|e| format!("line {line}: {e}"))?;
            match scored.problem(model.llama.config(), max_length) {
                Some(problem) => Err(format!("line {line}: {problem}")),
                None => Ok((names, notes, scored)),
            }
        });
        let (place, scored) = match encoded {
            Ok((names, notes, scored)) => (RowInProgress { line, names: Ok(names), notes }, Some(scored)),
            Err(why) => (RowInProgress { line, names: Err(why), notes: Vec::new() }, None),
        };
        reads = scoring.push(place, scored, &mut print)?;
        if !reads {
            break;
        }
    }
    if reads {
        scoring.finish(&mut print)?;
    }
    if rows == 0 {
        return Err(Error::user(format!("{name} holds no row")));
    }
    tell_unread(comparisons.unread());
    if apart > 0 {
        tracing::warn!(
            "the chat template rewrites the answers of {}: they are scored as given, after the prompt; `note` of a row has \
             details, and training on texts refuses such rows or uses the rewritten answers",
            counted(apart, "row")
        );
    }
    let seconds = ticker.seconds();
    let rate = tokens as f64 / seconds.max(1e-9);
    ticker.finish(
        || format!("{}, {} in {seconds:.1} s ({rate:.1} tokens/s)", counted(rows, "row"), counted(tokens, "token")),
        || json!({ "rows": rows, "errors": failed, "tokens": tokens, "tokens_per_second": rate }),
    );
    if failed > 0 {
        return Err(Error::user(format!("{failed} of {} could not be scored", counted(rows, "row"))));
    }
    Ok(())
}

pub fn messages(turns: Vec<Turn>) -> Vec<Message> {
    turns.into_iter().map(|turn| Message { role: turn.role, content: turn.content, keys: turn.keys }).collect()
}

/// Reports the keys of rows that were not read.
pub fn tell_unread(unread: &BTreeMap<String, u64>) {
    for (key, rows) in unread {
        terminal::line(&format!("not read: {}", unread_key(key, *rows)));
    }
}
