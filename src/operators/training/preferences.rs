//! Pairs with token ids of the model that is trained on them.
//!
//! Preferences from outside are texts and are tokenised with the policy's template. Pairs of a run carry
//! the sampled ids, which are used only if they are the policy's own: rows carry the hash of the tokenizer
//! that made them. Rows of files without that column are checked by decoding their ids, which must give
//! their texts.
//!
//! Rows tokenised here have no recorded log-probabilities, so those of the reference are computed.

use std::collections::HashMap;

use crate::data::Messages;
use crate::model::{Message, Tokenizer};
use crate::operators::shared::prelude::*;
use crate::train::Scored;
use crate::train::losses::{Loss, PairColumn};

/// What to do with pairs whose token ids come from another tokenizer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OtherTokenizer {
    /// The training is refused.
    Refuse,
    /// The texts are tokenised with the policy's tokenizer and template.
    Encode,
}

impl OtherTokenizer {
    /// Reads the key `other_tokenizer`.
    pub fn field(f: &mut Fields<'_>) -> Self {
        let choices = [
            ("refuse", "the training is refused"),
            (
                "encode",
                "their texts are tokenised with the policy's tokenizer and chat template, and log-probabilities that were recorded with them are computed",
            ),
        ];
        let about = "what to do with pairs whose token ids are of another tokenizer or chat template than the policy's";
        match f.choice("other_tokenizer", about, &choices, Some("refuse")) {
            "encode" => Self::Encode,
            _ => Self::Refuse,
        }
    }
}

/// Converts rows to pairs of the policy.
pub(crate) struct PairReader<'a> {
    /// The step that the rows come from, for messages.
    pub input: &'a str,
    /// The policy's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Hash of the weights that training starts from: rows written by them carry its ids.
    pub policy: &'a str,
    /// What to do with ids that are not the policy's.
    pub other: OtherTokenizer,
    /// The loss: rows must have the columns it reads.
    pub loss: &'static Loss,
}

/// The columns of `pairs` or `preferences` from which a row is tokenised.
struct PreferenceTexts<'a> {
    prompt: Messages<'a>,
    chosen: Messages<'a>,
    rejected: Messages<'a>,
    chosen_id: &'a StringArray,
    rejected_id: &'a StringArray,
    chosen_score: &'a Float32Array,
    rejected_score: &'a Float32Array,
}

impl<'a> PreferenceTexts<'a> {
    fn new(rows: &'a RecordBatch) -> Result<Self> {
        let columns = Columns(rows);
        Ok(Self {
            prompt: columns.messages("prompt")?,
            chosen: columns.messages("chosen")?,
            rejected: columns.messages("rejected")?,
            chosen_id: columns.text("chosen_id")?,
            rejected_id: columns.text("rejected_id")?,
            chosen_score: columns.float("chosen_score")?,
            rejected_score: columns.float("rejected_score")?,
        })
    }

    fn id(&self, row: usize) -> String {
        super::reference::pair_id(self.chosen_id.value(row), self.rejected_id.value(row))
    }

    fn has_scores(&self, row: usize) -> bool {
        self.chosen_score.is_valid(row) && self.rejected_score.is_valid(row)
    }
}

/// Where a row's token ids come from.
enum TokenIdSource {
    /// The row's own token ids.
    Recorded,
    /// Its texts.
    Encoded(Scored),
}

