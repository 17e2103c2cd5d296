//! `sft`: supervised fine-tuning on instruction-response pairs, judged responses and plain text.

use super::common::{self, TrainingProgress, Validating};
use crate::data::counted;
use crate::dataflow::{GateValues, Phase, Train, TrainingIteration};
use crate::model::{LoraConfig, Message, Model, Tokenizer};
use crate::operators::shared::prelude::*;
use crate::operators::shared::settings::{self, describe_lora};
use crate::train::{self, BatchSize, Example, SftConfig};

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "sft",
    about: "trains a model on given answers: the loss is on their tokens only, or on all tokens of plain text",
    shape: Shape::Train,
    model: NeedsModel::Yes,
    min_inputs: 1,
    max_inputs: usize::MAX,
    example: "[step.m1]\nop = \"sft\"\nfrom = [\"ift\", \"eft\"]\nmodel = \"m0\"\nlearning_rate = 5.5e-6\n",
    parse: |f| {
        let default = SftConfig::default();
        let rubric = PromptTemplate::field(
            f,
            "rubric",
            "judge prompt of `eft` rows: a built-in template or a file with {{ prompt }} and {{ response }}",
            "additive-5",
            Variables::JUDGE,
        );
        let tokens = f.optional_int("batch_tokens", "tokens per batch, instead of batch_size", 1..=1 << 30);
        let sequences = f.count("batch_size", "rows per batch", Some(16), 1..=1 << 20);
        if tokens.is_some() {
            f.without_effect(&["batch_size"], "with `batch_tokens`", "keep one of them");
        }
        let rubric_given = f.given("rubric");
        let (optimizer, schedule) = common::optimizer(f, 5.5e-6, 1.1e-6);
        let config = SftConfig {
            epochs: f.int("epochs", "passes over the rows", Some(1), 1..=100_000) as u32,
            batch: tokens.map_or(BatchSize::Sequences(sequences), |n| BatchSize::Tokens(n as usize)),
            accumulation: f.count(
                "accumulation",
                "batches per optimizer step (gradient accumulation)",
                Some(1),
                1..=1 << 20,
            ),
            max_length: f
                .optional_int(
                    "max_length",
                    "maximum row length in tokens; longer rows are left out, never truncated",
                    2..=1 << 30,
                )
                .map(|n| n as usize),
            max_rows_per_forward: f.count(
                "max_rows_per_forward",
                "maximum number of tokens per forward, which bounds memory; changes the result by rounding only",
                Some(default.max_rows_per_forward),
                1..=1 << 30,
            ),
            options: common::options(f),
            shuffle: f.bool("shuffle", "whether each epoch has a new order", Some(true)),
            optimizer,
            schedule,
            seed: 0,
            validation: None,
        };
        let checkpoint_every = common::checkpoint_every(f);
        let validating = Validating::fields(
            f,
            "step with held-out `ift`, `eft` or `text` rows, on which the loss is measured while training",
            &[],
        );
        Box::new(Sft { rubric, rubric_given, config, checkpoint_every, validating, lora: settings::lora(f) })
    },
};

struct Sft {
    rubric: PromptTemplate,
    rubric_given: bool,
    config: SftConfig,
    checkpoint_every: usize,
    validating: Validating,
    lora: Option<LoraConfig>,
}

impl StepSpec for Sft {
    fn explain(&self) -> String {
        let batch = match self.config.batch {
            BatchSize::Sequences(n) => counted(n, "row"),
            BatchSize::Tokens(n) => counted(n, "token"),
        };
        let (epochs, rate) = (self.config.epochs, self.config.schedule.learning_rate);
        let mut words = format!("{}, batches of {batch}, learning rate {rate:e}", counted(epochs, "epoch"));
        self.validating.explain(&mut words);
        words + &describe_lora(self.lora.as_ref())
    }
    fn work(&self, _: u32, inputs: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let length = |i: &InputStats| match i.schema.name {
            "eft" => assume.rubric + i.amount.prompt + i.amount.answer + assume.judgement,
            _ => i.amount.prompt + i.amount.answer,
        };
        let of = |key: &str| {
            let pass = |i: &InputStats| TokenCount::of_sequences(i.amount.rows, 0., length(i));
            inputs.iter().filter(|i| i.key == key).map(pass).fold(TokenCount::default(), TokenCount::and)
        };
        let (rows, pass) = (inputs.iter().filter(|i| i.key == "from").map(|i| i.amount.rows).sum::<f64>(), of("from"));
        let (epochs, sequence) = (f64::from(self.config.epochs), pass.tokens / f64::max(rows, 1.));
        let batch = match self.config.batch {
            BatchSize::Sequences(n) => n as f64,
            BatchSize::Tokens(n) => n as f64 / f64::max(sequence, 1.),
        };
        let steps = (epochs * rows / f64::max(batch, 1.) / self.config.accumulation as f64).ceil();
        CostEstimate {
            out: RowStats { rows: 1., ..RowStats::default() },
            scored: of("validation").times(self.validating.times(steps)),
            trained: pass.times(epochs),
            steps,
            held: (self.config.max_rows_per_forward as f64).min(batch * sequence),
            recompute: self.config.options.checkpoint,
            adapter: self.lora.as_ref().map(|l| (l.rank as f64, l.targets.clone())),
            ..CostEstimate::default()
        }
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        let mut problems: Vec<String> = inputs.iter().filter_map(|p| p.expect(ACCEPTED).err()).collect();
        problems.extend(unused_rubric(self.rubric_given, inputs, ""));
        if problems.is_empty() { Ok(&named::MODELS) } else { Err(problems) }
    }
}
impl Operator for Sft {
    fn stage(&self) -> Stage<'_> {
        Stage::Train(self)
    }
    fn trains_adapter(&self) -> bool {
        self.lora.is_some()
    }
}

