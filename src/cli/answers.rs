//! Prints the answers of `reflux generate` as text or JSON lines.

use serde::Serialize;
use serde_json::json;

use super::ticker::Ticker;
use crate::data::counted;
use crate::engine::{Answer, Engine, Listener};
use crate::error::{Error, Result};
use crate::store::Prompt;

/// A prompt in progress: its position, and its content or the reason why it is invalid.
pub struct PromptPlace {
    /// Position in the input, from 0.
    pub index: u64,
    pub line: Option<u64>,
    pub prompt: Result<Prompt, String>,
}

impl PromptPlace {
    /// The reason why the line holds no prompt, if it holds none.
    fn unread(&self) -> Option<String> {
        let why = self.prompt.as_ref().err()?;
        Some(self.line.map_or_else(|| why.clone(), |line| format!("line {line} {why}")))
    }
}

/// One line of `--json` output.
#[derive(Serialize)]
struct AnswerLine<'a> {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a Prompt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<usize>,
    #[serde(flatten)]
    outcome: PromptOutcome<'a>,
}
#[derive(Serialize)]
#[serde(untagged)]
enum PromptOutcome<'a> {
    Answer { text: &'a str, finish: &'a str, prompt_tokens: usize, token_ids: &'a [u32], logprobs: &'a [f32] },
    Error { error: &'a str },
}

/// Prints answers and counts them.
pub struct Printer<'a> {
    json: bool,
    /// Whether several answers are possible, so that each needs a heading.
    headings: bool,
    name: String,
    ticker: Ticker,
    engine: &'a dyn Engine,
    prompts: u64,
    failed: u64,
    answers: u64,
    tokens: u64,
    /// Tokens that the engine had sampled before, such as those of probes.
    before: u64,
    /// The error of the last prompt that failed.
    last: String,
}

impl<'a> Printer<'a> {
    /// Creates a printer; `name` is the source of the prompts.
    pub fn new(json: bool, headings: bool, name: String, mut ticker: Ticker, engine: &'a dyn Engine) -> Self {
        ticker.restart("answering");
        let (prompts, failed, answers, tokens) = (0, 0, 0, 0);
        let before = engine.stats().generated_tokens;
        Self { json, headings, name, ticker, engine, prompts, failed, answers, tokens, before, last: String::new() }
    }

    fn tick(&mut self) {
        let (prompts, answers) = (self.prompts, self.answers);
        let tokens = self.engine.stats().generated_tokens.saturating_sub(self.before);
        let rate = tokens as f64 / self.ticker.seconds().max(1e-9);
        let shown = || {
            let (prompts, answers) = (counted(prompts, "prompt"), counted(answers, "answer"));
            format!("{prompts}, {answers}, {} ({rate:.1} tokens/s)", counted(tokens, "token"))
        };
        let event = || json!({ "prompts": prompts, "answers": answers, "tokens": tokens, "tokens_per_second": rate });
        self.ticker.tick(shown, event);
    }

    fn answer(&mut self, place: &PromptPlace, sample: usize, samples: usize, answer: &Answer) -> Result<bool> {
        let a = match answer {
            Ok(answer) => answer,
            Err(e) if self.json => return self.row(place, Some(sample), PromptOutcome::Error { error: &e.message }),
            Err(_) => return Ok(true),
        };
        self.answers += 1;
        self.tokens += a.tokens.len() as u64;
        if self.json {
            let (prompt_tokens, finish) = (a.prompt_tokens.len(), a.finish.as_str());
            let (text, token_ids, logprobs) = (&a.text, &a.tokens, &a.logprobs);
            return self.row(
                place,
                Some(sample),
                PromptOutcome::Answer { text, finish, prompt_tokens, token_ids, logprobs },
            );
        }
        let mut out = String::new();
        if self.headings {
            let blank = if self.answers > 1 { "\n" } else { "" };
            let line = place.line.map(|line| format!("line {line}"));
            let sample = (samples > 1).then(|| format!("sample {sample}"));
            let heading: Vec<String> = line.into_iter().chain(sample).collect();
            out = format!("{blank}--- {}\n", heading.join(", "));
        }
        out += a.text.trim_end();
        super::terminal::put(&out)
    }

