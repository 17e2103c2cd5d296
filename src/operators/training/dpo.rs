//! `dpo`: direct preference optimisation (arXiv 2305.18290) of the policy on an iteration's pairs.
//!
//! [`reference`](super::reference) selects the reference model and provides its log-probabilities.

use std::collections::BTreeMap;

use super::common::{self, TrainingProgress, Validating};
use super::preferences::{OtherTokenizer, PairReader};
use super::reference::{ReferenceSettings, References, pair_id};
use crate::data::counted;
use crate::dataflow::{GateValues, Phase, Train, TrainingIteration};
use crate::error::ErrorKind;
use crate::model::LoraConfig;
use crate::model::Model;
use crate::operators::shared::prelude::*;
use crate::operators::shared::settings::{self, describe_lora};
use crate::pipeline::ChoiceOrCount;
use crate::train::losses::{Loss, LossInput, LossParams, PairColumns};
use crate::train::{self, DpoConfig, Example, ForwardLimits, Objective, Pair, ValidationMetric};

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "dpo",
    about: "trains the policy to prefer the chosen answers to the rejected ones",
    shape: Shape::Train,
    model: NeedsModel::Yes,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.dpo]\nop = \"dpo\"\nfrom = \"pairs\"\nmodel = \"policy\"\nbeta = 0.1\nlearning_rate = 1e-6\n",
    parse: |f| {
        let default = DpoConfig::default();
        let losses: Vec<(&'static str, &'static str)> =
            train::losses::LOSSES.iter().map(|l| (l.name, l.equation)).collect();
        let loss = f.choice("loss", "the preference loss", &losses, Some("sigmoid"));
        let replay = f.step("replay", "step whose `ift`, `eft` or `text` rows are trained on alongside, so that the model keeps what SFT taught it");
        let rubric =
            PromptTemplate::field(f, "rubric", "judge prompt of replayed `eft` rows", "additive-5", Variables::JUDGE);
        let reference = ReferenceSettings::fields(f);
        let replay_weight = f.float(
            "replay_weight",
            "weight of the loss on replayed rows",
            Some(if replay.is_some() { 1. } else { 0. }),
            0.0..=1e6,
        );
        let replay_batch = f.count("replay_batch", "replayed rows per step", Some(16), 1..=1 << 20);
        if replay.is_none() {
            f.without_effect(
                &["replay_weight", "replay_batch", "rubric"],
                "without `replay`",
                "name the rows: replay = \"STEP\"",
            );
        }
        let rubric_given = f.given("rubric");
        let (optimizer, schedule) = common::optimizer(f, 1e-6, 1e-7);
        let schedules = [
            ("epochs", "after the iteration has closed: shuffled, in one pass or several"),
            (
                "streaming",
                "microbatch by microbatch as they close, in their order, while later ones are still being made: one pass, the learning rate by the share of microbatches",
            ),
        ];
        let streaming =
            f.choice("data_schedule", "when pairs are trained on", &schedules, Some("epochs")) == "streaming";
        let epochs = f.int("epochs", "passes over the pairs", Some(1), 1..=100_000) as u32;
        let shuffle = f.bool("shuffle", "whether each epoch has a new order", Some(!streaming));
        if streaming && epochs > 1 {
            f.problem(
                "epochs",
                "pairs that are trained on as they come are seen once",
                "leave `epochs` out, or write data_schedule = \"epochs\"",
            );
        }
        if streaming && shuffle {
            f.problem(
                "shuffle",
                "pairs that are trained on as they come keep their order",
                "leave `shuffle` out, or write data_schedule = \"epochs\"",
            );
        }
        let kinds = [("fresh", "those of its own iteration"), ("cumulative", "those of all iterations so far")];
        let window = ("{ window = N }", "those of the last N iterations");
        let data = f.choice_or_count("data", "whose pairs an iteration is trained on; what other weights than the reference's wrote has its log-probabilities computed", &kinds, window, 1..=1000);
        if streaming && data != ChoiceOrCount::Choice("fresh") {
            f.problem(
                "data",
                "pairs that are trained on as they come are those of their own iteration",
                "leave `data` out, or write data_schedule = \"epochs\"",
            );
        }
        let other_tokenizer = OtherTokenizer::field(f);
        let about = "trains on at most this many pairs of an iteration, the first ones; a list has a value for each iteration, the last for all further ones; 0 is no limit";
        let limit = f.ints("limit", about, Some(&[0]), 0..=1 << 40);
        f.list_by_iteration("limit", limit.len());
        f.only_in_loop("data");
        if streaming && limit.iter().any(|&n| n > 0) {
            f.problem(
                "limit",
                "pairs that are trained on as they come are all trained on",
                "leave `limit` out, or write data_schedule = \"epochs\"",
            );
        }
        let config = DpoConfig {
            objective: Objective {
                loss: train::losses::LOSSES.iter().find(|l| l.name == loss).unwrap_or(&train::losses::LOSSES[0]),
                params: loss_params(f),
                nll_weight: f.float("nll_weight", "weight of the chosen answers' negative log-likelihood (arXiv 2404.19733)", Some(0.), 0.0..=1e6),
                replay_weight: if replay.is_some() { replay_weight } else { 0. },
                ld_alpha: f.optional_float("ld_alpha", "weight of the tokens beyond the shorter answer's length, in the policy's and the reference's log-probabilities (LD-DPO, arXiv 2409.06411)", 0.0..=1.0),
            },
            replay_batch: if replay.is_some() { replay_batch } else { 0 },
            epochs,
            batch_size: f.count("batch_size", "pairs per batch", Some(16), 1..=1 << 20),
            accumulation: f.count("accumulation", "batches per optimizer step (gradient accumulation)", Some(1), 1..=1 << 20),
            max_length: f.optional_int("max_length", "maximum length of prompt and answer in tokens; longer pairs are left out, never truncated", 2..=1 << 30).map(|n| n as usize),
            max_rows_per_forward: f.count("max_rows_per_forward", "maximum number of tokens per forward, which bounds memory; changes the result by rounding only", Some(default.max_rows_per_forward), 1..=1 << 30),
            options: common::options(f),
            shuffle,
            optimizer,
            schedule,
            seed: 0,
            validation: None,
        };
        let loss = config.objective.loss;
        refuse_unread(f, loss);
        let checkpoint_every = common::checkpoint_every(f);
        let measures = [
            ("accuracy", "greatest share of pairs whose chosen reward is above the rejected one"),
            ("margin", "greatest mean of chosen reward less rejected reward"),
        ];
        let validating = Validating::fields(
            f,
            "step with held-out pairs, on which loss and rewards are measured while training",
            &measures,
        );
        Box::new(Dpo {
            rubric,
            rubric_given,
            reference,
            data,
            other_tokenizer,
            limit,
            config,
            checkpoint_every,
            streaming,
            validating,
            lora: settings::lora(f),
        })
    },
};