impl PairReader<'_> {
    /// Converts a batch of `pairs` or `preferences` to `pairs` with the policy's token ids. Rows that
    /// cannot become pairs go to `errors`: those that the template refuses, those without scores that the
    /// loss needs, and those tokenised here that get the ids of another pair, because log-probabilities are
    /// stored by them.
    ///
    /// # Errors
    /// A column is missing or has another type, or token ids come from another tokenizer and that is
    /// refused.
    pub fn read(&self, rows: &RecordBatch, errors: &mut Vec<RowError>) -> Result<RecordBatch> {
        let rows = &self.complete(rows, errors)?;
        let recorded = self.recorded(rows)?;
        if recorded.iter().all(|recorded| *recorded) && rows.column_by_name("chosen_tokens").is_some() {
            return Ok(rows.clone());
        }
        let texts = PreferenceTexts::new(rows)?;
        let mut kept: Vec<(usize, TokenIdSource)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (row, recorded) in recorded.into_iter().enumerate() {
            if recorded {
                kept.push((row, TokenIdSource::Recorded));
                continue;
            }
            match self.encode(&texts, row) {
                Ok(scored) => {
                    let twin = places.get(&texts.id(row)).map(|&at| &kept[at].1);
                    if matches!(twin, Some(TokenIdSource::Encoded(other)) if *other != scored) {
                        let message = "another pair with other texts has the same chosen_id and rejected_id; give each answer its own";
                        errors.push(RowError::failed(texts.id(row), "id_taken", message));
                        continue;
                    }
                    places.entry(texts.id(row)).or_insert(kept.len());
                    kept.push((row, TokenIdSource::Encoded(scored)));
                }
                Err(error) => errors.push(error),
            }
        }
        self.pairs(rows, &texts, &kept)
    }

    /// Returns the rows that have the columns which the loss reads; the others go to `errors`.
    fn complete(&self, rows: &RecordBatch, errors: &mut Vec<RowError>) -> Result<RecordBatch> {
        let columns = Columns(rows);
        let (chosen_ids, rejected_ids) = (columns.text("chosen_id")?, columns.text("rejected_id")?);
        let valid = |column: &str, row: usize| rows.column_by_name(column).is_some_and(|column| column.is_valid(row));
        let missing = |row: usize| {
            let lacks = |column: &&PairColumn| !column.needs.iter().all(|name| valid(name, row));
            self.loss.columns().find(lacks).map(|column| column.missing)
        };
        let mut complete = vec![true; rows.num_rows()];
        for (row, complete) in complete.iter_mut().enumerate() {
            if let Some((code, message)) = missing(row) {
                let pair = super::reference::pair_id(chosen_ids.value(row), rejected_ids.value(row));
                errors.push(RowError::failed(pair, code, message));
                *complete = false;
            }
        }
        Ok(arrow::compute::filter_record_batch(rows, &complete.into())?)
    }

    /// Returns which rows have the policy's own token ids.
    fn recorded(&self, rows: &RecordBatch) -> Result<Vec<bool>> {
        if rows.column_by_name("chosen_tokens").is_none() {
            return Ok(vec![false; rows.num_rows()]);
        }
        let columns = Columns(rows);
        let (chosen_ids, rejected_ids) = (columns.text("chosen_id")?, columns.text("rejected_id")?);
        let (prompt, chosen, rejected) =
            (columns.tokens("prompt_tokens")?, columns.tokens("chosen_tokens")?, columns.tokens("rejected_tokens")?);
        let (chosen_texts, rejected_texts) = (columns.messages("chosen")?, columns.messages("rejected")?);
        let models = columns.text("model")?;
        let hashes = rows.column_by_name("tokenizer").map(|_| columns.text("tokenizer")).transpose()?;
        let mut recorded = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let (chosen, rejected) = (chosen.row(row), rejected.row(row));
            if prompt.row(row).is_empty() && chosen.is_empty() && rejected.is_empty() {
                // The answers were never tokenised, so nothing can be wrong with their ids.
                recorded.push(false);
                continue;
            }
            let hash = hashes.filter(|hashes| hashes.is_valid(row)).map(|hashes| hashes.value(row));
            let own = match hash {
                Some(hash) => hash == self.tokenizer.hash(),
                // The ids of a script are made up and stand for a model's in tests of pipelines.
                None if models.value(row) == self.policy || models.value(row).starts_with("script:") => true,
                None => self.gives(chosen, &chosen_texts, row) && self.gives(rejected, &rejected_texts, row),
            };
            if !own && self.other == OtherTokenizer::Refuse {
                let pair = super::reference::pair_id(chosen_ids.value(row), rejected_ids.value(row));
                return Err(self.refusal(&pair, hash));
            }
            recorded.push(own);
        }
        Ok(recorded)
    }

    /// Whether token ids spell the answer in the policy's vocabulary. A stop text may follow it.
    fn gives(&self, tokens: &[u32], answers: &Messages<'_>, row: usize) -> bool {
        let Some((_, text)) = answers.row(row).last() else { return false };
        let decoded = self.tokenizer.decode(tokens);
        let (decoded, text) = (decoded.trim(), text.trim());
        decoded == text || !text.is_empty() && decoded.starts_with(text)
    }

    fn refusal(&self, pair: &str, hash: Option<&str>) -> Error {
        let own = short(self.tokenizer.hash());
        let why = match hash {
            Some(hash) => format!("made by the tokenizer and chat template {}, the policy's are {own}", short(hash)),
            None => "in the policy's vocabulary they do not spell the pair's texts".to_owned(),
        };
        Error::user(format!("the token ids of `{}` are not the policy's: pair {pair}: {why}", self.input)).help(
            "write other_tokenizer = \"encode\" into this step, and the pairs' texts are tokenised for the policy",
        )
    }

    /// Tokenises the row's texts.
    fn encode(&self, texts: &PreferenceTexts<'_>, row: usize) -> std::result::Result<Scored, RowError> {
        let turns = |messages: &Messages<'_>| -> Vec<Message> {
            messages.row(row).map(|(role, content)| Message::new(role, content)).collect()
        };
        let answers = [turns(&texts.chosen), turns(&texts.rejected)];
        Scored::encode(self.tokenizer, &turns(&texts.prompt), &answers).map_err(|e| {
            RowError::failed(texts.id(row), "no_template", format!("the policy's chat template does not take it: {e}"))
        })
    }

    /// Makes `pairs` from the kept rows.
    fn pairs(
        &self,
        rows: &RecordBatch,
        texts: &PreferenceTexts<'_>,
        kept: &[(usize, TokenIdSource)],
    ) -> Result<RecordBatch> {
        let taken = UInt32Array::from_iter_values(kept.iter().map(|(row, _)| *row as u32));
        let given = |name: &str| -> Result<ArrayRef> {
            let column = rows.column_by_name(name).ok_or_else(|| Error::user(format!("column `{name}` is missing")))?;
            Ok(arrow::compute::take(column, &taken, None)?)
        };
        let number = |of: &dyn Fn(usize) -> f32| -> ArrayRef {
            Arc::new(Float32Array::from_iter_values(kept.iter().map(|(row, _)| of(*row))))
        };
        let score = |of: &Float32Array, row: usize| if of.is_valid(row) { of.value(row) } else { 0. };
        // The margin needs both scores.
        let margin = |row: usize| {
            if texts.has_scores(row) { texts.chosen_score.value(row) - texts.rejected_score.value(row) } else { 0. }
        };
        let mut all: Vec<ArrayRef> = Vec::new();
        for column in named::PAIRS.columns {
            let there = rows.column_by_name(column.name).is_some();
            all.push(match column.name {
                "chosen_score" => number(&|row| score(texts.chosen_score, row)),
                "rejected_score" => number(&|row| score(texts.rejected_score, row)),
                "margin" if !there => number(&margin),
                "prompt_tokens" => tokens(rows, column.name, kept, |scored| &scored.prompt)?,
                "chosen_tokens" => tokens(rows, column.name, kept, |scored| &scored.completions[0])?,
                "rejected_tokens" => tokens(rows, column.name, kept, |scored| &scored.completions[1])?,
                "chosen_logprobs" | "rejected_logprobs" => logprobs(rows, column.name, kept)?,
                "model" if !there => Arc::new(StringArray::from(vec!["given"; kept.len()])),
                "tokenizer" => Arc::new(StringArray::from(vec![self.tokenizer.hash(); kept.len()])),
                _ if column.nullable && !there => arrow::array::new_null_array(&column.kind.arrow(), kept.len()),
                name => given(name)?,
            });
        }
        named::PAIRS.batch(all)
    }
}

