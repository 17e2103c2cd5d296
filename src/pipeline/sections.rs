//! The file's sections, each read through [`Fields`]: `[pipeline]`, `[engine]`, `[health]`, `[server.NAME]`, `[model.NAME]`, `[loop]`, `[step.NAME]`,
//! `[study]`.

use std::sync::Arc;

use super::fields::external::External;
use super::fields::{ByIteration, Fields, How, KeyDoc, Named, Problems};
use super::health::{self, Gate};
use super::kind::{NeedsModel, OperatorDef, Shape};
use super::model_section::model;
use super::plan::{EngineSection, ModelKind, ModelSource};
use super::server_section::{ServerProgram, server_program};
use super::study::{self, Study};
use super::syntax::codes;
use super::syntax::diagnostic::{Diagnostic, Span};
use super::syntax::suggest::{self, show};
use super::syntax::tree::{self, EMPTY, Table, TomlValue};
use super::syntax::values::is_name;
use crate::jinja::DateTime;

/// Returns the full name of a table, as in the resolved file.
pub(super) fn table_of(section: &str, name: &str) -> String {
    format!("{section}.{}", tree::key(name))
}

/// Returns the full name of a model's table, as in [`crate::store::InputEntry`].
pub fn model_table(name: &str) -> String {
    table_of("model", name)
}

/// Returns the full name of a step's table.
pub fn step_table(name: &str) -> String {
    table_of("step", name)
}

/// Keys with their TOML literals, including defaults.
pub(super) type Values = Vec<(&'static str, String)>;

/// The values of `[pipeline]`.
pub(super) struct Header {
    pub name: String,
    pub seed: u64,
    pub date: Option<DateTime>,
    pub iterations: u32,
    pub microbatch: usize,
    pub window: usize,
    pub values: Values,
}

/// A server that models name.
pub(super) struct DraftServer {
    pub program: Arc<ServerProgram>,
    pub key: Span,
    pub values: Values,
}

/// A model before it is known to be used.
pub(super) struct DraftModel {
    pub source: ModelSource,
    pub key: Span,
    pub values: Values,
}

/// The values of `[loop]`.
pub(super) struct DraftLoop {
    pub policy: Named,
    pub next: Named,
    pub place: Span,
    pub values: Values,
}

/// A step with unresolved names.
pub(super) struct Draft<O: ?Sized + 'static> {
    pub name: String,
    pub key: Span,
    pub place: Span,
    pub kind: Option<&'static OperatorDef<O>>,
    pub op: Option<Box<O>>,
    pub inputs: Vec<Named>,
    pub sides: Vec<Named>,
    pub model: Option<Named>,
    pub models: Vec<Named>,
    pub externals: Vec<External>,
    pub by_iteration: Vec<ByIteration>,
    pub keep: bool,
    pub values: Values,
}

/// The whole file before names are resolved. Models and steps are in the order of their names.
pub(super) struct File<O: ?Sized + 'static> {
    pub header: Header,
    pub engine: EngineSection,
    pub engine_values: Values,
    pub health: Vec<Gate>,
    pub health_values: Values,
    pub servers: Vec<DraftServer>,
    pub models: Vec<DraftModel>,
    pub loop_: Option<DraftLoop>,
    pub steps: Vec<Draft<O>>,
    pub study: Option<Study>,
    /// The operators that steps may name.
    pub operators: Vec<&'static OperatorDef<O>>,
}

const SECTIONS: [&str; 8] = ["pipeline", "engine", "health", "server", "model", "loop", "step", "study"];