/// Asks for `beta`, and for every parameter that a loss declares.
fn loss_params(f: &mut Fields<'_>) -> LossParams {
    let mut params = LossParams::new(f.float(
        "beta",
        "how strongly the policy is kept close to the reference",
        Some(0.1),
        1e-9..=1e6,
    ));
    for parameter in train::losses::parameters() {
        let (least, most) = parameter.range;
        params.set(parameter, f.float(parameter.key, parameter.about, Some(parameter.default), least..=most));
    }
    params
}

/// Refuses options that the loss does not read.
fn refuse_unread(f: &mut Fields<'_>, loss: &Loss) {
    let parameters = train::losses::parameters().into_iter().map(LossInput::Parameter);
    for input in parameters.chain([LossInput::Reference]).filter(|input| !loss.takes(*input)) {
        let Some(key) = input.key() else { continue };
        let readers: Vec<_> = train::losses::LOSSES.iter().filter(|l| l.takes(input)).map(|l| l.name).collect();
        f.without_effect(
            &[key],
            &format!("with loss = \"{}\"", loss.name),
            &format!("choose a loss that reads it: {}", readers.join(", ")),
        );
    }
}

struct Dpo {
    rubric: PromptTemplate,
    rubric_given: bool,
    reference: ReferenceSettings,
    data: ChoiceOrCount,
    other_tokenizer: OtherTokenizer,
    /// Values by iteration; 0 means no limit.
    limit: Vec<i64>,
    config: DpoConfig,
    checkpoint_every: usize,
    streaming: bool,
    validating: Validating,
    lora: Option<LoraConfig>,
}