/// `eft` comes first: its rows have all columns of `ift`.
static ACCEPTED: &[&Schema] = &[&named::EFT, &named::IFT, &named::TEXT];

/// Explains why a rubric has no effect: none of the inputs (with that key, unless it is empty) has judged
/// rows.
pub(crate) fn unused_rubric(given: bool, inputs: &[Port<'_>], key: &str) -> Option<String> {
    let mut rows = inputs.iter().filter(|p| key.is_empty() || p.key == key).peekable();
    let first = *rows.peek().filter(|_| given)?;
    let judged = rows.any(|p| p.expect(ACCEPTED).is_ok_and(|schema| schema.name == named::EFT.name));
    let message = || {
        format!(
            "`rubric` has no effect: `{}` gives `{}` rows, and only those of `eft` are judged by it; take the key out",
            first.step, first.schema.name
        )
    };
    (!judged).then(message)
}

/// Reads the examples of a dataset's rows. A row that cannot be rendered is a problem of its own.
pub(crate) fn examples(
    rows: &RecordBatch,
    schema: &Schema,
    rubric: &PromptTemplate,
    tokenizer: &Tokenizer,
) -> Result<Vec<Example>> {
    let columns = Columns(rows);
    if schema.name == named::TEXT.name {
        let (contexts, texts) = (columns.text("context")?, columns.text("text")?);
        let example = |i: usize| Example::text(tokenizer, contexts.value(i), texts.value(i));
        return (0..rows.num_rows()).map(example).collect();
    }
    let (prompts, responses) = (Prompts::new(rows)?, columns.text("response")?);
    let judgements = (schema.name == named::EFT.name).then(|| columns.text("judgement")).transpose()?;
    let example = |i: usize| -> Result<Example> {
        let response = responses.value(i);
        match judgements {
            Some(judgements) => {
                let text = rubric.render(&[("prompt", prompts.text(i).into()), ("response", response.into())])?;
                chat(tokenizer, &[("user", &text)], judgements.value(i))
            }
            None => chat(tokenizer, &prompts.turns(i), response).doing(|| format!("row {}", i + 1)),
        }
    };
    (0..rows.num_rows()).map(example).collect()
}

/// Makes an example from a conversation: the rendered prompt is context, and the answer with its end token
/// is learnt.
fn chat(tokenizer: &Tokenizer, prompt: &[(&str, &str)], answer: &str) -> Result<Example> {
    let prompt: Vec<Message> = prompt.iter().map(|(role, content)| Message::new(*role, *content)).collect();
    Example::answer(tokenizer, &prompt, answer)
}

/// Reads the examples of all inputs of a step with this key.
pub(crate) fn examples_of(cx: &Context<'_>, key: &str, rubric: &PromptTemplate, model: &Model) -> Result<Vec<Example>> {
    let mut all = Vec::new();
    for input in cx.step.inputs.iter().filter(|i| i.key == key) {
        let schema = cx.shared.plan.step(&input.step).map_or(&named::IFT, |s| s.schema);
        let doing = || format!("rows of `{}`", input.step);
        all.extend(examples(&cx.whole(&input.step)?, schema, rubric, &model.tokenizer).doing(doing)?);
    }
    Ok(all)
}

impl Train for Sft {
    fn health(&self, training: TrainingIteration<'_>, phase: Phase) -> Result<GateValues> {
        crate::operators::shared::health::measure(training, phase, None)
    }

    fn announce(&self, cx: &Context<'_>, name: &str) -> Result<Output> {
        common::announce(cx, name)
    }

    fn train(&self, cx: &Context<'_>, name: &str) -> Result<Output> {
        let _pause = cx.env::<Models>()?.pause_servers(cx)?;
        let model = cx.env::<Models>()?.trainable(cx, self.lora.as_ref())?;
        let examples = examples_of(cx, "from", &self.rubric, &model)?;
        let held_out =
            common::has(cx, "validation").then(|| examples_of(cx, "validation", &self.rubric, &model)).transpose()?;
        let measure = held_out.as_ref().map(|_| self.validating.measure());
        let validation = held_out.map(|rows| self.validating.on(rows));
        let config = SftConfig { seed: cx.shared.plan.seed, validation, ..self.config.clone() };
        let trained = train::sft(
            &model.llama,
            &examples,
            &config,
            &mut TrainingProgress::new(cx, &model, self.checkpoint_every),
        )?;
        common::finish(cx, name, &model, &trained, measure, &common::TrainingRows::default())
    }
}
