//! `train`: trains the policy by a program outside, such as TRL under `accelerate launch`.
//!
//! The program gets the committed rows as a Parquet dataset and the policy's directory, and leaves a model
//! directory, which is checked and committed like every model. What it must keep to is in
//! `docs/external-trainers.md`.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::Device;
use serde_json::{Value, json};

use super::common::{self, TrainingProgress};
use super::dpo::pairs;
use super::preferences::{OtherTokenizer, PairReader};
use super::reference::{ReferenceSettings, References};
use super::reported::Reported;
use super::starts::ExternalTrainer;
use super::watch::{FolderState, LiveReports, check_output};
use crate::data::{counted, read_regular};
use crate::dataflow::{GateValues, Phase, Train, TrainingIteration};
use crate::model::{Config, Model, Tokenizer, saved_dtype};
use crate::operators::shared::datasets::references_of;
use crate::operators::shared::health;
use crate::operators::shared::prelude::*;
use crate::operators::shared::program_environment::ProgramEnvironment;
use crate::operators::shared::subprocess;
use crate::pipeline::{CommandRules, CommandTemplate, EnvironmentVariable, External};
use crate::store::write_bytes;
use crate::train::{ForwardLimits, losses};

/// What the command of a trainer is given.
const COMMAND: CommandRules = CommandRules {
    placeholders: &[
        ("model", "directory of the model to start from"),
        ("pairs", "directory of the rows, a Hive-style Parquet dataset of this iteration"),
        ("reference", "the same of the reference's log-probabilities, which reflux then computes as `dpo` does"),
        ("output", "directory to leave the model in; kept when the program is started again"),
        ("metrics", "file to write metrics to, a JSON object for each optimizer step"),
        ("seed", "the run's seed and the iteration, added"),
        ("iteration", "iteration of the loop, 0 before it"),
    ],
    // Without these nothing is trained.
    required: &["model", "pairs", "output"],
    example: "command = [\"python\", \"trainers/trl_dpo.py\", \"--model\", \"{model}\", \"--pairs\", \"{pairs}\", \
              \"--output\", \"{output}\"]",
};

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "train",
    about: "trains the policy by an external command, such as TRL, on an iteration's rows",
    shape: Shape::Train,
    model: NeedsModel::Yes,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.dpo]\nop = \"train\"\nfrom = \"pairs\"\nmodel = \"policy\"\ncommand = [\"python\", \
              \"trainers/trl_dpo.py\", \"--model\", \"{model}\", \"--pairs\", \"{pairs}\", \"--output\", \"{output}\"]\n",
    parse: |f| {
        let about = "program and arguments; {model}, {pairs}, {reference}, {output}, {metrics}, {seed} and \
                     {iteration} are replaced, and {{ is a brace";
        let words = f.texts("command", about, None);
        let command = CommandTemplate::parse(&words, &COMMAND).unwrap_or_else(|(message, help)| {
            // A missing key was reported as such.
            if !words.is_empty() {
                f.problem("command", message, help);
            }
            CommandTemplate::default()
        });
        // What the words name is part of what is run. The program itself is the machine's.
        let is_file = |word: &String| std::fs::metadata(word).is_ok_and(|file| file.is_file());
        let named: Vec<(usize, &String)> = words.iter().enumerate().skip(1).filter(|(_, word)| is_file(word)).collect();
        let scripts = named.into_iter().map(|(index, word)| f.depends_on("command", index, word)).collect();
        let environment = f.environment();
        let time_limit = f.optional_duration("time_limit", "time that one start of the command may take");
        let about =
            "how often a command that was ended by a signal or its time limit is started again, with the same {output}";
        let restarts = f.count("restarts", about, Some(1), 0..=1000);
        let reference = ReferenceSettings::fields(f);
        if !command.has("reference") {
            f.without_effect(
                &["reference", "audit", "audit_threshold"],
                "without {reference} in `command`",
                "hand the log-probabilities over: \"--reference\", \"{reference}\"",
            );
        }
        Box::new(ExternalTraining { command, scripts, environment, time_limit, restarts, reference })
    },
};

struct ExternalTraining {
    command: CommandTemplate,
    /// Files that the command names.
    scripts: Vec<External>,
    environment: Vec<EnvironmentVariable>,
    time_limit: Option<Duration>,
    restarts: usize,
    reference: ReferenceSettings,
}

