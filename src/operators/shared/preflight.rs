//! What can be known of a plan's models before anything runs: that each can do what its steps ask of it. Only small files
//! and the headers of others are read, and no weights.

use std::collections::{BTreeMap, BTreeSet};

use super::models::dtype;
use crate::data::named;
use crate::dataflow::Operator;
use crate::engine::has_template;
use crate::error::{Error, Result};
use crate::model::{Message, Outline};
use crate::pipeline::{Asks, ModelKind, ModelSource, ModelUse, Plan, Step};
use crate::train::Example;

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
    let mut looked_at = Looked { plan, outlines: BTreeMap::new(), found: Preflight::default() };
    for step in &plan.steps {
        looked_at.at(step);
    }
    looked_at.found
}

/// What was looked at so far.
struct Looked<'a> {
    plan: &'a Plan<dyn Operator>,
    /// By the model's name; nothing where it has no files, they are not here, or they are at fault.
    outlines: BTreeMap<&'a str, Option<Outline>>,
    found: Preflight,
}

impl<'a> Looked<'a> {
    fn at(&mut self, step: &'a Step<dyn Operator>) {
        let plan = self.plan;
        let others = step.models.iter().filter_map(|(_, used)| source_of(plan, used));
        for source in others {
            self.open(step, source);
        }
        if let Some(source) = step.model.as_ref().and_then(|used| source_of(plan, used)) {
            self.open(step, source);
            if let Err(e) = self.suits(step, source) {
                self.found.problems.push(e.doing(format!("step `{}`, model `{}`", step.name, source.name)));
            }
            self.other_ids(step, source);
        }
        self.found.notes.extend(tokenised(plan, step));
    }

    /// Opens a model's small files, once.
    fn open(&mut self, step: &Step<dyn Operator>, source: &'a ModelSource) {
        if self.outlines.contains_key(source.name.as_str()) {
            return;
        }
        let outline = outline(source)
            .map(|outline| outline.map(|o| Outline { tokenizer: o.tokenizer.with_date(self.plan.date), ..o }));
        if let Ok(Some(outline)) = &outline
            && self.plan.date.is_none()
            && outline.tokenizer.chat_template().is_some_and(|template| template.contains("strftime_now"))
        {
            self.found.notes.push(format!(
                "the chat template of `{}` names `strftime_now`, and a conversation for which it asks for the date is refused: \
                 set `date = \"YYYY-MM-DD\"` under [pipeline]",
                source.name
            ));
        }
        let outline = outline.unwrap_or_else(|e| {
            self.found.problems.push(e.doing(format!("step `{}`, model `{}`", step.name, source.name)));
            None
        });
        self.outlines.insert(&source.name, outline);
    }

    fn outline(&self, source: &ModelSource) -> Option<&Outline> {
        self.outlines.get(source.name.as_str())?.as_ref()
    }

    /// Whether a model can do what a step asks of it.
    fn suits(&mut self, step: &Step<dyn Operator>, source: &ModelSource) -> Result<()> {
        let trains = step.is_training();
        if let ModelKind::Script { file } = &source.kind
            && trains
        {
            return Err(Error::user(format!("`{}` is a script and has no weights to train", file.shown()))
                .help("give the step a model with weights"));
        }
        let Some(outline) = self.outline(source) else { return Ok(()) };
        if trains && let Some(family) = outline.family {
            return Err(Error::user(format!("a model of the family {} cannot be trained", family.name()))
                .help("train a model of the Llama family; others can judge, answer and write prompts"));
        }
        // Pairs have their token ids, and plain text has no turns.
        let texts = [named::IFT.name, named::EFT.name, named::PREFERENCES.name];
        if !trains || schemas(self.plan, step).any(|schema| texts.contains(&schema)) {
            has_template(&source.name, &outline.tokenizer)?;
        }
        if let Some(asks) = step.op.asks() {
            let note = has_room(step, source, outline, &asks)?;
            self.found.notes.extend(note);
        } else if trains && schemas(self.plan, step).any(|schema| texts.contains(&schema)) {
            Example::answer(&outline.tokenizer, &[Message::new("user", "x")], "y")?;
        }
        Ok(())
    }

