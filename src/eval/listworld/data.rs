//! Seeded datasets of the list world as record batches of the named schemas. Row `i` of a dataset depends on the seed
//! and `i` alone, so any range of rows can be made anywhere.

use std::collections::BTreeSet;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::datatypes::DataType;

use super::corpus;
use super::draw::Draw;
use super::oracle::Verdicts;
use super::world::{Instruction, NUMBERS, held_out};
use super::writer::{self, Slips};
use crate::data::{List, Schema, did_you_mean, hash_hex, named};
use crate::error::{Error, Result};

/// A dataset of the list world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Data {
    /// Plain text that M0 is trained on.
    Pretrain,
    /// Requests with responses of an imperfect writer.
    Ift,
    /// Requests with responses of varying quality and the oracle's judgement of each.
    Eft,
    /// The self-instruction prompt with some requests, and one more request as its response.
    Instruct,
    /// Requests with several responses each, ranked by the oracle.
    Ranked,
    /// The same of held-out requests, for evaluation.
    RankedHeldOut,
    /// Held-out requests, for evaluation.
    Requests,
}

impl Data {
    /// Every dataset.
    pub const ALL: [Data; 7] =
        [Data::Pretrain, Data::Ift, Data::Eft, Data::Instruct, Data::Ranked, Data::RankedHeldOut, Data::Requests];

    /// Its name in pipeline files.
    pub fn name(self) -> &'static str {
        match self {
            Data::Pretrain => "pretrain",
            Data::Ift => "ift",
            Data::Eft => "eft",
            Data::Instruct => "instruct",
            Data::Ranked => "ranked",
            Data::RankedHeldOut => "ranked-heldout",
            Data::Requests => "requests",
        }
    }
    /// The schema of its rows.
    pub fn schema(self) -> &'static Schema {
        match self {
            Data::Pretrain => &named::TEXT,
            Data::Ift | Data::Instruct => &named::IFT,
            Data::Eft => &named::EFT,
            Data::Ranked | Data::RankedHeldOut => &named::RANKED,
            Data::Requests => &named::PROMPTS,
        }
    }
    /// Maximum number of rows, if there is a limit.
    pub fn limit(self) -> Option<usize> {
        (self == Data::Requests).then(|| held_out().len())
    }
    /// These rows of the dataset. `shots` is the number of example requests in a row of [`Data::Instruct`] and does
    /// not matter to the others.
    ///
    /// # Errors
    /// More held-out requests are asked for than exist.
    pub fn rows(self, seed: u64, rows: Range<usize>, shots: usize) -> Result<RecordBatch> {
        match self {
            Data::Pretrain => pretrain(seed, rows),
            Data::Ift => ift(seed, rows),
            Data::Eft => eft(seed, rows),
            Data::Instruct => instruct(seed, rows, shots),
            Data::Ranked => ranked(seed, rows, false),
            Data::RankedHeldOut => ranked(seed, rows, true),
            Data::Requests => requests(seed, rows),
        }
    }
}

impl FromStr for Data {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        Data::ALL.into_iter().find(|d| d.name() == name).ok_or_else(|| {
            let names = Data::ALL.map(Data::name);
            Error::user(format!("the list world has no dataset `{name}`")).help(did_you_mean(name, "there are", &names))
        })
    }
}

fn texts<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(items))
}

/// Documents to pretrain on, without any control token: the trainer adds the tokens that begin and end a text.
///
/// # Errors
/// No error in practice. The same holds for the functions below except [`requests`].
pub fn pretrain(seed: u64, rows: Range<usize>) -> Result<RecordBatch> {
    let documents: Vec<_> = rows.map(|row| corpus::document(seed, row)).collect();
    named::TEXT.batch(vec![texts(documents.iter().map(|d| &d.context)), texts(documents.iter().map(|d| &d.text))])
}

/// Requests and responses of a writer with the slips of [`Slips::IFT`].
pub fn ift(seed: u64, rows: Range<usize>) -> Result<RecordBatch> {
    let (prompts, responses): (Vec<_>, Vec<_>) = rows
        .map(|row| {
            let draw = &mut Draw::row(seed, "ift", row);
            let request = writer::request(draw);
            (request.to_string(), writer::respond(&request, &Slips::IFT, draw))
        })
        .unzip();
    named::IFT.batch(vec![texts(prompts), texts(responses)])
}

/// Requests, responses of varying quality, and the judgement that the oracle's verdicts spell.
pub fn eft(seed: u64, rows: Range<usize>) -> Result<RecordBatch> {
    let (mut prompts, mut responses, mut judgements, mut scores) = (vec![], vec![], vec![], vec![]);
    for row in rows {
        let draw = &mut Draw::row(seed, "eft", row);
        let request = writer::request(draw);
        let slips = Slips::eft(draw);
        let response = writer::respond(&request, &slips, draw);
        let verdicts = Verdicts::of(&request, &response);
        judgements.push(judgement(&request, &verdicts));
        scores.push(f32::from(verdicts.score()));
        prompts.push(request.to_string());
        responses.push(response);
    }
    let scores = Arc::new(Float32Array::from(scores));
    named::EFT.batch(vec![texts(prompts), texts(responses), texts(judgements), scores])
}