impl StepSpec for ExternalTraining {
    fn explain(&self) -> String {
        let mut words = format!("trained by an external command: {}", self.command);
        if self.command.has("reference") {
            words += &format!("; {}", self.reference.explain());
        }
        words
    }
    fn work(&self, _: u32, inputs: &[InputStats], _: &CostAssumptions) -> CostEstimate {
        let rows = inputs.first().map(|i| i.amount).unwrap_or_default();
        let given = TokenCount::of_sequences(rows.rows, 0., rows.prompt + rows.answer);
        CostEstimate {
            out: RowStats { rows: 1., ..RowStats::default() },
            trained: given,
            external: true,
            ..CostEstimate::default()
        }
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        let all: &[&Schema] = &[&named::PAIRS, &named::PREFERENCES, &named::EFT, &named::IFT, &named::TEXT];
        // The log-probabilities are those of recorded token ids.
        let accepted = if self.command.has("reference") { &all[..1] } else { all };
        let problems: Vec<String> = inputs.iter().filter_map(|p| p.expect(accepted).err()).collect();
        if problems.is_empty() { Ok(&named::MODELS) } else { Err(problems) }
    }
}
impl Operator for ExternalTraining {
    fn stage(&self) -> Stage<'_> {
        Stage::Train(self)
    }
    fn program(&self) -> Option<&str> {
        self.command.program()
    }
    fn environment(&self) -> &[EnvironmentVariable] {
        &self.environment
    }
}

/// What is known of the model that a training starts from.
struct Policy {
    hash: String,
    tokenizer: Tokenizer,
    config: Config,
    /// Its directory in Hugging Face's layout.
    dir: PathBuf,
}

/// The files of a training, all in its scratch folder.
struct TrainingFiles {
    scratch: PathBuf,
    pairs: PathBuf,
    reference: PathBuf,
    output: PathBuf,
    metrics: PathBuf,
}

impl TrainingFiles {
    fn new(cx: &Context<'_>) -> Result<Self> {
        let scratch = cx.run().scratch(&cx.step.name, cx.epoch.iteration)?;
        let scratch = std::path::absolute(&scratch).doing(|| scratch.display())?;
        if scratch.to_str().is_none() {
            return Err(Error::user(format!("`{}` is not UTF-8, and cannot be an argument", scratch.display()))
                .help("keep runs in a directory with another name (--runs)"));
        }
        let at = |name: &str| scratch.join(name);
        let (pairs, reference, output) = (at("pairs"), at("reference"), at("output"));
        Ok(Self { metrics: at("metrics.jsonl"), pairs, reference, output, scratch })
    }

    /// Makes the output folder. What an earlier process left there stays if it was given the same.
    fn prepare(&self, step: &str, given: &Value) -> Result<()> {
        if std::fs::symlink_metadata(&self.output).is_ok_and(|output| !output.is_dir()) {
            tracing::warn!("step `{step}`: the trainer put a file or a link in place of its output; it is removed");
            std::fs::remove_file(&self.output).doing(|| self.output.display())?;
        }
        let note = self.scratch.join("given.json");
        let before: Option<Value> = read_regular(&note).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let but_scripts = |given: &Value| {
            let mut rest = given.clone();
            rest.as_object_mut().map(|fields| fields.remove("scripts"));
            rest
        };
        if before.as_ref().is_some_and(|before| but_scripts(before) == but_scripts(given) && before != given) {
            tracing::warn!(
                "step `{step}`: a file that the command names has changed; the trainer gets the same output folder, \
                 {}: remove it if the trainer must start over",
                self.output.display()
            );
        } else if before.is_some_and(|before| before != *given) {
            tracing::warn!("step `{step}`: the trainer is given something else than before; its output is removed");
            if self.output.exists() {
                std::fs::remove_dir_all(&self.output).doing(|| self.output.display())?;
            }
            if self.metrics.exists() {
                std::fs::remove_file(&self.metrics).doing(|| self.metrics.display())?;
            }
        }
        std::fs::create_dir_all(&self.output).doing(|| self.output.display())?;
        write_bytes(&note, format!("{given:#}\n").as_bytes()).map(drop)
    }
}

impl ExternalTraining {
    /// Loads the policy, computes its references if the command wants them, and forgets its weights.
    fn policy(&self, cx: &Context<'_>, files: &TrainingFiles) -> Result<(Policy, Vec<RowError>)> {
        let models = cx.env::<Models>()?;
        let at = cx.model.as_ref().ok_or_else(|| Error::bug("a training step has no model"))?;
        let model = models.frozen(cx, at)?;
        let mut refused = Vec::new();
        if self.command.has("reference") {
            refused = self.references(cx, &model)?;
            let name = references_of(&cx.step.name);
            cx.run().copy_rows(&name, cx.epoch.iteration, &files.reference)?;
        }
        let dir = models.directory(cx, &model, &files.scratch.join("model"))?;
        let config = model.llama.config().clone();
        Ok((Policy { hash: model.hash, tokenizer: model.tokenizer, config, dir }, refused))
    }