    /// Token ids that reach a training and were sampled by a model with another tokenizer.
    fn other_ids(&mut self, step: &Step<dyn Operator>, source: &ModelSource) {
        let (Some(encodes), Some(own)) = (step.op.encodes_other_ids(), self.outline(source)) else { return };
        let own = own.tokenizer.hash().to_owned();
        for writer in sampled_by(self.plan, step) {
            let model = writer.model.as_ref().and_then(|used| source_of(self.plan, used));
            let Some((model, outline)) = model.and_then(|model| Some((model, self.outline(model)?))) else { continue };
            if outline.tokenizer.hash() == own {
                continue;
            }
            let what = format!(
                "the tokenizer or chat template of `{}`, by which `{}` samples, is another than that of `{}`",
                model.name, writer.name, source.name
            );
            if encodes {
                self.found.notes.push(format!("{what}: `{}` tokenises its texts anew", step.name));
            } else {
                let help =
                    "write other_tokenizer = \"encode\" into this step, and the texts are tokenised for its model";
                let e = Error::user(format!("{what}: its token ids mean something else there")).help(help);
                self.found.problems.push(e.doing(format!("step `{}`", step.name)));
            }
        }
    }
}

/// A model's small files; nothing where it has none, or they are not here.
fn outline(source: &ModelSource) -> Result<Option<Outline>> {
    match &source.kind {
        ModelKind::Path(path) => Outline::of_files(path.outside_of_runs(), dtype(source)).map(Some),
        ModelKind::Init { config, .. } => Outline::of_configuration(config.outside_of_runs()).map(Some),
        ModelKind::Hub { .. } | ModelKind::Script { .. } => Ok(None),
    }
}

/// The `[model.NAME]` that a use stands for, or that the model which a step makes was trained from: its tokenizer and context
/// are the same.
fn source_of<'a>(plan: &'a Plan<dyn Operator>, used: &'a ModelUse) -> Option<&'a ModelSource> {
    let mut used = used;
    // A training cannot be trained from itself, so there are no more turns than steps.
    for _ in 0..=plan.steps.len() + 1 {
        used = match used {
            ModelUse::Source(name) => return plan.model(name),
            ModelUse::Policy => &plan.loop_.as_ref()?.policy,
            ModelUse::Step(name) => plan.step(name)?.model.as_ref()?,
        };
    }
    None
}

/// Whether what a step asks at the least fits its model's context; a note where answers may be cut by it.
fn has_room(step: &Step<dyn Operator>, source: &ModelSource, outline: &Outline, asks: &Asks) -> Result<Option<String>> {
    let turns: Vec<Message> = asks.turns.iter().map(|(role, text)| Message::new(*role, text)).collect();
    let (prompt, context) = (outline.tokenizer.encode_chat(&turns, true)?.len(), outline.positions);
    let (most, together) = (asks.max_tokens, prompt.saturating_add(asks.max_tokens));
    let Some(template) = &asks.template else {
        if prompt >= context {
            let message = format!("a prompt has {prompt} tokens at the least, and the model's context {context}");
            return Err(Error::user(message).help("take a model with a longer context, or a shorter `system`"));
        }
        return Ok((together > context).then(|| {
            format!(
                "`{}` may answer in {most} tokens, but `{}` has a context of {context}: longer answers are cut there",
                step.name, source.name
            )
        }));
    };
    if together <= context {
        return Ok(None);
    }
    let help = match context.checked_sub(prompt) {
        Some(left @ 2..) => format!(
            "set `sampling.max_tokens` to less than {left}, shorten the template, or take a model with a longer context"
        ),
        _ => "shorten the template, or take a model with a longer context".to_owned(),
    };
    Err(Error::user(format!(
        "{template} has {prompt} tokens with nothing filled in and `max_tokens` is {most}, {together} together; the model's \
         context has {context}"
    ))
    .help(help))
}

/// The steps above this one whose models sampled the token ids that it reads.
fn sampled_by<'a>(plan: &'a Plan<dyn Operator>, step: &'a Step<dyn Operator>) -> Vec<&'a Step<dyn Operator>> {
    // Rows of judgements that were rated have the ids of the judge, whoever wrote what it judged.
    let (mut open, mut seen, mut writers) = (vec![(step, named::RESPONSES.name)], BTreeSet::new(), Vec::new());
    while let Some((step, sampled)) = open.pop() {
        let inputs = step.inputs.iter().filter(|i| matches!(i.key, "from" | "with" | "validation"));
        for above in inputs.filter_map(|i| plan.step(&i.step)) {
            if !seen.insert((&above.name, sampled)) {
                continue;
            }
            if above.schema.name == sampled && above.model.is_some() {
                writers.push(above);
            } else {
                let rates = above.op.rates_judgements();
                open.push((above, if rates { named::SCORES.name } else { sampled }));
            }
        }
    }
    writers
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