/// A judgement with additive scoring: for each aspect the requirement, whether it is met, and the points so far; then
/// the score. The running tally makes the score learnable: a model does not learn to sum five verdicts at the end.
pub fn judgement(request: &Instruction, verdicts: &Verdicts) -> String {
    let closing = if request.polite { "thanks" } else { "plain" };
    let claims = [request.category().name, NUMBERS[request.count], "different", request.order.word(), closing];
    let mut points = 0;
    let mut said = String::new();
    for (claim, holds) in claims.into_iter().zip(verdicts.points()) {
        points += u8::from(holds);
        said += &format!("{claim} {} {points} ", if holds { "yes" } else { "no" });
    }
    format!("{said}score {points}")
}

/// Self-instruction: the prompt that `pipelines/listworld/instruct.jinja` makes of `shots` requests, and a further
/// request as the response.
pub fn instruct(seed: u64, rows: Range<usize>, shots: usize) -> Result<RecordBatch> {
    let (prompts, responses): (Vec<_>, Vec<_>) = rows
        .map(|row| {
            let draw = &mut Draw::row(seed, "instruct", row);
            let examples: String = (0..shots).map(|_| format!("task : {} . ", writer::request(draw))).collect();
            (format!("{examples}task"), writer::request(draw).to_string())
        })
        .unzip();
    named::IFT.batch(vec![texts(prompts), texts(responses)])
}

/// Responses to a request in a row of [`ranked`].
const RANKED: usize = 3;

/// Requests with three responses of varying quality each, ranked by the oracle's score: a row per response, those of a
/// request one after the other. The requests are those kept for evaluation, or the others.
pub fn ranked(seed: u64, rows: Range<usize>, is_held_out: bool) -> Result<RecordBatch> {
    let stream = if is_held_out { Data::RankedHeldOut } else { Data::Ranked }.name();
    let kept: Vec<Instruction> = held_out().iter().copied().collect();
    let answers = |group: usize| {
        let draw = &mut Draw::row(seed, stream, group);
        let request = if is_held_out { draw.pick(&kept) } else { writer::request(draw) };
        let answer = |_| {
            let slips = Slips::eft(draw);
            let response = writer::respond(&request, &slips, draw);
            (Verdicts::of(&request, &response).score(), response)
        };
        (request, (0..RANKED).map(answer).collect::<Vec<_>>())
    };
    let (mut prompts, mut prompt_ids, mut ids, mut responses) = (vec![], vec![], vec![], vec![]);
    let (mut ranks, mut scores) = (vec![], vec![]);
    for row in rows {
        let (request, answers) = answers(row / RANKED);
        let (score, response) = &answers[row % RANKED];
        let better: BTreeSet<u8> = answers.iter().map(|a| a.0).filter(|s| s > score).collect();
        let (prompt, group) = (request.to_string(), (row / RANKED).to_string());
        let prompt_id = hash_hex(["listworld", stream, &group, &prompt]);
        ids.push(hash_hex([&prompt_id, &row.to_string(), response]));
        prompt_ids.push(prompt_id);
        prompts.push(prompt);
        responses.push(response.clone());
        ranks.push(better.len() as u32);
        scores.push(f32::from(*score));
    }
    let (ranks, scores) = (Arc::new(UInt32Array::from(ranks)), Arc::new(Float32Array::from(scores)));
    named::RANKED.batch(vec![texts(prompt_ids), texts(prompts), texts(ids), texts(responses), ranks, scores])
}

/// Requests kept for evaluation, in an order of the seed's.
///
/// # Errors
/// More are asked for than exist.
pub fn requests(seed: u64, rows: Range<usize>) -> Result<RecordBatch> {
    let mut all: Vec<Instruction> = held_out().iter().copied().collect();
    Draw::row(seed, "requests", 0).shuffle(&mut all);
    let chosen = all.get(rows.clone()).ok_or_else(|| {
        let (end, have) = (rows.end, all.len());
        Error::user(format!("{end} held-out requests are asked for, the list world has {have}"))
            .help(format!("set rows to at most {have}"))
    })?;
    let prompts: Vec<String> = chosen.iter().map(Instruction::to_string).collect();
    named::PROMPTS.batch(vec![
        texts(prompts.iter().map(|p| hash_hex(["listworld", p]))),
        texts(&prompts),
        texts(prompts.iter().map(|_| "listworld")),
        List::of_texts(&vec![Vec::<String>::new(); prompts.len()]),
        new_null_array(&DataType::Utf8, prompts.len()),
    ])
}
