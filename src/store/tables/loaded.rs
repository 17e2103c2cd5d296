//! Prompts and answers for an evaluation, in any supported format, loaded into memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::scan::Scan;
use crate::data::{PROMPT_MESSAGES, hash_hex};
use crate::error::{Error, Result};
use crate::store::datasets::context::{is_empty, unsupported_context};
use crate::store::datasets::prompts::take_prompt;
use crate::store::datasets::rows::RowReader;
use crate::store::datasets::turn::with_input;
use crate::store::files::jsonl::{list, member, spell, text};
use crate::store::files::listing::is_data_file;
use crate::store::files::unread::{Unread, count_unread};

/// Columns to read; of each kind the first one that exists.
const COLUMNS: &[&str] = &[
    "prompt_id",
    "prompt",
    PROMPT_MESSAGES,
    "messages",
    "instruction",
    "input",
    "turns",
    "dataset",
    "response_id",
    "sample",
    "response",
    "output",
    "completion",
    "text",
    "error",
];
const ANSWERS: [&str; 4] = ["response", "output", "completion", "text"];

/// A prompt to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadedPrompt {
    /// The given id, or the hash of the text.
    pub id: String,
    /// The instruction.
    pub text: String,
    /// Part of the evaluation set, if AlpacaEval's key `dataset` is present.
    pub dataset: Option<String>,
}

/// An answer to a prompt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadedAnswer {
    /// The prompt.
    pub prompt: LoadedPrompt,
    /// Sample number among the prompt's answers, from 0: given, or counted.
    pub sample: u32,
    /// The given id, or a hash of prompt, sample number and text.
    pub id: String,
    /// The answer; may be empty.
    pub text: String,
}

/// Loaded rows, and counts of what was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded<T> {
    /// The rows, in the file's order.
    pub rows: Vec<T>,
    /// Number of repeated prompts, or of answers with an `error` instead of a text.
    pub left_out: u64,
    /// Unread keys of prompts, with the number of rows that have a value there.
    pub unread: BTreeMap<String, u64>,
}

/// Loads the prompts of a file: the lines of a .txt file, or rows of JSON lines, a JSON array, CSV or Parquet
/// (also RUN/STEP) with `prompt`, `messages`, `instruction` (and `input`) or `turns`, of which the first is
/// used. Repeated prompts are left out.
///
/// # Errors
/// No file or no prompt found; a row lacks a prompt; two prompts have the same id.
pub fn load_prompts(path: &Path) -> Result<Loaded<LoadedPrompt>> {
    let mut given = Loaded { rows: Vec::new(), left_out: 0, unread: Unread::new() };
    let mut known: HashMap<String, String> = HashMap::new();
    let mut take = |place: String, prompt: LoadedPrompt| match known.get(&prompt.id) {
        None => {
            known.insert(prompt.id.clone(), prompt.text.clone());
            given.rows.push(prompt);
            Ok(())
        }
        Some(text) if *text == prompt.text => {
            given.left_out += 1;
            Ok(())
        }
        Some(_) => Err(Error::user(format!("{place} has the prompt_id `{}`, as another prompt before it", prompt.id))
            .help("give every prompt an id of its own, or none at all")),
    };
    let mut rows = rows_at(path)?;
    let mut unread = Unread::new();
    for row in rows.by_ref() {
        let row = row?;
        let place = row.place();
        let read = row.row.map_err(|e| e.1).and_then(|mut row| {
            let prompt = prompt(&mut row)?;
            left_over(&row, &mut unread);
            Ok(prompt)
        });
        take(place.clone(), read.map_err(|what| bad(&place, &what, path))?)?;
    }
    rows.unread_columns().iter().for_each(|(key, rows)| count_unread(&mut unread, key, *rows));
    given.unread = unread;
    if given.rows.is_empty() {
        return Err(Error::user(format!("`{}` holds no prompt", path.display())));
    }
    Ok(given)
}

/// Loads the answers of a file: rows as in [`load_prompts`] with `response`, `output`, `completion` or `text`
/// next to the prompt. Reflux's datasets, the output of `reflux generate --json` and AlpacaEval's outputs
/// have this form. A row with `error` and no answer is left out.
///
/// # Errors
/// No file or no answer found; a row lacks a prompt or an answer; a prompt has two answers with the same
/// `sample`.
pub fn load_answers(path: &Path) -> Result<Loaded<LoadedAnswer>> {
    let mut given = Loaded { rows: Vec::new(), left_out: 0, unread: Unread::new() };
    let mut places: HashMap<String, u32> = HashMap::new();
    let mut taken: HashSet<(String, u32)> = HashSet::new();
    for row in rows_at(path)? {
        let row = row?;
        let place = row.place();
        let read = row.row.map_err(|e| e.1).and_then(|mut row| answer(&mut row));
        let (prompt, sample, id, text) = match read.map_err(|what| bad(&place, &what, path))? {
            Some(read) => read,
            None => {
                given.left_out += 1;
                continue;
            }
        };
        let next = places.entry(prompt.id.clone()).or_default();
        let sample = sample.unwrap_or(*next);
        *next += 1;
        if !taken.insert((prompt.id.clone(), sample)) {
            let help = "is it of several iterations? give one, as RUN/STEP@2; or number the answers of each prompt";
            return Err(
                Error::user(format!("{place} is a second answer to its prompt with sample {sample}")).help(help)
            );
        }
        let id = id.unwrap_or_else(|| hash_hex([prompt.id.as_str(), &sample.to_string(), &text]));
        given.rows.push(LoadedAnswer { prompt, sample, id, text });
    }
    if given.rows.is_empty() {
        return Err(Error::user(format!("`{}` holds no answer", path.display())));
    }
    Ok(given)
}