impl StepSpec for Dpo {
    fn explain(&self) -> String {
        let c = &self.config;
        let mut words = format!(
            "{} loss, beta {}, batches of {}, learning rate {:e}",
            c.objective.loss.name,
            c.objective.params.beta,
            counted(c.batch_size, "pair"),
            c.schedule.learning_rate
        );
        if c.objective.nll_weight > 0. {
            words += &format!(", NLL of chosen x {}", c.objective.nll_weight);
        }
        if c.objective.replay_weight > 0. {
            words += &format!(", replay x {}", c.objective.replay_weight);
        }
        if let Some(alpha) = c.objective.ld_alpha {
            words += &format!(", tokens beyond the shorter answer x {alpha}");
        }
        match self.data {
            ChoiceOrCount::Choice("cumulative") => words += ", pairs of all iterations so far",
            ChoiceOrCount::Count(n) => words += &format!(", pairs of the last {}", counted(n, "iteration")),
            ChoiceOrCount::Choice(_) => {}
        }
        if self.limit.iter().any(|&n| n > 0) {
            words += &format!(", at most {:?} pairs", self.limit);
        }
        if self.streaming {
            words += ", streaming";
        }
        self.validating.explain(&mut words);
        format!("{words}{}; {}", describe_lora(self.lora.as_ref()), self.reference.explain())
    }
    fn encodes_other_ids(&self) -> Option<bool> {
        Some(self.other_tokenizer == OtherTokenizer::Encode)
    }
    fn streams(&self) -> bool {
        self.streaming
    }
    fn work(&self, iteration: u32, inputs: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let of = |key: &str| inputs.iter().find(|i| i.key == key);
        let (mut pairs, c) = (of("from").map(|i| i.amount).unwrap_or_default(), &self.config);
        pairs.rows = pairs.rows.min(self.limit(iteration) as f64);
        // A prompt is computed once for both of its answers.
        let pass = |a: RowStats| {
            TokenCount::of_sequences(a.rows, 0., a.prompt).and(TokenCount::of_sequences(
                2. * a.rows,
                a.prompt,
                a.answer,
            ))
        };
        let (all, held_out) = (pass(pairs), pass(of("validation").map(|i| i.amount).unwrap_or_default()));
        let epochs = f64::from(c.epochs);
        let steps = (epochs * pairs.rows / (c.batch_size * c.accumulation) as f64).ceil();
        let replayed = |i: &InputStats| {
            let judged = if i.schema.name == named::EFT.name { assume.rubric + assume.judgement } else { 0. };
            TokenCount::of_sequences(steps * c.replay_batch as f64, 0., i.amount.prompt + i.amount.answer + judged)
        };
        // Recorded log-probabilities of the policy cost only their audit; held-out pairs are always
        // computed.
        let reference = all.times(if self.reference.recorded() { 0. } else { 1. }).and(held_out);
        CostEstimate {
            out: RowStats { rows: 1., ..RowStats::default() },
            scored: reference.and(held_out.times(self.validating.times(steps))),
            trained: all.times(epochs).and(of("replay").map(replayed).unwrap_or_default()),
            steps,
            held: (c.max_rows_per_forward as f64).min(c.batch_size as f64 * (pairs.prompt + 2. * pairs.answer)),
            recompute: c.options.checkpoint,
            adapter: self.lora.as_ref().map(|l| (l.rank as f64, l.targets.clone())),
            ..CostEstimate::default()
        }
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        let accepted = |p: &Port<'_>| match p.key {
            "replay" => p.expect(&[&named::EFT, &named::IFT, &named::TEXT]).err(),
            _ => p.expect(&[&named::PAIRS, &named::PREFERENCES]).err(),
        };
        let mut problems: Vec<String> = inputs.iter().filter_map(accepted).collect();
        let loss = self.config.objective.loss;
        for column in loss.columns() {
            let (unfilled, remedy) = column.unfilled;
            let fills =
                |p: &Port<'_>, name: &str| p.schema.columns.iter().any(|c| c.name == name) && !p.lacks.contains(&name);
            let lacks = |p: &&Port<'_>| p.key != "replay" && !column.needs.iter().all(|name| fills(p, name));
            let message =
                |p: &Port<'_>| format!("`{}` {unfilled}, which the loss {} reads: {remedy}", p.step, loss.name);
            problems.extend(inputs.iter().filter(lacks).map(message));
        }
        problems.extend(super::sft::unused_rubric(self.rubric_given, inputs, "replay"));
        if problems.is_empty() { Ok(&named::MODELS) } else { Err(problems) }
    }
}
impl Operator for Dpo {
    fn stage(&self) -> Stage<'_> {
        Stage::Train(self)
    }
    fn trains_adapter(&self) -> bool {
        self.lora.is_some()
    }
}

