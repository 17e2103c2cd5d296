//! `reflux generate`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, bounded};

use super::answers::{Printer, PromptPlace};
use super::interrupt::stop_on_interrupt;
use super::logprobs::{messages, tell_unread};
use super::model::ModelArgs;
use super::server::ServerArgs;
use super::session::Session;
use super::ticker::Ticker;
use crate::cancel::CancelFlag;
use crate::data::quoted;
use crate::engine::{EngineConfig, PromptRequests, RequestBuilder, RequestOptions, Sampling, answer_in_order, open};
use crate::error::{Error, ErrorKind, Result};
use crate::jinja::DateTime;
use crate::model::device;
use crate::store::{Lines, PromptForm, PromptReader, is_data_file};
use crate::threads;

const AFTER: &str = "Examples:
  reflux generate model.gguf \"Name three rivers.\"                one answer
  reflux generate model.gguf --file prompts.jsonl --samples 4 --json > answers.jsonl
  reflux generate model.gguf --file prompts.csv                   one per row, from the column `prompt`
  printf 'Hello!\\nBye!\\n' | reflux generate model.gguf --lines    one prompt per line
  reflux generate models/M2 --file letter.txt --whole             the whole file is one prompt
  reflux generate http://127.0.0.1:8000/v1 --served smol \"Hi!\"     a model on a server

Without --json, each answer has a heading with its line and sample if there may be several.

A row of a .jsonl, .json, .csv or .parquet file has `prompt`, a text or a list of {role, content}, or \
`messages`, such a list; and optionally `system`. A .txt file has one prompt per line. Keys that are not \
read are listed at the end.

With --json every answer is an object: index of the prompt from 0, line, prompt, sample, text, finish \
(stop or length), prompt_tokens (their number), token_ids and logprobs (natural, of each token at \
temperature 1). A prompt that has no answer has `error`.

The same prompt, seed and sampling give the same answers, whatever else is in the file and wherever the \
prompt is. If a prompt occurs again in the same input, it gets other answers than the first time.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The prompt; standard input if absent or `-`
    prompt: Option<String>,
    /// Reads prompts from a file: one per row (.jsonl, .json, .csv, .parquet) or per line (.txt); any other file is a
    /// single prompt
    #[arg(short, long, conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Reads the whole file as one prompt, whatever its extension
    #[arg(long, conflicts_with_all = ["lines", "jsonl"])]
    whole: bool,
    /// Reads every non-blank line of the file or of standard input as a prompt
    #[arg(long, conflicts_with = "jsonl")]
    lines: bool,
    /// Reads every line of the file or of standard input as a JSON object
    #[arg(long)]
    jsonl: bool,
    /// System message for conversations without one
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Answers to each prompt
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    samples: u32,
    /// Prints a JSON object for every answer
    #[arg(long)]
    json: bool,
    /// Memory for keys and values, e.g. 2GiB; by default a share of the free memory
    #[arg(long, value_name = "SIZE", value_parser = super::model::size, help_heading = "Model")]
    kv_memory: Option<u64>,
    #[command(flatten)]
    sampling: GenerateSamplingArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Default of `--top-p`.
const DEFAULT_TOP_P: f32 = 0.9;

#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
struct GenerateSamplingArgs {
    /// Divides the logits; 0 always takes the most likely token
    #[arg(short, long, value_name = "X", default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f32,
    /// Samples from the smallest set of most likely tokens with at least this mass; 1 disables it
    #[arg(long, value_name = "P", default_value_t = DEFAULT_TOP_P, allow_negative_numbers = true)]
    top_p: f32,
    /// Samples from at most this many most likely tokens; 0 disables it
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: usize,
    /// Drops tokens less likely than this share of the most likely token; 0 disables it
    #[arg(long, value_name = "P", default_value_t = 0., allow_negative_numbers = true)]
    min_p: f32,
    /// Divides the logits of earlier tokens; 1 disables it
    #[arg(long, value_name = "X", default_value_t = 1., allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// Maximum number of tokens in an answer
    #[arg(short, long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Minimum number of tokens in an answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_tokens: u32,
    /// A text that ends an answer and is cut from it; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// A token id that ends an answer, in addition to the model's own; may be given several times
    #[arg(long, value_name = "ID")]
    stop_id: Vec<u32>,
    /// Seed of the random draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl GenerateSamplingArgs {
    fn checked(&self, samples: u32) -> Result<Sampling> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            max_tokens: self.max_tokens as usize,
            min_tokens: self.min_tokens as usize,
            stop: self.stop.clone(),
            stop_ids: self.stop_id.clone(),
            constraint: None,
        };
        if self.temperature == 0. {
            // A value that disables an option has no effect anyway, and a default may not have been typed.
            let top_p = self.top_p < 1. && self.top_p != DEFAULT_TOP_P;
            let given = [
                ("--top-p", top_p),
                ("--top-k", self.top_k > 0),
                ("--min-p", self.min_p > 0.),
                ("--seed", self.seed != 0),
            ];
            if let Some((flag, _)) = given.into_iter().find(|(_, given)| *given) {
                return Err(Error::user(format!(
                    "{flag} has no effect with --temperature 0, which takes the likeliest token"
                ))
                .help("leave it out, or raise the temperature"));
            }
            if samples > 1 {
                return Err(Error::user(
                    "--samples has no effect with --temperature 0: every answer to a prompt is the same",
                )
                .help("leave it out, or raise the temperature"));
            }
        }
        if let Some(problem) = sampling.problem() {
            return Err(Error::user(problem));
        }
        if self.min_tokens > self.max_tokens {
            let (least, most) = (self.min_tokens, self.max_tokens);
            return Err(Error::user(format!("min_tokens is {least}, more than max_tokens, which is {most}")));
        }
        Ok(sampling)
    }
}

