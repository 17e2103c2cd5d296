//! What the pipeline knows about an operator: its definition, and the properties of a configured step.

use super::fields::Fields;
use super::work::{CostAssumptions, CostEstimate, InputStats};
use crate::data::Schema;

/// The properties of a configured step for check, plan and explain. The dataflow's trait extends it.
pub trait StepSpec: Send + Sync {
    /// Describes its settings in one line.
    fn explain(&self) -> String;
    /// Returns the schema of its rows, given its inputs: first `from` in its order, then the `step()` keys
    /// in the order in which they are read.
    ///
    /// # Errors
    /// Problems in words, each naming the input in backticks; [`Port::expect`] makes such words.
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>>;
    /// Returns nullable columns that are null in all its rows as configured. A step that reads them is
    /// refused.
    fn leaves_null(&self, _inputs: &[Port<'_>]) -> Vec<&'static str> {
        Vec::new()
    }
    /// Whether a training reads the microbatches of its first input as they close, instead of waiting for
    /// the iteration to close. Their number must be known in advance, so they must come from a
    /// [`Shape::IterationSource`].
    fn streams(&self) -> bool {
        false
    }
    /// Returns the lowest and the highest score, if it scores on a scale.
    fn scale(&self) -> Option<(f32, f32)> {
        None
    }
    /// Returns the minimum score difference of its pairs, if it makes pairs from scores.
    fn min_margin(&self) -> Option<f64> {
        None
    }
    /// Returns the shortest prompt that it sends to its model, if it sends one.
    fn asks(&self) -> Option<Asks> {
        None
    }
    /// Whether it asks its model for the probabilities of continuations.
    fn needs_choices(&self) -> bool {
        false
    }
    /// Returns the form to which it holds its model's answers, as the key `structured` names it. Only models on servers
    /// can do so.
    fn constrains(&self) -> Option<&'static str> {
        None
    }
    /// For a step that reads the token ids of answers: what to set if they have none.
    fn without_token_ids(&self) -> Option<&'static str> {
        None
    }
    /// For steps that read token ids sampled by a model of the run: whether it tokenises the texts for its
    /// own model if the ids come from another tokenizer.
    fn encodes_other_ids(&self) -> Option<bool> {
        None
    }
    /// Whether it rates the judgements of its input. Its rows are then answers of the judge, with the
    /// judge's token ids.
    fn rates_judgements(&self) -> bool {
        false
    }
    /// Estimates its cost in an iteration (0 for a step that runs once), in tokens, from its settings and
    /// averages. By default it passes on the rows of its first input.
    fn work(&self, iteration: u32, inputs: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let _ = (iteration, assume);
        CostEstimate::rows(inputs.first().map(|i| i.amount).unwrap_or_default())
    }
}

/// The shortest prompt that a step sends to its model: the template with empty variables.
#[derive(Clone, Debug)]
pub struct Asks {
    /// The template as messages name it, if the prompt has one.
    pub template: Option<String>,
    /// Role and content of each turn.
    pub turns: Vec<(&'static str, String)>,
    /// Maximum number of tokens of an answer.
    pub max_tokens: usize,
}

/// An input of a step, for typechecking.
#[derive(Clone, Copy, Debug)]
pub struct Port<'a> {
    /// Name of the input step.
    pub step: &'a str,
    /// Schema of its rows.
    pub schema: &'static Schema,
    /// The key that names it: `from`, or a key read by [`Fields::step`].
    pub key: &'a str,
    /// Nullable columns that are null in all its rows.
    pub lacks: &'a [&'static str],
}

impl Port<'_> {
    /// Returns the first of `accepted` that the input can be read as: its own schema, or one whose columns
    /// it all has.
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
    /// It has no inputs; its rows are known at the start.
    Source,
    /// It makes a microbatch from a microbatch.
    Map,
    /// Like [`Shape::Map`], over groups of rows with the same key.
    Keyed,
    /// It starts microbatches inside the loop and reads its inputs whole.
    IterationSource,
    /// A barrier: it waits for the iteration to close and makes one microbatch from all its rows.
    Collect,
    /// A barrier: it waits for the iteration to close and makes a model.
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

/// The definition of an operator, as registered.
pub struct OperatorDef<O: ?Sized + 'static> {
    /// Its name in `op`.
    pub name: &'static str,
    /// Its purpose, in a sentence.
    pub about: &'static str,
    /// Its role in the dataflow.
    pub shape: Shape,
    /// Whether it uses a model.
    pub model: NeedsModel,
    /// Minimum number of steps in `from`.
    pub min_inputs: usize,
    /// Maximum number of steps in `from`; `usize::MAX` for any number.
    pub max_inputs: usize,
    /// An example of a step's table.
    pub example: &'static str,
    /// Reads the keys of a step and makes it. It must read every key in every case, because a key that was
    /// not read is reported as unknown.
    pub parse: fn(&mut Fields<'_>) -> Box<O>,
}