/// Reads the pairs of a dataset, without their references.
pub(crate) fn pairs(rows: &RecordBatch) -> Result<Vec<Pair>> {
    let columns = Columns(rows);
    let (chosen_ids, rejected_ids) = (columns.text("chosen_id")?, columns.text("rejected_id")?);
    let (prompt, chosen, rejected) =
        (columns.tokens("prompt_tokens")?, columns.tokens("chosen_tokens")?, columns.tokens("rejected_tokens")?);
    // Foreign datasets may lack a column.
    let read = train::losses::columns().into_iter().filter(|column| rows.column_by_name(column.name).is_some());
    let read: Vec<_> = read.map(|column| Ok((column, columns.float(column.name)?))).collect::<Result<_>>()?;
    let pair = |i: usize| {
        let mut columns = PairColumns::default();
        read.iter()
            .filter(|(_, values)| values.is_valid(i))
            .for_each(|(c, values)| columns.set(c, values.value(i).into()));
        Pair {
            id: pair_id(chosen_ids.value(i), rejected_ids.value(i)),
            prompt: prompt.row(i).to_vec(),
            chosen: chosen.row(i).to_vec(),
            rejected: rejected.row(i).to_vec(),
            columns,
            reference: None,
        }
    };
    Ok((0..rows.num_rows()).map(pair).collect())
}

/// The inputs of a training beside its model and its pairs.
struct Ready {
    replay: Vec<Example>,
    config: DpoConfig,
    measure: Option<ValidationMetric>,
}

impl Dpo {
    /// Returns the number of iterations whose pairs it uses.
    fn iterations(&self) -> u32 {
        match self.data {
            ChoiceOrCount::Count(n) => u32::try_from(n).unwrap_or(u32::MAX),
            ChoiceOrCount::Choice("cumulative") => u32::MAX,
            ChoiceOrCount::Choice(_) => 1,
        }
    }
    /// Returns the maximum number of pairs of an iteration; without a loop the first value applies.
    fn limit(&self, iteration: u32) -> usize {
        let at = iteration.max(1) as usize - 1;
        match self.limit.get(at).or(self.limit.last()) {
            None | Some(0) => usize::MAX,
            Some(&most) => usize::try_from(most).unwrap_or(usize::MAX),
        }
    }
    fn ready(&self, cx: &Context<'_>, model: &Model, references: &mut References<'_>) -> Result<Ready> {
        let replay = super::sft::examples_of(cx, "replay", &self.rubric, model)?;
        let mut validation = None;
        if let Some(input) = cx.step.inputs.iter().find(|i| i.key == "validation") {
            let rows = self.reader(&input.step, model).read(&cx.whole(&input.step)?, &mut references.errors)?;
            let mut held_out = pairs(&rows)?;
            references.compute(&mut held_out, &mut TrainingProgress::new(cx, model, 0))?;
            validation = Some(self.validating.on(held_out));
        }
        let measure = validation.as_ref().map(|_| self.validating.measure());
        let seed = cx.shared.plan.seed.wrapping_add(cx.epoch.iteration.into());
        Ok(Ready { replay, config: DpoConfig { seed, validation, ..self.config.clone() }, measure })
    }
    /// Gives rows of `input` the policy's token ids.
    fn reader<'a>(&self, input: &'a str, model: &'a Model) -> PairReader<'a> {
        PairReader {
            input,
            tokenizer: &model.tokenizer,
            policy: &model.hash,
            other: self.other_tokenizer,
            loss: self.config.objective.loss,
        }
    }
    fn references<'a>(&'a self, cx: &'a Context<'a>, model: &'a Model, untouched: bool) -> Result<References<'a>> {
        let limits = ForwardLimits { max_rows: self.config.max_rows_per_forward, ..ForwardLimits::default() };
        References::new(cx, &self.reference, model, untouched, limits, self.config.max_length)
    }
}

/// Lists the iterations whose pairs a training used, for `reflux.json`.
fn data(taken: &BTreeMap<u32, usize>) -> serde_json::Value {
    taken.iter().map(|(iteration, pairs)| serde_json::json!({ "iteration": iteration, "pairs": pairs })).collect()
}

/// Explains why no pair is left to train on after refused ones.
fn nothing_usable(cx: &Context<'_>, refused: &[RowError]) -> Error {
    let input = &cx.step.inputs[0].step;
    if let [first, ..] = refused {
        let (all, RowError { row, code, message, .. }) = (refused.len(), first);
        return Error::user(format!(
            "none of the {all} rows of `{input}` can be trained on; the first, {row}: {code}, {message}"
        ));
    }
    Error::user(format!("iteration {} yielded no pair: `{input}` is empty", cx.epoch.iteration)).help(
        "look at the scores: is the judge's format readable, and do the scores of a prompt differ? More samples, \
         a higher temperature or more training on judged responses help",
    )
}