/// Counts the remaining keys of a row as unread.
fn left_over(row: &Map<String, Value>, unread: &mut Unread) {
    let left = row.iter().filter(|(key, value)| !is_empty(value) && !ANSWERS.contains(&key.as_str()));
    left.for_each(|(key, _)| count_unread(unread, key, 1));
}

fn bad(place: &str, what: &str, path: &Path) -> Error {
    let error = Error::user(format!("{place} {what}"));
    if is_data_file(path) || path.is_dir() {
        error
    } else {
        error.help("rows are JSON, CSV or Parquet; prompts as plain text, a line each, are a .txt file")
    }
}

/// Opens the rows of a file, a folder, or RUN/STEP, optionally of one iteration with `@N`.
fn rows_at(given: &Path) -> Result<RowReader> {
    let (mut path, mut iteration) = (given.to_owned(), None);
    if let Some((before, after)) = given.to_string_lossy().rsplit_once('@')
        && !given.exists()
        && let Ok(n) = after.parse::<u32>()
    {
        (path, iteration) = (PathBuf::from(before), Some(n));
    }
    if path.is_file() && iteration.is_none() {
        return Ok(RowReader::from_files(vec![path], COLUMNS));
    }
    let scan = match Scan::open(&path) {
        Ok(scan) => scan,
        // A folder of JSON lines.
        Err(_) if path.is_dir() && !path.join("manifest.jsonl").is_file() => return RowReader::open(&path, COLUMNS),
        Err(e) => return Err(e),
    };
    let parts = scan.parts(iteration)?;
    // Reading the schema also compares each file with its manifest entry.
    parts.iter().try_for_each(|part| part.schema().map(drop))?;
    if parts.is_empty() {
        let of = iteration.map(|n| format!(" of iteration {n}")).unwrap_or_default();
        return Err(Error::user(format!("`{}` has no rows{of}", path.display())));
    }
    Ok(RowReader::from_files(parts.into_iter().map(|part| part.path).collect(), COLUMNS))
}

fn prompt(row: &mut Map<String, Value>) -> Result<LoadedPrompt, String> {
    if let Some(what) = unsupported_context(row) {
        return Err(what);
    }
    let given = |row: &Map<String, Value>, key: &str| row.get(key).is_some_and(|v| !v.is_null());
    let text = if given(row, "prompt") || given(row, "messages") || given(row, PROMPT_MESSAGES) {
        match take_prompt(row)?.turns() {
            turns if turns.len() == 1 && turns[0].role == "user" => {
                turns.into_iter().map(|turn| turn.content).collect()
            }
            turns => {
                let many = turns.len();
                return Err(format!("has a prompt of {many} messages; an evaluation asks single questions"));
            }
        }
    } else if given(row, "instruction") {
        let (instruction, input) = (member(row, "instruction", text)?, optional(row, "input")?.unwrap_or_default());
        // Not trimmed: alpaca_eval finds the baseline's answer by the exact instruction.
        if input.trim().is_empty() { instruction } else { with_input(&instruction, &input) }
    } else if given(row, "turns") {
        member(row, "turns", |v| list(v, text))?.into_iter().next().unwrap_or_default()
    } else {
        return Err("has no `prompt`, `instruction` or `turns`".into());
    };
    if text.trim().is_empty() {
        return Err("has an empty prompt".into());
    }
    let id = optional(row, "prompt_id")?.filter(|id| !id.is_empty()).unwrap_or_else(|| hash_hex([&text]));
    Ok(LoadedPrompt { id, text, dataset: optional(row, "dataset")? })
}

/// A text that may be missing or null.
fn optional(row: &mut Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match row.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => text(value).map(Some).map_err(|e| format!("`{key}` {e}")),
    }
}

/// Prompt, sample number and id (if given), and text.
type ReadAnswer = (LoadedPrompt, Option<u32>, Option<String>, String);

fn answer(row: &mut Map<String, Value>) -> Result<Option<ReadAnswer>, String> {
    let Some(key) = ANSWERS.iter().find(|key| row.get(**key).is_some_and(|v| !v.is_null())) else {
        let failed = row.get("error").is_some_and(|v| !v.is_null());
        return if failed { Ok(None) } else { Err(format!("has no answer: none of {}", ANSWERS.join(", "))) };
    };
    let answer = member(row, key, text)?;
    let sample = match row.remove("sample") {
        None | Some(Value::Null) => None,
        Some(value) => {
            // CSV fields are text.
            let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
            let number = number.and_then(|n| u32::try_from(n).ok());
            Some(number.ok_or_else(|| format!("`sample` is {}, expected a whole number", spell(&value)))?)
        }
    };
    let id = optional(row, "response_id")?;
    Ok(Some((prompt(row)?, sample, id, answer)))
}