/// Returns token ids of the kept rows: recorded ones, or those of the texts.
fn tokens(
    rows: &RecordBatch,
    column: &str,
    kept: &[(usize, TokenIdSource)],
    encoded: fn(&Scored) -> &Vec<u32>,
) -> Result<ArrayRef> {
    let recorded = rows.column_by_name(column).map(|_| Columns(rows).tokens(column)).transpose()?;
    let ids = kept.iter().map(|(row, ids)| match (ids, &recorded) {
        (TokenIdSource::Encoded(scored), _) => encoded(scored).clone(),
        (TokenIdSource::Recorded, Some(recorded)) => recorded.row(*row).to_vec(),
        (TokenIdSource::Recorded, None) => Vec::new(),
    });
    Ok(List::of_tokens(&ids.collect::<Vec<_>>()))
}

/// Returns recorded log-probabilities of the kept rows; none if the token ids are not the recorded ones.
fn logprobs(rows: &RecordBatch, column: &str, kept: &[(usize, TokenIdSource)]) -> Result<ArrayRef> {
    let recorded = rows.column_by_name(column).map(|_| Columns(rows).floats(column)).transpose()?;
    let values = kept.iter().map(|(row, ids)| match (ids, &recorded) {
        (TokenIdSource::Recorded, Some(recorded)) => recorded.row(*row).to_vec(),
        _ => Vec::new(),
    });
    Ok(List::of_floats(&values.collect::<Vec<_>>()))
}

/// Shortens a hash for messages.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