impl Train for Dpo {
    fn health(&self, training: TrainingIteration<'_>, phase: Phase) -> Result<GateValues> {
        crate::operators::shared::health::measure(training, phase, Some(self.config.objective.params.beta))
    }

    fn announce(&self, cx: &Context<'_>, name: &str) -> Result<Output> {
        common::announce(cx, name)
    }

    fn train(&self, cx: &Context<'_>, name: &str) -> Result<Output> {
        let _pause = cx.env::<Models>()?.pause_servers(cx)?;
        let model = cx.env::<Models>()?.trainable(cx, self.lora.as_ref())?;
        let mut watch = TrainingProgress::new(cx, &model, self.checkpoint_every);
        let mut taken = BTreeMap::new();
        let mut beyond_limit = 0;
        // References are computed before the first step, and another model than the policy is dropped
        // before it.
        let (all, errors, Ready { replay, config, measure }) = {
            let mut references = self.references(cx, &model, true)?;
            let mut all = Vec::new();
            let input = &cx.step.inputs[0].step;
            // Microbatches of this iteration keep their numbers; those of earlier iterations get higher
            // ones.
            let last = cx.iteration_of(input);
            let own = cx.run().files(input).iter().filter(|f| f.iteration == last).map(|f| f.microbatch + 1).max();
            let mut beyond = own.unwrap_or(0);
            for microbatch in cx.window(input, self.iterations()) {
                let (epoch, rows) = microbatch?;
                let mut number = epoch.microbatch;
                if epoch.iteration < last {
                    (number, beyond) = (beyond, beyond + 1);
                }
                let had = taken.entry(epoch.iteration).or_insert(0);
                let left = self.limit(epoch.iteration) - *had;
                if left == 0 {
                    beyond_limit += rows.num_rows();
                    continue;
                }
                let rows = self.reader(input, &model).read(&rows, &mut references.errors)?;
                beyond_limit += rows.num_rows().saturating_sub(left);
                let rows = rows.slice(0, rows.num_rows().min(left));
                *had += rows.num_rows();
                all.extend(references.fill(number, epoch, &rows, pairs(&rows)?, &mut watch)?);
            }
            let ready = self.ready(cx, &model, &mut references)?;
            (all, references.errors, ready)
        };
        if all.is_empty() {
            return Err(nothing_usable(cx, &errors));
        }
        let trained = train::dpo(&model.llama, &all, &replay, &config, &mut watch)?;
        let rows = common::TrainingRows { refused: errors, beyond_limit: beyond_limit as u64, data: data(&taken) };
        common::finish(cx, name, &model, &trained, measure, &rows)
    }

    fn stream(
        &self,
        cx: &Context<'_>,
        name: &str,
        planned: u32,
        microbatches: &mut dyn Iterator<Item = Result<RecordBatch>>,
    ) -> Result<Output> {
        let model = cx.env::<Models>()?.trainable(cx, self.lora.as_ref())?;
        let mut references = self.references(cx, &model, false)?;
        let Ready { replay, config, measure } = self.ready(cx, &model, &mut references)?;
        let mut came = 0;
        let mut pairs = (0..).zip(microbatches).map(|(microbatch, rows)| {
            let rows = self.reader(&cx.step.inputs[0].step, &model).read(&rows?, &mut references.errors)?;
            came += rows.num_rows();
            references.fill(
                microbatch,
                Epoch::new(cx.iteration_of(&cx.step.inputs[0].step), microbatch),
                &rows,
                pairs(&rows)?,
                &mut TrainingProgress::new(cx, &model, 0),
            )
        });
        let mut watch = TrainingProgress::new(cx, &model, self.checkpoint_every);
        let trained = train::dpo_stream(&model.llama, planned as usize, &mut pairs, &replay, &config, &mut watch);
        drop(pairs);
        let trained = match trained {
            Err(e) if e.kind() == ErrorKind::User && came == 0 => return Err(nothing_usable(cx, &references.errors)),
            other => other?,
        };
        let data = data(&[(cx.epoch.iteration, came)].into());
        let rows = common::TrainingRows { refused: references.errors, data, ..Default::default() };
        common::finish(cx, name, &model, &trained, measure, &rows)
    }
}
