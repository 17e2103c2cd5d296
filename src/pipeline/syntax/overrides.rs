//! `--set SECTION.KEY=VALUE`: overrides that are merged into the file's tree, with carets into their own
//! text.

use super::codes;
use super::diagnostic::{Diagnostic, SourceText, Span};
use super::suggest;
use super::tree::{self, Node, Table, TableEntry, TomlValue};
use super::values::is_name;

/// The keys that name a model's source; exactly one must be given. Setting one removes the others and the
/// keys that belong to them.
pub const MODEL_SOURCES: [&str; 5] = ["path", "hf", "init", "script", "server"];

/// The keys of a model that mean something only with `server`.
pub const SERVER_KEYS: [&str; 9] =
    ["name", "key", "max_in_flight", "time_limit", "tokenizer", "special_text", "price", "max_cost", "max_tokens"];

/// Parses and merges every override, later ones over earlier ones. `sources` grows by one text for each.
pub fn apply(root: &mut Table, overrides: &[String], sources: &mut Vec<SourceText>, problems: &mut Vec<Diagnostic>) {
    let mut parsed = Vec::new();
    for text in overrides {
        let source = sources.len();
        sources.push(SourceText::new("--set", text.as_str()));
        match parse(text, source) {
            Ok(table) => parsed.push(table),
            Err(errors) => problems.extend(errors),
        }
    }
    // An override of a step or model that the file lacks is a mistake, unless the overrides themselves
    // define it.
    let defines = |section: &str, name: &str, keys: &[&str]| {
        parsed.iter().any(|t: &Table| {
            let made = t.table(section).and_then(|s| s.table(name));
            made.is_some_and(|made| keys.iter().any(|k| made.get(k).is_some()))
        })
    };
    let mut unknown = Vec::new();
    for table in &parsed {
        for (section, keys) in [("step", &["op"][..]), ("model", &MODEL_SOURCES[..])] {
            let known: Vec<&str> =
                root.table(section).map(|t| t.entries.keys().map(String::as_str).collect()).unwrap_or_default();
            for (name, entry) in table.table(section).map(|t| &t.entries).into_iter().flatten() {
                if known.contains(&name.as_str()) || defines(section, name, keys) {
                    continue;
                }
                let code = if section == "step" { &codes::UNKNOWN_STEP } else { &codes::UNKNOWN_MODEL };
                let message = format!("the file has no {section} `{}` to override", suggest::show(name));
                let help = suggest::help(name, &format!("its {section}s"), known.iter().copied());
                problems.push(Diagnostic::new(code, message, entry.key, "no such name").help(help));
                unknown.push((section, name.clone()));
            }
        }
    }
    for mut table in parsed {
        for (section, name) in &unknown {
            if let Some(TomlValue::Table(t)) = table.entries.get_mut(*section).map(|e| &mut e.node.value) {
                t.entries.remove(name);
            }
        }
        drop_other_sources(root, &table);
        merge(root, table);
    }
}

fn drop_other_sources(root: &mut Table, set: &Table) {
    let Some(TomlValue::Table(models)) = root.entries.get_mut("model").map(|e| &mut e.node.value) else { return };
    for (name, entry) in set.table("model").map(|t| &t.entries).into_iter().flatten() {
        let TomlValue::Table(given) = &entry.node.value else { continue };
        let Some(TomlValue::Table(model)) = models.entries.get_mut(name).map(|e| &mut e.node.value) else { continue };
        if MODEL_SOURCES.iter().any(|k| given.get(k).is_some()) {
            let model_server = program(model);
            let replaced = |k: &str| MODEL_SOURCES.contains(&k) && !goes_with(k, model_server.as_deref(), given);
            model.entries.retain(|k, _| !replaced(k) && !belongs_to_other_source(k, given));
        }
    }
}

