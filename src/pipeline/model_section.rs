//! The keys of `[model.NAME]`.

use std::path::PathBuf;
use std::sync::Arc;

use super::fields::Fields;
use super::fields::external::External;
use super::plan::{Dtype, ModelKind, ModelSource};
use super::server::{self, ServerKey};
use super::server_section::ServerProgram;
use super::syntax::codes;
use super::syntax::diagnostic::{Diagnostic, Span};
use super::syntax::overrides::MODEL_SOURCES;
use super::syntax::suggest::{self, show};
use crate::data::nearest;
use crate::store::InputForm;

/// Reads the keys of `[model.NAME]`. `programs` are the servers that the file has.
pub(super) fn model(f: &mut Fields<'_>, name: &str, place: Span, programs: &[Arc<ServerProgram>]) -> ModelSource {
    let path = f.optional_path(
        "path",
        "a GGUF file, or a directory with config.json, safetensors and tokenizer.json",
        InputForm::Model,
    );
    let hub = f.optional_name("hf", "a model of the Hugging Face hub, \"org/name\"");
    let init = f.optional_path(
        "init",
        "a directory with config.json and tokenizer.json; the weights are random",
        InputForm::Model,
    );
    let script = f.optional_path("script", "a file of scripted answers, for tests", InputForm::Text);
    let (server, program) = match server::server(f) {
        Some(ServerKey::Source(server)) => (Some(*server), None),
        Some(ServerKey::Program(name)) => (None, named_program(f, &name, programs)),
        None => (None, None),
    };
    let revision = f.optional_name("revision", "with hf: branch, tag or commit");
    let seed = f.optional_int("seed", "with init: seed of the weights; defaults to the pipeline's seed", 0..=i64::MAX);
    let dtypes = [("f32", "exact; the default"), ("bf16", "half the memory"), ("f16", "half the memory, small range")];
    let dtype = match f.choice("dtype", "type of the weights in memory", &dtypes, Some("f32")) {
        "bf16" => Dtype::Bf16,
        "f16" => Dtype::F16,
        _ => Dtype::F32,
    };
    let config = f.optional_path(
        "config",
        "a config.json with the model's shape, for `reflux cost` when the model itself is not available",
        InputForm::Text,
    );
    if server.is_some() {
        f.without_effect(&["dtype"], "with `server`: the server decides how it computes", "");
    } else if script.is_some() {
        f.without_effect(&["dtype", "config"], "with `script`: a script has no weights", "");
    } else if init.is_some() {
        f.without_effect(&["config"], "with `init`, which names the config.json", "");
    }
    let own = server.is_none() && f.given("server");
    if own && script.is_some() {
        f.problem("server", "a script has no weights to serve", "take `server` out");
    }
    let given: Vec<&str> = MODEL_SOURCES.into_iter().filter(|k| f.given(k) && !(own && *k == "server")).collect();
    if let [first, second, ..] = given[..] {
        f.problem(second, format!("`{first}` and `{second}` both say where it comes from"), "keep one of them");
    } else if given.is_empty() {
        let message = format!("model `{}` does not say where it comes from", show(name));
        let help = format!("give one of {}", MODEL_SOURCES.join(", "));
        f.report(Diagnostic::new(&codes::MISSING_KEY, message, place, "missing here").help(help));
    }
    for (key, with, present) in [("revision", "hf", hub.is_some()), ("seed", "init", init.is_some())] {
        if f.given(key) && !present {
            f.problem(key, format!("`{key}` means something only with `{with}`"), "take it out");
        }
    }
    let kind = match (path, hub, init, script) {
        _ if server.is_some() => ModelKind::Server(server.unwrap_or_default()),
        (_, Some(repo), ..) => ModelKind::Hub { repo, revision },
        (_, _, Some(config), _) => ModelKind::Init { config, seed: seed.and_then(|s| u64::try_from(s).ok()) },
        (_, _, _, Some(file)) => ModelKind::Script { file },
        // A model without a source was reported and never runs.
        (path, ..) => {
            ModelKind::Path(path.unwrap_or_else(|| External::new("", "path", PathBuf::new(), InputForm::Model)))
        }
    };
    ModelSource { name: name.to_owned(), kind, dtype, config, program }
}

/// Finds the `[server.NAME]` that a model names.
fn named_program(f: &Fields<'_>, name: &str, programs: &[Arc<ServerProgram>]) -> Option<Arc<ServerProgram>> {
    let found = programs.iter().find(|program| program.name == name);
    if found.is_none() {
        let message = format!("the file has no [server.{name}]");
        let help = suggest::help(name, "its servers", programs.iter().map(|p| p.name.as_str()));
        let help = help.or_else(|| {
            Some(format!(
                "add a table [server.{name}] with `command`, or write an address such as \"http://127.0.0.1:8000/v1\""
            ))
        });
        f.report(Diagnostic::new(&codes::UNKNOWN_SERVER, message, f.span("server"), "no such server").help(help));
    }
    // The misspelt name is an error, and that nobody uses the server which it means would be another one.
    let meant = || {
        let near = nearest(name, programs.iter().map(|program| program.name.as_str()))?;
        programs.iter().find(|program| program.name == near)
    };
    found.or_else(meant).cloned()
}