/// Returns the source of the prompts and their form.
fn prompts(args: &Args) -> Result<PromptReader> {
    let stdin = || Lines::new("standard input", std::io::BufReader::new(std::io::stdin()));
    let asked_for = match (args.lines, args.jsonl) {
        (true, _) => Some(PromptForm::Lines),
        (_, true) => Some(PromptForm::Json),
        _ => args.whole.then_some(PromptForm::Whole),
    };
    let lines = match (&args.file, args.prompt.as_deref()) {
        (Some(path), _) if path.as_os_str() == "-" => stdin(),
        (Some(path), _) => {
            if asked_for.is_none() && is_data_file(path) {
                return PromptReader::open(path);
            }
            Lines::open(path)?
        }
        (None, Some(text)) if text != "-" => {
            if asked_for.is_some() {
                return Err(Error::user("the prompt is given, so no file is read")
                    .help("--lines, --jsonl and --whole apply to --file and standard input"));
            }
            // A file name alone is an unlikely prompt, and either reading may be meant, so the user must
            // choose.
            if Path::new(text).is_file() {
                let (file, model) = (quoted(text), quoted(&args.model.model.display().to_string()));
                return Err(Error::user(format!("the prompt `{text}` is the name of a file")).help(format!(
                    "to read the file, add --file: --file {file}; to use the name itself, write it to standard input: \
                     printf %s {file} | reflux generate {model}"
                )));
            }
            Lines::new("the prompt", std::io::Cursor::new(text.to_owned()))
        }
        (None, None) if std::io::stdin().is_terminal() => {
            return Err(Error::user("no prompt given")
                .help("give it after the model, or name a file with --file, or write to standard input"));
        }
        _ => stdin(),
    };
    Ok(PromptReader::new(lines, asked_for.unwrap_or(PromptForm::Whole)))
}

/// Reads prompts on a thread of their own: a pipe may supply one now and the next in an hour.
fn read(prompts: PromptReader, mut builder: RequestBuilder) -> Result<Receiver<Result<PromptRequests<PromptPlace>>>> {
    let (sender, queued) = bounded(64);
    let work = move || {
        for (index, read) in (0..).zip(prompts) {
            let queued = read.map(|(line, prompt)| {
                let messages = prompt.as_ref().map(|prompt| messages(prompt.turns()));
                let requests = messages.map_or_else(|_| Vec::new(), |messages| builder.requests(messages));
                PromptRequests { tag: PromptPlace { index, line, prompt }, requests }
            });
            // The receiver is gone once printing has ended.
            if sender.send(queued).is_err() {
                return;
            }
        }
    };
    let start = || std::thread::Builder::new().name("prompts".into()).spawn(work);
    threads::check_memory(1, threads::STACK)
        .and_then(|()| start())
        .map_err(|e| Error::no_thread("the thread that reads prompts", e))?;
    Ok(queued)
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let style = session.style;
    let sampling = args.sampling.checked(args.samples)?;
    let prompts = prompts(args)?;
    let (name, unread) = (prompts.name().to_owned(), prompts.unread());
    let mut config = EngineConfig::default().with_threads(args.model.threads())?;
    config.kv_memory = args.kv_memory.unwrap_or(config.kv_memory);
    config.date = Some(DateTime::now());
    let stop = CancelFlag::default();
    stop_on_interrupt(&stop);
    let cancel = stop;
    let ticker = Ticker::new(style, format!("loading {}", args.model.model.display()));
    let engine = match args.server.address(&args.model.model)? {
        Some(address) => args.server.open(address, &cancel)?,
        None => open(&args.model.model, &device(&args.model.loading.device)?, args.model.dtype(), config)?,
    };

    let whole = prompts.form() == PromptForm::Whole;
    let options =
        RequestOptions { system: args.system.clone(), samples: args.samples, sampling, seed: args.sampling.seed };
    let queued = read(prompts, RequestBuilder::new(options))?;
    let headings = !whole || args.samples > 1;
    let mut printer = Printer::new(args.json, headings, name, ticker, engine.as_ref());
    let done = answer_in_order(engine.as_ref(), &queued, &cancel, &mut printer);
    done.map_err(|e| match e.kind() {
        ErrorKind::Cancelled => e.help(printer.so_far()),
        _ => e,
    })?;
    // No code panics while it holds the lock, so the data are intact.
    tell_unread(&unread.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    printer.finish(whole)
}
