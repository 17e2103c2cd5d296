//! Resolves the words and paths that stand for a training's reference.

use std::path::Path;

use super::fields::external::External;
use super::fields::{Named, REFERENCES};
use super::graph::Graph;
use super::kind::{Shape, StepSpec};
use super::plan::{Dtype, ModelKind, ModelSource, ModelUse, Step};
use super::sections::{Draft, table_of};
use super::syntax::codes;
use super::syntax::diagnostic::Diagnostic;
use super::syntax::suggest::{self, show};
use super::syntax::values::sibling;
use crate::store::InputForm;

/// Whether a name is a path: names of models and steps contain none of these characters.
fn is_path(name: &str) -> bool {
    name.contains(['/', '\\', '.'])
}

/// Adds the models that steps name by path to `models`.
pub(super) fn with_paths<O: ?Sized>(mut models: Vec<ModelSource>, steps: &[Step<O>]) -> Vec<ModelSource> {
    for (_, meant) in steps.iter().flat_map(|s| &s.models) {
        if let ModelUse::Source(name) = meant
            && models.iter().all(|m| m.name != *name)
        {
            models.push(ModelSource {
                name: name.clone(),
                kind: ModelKind::Path(External::new(&table_of("model", name), "path", name, InputForm::Model)),
                dtype: Dtype::F32,
                config: None,
                program: None,
            });
        }
    }
    models
}

impl<O: StepSpec + ?Sized> Graph<'_, O> {
    /// Resolves the name of a model of the file or of a step that makes one.
    fn named(&self, name: &str) -> Option<ModelUse> {
        if self.models.iter().any(|m| m.source.name == name) {
            return Some(ModelUse::Source(name.to_owned()));
        }
        let &i = self.by_name.get(name)?;
        (self.shape(i) == Some(Shape::Train)).then(|| ModelUse::Step(name.to_owned()))
    }

    /// Returns the `[model.NAME]` from which a model was trained, through any number of steps.
    fn trained_from(&self, name: &str) -> Option<&ModelSource> {
        let mut at = if name == "policy" { self.first?.name.as_str() } else { name };
        // A chain without a cycle has at most every step.
        for _ in 0..=self.steps.len() {
            match self.named(at)? {
                ModelUse::Step(_) => at = &self.steps[*self.by_name.get(at)?].model.as_ref()?.name,
                _ => return self.models.iter().map(|m| &m.source).find(|source| source.name == at),
            }
        }
        None
    }

    /// Reports a reference whose weights have another type than those of the trained model. The two would
    /// differ by rounding before the first step, and the loss would count that as a preference.
    pub(super) fn check_reference_dtype(&self, named: &Named, step: &Draft<O>, meant: &ModelUse, owner: &str) {
        let Some(trained) = step.model.as_ref().and_then(|own| self.trained_from(&own.name)) else { return };
        let name = match meant {
            ModelUse::Source(name) | ModelUse::Step(name) => name.as_str(),
            ModelUse::Policy => "policy",
        };
        let source = self.trained_from(name);
        // A model named by its path is loaded in f32.
        let dtype = source.map_or(Dtype::F32, |source| source.dtype);
        if (source.is_none() && !is_path(name)) || dtype == trained.dtype {
            return;
        }
        let (own, other) = (trained.dtype.name(), dtype.name());
        let message = format!(
            "{owner} trains a model in {own} and uses a reference in {other}: rounding alone would set them apart"
        );
        let help = match source {
            Some(source) => {
                format!("give [model.{}] and [model.{}] the same dtype", show(&trained.name), show(&source.name))
            }
            None => format!("give the reference a [model.NAME] with path = \"{}\" and dtype = \"{own}\"", show(name)),
        };
        let problem = Diagnostic::new(&codes::CONFLICT, message, named.span, format!("kept in {other}"));
        self.problems.report(problem.help(help));
    }

    /// Resolves a step's reference. Problems of `model` and `loop.policy` are not reported again.
    pub(super) fn reference(&self, named: &Named, step: &Draft<O>, owner: &str) -> Option<ModelUse> {
        let name = named.name.as_str();
        let own = step.model.as_ref().map(|m| m.name.as_str());
        if self.named(name).is_some() || self.by_name.contains_key(name) {
            return self.model(named, owner);
        }
        let meaning = |name: &str| match name {
            "policy" => self.first.map(|_| ModelUse::Policy),
            name => self.named(name),
        };
        let report = |code, message: String, label: &str, help: Option<String>| {
            self.problems.report(Diagnostic::new(code, message, named.span, label).help(help));
            None
        };
        match name {
            // A missing or empty name was reported.
            "" => None,
            "policy-start" => meaning(own?),
            "policy" if own == Some("policy") => meaning("policy"),
            "policy" => {
                let message = format!("{owner} has the policy as its reference, but trains another model");
                let help = "write \"policy-start\" for the model that it starts from, or name a fixed one".to_owned();
                report(&codes::CONFLICT, message, "which one?", Some(help))
            }
            "m1" => match self.first {
                Some(first) => self.named(&first.name),
                None => {
                    let message =
                        format!("{owner} has the loop's first policy as its reference, but the file has no [loop]");
                    let help = "add [loop] with policy and next, or name a model".to_owned();
                    report(&codes::POLICY_WITHOUT_LOOP, message, "what policy?", Some(help))
                }
            },
            "base" => {
                let mut at = self.first.map(|f| f.name.as_str()).or(own)?;
                // A chain without a cycle has at most every step.
                for _ in 0..=self.steps.len() {
                    match self.named(at)? {
                        ModelUse::Step(_) => at = &self.steps[*self.by_name.get(at)?].model.as_ref()?.name,
                        meant => return Some(meant),
                    }
                }
                None
            }
            path if is_path(path) => {
                if self.problems.silent || Path::new(path).exists() {
                    return Some(ModelUse::Source(path.to_owned()));
                }
                let message = format!("{owner}: `{}` names `{}`, which does not exist", named.key, show(path));
                let relative = || "relative paths start from the directory reflux is run in".to_owned();
                report(&codes::MISSING_FILE, message, "no such file", Some(sibling(path).unwrap_or_else(relative)))
            }
            _ => {
                let message = format!("{owner}: no step makes the model `{}`", show(name));
                let known = self.model_names().filter(|n| *n != "policy").chain(REFERENCES.iter().map(|r| r.0));
                let help = suggest::help(name, "the references", known);
                report(&codes::UNKNOWN_MODEL, message, "no such model", help)
            }
        }
    }
}
