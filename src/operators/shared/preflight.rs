//! Checks before a run that each model can do what the steps require of it. Only small files and the
//! headers of others are read, never weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::models::dtype;
use super::program_environment::ProgramEnvironment;
use crate::data::named;
use crate::dataflow::Operator;
use crate::engine::has_template;
use crate::error::{Error, Result};
use crate::model::{Message, ModelOutline};
use crate::pipeline::{Asks, ModelKind, ModelSource, Plan, ServerUpdate, Step};
use crate::train::Example;

/// The result of [`preflight`].
#[derive(Debug, Default)]
pub struct Preflight {
    /// Problems that would stop the run, each once.
    pub problems: Vec<Error>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Checks the local models of a plan. Models on the hub are not fetched.
pub fn preflight(plan: &Plan<dyn Operator>) -> Preflight {
    let mut checks = ModelChecks { plan, outlines: BTreeMap::new(), found: Preflight::default() };
    checks.servers();
    checks.server_programs();
    for step in &plan.steps {
        checks.at(step);
    }
    checks.found
}

/// The checks so far.
struct ModelChecks<'a> {
    plan: &'a Plan<dyn Operator>,
    /// By model name; `None` if the model has no files, is not local, or has a problem.
    outlines: BTreeMap<&'a str, Option<ModelOutline>>,
    found: Preflight,
}

impl<'a> ModelChecks<'a> {
    /// Refuses models on servers in a build that cannot reach them.
    fn servers(&mut self) {
        let on_server = |m: &&ModelSource| matches!(m.kind, ModelKind::Server(_)) || m.program.is_some();
        if !cfg!(feature = "servers")
            && let Some(model) = self.plan.models.iter().find(on_server)
        {
            self.found.problems.push(Error::no_feature(format!("model `{}` is on a server", model.name)));
        }
    }

    /// Looks for the programs of the servers that the run will start.
    fn server_programs(&mut self) {
        let mut looked_at = BTreeSet::new();
        for server in self.plan.models.iter().filter_map(|model| model.program.as_ref()) {
            if !looked_at.insert(&server.name) {
                continue;
            }
            let owner = format!("server `{}`", server.name);
            if let Some(program) = server.command.program()
                && !is_found(program)
            {
                self.found.problems.push(not_found(&owner, program));
            }
            self.found.problems.extend(ProgramEnvironment::new(&server.environment).err().map(|e| e.doing(owner)));
        }
        self.adapters();
    }

    /// Refuses a server that loads policies as adapters if the loop's training leaves none.
    fn adapters(&mut self) {
        let Some(loop_) = &self.plan.loop_ else { return };
        let server = self.plan.source_of(&loop_.policy).and_then(|source| source.program.as_ref());
        if let Some(server) = server.filter(|server| server.update == ServerUpdate::Lora)
            && self.plan.step(&loop_.next).is_some_and(|step| !step.op.trains_adapter())
        {
            let message = format!("update = \"lora\" loads policies as adapters, and `{}` trains none", loop_.next);
            let help = "give `dpo` or `sft` a table `lora`, such as lora = { rank = 16 }, or write update = \"reload\" or \
                        \"restart\"";
            self.found.problems.push(Error::user(message).help(help).doing(format!("server `{}`", server.name)));
        }
    }

    fn at(&mut self, step: &'a Step<dyn Operator>) {
        let plan = self.plan;
        if let Some(program) = step.op.program().filter(|program| !is_found(program)) {
            self.found.problems.push(not_found(&format!("step `{}`", step.name), program));
        }
        let owner = || format!("step `{}`", step.name);
        self.found.problems.extend(ProgramEnvironment::new(step.op.environment()).err().map(|e| e.doing(owner())));
        let others = step.models.iter().filter_map(|(_, used)| plan.source_of(used));
        for source in others {
            self.open(step, source);
        }
        if let Some(source) = step.model.as_ref().and_then(|used| plan.source_of(used)) {
            self.open(step, source);
            if let Err(e) = self.suits(step, source) {
                self.found.problems.push(e.doing(format!("step `{}`, model `{}`", step.name, source.name)));
            }
            self.other_ids(step, source);
        }
        self.no_ids(step);
        self.found.notes.extend(tokenised(plan, step));
    }