    /// Makes the dataset of the reference's log-probabilities. Returns the pairs that have none.
    fn references(&self, cx: &Context<'_>, model: &Model) -> Result<Vec<RowError>> {
        let input = &cx.step.inputs[0].step;
        let reader = PairReader {
            input,
            tokenizer: &model.tokenizer,
            policy: &model.hash,
            other: OtherTokenizer::Refuse,
            loss: &losses::LOSSES[0],
        };
        let mut references = References::new(cx, &self.reference, model, true, ForwardLimits::default(), None)?;
        let mut progress = TrainingProgress::new(cx, model, 0);
        for microbatch in cx.microbatches(input) {
            let (number, rows) = microbatch?;
            let rows = reader.read(&rows, &mut references.errors).map_err(|e| {
                e.help("sample the pairs with the policy's tokenizer, or leave {reference} out of `command`")
            })?;
            let of = Epoch::new(cx.iteration_of(input), number);
            references.fill(number, of, &rows, pairs(&rows)?, &mut progress)?;
        }
        Ok(references.errors)
    }

    /// The command with everything filled in.
    fn filled(&self, cx: &Context<'_>, files: &TrainingFiles, policy: &Policy) -> Vec<String> {
        let path = |path: &Path| path.display().to_string();
        let seed = cx.shared.plan.seed.wrapping_add(cx.epoch.iteration.into());
        self.command.fill(&|name| match name {
            "model" => path(&policy.dir),
            "pairs" => path(&files.pairs),
            "reference" => path(&files.reference),
            "output" => path(&files.output),
            "metrics" => path(&files.metrics),
            "seed" => seed.to_string(),
            _ => cx.epoch.iteration.to_string(),
        })
    }
}

/// Loads the model that a trainer left, and gives it the policy's tokenizer: token ids and chats keep their meaning.
fn collect(cx: &Context<'_>, output: &Path, policy: &Policy) -> Result<Model> {
    let step = &cx.step.name;
    let left = || format!("what the trainer of `{step}` left in {}", output.display());
    let help = "a trainer that ends with exit code 0 must leave config.json, the weights as safetensors, \
                tokenizer.json and tokenizer_config.json in {output} itself; checkpoints below it are not looked at";
    check_output(output).map_err(|why| Error::user(format!("{}: {why}", left())).help(help))?;
    let load = |dir: &Path| Model::load(dir, &Device::Cpu, saved_dtype(dir)?, false);
    let model = load(output).map_err(|e| Error::user(e.to_string()).doing(left()).help(help))?;
    let shapes = |config: &Config| {
        [
            ("hidden_size", config.hidden_size),
            ("intermediate_size", config.intermediate_size),
            ("num_hidden_layers", config.num_hidden_layers),
            ("num_attention_heads", config.num_attention_heads),
            ("num_key_value_heads", config.num_key_value_heads.unwrap_or(config.num_attention_heads)),
        ]
    };
    let (now, before) = (shapes(model.llama.config()), shapes(&policy.config));
    if let Some(((name, now), (_, before))) = now.into_iter().zip(before).find(|(now, before)| now != before) {
        return Err(Error::user(format!(
            "{} is another model than it started from: `{name}` is {now} and was {before}",
            left()
        ))
        .help("leave the trained {model} in {output}, with adapters merged into it"));
    }
    if model.llama.config().vocab_size != policy.config.vocab_size
        || model.tokenizer.vocabulary_hash() != policy.tokenizer.vocabulary_hash()
    {
        return Err(Error::user(format!(
            "{} has another vocabulary than the model that it started from: token ids mean something else there",
            left()
        ))
        .help("do not add tokens or resize the embedding in the trainer, and save the tokenizer as it was"));
    }
    if model.tokenizer.chat_template() != policy.tokenizer.chat_template() {
        tracing::warn!("step `{step}`: the trainer left another chat template; the policy's is kept");
    }
    Ok(Model { tokenizer: policy.tokenizer.clone(), ..model })
}

