//! Checks for ambiguous names: of the models that steps make, and of the folders of their rows.
//!
//! Case is ignored, because some file systems use one folder for `M2` and `m2`.

use std::collections::BTreeMap;

use super::graph::Graph;
use super::kind::{Shape, StepSpec};
use super::plan::{Loop, Placement, made_model};
use super::syntax::codes;
use super::syntax::diagnostic::Diagnostic;
use super::syntax::suggest::show;

impl<O: StepSpec + ?Sized> Graph<'_, O> {
    /// Reports clashing names. `last` holds each step's last iteration.
    pub(super) fn check_names(&self, loop_: Option<&Loop>, placements: &[Placement], last: &[u32]) {
        self.check_step_names();
        // Step and name of each model, by the name in lower case.
        let mut made: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for (i, step) in self.steps.iter().enumerate().filter(|(i, _)| self.shape(*i) == Some(Shape::Train)) {
            let first = u32::from(placements[i] != Placement::Once);
            for iteration in first..=last[i] {
                let name = made_model(loop_, &step.name, iteration);
                match made.get(&name.to_lowercase()) {
                    Some((other, same)) if *other != i => {
                        self.report_model_clash(i, &name, *other, same);
                        break;
                    }
                    _ => drop(made.insert(name.to_lowercase(), (i, name))),
                }
            }
        }
        for model in self.models {
            // The exact name of a step was reported as ambiguous.
            let name = &model.source.name;
            let Some((i, same)) = made.get(&name.to_lowercase()) else { continue };
            if self.by_name.contains_key(name.as_str()) {
                continue;
            }
            let maker = &self.steps[*i];
            let message =
                format!("`{}` is a model of the file, and step `{}` makes `{same}`", show(name), show(&maker.name));
            let problem = Diagnostic::new(&codes::AMBIGUOUS_NAME, message, model.key, "a model here");
            let help = "rows say which model made them: give this one another name".to_owned();
            self.problems.report(problem.also(maker.key, "makes a model of that name").help(help));
        }
    }

    fn check_step_names(&self) {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (i, step) in self.steps.iter().enumerate() {
            let Some(other) = seen.insert(step.name.to_lowercase(), i) else { continue };
            let other = &self.steps[other];
            let message = format!("the steps `{}` and `{}` differ in case only", show(&other.name), show(&step.name));
            let problem = Diagnostic::new(&codes::AMBIGUOUS_NAME, message, step.key, "a step here");
            let help =
                "their rows would be in one folder on some file systems: give one of them another name".to_owned();
            self.problems.report(problem.also(other.key, "the other here").help(help));
        }
    }

    fn report_model_clash(&self, i: usize, name: &str, other: usize, same: &str) {
        let (step, other) = (&self.steps[i], &self.steps[other]);
        let message = format!(
            "step `{}` makes the model `{name}`, and step `{}` makes `{same}`",
            show(&step.name),
            show(&other.name)
        );
        let problem = Diagnostic::new(&codes::AMBIGUOUS_NAME, message, step.key, "a model of that name");
        let help = "the policies of a loop are called M1, M2 and so on: give the other step another name".to_owned();
        self.problems.report(problem.also(other.key, "and again here").help(help));
    }
}