    /// Reads a model's small files once.
    fn open(&mut self, step: &Step<dyn Operator>, source: &'a ModelSource) {
        if self.outlines.contains_key(source.name.as_str()) {
            return;
        }
        let outline = outline(source)
            .map(|outline| outline.map(|o| ModelOutline { tokenizer: o.tokenizer.with_date(self.plan.date), ..o }));
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

    fn outline(&self, source: &ModelSource) -> Option<&ModelOutline> {
        self.outlines.get(source.name.as_str())?.as_ref()
    }

    /// Checks whether a model can do what a step requires.
    fn suits(&mut self, step: &Step<dyn Operator>, source: &ModelSource) -> Result<()> {
        let trains = step.is_training();
        if let ModelKind::Script { file } = &source.kind
            && trains
        {
            return Err(Error::user(format!("`{}` is a script and has no weights to train", file.shown()))
                .help("give the step a model with weights"));
        }
        if matches!(source.kind, ModelKind::Server(_)) && trains {
            return Err(Error::user("a model on a server has no weights here to train")
                .help("give the step a model with `path`, `hf` or `init`"));
        }
        if !matches!(source.kind, ModelKind::Server(_))
            && source.program.is_none()
            && let Some(form) = step.op.constrains()
        {
            let message =
                format!("structured = {form:?} needs a model on a server that can hold its answers to a form");
            return Err(Error::user(message)
                .help("take `structured` out; mode = \"expected\" of `judge` reads scores from any local judge"));
        }
        let Some(outline) = self.outline(source) else { return Ok(()) };
        if trains && let Some(family) = outline.family {
            return Err(Error::user(format!("a model of the family {} cannot be trained", family.name()))
                .help("train a model of the Llama family; others can judge, answer and write prompts"));
        }
        // Pairs carry token ids, and plain text has no turns, so neither needs a chat template.
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

    /// Refuses a step that counts the tokens of answers that have none.
    fn no_ids(&mut self, step: &Step<dyn Operator>) {
        let Some(help) = step.op.without_token_ids() else { return };
        for writer in sampled_by(self.plan, step) {
            let source = writer.model.as_ref().and_then(|used| self.plan.source_of(used));
            if let Some(ModelSource { name, kind: ModelKind::Server(server), .. }) = source
                && server.tokenizer.is_none()
            {
                let message = format!(
                    "it counts tokens, and the answers of `{}` have none: text is sent to the servers of `{name}`",
                    writer.name
                );
                let help = format!("{help}, or give the model its `tokenizer`");
                self.found.problems.push(Error::user(message).help(help).doing(format!("step `{}`", step.name)));
            }
        }
    }

    /// Reports token ids that reach a training and were sampled with another tokenizer.
    fn other_ids(&mut self, step: &Step<dyn Operator>, source: &ModelSource) {
        let (Some(encodes), Some(own)) = (step.op.encodes_other_ids(), self.outline(source)) else { return };
        let own = own.tokenizer.hash().to_owned();
        for writer in sampled_by(self.plan, step) {
            let model = writer.model.as_ref().and_then(|used| self.plan.source_of(used));
            let Some((model, outline)) = model.and_then(|model| Some((model, self.outline(model)?))) else { continue };
            if outline.tokenizer.hash() == own {
                continue;
            }
            let what = format!(
                "the tokenizer or chat template of `{}`, by which `{}` samples, is another than that of `{}`",
                model.name, writer.name, source.name
            );
            if encodes {
                self.found.notes.push(format!("{what}: `{}` tokenises its texts again", step.name));
            } else {
                let help =
                    "write other_tokenizer = \"encode\" into this step, and the texts are tokenised for its model";
                let e = Error::user(format!("{what}: its token ids mean something else there")).help(help);
                self.found.problems.push(e.doing(format!("step `{}`", step.name)));
            }
        }
    }
}

fn not_found(owner: &str, program: &str) -> Error {
    Error::user(format!("{owner}: the program `{program}` was not found"))
        .help("a name is searched in PATH, and a path starts from the directory reflux is run in")
}

/// Whether a program is where its path says, or in a directory of PATH.
fn is_found(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Reads a model's small files; `None` if it has none or is not local.
fn outline(source: &ModelSource) -> Result<Option<ModelOutline>> {
    match &source.kind {
        ModelKind::Path(path) => ModelOutline::of_files(path.outside_of_runs(), dtype(source)).map(Some),
        ModelKind::Init { config, .. } => ModelOutline::of_configuration(config.outside_of_runs()).map(Some),
        ModelKind::Server(server) => {
            server.tokenizer.as_ref().map(|files| ModelOutline::of_tokenizer(files.outside_of_runs())).transpose()
        }
        ModelKind::Hub { .. } | ModelKind::Script { .. } => Ok(None),
    }
}

/// Checks that a step's shortest prompt fits the model's context. Returns a note if answers may be cut.
fn has_room(
    step: &Step<dyn Operator>,
    source: &ModelSource,
    outline: &ModelOutline,
    asks: &Asks,
) -> Result<Option<String>> {
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

/// Returns the steps above this one whose models sampled the token ids that it reads.
fn sampled_by<'a>(plan: &'a Plan<dyn Operator>, step: &'a Step<dyn Operator>) -> Vec<&'a Step<dyn Operator>> {
    // Rated judgements carry the token ids of the judge, not of the judged model.
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

/// Returns the schemas of a step's inputs.
fn schemas<'a>(plan: &'a Plan<dyn Operator>, step: &'a Step<dyn Operator>) -> impl Iterator<Item = &'static str> + 'a {
    step.inputs.iter().filter_map(|i| plan.step(&i.step)).map(|s| s.schema.name)
}

/// Notes which inputs of a training are texts that it tokenises itself.
fn tokenised(plan: &Plan<dyn Operator>, step: &Step<dyn Operator>) -> Vec<String> {
    let texts = [named::PREFERENCES.name, named::IFT.name, named::EFT.name, named::TEXT.name];
    let inputs = step.inputs.iter().filter(|_| step.is_training());
    let inputs = inputs.filter(|i| plan.step(&i.step).is_some_and(|s| texts.contains(&s.schema.name)));
    inputs
        .map(|i| format!("`{}` tokenises the texts of `{}` with its own model's tokenizer", step.name, i.step))
        .collect()
}
