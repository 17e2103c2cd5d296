//! What the pipeline needs to know of an operator: its kind, and what a configured step says of itself.

use super::fields::Fields;
use super::work::{CostAssumptions, CostEstimate, InputStats};
use crate::data::Schema;

/// What check, plan and explain need of a configured step. The dataflow's trait extends it.
pub trait StepSpec: Send + Sync {
    /// Its settings in one line.
    fn explain(&self) -> String;
    /// The schema of its rows, from those of its inputs: first `from` in its order, then the `step()` keys in the
    /// order asked.
    ///
    /// # Errors
    /// Problems in words, each naming the input in backticks; [`Port::expect`] makes such words.
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>>;
    /// Columns of its rows that may be null, and are so in all of them as the step is configured: what reads them is then
    /// refused.
    fn leaves_null(&self, _inputs: &[Port<'_>]) -> Vec<&'static str> {
        Vec::new()
    }
    /// Whether a training takes the microbatches of its first input one by one as they close, instead of waiting for the
    /// iteration to close. Their number must be known before: they must come from a [`Shape::IterationSource`].
    fn streams(&self) -> bool {
        false
    }
    /// The least and the greatest score that it gives, where it gives scores on a scale.
    fn scale(&self) -> Option<(f32, f32)> {
        None
    }
    /// The least difference of the scores of a pair, where it makes pairs by scores.
    fn min_margin(&self) -> Option<f64> {
        None
    }
    /// The shortest prompt that it sends to its model, where it sends one.
    fn asks(&self) -> Option<Asks> {
        None
    }
    /// Where it reads token ids that a model of the run sampled: whether it tokenises the texts for its own model if they
    /// are of another tokenizer.
    fn encodes_other_ids(&self) -> Option<bool> {
        None
    }
    /// Whether it rates the judgements of its input: the answers in its rows, with their token ids, are then those of the judge.
    fn rates_judgements(&self) -> bool {
        false
    }
    /// What it would have to do in an iteration (0 for a step that runs once), in tokens, from its settings and averages; by
    /// default it passes its first input's rows on.
    fn work(&self, iteration: u32, inputs: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let _ = (iteration, assume);
        CostEstimate::rows(inputs.first().map(|i| i.amount).unwrap_or_default())
    }
}

/// The shortest prompt that a step sends to its model: the template with nothing filled in.
#[derive(Clone, Debug)]
pub struct Asks {
    /// The template, where the prompt has one, as a message calls it.
    pub template: Option<String>,
    /// Role and content of each turn.
    pub turns: Vec<(&'static str, String)>,
    /// Most tokens of an answer.
    pub max_tokens: usize,
}

/// One input of a step, for typechecking.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// The step that it comes from.
    pub step: &'a str,
    /// What its rows are.
    pub schema: &'static Schema,
    /// The key that named it: `from`, or a key asked for by [`Fields::step`].
    pub key: &'a str,
    /// Columns that may be null, and are so in all of its rows.
    pub lacks: &'a [&'static str],
}

impl Port<'_> {
    /// Which of `accepted` the input can be read as: the schema itself, or one whose columns it all has.
    ///
    /// # Errors
    /// The problem in words, with both ends and the missing columns.
    pub fn expect(&self, accepted: &[&'static Schema]) -> Result<&'static Schema, String> {
        if let Some(same) = accepted.iter().find(|s| std::ptr::eq(**s, self.schema) || s.name == self.schema.name) {
            return Ok(same);
        }
        if let Some(fits) = accepted.iter().find(|s| s.missing_in(self.schema).is_empty()) {
            return Ok(fits);
        }
        let wanted: Vec<String> = accepted
            .iter()
            .map(|s| format!("`{}` ({}; missing columns: {})", s.name, s.about, s.missing_in(self.schema).join(", ")))
            .collect();
        Err(format!(
            "`{}` gives rows of `{}` ({}), but what is read here is {}",
            self.step,
            self.schema.name,
            self.schema.about,
            wanted.join(" or ")
        ))
    }
}

/// How a step takes part in the dataflow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// No inputs; its rows are known at the start.
    Source,
    /// A microbatch in, a microbatch out.
    Map,
    /// As [`Shape::Map`], over groups of rows with one key.
    Keyed,
    /// Starts microbatches inside the loop; reads its inputs whole.
    IterationSource,
    /// Waits for the iteration to close and makes rows of all of it, as one microbatch: a barrier.
    Collect,
    /// Waits for the iteration to close and makes a model: a barrier.
    Train,
}

/// Whether a step uses a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NeedsModel {
    /// `model` is an error.
    No,
    /// `model` must be given.
    Yes,
    /// `model` may be given.
    Optional,
}

/// One operator, as the registry lists it.
pub struct OperatorDef<O: ?Sized + 'static> {
    /// What `op` names it.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// Its part in the dataflow.
    pub shape: Shape,
    /// Whether it uses a model.
    pub model: NeedsModel,
    /// Fewest steps in `from`.
    pub min_inputs: usize,
    /// Most steps in `from`; `usize::MAX` for any number.
    pub max_inputs: usize,
    /// A step's table as one would write it.
    pub example: &'static str,
    /// Asks for the keys of a step and makes it. It must ask for every key it knows in every case, since what was
    /// not asked for is an unknown key.
    pub parse: fn(&mut Fields<'_>) -> Box<O>,
}