/// The name in `server`, if it is that of a server that reflux starts.
fn program(model: &Table) -> Option<String> {
    match &model.get("server")?.node.value {
        TomlValue::Text(name) if is_name(name) => Some(name.clone()),
        TomlValue::Array(items) => match &items[..] {
            [Node { value: TomlValue::Text(name), .. }] if is_name(name) => Some(name.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a source of the file goes with what an override gives: files, and a server that reflux starts with them.
fn goes_with(key: &str, model_server: Option<&str>, given: &Table) -> bool {
    let files = |k: &str| ["path", "hf", "init"].contains(&k);
    match key {
        "server" => model_server.is_some() && given.entries.keys().any(|k| files(k)) && given.get("server").is_none(),
        _ => files(key) && program(given).is_some() && !given.entries.keys().any(|k| files(k)),
    }
}

/// Whether a key of the file belongs to a model source that an override replaces, and would have no effect
/// with the new one.
fn belongs_to_other_source(key: &str, given: &Table) -> bool {
    let has = |source: &str| given.get(source).is_some() && !(source == "server" && program(given).is_some());
    // A server that reflux starts takes the files as they are.
    let same_files = program(given).is_some() && ["path", "hf", "init", "script"].iter().all(|k| !has(k));
    match key {
        "revision" | "seed" | "config" | "dtype" if same_files => false,
        "revision" => !has("hf"),
        "seed" => !has("init"),
        "config" => has("init") || has("script"),
        "dtype" => has("script") || has("server"),
        _ => SERVER_KEYS.contains(&key) && !has("server"),
    }
}

fn merge(into: &mut Table, from: Table) {
    for (key, entry) in from.entries {
        match (into.entries.get_mut(&key).map(|e| &mut e.node.value), entry.node.value) {
            (Some(TomlValue::Table(old)), TomlValue::Table(new)) if !new.inline => merge(old, new),
            (_, value) => {
                into.entries.insert(key, TableEntry { key: entry.key, node: Node { value, span: entry.node.span } });
            }
        }
    }
}

/// Parses one override into a table with one leaf. A value that is not TOML and does not start like a list,
/// table or quoted string is text.
fn parse(text: &str, source: usize) -> Result<Table, Vec<Diagnostic>> {
    let bad = |message: &str, start: usize, end: usize| {
        let help = "write SECTION.KEY=VALUE, e.g. --set step.dpo.beta=0.2 or --set pipeline.seed=7".to_owned();
        let span = Span { source, start, end };
        Err(vec![Diagnostic::new(&codes::BAD_OVERRIDE, message, span, "here").help(help)])
    };
    let Some(equals) = text.find('=') else { return bad("this override has no `=`", 0, text.len()) };
    let errors = match tree::parse(text, source) {
        Ok(table) => return Ok(table),
        Err(errors) => errors,
    };
    let rest = &text[equals + 1..];
    let value = rest.trim();
    let start = equals + 1 + (rest.len() - rest.trim_start().len());
    if value.is_empty() {
        return bad("this override has no value", 0, text.len());
    }
    let Ok(mut table) = tree::parse(&format!("{}= 0", &text[..equals]), source) else {
        return bad("this override's key is not a dotted TOML key", 0, equals);
    };
    if value.starts_with(['[', '{', '"', '\'']) {
        let help = "inside a list or table, text stands in quotes: --set 'step.m1.from=[\"ift\", \"eft\"]'";
        return Err(errors.into_iter().map(|e| e.help(help.to_owned())).collect());
    }
    let node =
        Node { value: TomlValue::Text(value.to_owned()), span: Span { source, start, end: start + value.len() } };
    set_leaf(&mut table, node);
    Ok(table)
}

/// Puts `leaf` at the end of the only dotted key that the table holds.
fn set_leaf(table: &mut Table, leaf: Node) {
    let Some(entry) = table.entries.values_mut().next() else { return };
    match &mut entry.node.value {
        TomlValue::Table(inner) => set_leaf(inner, leaf),
        _ => entry.node = leaf,
    }
}
