//! Resolves the prefix of an id.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Schema};

use crate::data::quoted;
use crate::error::{Error, Result};
use crate::store::Run;

/// Columns that hold ids, with the kind of each id.
const IDS: &[(&str, IdKind)] = &[
    ("prompt_id", IdKind::Prompt),
    ("response_id", IdKind::Response),
    ("first_id", IdKind::Response),
    ("second_id", IdKind::Response),
    ("chosen_id", IdKind::Response),
    ("rejected_id", IdKind::Response),
];

/// The kind of object that an id names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum IdKind {
    Prompt,
    Response,
    Judgement,
}

impl IdKind {
    pub(super) fn word(self) -> &'static str {
        match self {
            IdKind::Prompt => "prompt",
            IdKind::Response => "response",
            IdKind::Judgement => "judgement",
        }
    }
}

/// Maximum number of ids listed for an ambiguous prefix.
const TOLD: usize = 8;
/// Objects whose ids match a prefix, by id and kind, with the prompts that each belongs to.
pub(super) type Candidates = BTreeMap<(String, IdKind), BTreeSet<String>>;

/// Positions and kinds of the id columns of a file.
pub(super) fn id_columns(schema: &Schema) -> Vec<(usize, IdKind)> {
    let column = |(name, kind): &(&str, IdKind)| {
        let at = schema.index_of(name).ok()?;
        (*schema.field(at).data_type() == DataType::Utf8).then_some((at, *kind))
    };
    IDS.iter().filter_map(column).collect()
}

/// Resolves `id` to the id itself, the number of a judgement (if written as RESPONSE/N), and all matching
/// objects. Ids of imported data may contain a `/`, so the whole text is tried first.
pub(super) fn named<'a>(run: &Run, id: &'a str) -> Result<(&'a str, Option<&'a str>, Candidates)> {
    if id.is_empty() || id.starts_with('/') {
        return Err(Error::user("the id is empty").help("give an id or a prefix of one"));
    }
    let whole = candidates(run, id)?;
    let Some((response, number)) = id.rsplit_once('/').filter(|_| !is_exact(&whole, id)) else {
        return Ok((id, None, whole));
    };
    let of_response = candidates(run, response)?;
    // A full match takes precedence over prefixes.
    if whole.is_empty() || is_exact(&of_response, response) {
        return Ok((response, Some(number), of_response));
    }
    Ok((id, None, whole))
}

/// Whether `id` is a complete id among the candidates, and not only a prefix.
fn is_exact(known: &Candidates, id: &str) -> bool {
    known.keys().any(|(name, _)| name == id)
}

/// Finds all objects whose id begins with `given`, or only those with this exact id if there are any.
/// Returns the id, its kind, and the prompts that it belongs to.
fn candidates(run: &Run, given: &str) -> Result<Candidates> {
    let mut known = Candidates::new();
    for step in run.steps_in_order() {
        for entry in run.files(&step) {
            let part = run.part(&entry);
            let schema = part.schema()?;
            let columns = id_columns(&schema);
            let Some(of_prompt) = columns.iter().position(|(_, kind)| *kind == IdKind::Prompt) else { continue };
            let wanted: Vec<usize> = columns.iter().map(|(at, _)| *at).collect();
            for rows in part.read(&schema.project(&wanted)?.into())? {
                let rows = rows?;
                let prompts = rows.column(of_prompt).as_string::<i32>();
                for (i, (_, kind)) in columns.iter().enumerate() {
                    let ids = rows.column(i).as_string::<i32>();
                    // Once more candidates are known than are listed, only exact matches are collected.
                    let full = known.len() > 4 * TOLD;
                    let wanted = |id: &str| id.starts_with(given) && (!full || id == given);
                    for row in (0..rows.num_rows()).filter(|&r| ids.is_valid(r) && wanted(ids.value(r))) {
                        let of = known.entry((ids.value(row).to_owned(), *kind)).or_default();
                        if of.len() < TOLD {
                            of.insert(prompts.value(row).to_owned());
                        }
                    }
                }
            }
        }
    }
    // An exact match wins: otherwise an id that is a prefix of others could not be named.
    if is_exact(&known, given) {
        known.retain(|(id, _), _| id == given);
    }
    Ok(known)
}

/// Suggests a command that lists the ids of prompts.
fn where_ids_are(run: &Run) -> String {
    let of_prompts = |step: &String| {
        let schema = run.files(step).first().and_then(|file| run.part(file).schema().ok());
        schema.is_some_and(|s| ["prompt_id", "prompt"].iter().all(|name| s.index_of(name).is_ok()))
    };
    let words = "ids are in the columns prompt_id and response_id";
    run.steps_in_order().into_iter().find(of_prompts).map_or(words.to_owned(), |step| {
        let what = run.dir().join(step);
        format!("{words}: `reflux show {} --columns prompt_id,prompt`", quoted(&what.to_string_lossy()))
    })
}

pub(super) fn not_one(run: &Run, given: &str, known: &Candidates) -> Error {
    if known.is_empty() {
        return Error::user(format!("no id in the run `{}` begins with `{given}`", run.dir().display()))
            .help(where_ids_are(run));
    }
    let mut told: BTreeMap<&str, &str> = BTreeMap::new();
    known.keys().for_each(|(id, kind)| {
        told.entry(id).or_insert(kind.word());
    });
    let more = if told.len() > TOLD { ", and more" } else { "" };
    let words: Vec<String> = told.iter().take(TOLD).map(|(id, kind)| format!("{kind} {id}")).collect();
    Error::user(format!("several ids begin with `{given}`"))
        .help(format!("give a longer prefix: {}{more}", words.join(", ")))
}
