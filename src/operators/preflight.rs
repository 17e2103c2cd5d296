//! What can be known of a plan's models before anything runs: that each can do what its steps ask of it. Only small files are
//! opened, and no weights.

use std::collections::BTreeSet;

use crate::data::named;
use crate::dataflow::Operator;
use crate::error::{Error, Result};
use crate::model::Tokenizer;
use crate::model::families::Family;
use crate::pipeline::{ModelKind, ModelSource, ModelUse, Plan, Step};

/// What [`preflight`] finds.
#[derive(Debug, Default)]
pub struct Preflight {
    /// What cannot work, each once.
    pub problems: Vec<Error>,
    /// What is worth knowing before a run.
    pub notes: Vec<String>,
}

/// Looks at the models that are here; those of the hub are not fetched.
pub fn preflight(plan: &Plan<dyn Operator>) -> Preflight {
    let mut found = Preflight::default();
    // A model is looked at once for each kind of step.
    let mut seen = BTreeSet::new();
    for step in &plan.steps {
        let source = step.model.as_ref().and_then(|used| source_of(plan, used));
        if let Some(source) = source
            && seen.insert((&source.name, step.kind.name))
            && let Err(e) = suits(plan, step, source)
        {
            found.problems.push(e.doing(format!("step `{}`, model `{}`", step.name, source.name)));
        }
        found.notes.extend(tokenised(plan, step));
    }
    found
}

/// The `[model.NAME]` that a use stands for at first; none where a step makes the model.
fn source_of<'a>(plan: &'a Plan<dyn Operator>, used: &'a ModelUse) -> Option<&'a ModelSource> {
    match used {
        ModelUse::Source(name) => plan.model(name),
        ModelUse::Policy => match &plan.loop_.as_ref()?.policy {
            ModelUse::Source(name) => plan.model(name),
            _ => None,
        },
        ModelUse::Step(_) => None,
    }
}

/// Whether a model can do what a step asks of it.
fn suits(plan: &Plan<dyn Operator>, step: &Step<dyn Operator>, source: &ModelSource) -> Result<()> {
    let trains = step.is_training();
    let dir = match &source.kind {
        ModelKind::Script { file } if trains => {
            return Err(Error::user(format!("`{}` is a script and has no weights to train", file.shown()))
                .help("give the step a model with weights"));
        }
        ModelKind::Path(path) | ModelKind::Init { config: path, .. } if path.outside_of_runs().is_dir() => {
            path.outside_of_runs()
        }
        // A GGUF file has its tokenizer and template within, a hub's model is not here yet.
        _ => return Ok(()),
    };
    if trains && let Some(family) = Family::of(dir)? {
        return Err(Error::user(format!("a model of the family {} cannot be trained", family.name()))
            .help("train a model of the Llama family; others can judge, answer and write prompts"));
    }
    // An adapter has the tokenizer of the model that it was trained on.
    if dir.join("adapter_config.json").is_file() {
        return Ok(());
    }
    let tokenizer = Tokenizer::load(dir)?;
    // Pairs have their token ids, and plain text has no turns.
    let texts = [named::IFT.name, named::EFT.name, named::PREFERENCES.name];
    let chats = !trains || schemas(plan, step).any(|schema| texts.contains(&schema));
    if chats && !tokenizer.has_chat_template() {
        return Err(Error::user(format!("{} has no chat template", dir.display())).help(
            "add chat_template.jinja, or `chat_template` in tokenizer_config.json: without it nobody knows how a prompt is put to the model",
        ));
    }
    Ok(())
}

/// The schemas of a step's inputs.
fn schemas<'a>(plan: &'a Plan<dyn Operator>, step: &'a Step<dyn Operator>) -> impl Iterator<Item = &'static str> + 'a {
    step.inputs.iter().filter_map(|i| plan.step(&i.step)).map(|s| s.schema.name)
}

/// Which of a training's inputs have texts alone, which it turns into token ids itself.
fn tokenised(plan: &Plan<dyn Operator>, step: &Step<dyn Operator>) -> Vec<String> {
    let texts = [named::PREFERENCES.name, named::IFT.name, named::EFT.name, named::TEXT.name];
    let inputs = step.inputs.iter().filter(|_| step.is_training());
    let inputs = inputs.filter(|i| plan.step(&i.step).is_some_and(|s| texts.contains(&s.schema.name)));
    inputs
        .map(|i| format!("`{}` tokenises the texts of `{}` with its own model's tokenizer", step.name, i.step))
        .collect()
}