/// Reads every section and reports the problems within each; `stem` names a pipeline without a name.
pub(super) fn read<O: ?Sized>(
    root: &Table,
    kinds: &[&'static OperatorDef<O>],
    problems: &Problems,
    stem: &str,
) -> File<O> {
    for (key, entry) in &root.entries {
        if SECTIONS.contains(&key.as_str()) {
            continue;
        }
        let message = format!("a pipeline file has no `{}` at its top level", show(key));
        let help = if ask(|f| header(f, "FILE")).iter().any(|d| d.key == key) {
            Some(format!("it goes into the table [pipeline]: write [pipeline] above {key} = .."))
        } else {
            suggest::help(key, "its tables", SECTIONS)
        };
        problems.report(Diagnostic::new(&codes::UNKNOWN_SECTION, message, entry.key, "unknown").help(help));
    }
    let header = section_or_default(root, "pipeline", problems, |f| header(f, stem));
    let (engine, engine_values) = section_or_default(root, "engine", problems, engine);
    let (health, health_values) = section_or_default(root, "health", problems, health);
    let loop_ = section(root, "loop", problems, loop_table);
    if header.iterations > 1 && root.get("loop").is_none() {
        iterations_without_loop(root, problems);
    }
    let study = section(root, "study", problems, study::study);
    let servers = servers(root, problems);
    let programs: Vec<Arc<ServerProgram>> = servers.iter().map(|s| Arc::clone(&s.program)).collect();
    let models: Vec<DraftModel> = named(root, "model", problems)
        .into_iter()
        .map(|(name, key, place, table)| {
            check_name(name, "model", &["policy"], key, problems);
            let owner = format!("model `{}`", show(name));
            let mut fields = Fields::new(problems, table, place, owner).at(table_of("model", name));
            let source = model(&mut fields, name, place, &programs);
            fields.finish();
            DraftModel { source, key, values: fields.values }
        })
        .collect();
    unused_servers(&servers, &models, problems);
    if models.iter().all(|m| matches!(m.source.kind, ModelKind::Script { .. })) {
        engine_without_weights(root, &engine_values, problems);
    }
    let steps: Vec<Draft<O>> = named(root, "step", problems)
        .into_iter()
        .map(|(name, key, place, table)| {
            check_name(name, "step", &["policy", "errors"], key, problems);
            step(name, key, place, table, kinds, problems)
        })
        .collect();
    if steps.is_empty()
        && !matches!(root.get("step").map(|e| &e.node.value), Some(v) if !matches!(v, TomlValue::Table(_)))
    {
        let help = "a step is a table such as [step.ift] with op = \"read\"".to_owned();
        problems.report(Diagnostic::nowhere(&codes::NO_STEPS, "the file has no step").help(help));
    }
    File {
        header,
        engine,
        engine_values,
        health,
        health_values,
        servers,
        models,
        loop_,
        steps,
        study,
        operators: kinds.to_vec(),
    }
}

/// Reads every `[server.NAME]`.
fn servers(root: &Table, problems: &Problems) -> Vec<DraftServer> {
    let read = |(name, key, place, table): (&str, Span, Span, &Table)| {
        check_name(name, "server", &[], key, problems);
        let owner = format!("server `{}`", show(name));
        let mut fields = Fields::new(problems, table, place, owner).at(table_of("server", name));
        let program = Arc::new(server_program(&mut fields, name));
        fields.finish();
        DraftServer { program, key, values: fields.values }
    };
    named(root, "server", problems).into_iter().map(read).collect()
}

/// Warns about servers that no model names.
fn unused_servers(servers: &[DraftServer], models: &[DraftModel], problems: &Problems) {
    for server in servers {
        let named = |m: &DraftModel| m.source.program.as_ref().is_some_and(|p| p.name == server.program.name);
        if !models.iter().any(named) {
            let message = format!("server `{}` is not used", show(&server.program.name));
            let help = format!("take it out, or write server = \"{}\" into a model", show(&server.program.name));
            problems.report(Diagnostic::new(&codes::UNUSED_MODEL, message, server.key, "not used").help(help));
        }
    }
}

/// Warns about `iterations` without a loop.
fn iterations_without_loop(root: &Table, problems: &Problems) {
    let Some(TomlValue::Table(pipeline)) = root.get("pipeline").map(|entry| &entry.node.value) else { return };
    let Some(entry) = pipeline.get("iterations") else { return };
    let message = "[pipeline]: `iterations` has no effect without [loop]: every step runs once";
    let help = "take the key out, or write [loop] with `policy` and `next`".to_owned();
    problems.report(Diagnostic::new(&codes::CONFLICT, message, entry.node.span, "here").help(help));
}

/// Warns about `[engine]` if no model has weights: scripts use no engine.
fn engine_without_weights(root: &Table, values: &Values, problems: &Problems) {
    let Some(TomlValue::Table(engine)) = root.get("engine").map(|entry| &entry.node.value) else { return };
    let mut fields = Fields::new(problems, engine, Span::default(), "[engine]".into());
    fields.values.clone_from(values);
    fields.docs = ask(self::engine);
    let keys: Vec<&'static str> = fields.docs.iter().map(|doc| doc.key).collect();
    fields.without_effect(&keys, "where no model has weights", "");
}

fn section<T>(root: &Table, name: &str, problems: &Problems, read: impl FnOnce(&mut Fields<'_>) -> T) -> Option<T> {
    let entry = root.get(name)?;
    let TomlValue::Table(table) = &entry.node.value else {
        let message = format!("`{name}` is not a table");
        let label = format!("this is {}", entry.node.value.kind());
        let help = format!("write [{name}] on a line of its own, and its keys below");
        problems.report(Diagnostic::new(&codes::WRONG_TYPE, message, entry.node.span, label).help(help));
        return None;
    };
    let mut fields = Fields::new(problems, table, entry.node.span, format!("[{name}]"));
    let out = read(&mut fields);
    fields.finish();
    Some(out)
}

/// Reads a section, or its default values if the file does not have it.
fn section_or_default<T>(root: &Table, name: &str, problems: &Problems, read: impl Fn(&mut Fields<'_>) -> T) -> T {
    let default = || read(&mut Fields::new(problems, &EMPTY, Span::default(), format!("[{name}]")));
    section(root, name, problems, &read).unwrap_or_else(default)
}

/// Returns the tables `[section.NAME]`: name, place of the name, place of the header, table.
fn named<'a>(root: &'a Table, section: &str, problems: &Problems) -> Vec<(&'a str, Span, Span, &'a Table)> {
    let Some(entry) = root.get(section) else { return Vec::new() };
    let wrong = |what: String, span, value: &TomlValue| {
        let label = format!("this is {}", value.kind());
        let help = format!("write [{section}.NAME] on a line of its own, and its keys below");
        problems.report(Diagnostic::new(&codes::WRONG_TYPE, what, span, label).help(help));
    };
    let TomlValue::Table(table) = &entry.node.value else {
        wrong(format!("`{section}` is not a table of {section}s"), entry.node.span, &entry.node.value);
        return Vec::new();
    };
    let mut out = Vec::new();
    for (name, entry) in &table.entries {
        match &entry.node.value {
            TomlValue::Table(table) => out.push((name.as_str(), entry.key, entry.node.span, table)),
            other => wrong(format!("{section} `{}` is not a table", show(name)), entry.node.span, other),
        }
    }
    out
}

fn check_name(name: &str, what: &str, reserved: &[&str], span: Span, problems: &Problems) {
    let message = if reserved.iter().any(|word| word.eq_ignore_ascii_case(name)) {
        format!("a {what} cannot be named `{name}`: the word has a meaning of its own")
    } else if !is_name(name) {
        format!("`{}` cannot be the name of a {what}", show(name))
    } else {
        return;
    };
    let help = "names have letters, digits, underscores and hyphens, at most 64, and do not start with a hyphen";
    problems.report(Diagnostic::new(&codes::BAD_NAME, message, span, "here").help(help.to_owned()));
}

fn header(f: &mut Fields<'_>, stem: &str) -> Header {
    let name = f.text("name", "name of the run, which is stored in runs/NAME; defaults to the file's name", Some(stem));
    if f.given("name") && !is_name(&name) {
        let message = format!("`{}` cannot be the name of a pipeline", show(&name));
        let help = "names have letters, digits, underscores and hyphens, at most 64, and do not start with a hyphen";
        f.report(Diagnostic::new(&codes::BAD_NAME, message, f.span("name"), "here").help(help.to_owned()));
    }
    let seed = f.int("seed", "seed of all randomness", Some(0), 0..=i64::MAX);
    let date = f.optional_text("date", "current date as chat templates see it, such as \"2025-01-31\"");
    let date = date.and_then(|text| {
        let problem = |message: String| f.problem("date", message, "the same date every time makes runs repeat");
        text.parse().map_err(problem).ok()
    });
    let iterations =
        f.int("iterations", "number of iterations of the loop; each trains the next policy", Some(1), 1..=1000);
    let microbatch = f.count("microbatch", "rows per microbatch", Some(32), 1..=65_536);
    let window = f.count("window", "maximum number of microbatches in progress", Some(4), 1..=1024);
    Header {
        name,
        // Both values were checked against their ranges.
        seed: u64::try_from(seed).unwrap_or(0),
        date,
        iterations: u32::try_from(iterations).unwrap_or(1),
        microbatch,
        window,
        values: std::mem::take(&mut f.values),
    }
}

fn engine(f: &mut Fields<'_>) -> (EngineSection, Values) {
    let threads = f.count("threads", "number of compute threads; 0 means one per core", Some(0), 0..=1024);
    let max_batch = f.count("max_batch", "maximum number of sequences decoded together", Some(128), 1..=65_536);
    let kv_memory = f.optional_bytes(
        "kv_memory",
        "memory for the key-value cache; defaults to a share of the free memory",
        1 << 20..=u64::MAX >> 1,
    );
    (EngineSection { threads, max_batch, kv_memory }, std::mem::take(&mut f.values))
}

fn health(f: &mut Fields<'_>) -> (Vec<Gate>, Values) {
    (health::section(f), std::mem::take(&mut f.values))
}

fn loop_table(f: &mut Fields<'_>) -> DraftLoop {
    let mut name = |key, about| {
        let name = f.name(key, about);
        Named { key, name, span: f.span(key), how: How::Plain }
    };
    let policy = name("policy", "the model that \"policy\" refers to in the first iteration");
    let next = name("next", "the training step whose model is the policy of the next iteration");
    let place = f.span("");
    DraftLoop { policy, next, place, values: std::mem::take(&mut f.values) }
}

fn step<O: ?Sized>(
    name: &str,
    key: Span,
    place: Span,
    table: &Table,
    kinds: &[&'static OperatorDef<O>],
    problems: &Problems,
) -> Draft<O> {
    let mut f = Fields::new(problems, table, place, format!("step `{}`", show(name))).at(table_of("step", name));
    let word = f.text("op", "the operator", None);
    let kind = kinds.iter().copied().find(|k| k.name == word);
    if let (None, Some(TomlValue::Text(_))) = (kind, table.get("op").map(|e| &e.node.value)) {
        let message = format!("step `{}`: unknown operator `{}`", show(name), show(&word));
        let help = suggest::help(&word, "the operators", kinds.iter().map(|k| k.name));
        f.report(Diagnostic::new(&codes::UNKNOWN_OPERATOR, message, f.span("op"), "unknown operator").help(help));
    }
    let common = common(&mut f, kind.map(|k| (k.name, k.shape, k.model)));
    let op = kind.map(|k| (k.parse)(&mut f));
    if kind.is_some() {
        f.finish();
    }
    let (inputs, model, keep) = common;
    Draft {
        name: name.to_owned(),
        key,
        place,
        kind,
        op,
        inputs,
        sides: f.steps,
        model,
        models: f.models,
        externals: f.externals,
        by_iteration: f.by_iteration,
        keep,
        values: f.values,
    }
}

/// Reads the keys that every step may have: `from`, `model`, `keep`. They are not checked if the operator
/// is unknown.
fn common(f: &mut Fields<'_>, kind: Option<(&str, Shape, NeedsModel)>) -> (Vec<Named>, Option<Named>, bool) {
    let inputs = f.inputs("the steps whose rows it reads");
    let about = "model to use: a [model.NAME], a training step that runs once, or \"policy\"";
    let needs = kind.map(|k| k.2);
    let name = match needs {
        Some(NeedsModel::Yes) => Some(f.name("model", about)).filter(|n| !n.is_empty()),
        Some(NeedsModel::No) => {
            if let (true, Some((op, ..))) = (f.given("model"), kind) {
                f.known("model", "not used");
                let message = format!("the operator `{op}` uses no model");
                let problem = Diagnostic::new(&codes::MODEL_UNUSED, message, f.span("model"), "not used");
                f.report(problem.help("take the key out".to_owned()));
            }
            None
        }
        Some(NeedsModel::Optional) | None => f.optional_name("model", about),
    };
    let model = name.map(|name| Named { key: "model", name, span: f.span("model"), how: How::Plain });
    let keep = f.bool("keep", "whether to keep its rows as a dataset", Some(true));
    (inputs, model, keep)
}

impl<O: ?Sized> OperatorDef<O> {
    /// Returns the keys of the operator's table for the docs, the common ones (`op`, `from`, `model`,
    /// `keep`) first.
    pub fn keys(&self) -> Vec<KeyDoc> {
        ask(|f| {
            f.text("op", "the operator", None);
            common(f, Some((self.name, self.shape, self.model)));
            if self.max_inputs == 0 {
                f.docs.retain(|d| d.key != "from");
            }
            (self.parse)(f);
        })
    }
}

fn ask<T>(read: impl FnOnce(&mut Fields<'_>) -> T) -> Vec<KeyDoc> {
    let silent = Problems { silent: true, ..Problems::default() };
    let mut fields = Fields::new(&silent, &EMPTY, Span::default(), String::new());
    read(&mut fields);
    fields.docs
}

/// Documentation of a section of a pipeline file.
pub struct SectionDoc {
    /// Its name; `NAME` in its header stands for a name of the user's choice.
    pub name: &'static str,
    /// Its header as written in a file.
    pub header: &'static str,
    /// Its purpose, in a sentence.
    pub about: &'static str,
    /// Its keys.
    pub keys: fn() -> Vec<KeyDoc>,
}

/// Every section of a pipeline file except `[step.NAME]`, whose keys depend on its operator
/// ([`OperatorDef::keys`]).
pub const SECTION_DOCS: [SectionDoc; 7] = [
    SectionDoc {
        name: "pipeline",
        header: "[pipeline]",
        about: "the name of the run, its seed, and how its rows are cut into microbatches",
        keys: || ask(|f| header(f, "FILE")),
    },
    SectionDoc { name: "engine", header: "[engine]", about: "how models run on this machine", keys: || ask(engine) },
    SectionDoc {
        name: "health",
        header: "[health]",
        about: "limits for the figures of an iteration: beyond one, the run warns or stops",
        keys: || ask(health),
    },
    SectionDoc {
        name: "server",
        header: "[server.NAME]",
        about: "a server that reflux starts for the models that name it, with their present weights",
        keys: || ask(|f| server_program(f, "NAME")),
    },
    SectionDoc {
        name: "model",
        header: "[model.NAME]",
        about: "a model that steps can use: its source, and the type of its weights",
        keys: || ask(|f| model(f, "NAME", Span::default(), &[])),
    },
    SectionDoc {
        name: "loop",
        header: "[loop]",
        about: "the steps that train the policy; without a loop, every step runs once",
        keys: || ask(loop_table),
    },
    SectionDoc {
        name: "study",
        header: "[study]",
        about: "the same pipeline over several seeds and in several variants",
        keys: || ask(study::study),
    },
];