    fn row(&self, place: &PromptPlace, sample: Option<usize>, outcome: PromptOutcome<'_>) -> Result<bool> {
        let PromptPlace { index, line, ref prompt } = *place;
        let row = AnswerLine { index, line, prompt: prompt.as_ref().ok(), sample, outcome };
        let line = serde_json::to_string(&row).map_err(|e| Error::bug(format!("an answer as JSON: {e}")))?;
        super::terminal::put_json(line)
    }

    /// Describes what was printed before an early end.
    pub fn so_far(&self) -> String {
        format!("{} to {} were printed", counted(self.answers, "answer"), counted(self.prompts, "prompt"))
    }

    /// Prints totals. `whole` means that the input was at most one prompt.
    ///
    /// # Errors
    /// The input held no prompt, or a prompt has no answer.
    pub fn finish(self, whole: bool) -> Result<()> {
        let Self { name, ticker, prompts, failed, answers, last, .. } = self;
        // Answers of a chat server have no token ids, so the server's own count is the only one.
        let counted_there = || self.engine.stats().generated_tokens.saturating_sub(self.before);
        let tokens = if self.tokens == 0 { counted_there() } else { self.tokens };
        // With a single prompt, the error alone is the whole result.
        match (prompts, failed) {
            (0, _) if whole => return Err(Error::user(format!("{name} is empty"))),
            (0, _) => return Err(Error::user(format!("{name} holds no prompt"))),
            (_, 1..) if whole => return Err(Error::user(last)),
            _ => {}
        }
        let (seconds, hits) = (ticker.seconds(), self.engine.stats().hit_rate());
        let rate = tokens as f64 / seconds.max(1e-9);
        ticker.finish(
            || {
                let (prompts, answers, hits) = (counted(prompts, "prompt"), counted(answers, "answer"), 100. * hits);
                format!(
                    "{prompts}, {answers}, {} in {seconds:.1} s ({rate:.1} tokens/s); {hits:.0}% of the prompts' tokens were in \
                     the prefix cache",
                    counted(tokens, "token")
                )
            },
            || {
                json!({ "prompts": prompts, "answers": answers, "errors": failed, "tokens": tokens,
                    "tokens_per_second": rate, "prefix_cache_hit_rate": hits })
            },
        );
        if failed > 0 {
            return Err(Error::user(format!("{failed} of {} have no answer", counted(prompts, "prompt"))));
        }
        Ok(())
    }
}

impl Listener<PromptPlace> for Printer<'_> {
    /// Prints a prompt's answers; returns `false` once the reader has closed the output.
    fn answered(&mut self, place: PromptPlace, answers: Vec<Answer>) -> Result<bool> {
        self.prompts += 1;
        let unread = place.unread();
        let unanswered = || answers.iter().find_map(|a| Some(&a.as_ref().err()?.message));
        if let Some(why) = unread.as_ref().or_else(unanswered) {
            self.failed += 1;
            why.clone_into(&mut self.last);
            match (place.line, &unread) {
                (_, Some(why)) => self.ticker.row_error(&format!("`{}` {why}", self.name)),
                (Some(line), None) => self.ticker.row_error(&format!("`{}` line {line}: {why}", self.name)),
                // The command itself ends with the only prompt's error.
                (None, None) => {}
            }
        }
        if let Some(error) = &unread
            && self.json
            && !self.row(&place, None, PromptOutcome::Error { error })?
        {
            return Ok(false);
        }
        for (sample, answer) in answers.iter().enumerate() {
            if !self.answer(&place, sample, answers.len(), answer)? {
                return Ok(false);
            }
        }
        self.tick();
        Ok(true)
    }

    fn waiting(&mut self) {
        self.tick();
    }
}