impl Train for ExternalTraining {
    fn health(&self, training: TrainingIteration<'_>, phase: Phase) -> Result<GateValues> {
        let input = training.step.inputs.first().and_then(|i| training.plan.step(&i.step));
        let has_pairs = input.is_some_and(|step| step.schema.name == named::PAIRS.name);
        match phase {
            Phase::Rows => health::measure_rows(&training, has_pairs),
            // The gate of this phase needs the trainer's beta.
            Phase::Training => Ok(Vec::new()),
        }
    }

    fn announce(&self, cx: &Context<'_>, name: &str) -> Result<Output> {
        common::announce(cx, name)
    }

    fn train(&self, cx: &Context<'_>, name: &str) -> Result<Output> {
        let _pause = cx.env::<Models>()?.pause_servers(cx)?;
        let (step, iteration, input) = (&cx.step.name, cx.epoch.iteration, &cx.step.inputs[0].step);
        let files = TrainingFiles::new(cx)?;
        let leftover = subprocess::stop_leftovers(&files.scratch);
        if leftover > 0 {
            tracing::warn!(
                "step `{step}`: {} of a trainer that outlived its run had to be stopped",
                counted(leftover, "process")
            );
        }
        let scripts = self.scripts.iter().map(External::as_it_is).collect::<Result<Vec<_>>>()?;
        let (rows, hashes) = cx.run().copy_rows(input, cx.iteration_of(input), &files.pairs)?;
        if rows == 0 {
            return Err(Error::user(format!("iteration {iteration} yielded no row to train on: `{input}` is empty"))
                .help("look at the scores and at data/errors for why"));
        }
        let (policy, refused) = self.policy(cx, &files)?;
        let command = self.filled(cx, &files, &policy);
        let contents: Vec<Option<&str>> = scripts.iter().map(External::content).collect();
        let given = json!({
            "command": self.command.to_string(), "model": policy.hash, "rows": hashes, "scripts": contents,
        });
        files.prepare(step, &given)?;
        let log = cx.run().log_file(step, iteration)?;
        let environment = ProgramEnvironment::new(&self.environment)?;
        let trainer = ExternalTrainer {
            step,
            command: &command,
            environment: &environment,
            log: &log,
            scratch: &files.scratch,
            time_limit: self.time_limit,
            restarts: self.restarts,
        };
        let before = FolderState::read(&policy.dir)?;
        let live = RefCell::new(LiveReports::new(&files.metrics));
        let ended = trainer.run(&|| {
            if let Some(values) = live.borrow_mut().newest() {
                cx.measured(&values);
            }
            cx.cancelled()
        });
        if let Some(file) = before.changed(&FolderState::read(&policy.dir)?) {
            return Err(Error::user(format!(
                "the trainer of `{step}` changed {}, a file of {{model}}",
                file.display()
            ))
            .help("let it write below {output} only, and restore the file: `reflux verify` names what it damaged"));
        }
        ended?;
        if let Some(file) = cx.run().changed_copy(input, cx.iteration_of(input), &files.pairs) {
            return Err(Error::user(format!(
                "the trainer of `{step}` changed {}, a copy of the rows that it was given: what it trained on is not known",
                file.display()
            ))
            .help("let it write below {output} only; the run's own rows are as they were"));
        }
        let model = collect(cx, &files.output, &policy)?;
        // Only now: until something is made with a script, it may be mended.
        for script in &scripts {
            script.open(cx.run())?;
        }
        let reported = Reported::read(&files.metrics, &files.output);
        for warning in reported.warnings(rows) {
            tracing::warn!("step `{step}`, iteration {iteration}: {warning}");
        }
        if !reported.unknown.is_empty() {
            tracing::info!("step `{step}`: {:?} are no columns of `metrics` and not stored", reported.unknown);
        }
        cx.run().write_metrics(step, iteration, &reported.table()?)?;
        let mut origin = json!({
            "step": step, "operator": cx.step.kind.name, "iteration": iteration, "start": policy.hash,
            "command": self.command.to_string(), "steps": reported.steps(), "rows": rows,
            "rows_reported": reported.pairs, "world_size": reported.world_size, "versions": reported.versions,
            "unstored_metrics": reported.unknown.keys().collect::<Vec<_>>(),
        });
        common::add_left_out(&mut origin, &refused)?;
        cx.run().commit_model(name, step, iteration, |dir| {
            let path = dir.join("reflux.json");
            std::fs::write(&path, format!("{origin:#}\n")).doing(|| path.display())?;
            model.save(dir)
        })?;
        common::announce(cx, name)
    }
}
