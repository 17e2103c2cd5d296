//! Resolves names into a plan: inputs, models, cycles, the steps of the loop, and the schemas of edges.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::fields::{How, Named, Problems};
use super::graph::Graph;
use super::kind::{Port, Shape, StepSpec};
use super::plan::{Input, Loop, ModelUse, Placement, Plan, Step};
use super::sections::{Draft, File};
use super::syntax::codes;
use super::syntax::diagnostic::{Diagnostic, Diagnostics, Span};
use super::syntax::suggest::{self, show};
use crate::data::{Schema, counted};

/// Plans the file; `None` if errors leave nothing to plan. All errors are in `problems`.
pub(super) fn plan<O: StepSpec + ?Sized>(
    file: File<O>,
    problems: &Problems,
    line: impl Fn(Span) -> usize,
) -> Option<Plan<O>> {
    let n = file.steps.len();
    let mut graph = Graph {
        steps: &file.steps,
        models: &file.models,
        first: file.loop_.as_ref().map(|l| &l.policy),
        by_name: file.steps.iter().enumerate().map(|(i, s)| (s.name.as_str(), i)).collect(),
        problems,
        reads: vec![Vec::new(); n],
        makers: vec![Vec::new(); n],
        uses_policy: vec![false; n],
    };
    graph.inputs();
    let uses = graph.models();
    let loop_ = graph.loop_ends(&file);
    let next = loop_.as_ref().and_then(|l| graph.by_name.get(l.next.as_str()).copied());
    let placements = graph.placements(next);
    graph.check_loop(&file, loop_.as_ref(), next, &placements);
    graph.cycles();
    // Steps that use the policy come after the step that makes the first policy.
    let first = loop_.as_ref().and_then(|l| match &l.policy {
        ModelUse::Step(name) => graph.by_name.get(name.as_str()).copied(),
        _ => None,
    });
    let order = graph.order(first);
    let schemas = graph.typecheck(&order);
    graph.check_streams();
    let iterations = file.header.iterations;
    let last = graph.last_iterations(&order, &placements, iterations);
    graph.check_names(loop_.as_ref(), &placements, &last);
    if failed(problems) {
        return None;
    }
    graph.check_iterations(&placements, &last);
    if failed(problems) {
        return None;
    }
    graph.unused(&uses, loop_.as_ref());

    let resolved = super::resolved::text(&file, &order);
    let mut slots: Vec<Option<Draft<O>>> = Vec::new();
    let mut uses: Vec<_> = uses.into_iter().map(Some).collect();
    slots.extend(file.steps.into_iter().map(Some));
    let mut steps = Vec::with_capacity(n);
    for i in order {
        // Without errors every step is in the order once and has an operator and a schema.
        let (draft, (model, models), schema) = (slots[i].take()?, uses[i].take()?, schemas[i]?);
        let kind = draft.kind?;
        let all_whole = matches!(kind.shape, Shape::IterationSource | Shape::Collect | Shape::Train);
        let inputs = draft.inputs.into_iter().chain(draft.sides).enumerate();
        let inputs = inputs.map(|(at, input)| Input {
            step: input.name,
            whole: all_whole || (input.how != How::Joined && input.key != "from"),
            joined: !all_whole && (input.how == How::Joined || (at > 0 && input.key == "from")),
            key: input.key,
        });
        let first = if placements[i] == Placement::Once { 0 } else { 1 };
        steps.push(Step {
            name: draft.name,
            kind,
            op: Arc::from(draft.op?),
            inputs: inputs.collect(),
            model,
            models,
            externals: draft.externals,
            schema,
            placement: placements[i],
            iterations: first..=last[i],
            keep: draft.keep,
            line: line(draft.key),
        });
    }
    let models = file.models.into_iter().map(|m| m.source).collect();
    let models = super::reference::with_paths(models, &steps);
    Some(Plan {
        name: file.header.name,
        seed: file.header.seed,
        date: file.header.date,
        iterations,
        microbatch: file.header.microbatch,
        window: file.header.window,
        engine: file.engine,
        health: file.health,
        models,
        loop_,
        steps,
        resolved,
        study: file.study,
        operators: file.operators,
        warnings: Diagnostics::default(),
    })
}

fn failed(problems: &Problems) -> bool {
    problems.list.borrow().iter().any(|d| d.severity() == codes::Severity::Error)
}

/// Resolves `model` and the other keys that name models.
type ModelUses = (Option<ModelUse>, Vec<(&'static str, ModelUse)>);

impl<'a, O: StepSpec + ?Sized> Graph<'a, O> {
    /// Checks that keys by iteration have no values for iterations that the step lacks.
    fn check_iterations(&self, placements: &[Placement], last: &[u32]) {
        for (i, step) in self.steps.iter().enumerate() {
            let once = placements[i] == Placement::Once;
            let most = if once { 1 } else { last[i] as usize };
            for given in &step.by_iteration {
                let (name, key) = (show(&step.name), given.key);
                let (code, message, help) = match given.values {
                    Some(values) if values > most && once => (
                        &codes::CONFLICT,
                        format!("step `{name}`: `{key}` has {values} values, and the step runs once"),
                        "leave one value, or let the step depend on the policy of a loop",
                    ),
                    // A warning only, because `--set pipeline.iterations=1` is used for a shorter trial of
                    // a file.
                    Some(values) if values > most => (
                        &codes::UNUSED_VALUES,
                        format!("step `{name}`: `{key}` has values for {values} iterations, and the step has {most}"),
                        "take the last values out, or raise `iterations` under [pipeline]",
                    ),
                    None if once => (
                        &codes::CONFLICT,
                        format!("step `{name}`: `{key}` has no effect in a step that runs once"),
                        "take the key out, or let the step depend on the policy of a loop",
                    ),
                    _ => continue,
                };
                let problem = Diagnostic::new(code, message, given.span, "here");
                self.problems.report(problem.help(help.to_owned()));
            }
        }
    }

    /// Finds the steps that `from` and other keys name, and checks their number.
    fn inputs(&mut self) {
        for (i, step) in self.steps.iter().enumerate() {
            let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
            for named in &step.inputs {
                if let Some(before) = seen.insert(&named.name, named.span) {
                    let message = format!("step `{}` reads `{}` twice", show(&step.name), show(&named.name));
                    let problem = Diagnostic::new(&codes::DUPLICATE_INPUT, message, named.span, "again here");
                    self.problems.report(problem.also(before, "first here").help("take one of them out".to_owned()));
                }
            }
            self.count_inputs(step, seen.len());
            for named in step.inputs.iter().chain(&step.sides) {
                if let Some(&from) = self.by_name.get(named.name.as_str()) {
                    self.reads[i].push(from);
                    continue;
                }
                let message = format!("step `{}` reads `{}`, which is not a step", show(&step.name), show(&named.name));
                let help = if self.models.iter().any(|m| m.source.name == named.name) {
                    Some(format!("`{0}` is a model: write model = \"{0}\"", named.name))
                } else {
                    suggest::help(&named.name, "the steps", self.names().filter(|n| *n != step.name))
                };
                self.problems
                    .report(Diagnostic::new(&codes::UNKNOWN_STEP, message, named.span, "no such step").help(help));
            }
        }
    }

    fn count_inputs(&self, step: &Draft<O>, count: usize) {
        let Some(kind) = step.kind else { return };
        let plural = |n: usize| counted(n, "input step");
        if count < kind.min_inputs {
            let wanted = if kind.max_inputs > kind.min_inputs { "at least " } else { "" };
            let message = format!(
                "step `{}`: the operator `{}` reads {wanted}{}, and `from` names {}",
                show(&step.name),
                kind.name,
                plural(kind.min_inputs),
                if count == 0 { "none".to_owned() } else { count.to_string() }
            );
            let span = step.inputs.first().map_or(step.place, |n| n.span);
            let help = "name the steps it reads: from = \"STEP\", or a list of names".to_owned();
            self.problems.report(Diagnostic::new(&codes::TOO_FEW_INPUTS, message, span, "too few").help(help));
        } else if let (true, Some(extra)) = (count > kind.max_inputs, step.inputs.get(kind.max_inputs)) {
            let most = if kind.max_inputs == 0 {
                "no other step".to_owned()
            } else {
                format!("at most {}", plural(kind.max_inputs))
            };
            let message = format!(
                "step `{}`: the operator `{}` reads {most}, and `from` names {count}",
                show(&step.name),
                kind.name
            );
            self.problems.report(
                Diagnostic::new(&codes::TOO_MANY_INPUTS, message, extra.span, "one too many")
                    .help("take it out of `from`".to_owned()),
            );
        }
    }

    /// Resolves every named model.
    fn models(&mut self) -> Vec<ModelUses> {
        for model in self.models {
            if let Some(&i) = self.by_name.get(model.source.name.as_str()) {
                let message = format!("`{}` is a model and a step", show(&model.source.name));
                let problem = Diagnostic::new(&codes::AMBIGUOUS_NAME, message, self.steps[i].key, "a step here");
                self.problems
                    .report(problem.also(model.key, "a model here").help("give one of them another name".to_owned()));
            }
        }
        let mut all = Vec::with_capacity(self.steps.len());
        for (i, step) in self.steps.iter().enumerate() {
            let mut resolve = |named: &Named| {
                let owner = format!("step `{}`", show(&step.name));
                let meant = match named.how {
                    How::Reference => {
                        let meant = self.reference(named, step, &owner)?;
                        self.check_reference_dtype(named, step, &meant, &owner);
                        meant
                    }
                    _ => self.model(named, &owner)?,
                };
                match &meant {
                    ModelUse::Policy => self.uses_policy[i] = true,
                    ModelUse::Step(name) => {
                        let maker = self.by_name.get(name.as_str());
                        let maker = maker.filter(|m| self.makers[i].iter().all(|(known, _)| known != *m));
                        self.makers[i].extend(maker.map(|m| (*m, named.span)));
                    }
                    ModelUse::Source(_) => {}
                }
                Some(meant)
            };
            let model = step.model.as_ref().and_then(&mut resolve);
            let models = step.models.iter().filter_map(|named| Some((named.key, resolve(named)?))).collect();
            all.push((model, models));
        }
        all
    }

    /// Resolves the name of a model.
    pub(super) fn model(&self, named: &Named, owner: &str) -> Option<ModelUse> {
        let name = &named.name;
        if name == "policy" {
            if self.first.is_some() {
                return Some(ModelUse::Policy);
            }
            let message = format!("{owner} uses the policy, but the file has no [loop]");
            let problem = Diagnostic::new(&codes::POLICY_WITHOUT_LOOP, message, named.span, "what policy?");
            let help = "add [loop] with policy and next, or name a model".to_owned();
            self.problems.report(problem.help(help));
            return None;
        }
        if self.models.iter().any(|m| m.source.name == *name) {
            return Some(ModelUse::Source(name.clone()));
        }
        if let Some(&i) = self.by_name.get(name.as_str()) {
            return match self.shape(i) {
                Some(Shape::Train) => Some(ModelUse::Step(name.clone())),
                None => None,
                Some(_) => {
                    let message = format!("{owner}: `{}` wants a model, and step `{name}` makes none", named.key);
                    let problem = Diagnostic::new(&codes::NOT_A_TRAINER, message, named.span, "not a model");
                    let problem = problem.also(self.steps[i].key, "this step makes rows");
                    self.problems.report(problem.help(suggest::help(name, "the models", self.model_names())));
                    None
                }
            };
        }
        let message = format!("{owner}: no step makes the model `{}`", show(name));
        let help = suggest::help(name, "the models", self.model_names());
        let help = help.or_else(|| Some("add a table [model.NAME] with path or hf".to_owned()));
        self.problems.report(Diagnostic::new(&codes::UNKNOWN_MODEL, message, named.span, "no such model").help(help));
        None
    }

    pub(super) fn model_names(&self) -> impl Iterator<Item = &'a str> + Clone {
        let training = self.steps.iter().filter(|s| s.kind.is_some_and(|k| k.shape == Shape::Train));
        let policy = self.first.map(|_| "policy");
        let sources = self.models.iter().map(|m| m.source.name.as_str());
        sources.chain(training.map(|s| s.name.as_str())).chain(policy)
    }

    /// Resolves `loop.policy` and `loop.next`.
    fn loop_ends(&self, file: &File<O>) -> Option<Loop> {
        let given = file.loop_.as_ref()?;
        let next = &given.next;
        let mut fine = true;
        match self.by_name.get(next.name.as_str()).map(|&i| (i, self.shape(i))) {
            // An empty name was reported as a missing key.
            None if next.name.is_empty() => fine = false,
            None => {
                let message = format!("loop.next names `{}`, which is not a step", show(&next.name));
                let help = suggest::help(&next.name, "the steps", self.names());
                let problem = Diagnostic::new(&codes::UNKNOWN_STEP, message, next.span, "no such step");
                self.problems.report(problem.help(help));
                fine = false;
            }
            Some((i, Some(shape))) if shape != Shape::Train => {
                let message = format!("loop.next names `{}`, which makes no model", show(&next.name));
                let problem = Diagnostic::new(&codes::NEXT_NOT_TRAINING, message, next.span, "not a training step");
                let training = self.model_names().filter(|n| self.by_name.contains_key(n));
                let help = suggest::help(&next.name, "the training steps", training);
                self.problems.report(problem.also(self.steps[i].key, "this step makes rows").help(help));
                fine = false;
            }
            Some(_) => {}
        }
        if given.policy.name.is_empty() {
            return None;
        }
        if given.policy.name == "policy" {
            let message = "loop.policy cannot be \"policy\": it says what that means at first";
            let problem = Diagnostic::new(&codes::POLICY_IN_LOOP, message, given.policy.span, "means itself");
            self.problems.report(problem.help("name a model, or a training step that runs once".to_owned()));
            return None;
        }
        let policy = self.model(&given.policy, "[loop]")?;
        fine.then(|| Loop { policy, next: next.name.clone() })
    }

    /// Checks that named models exist when they are needed.
    fn check_loop(&mut self, file: &File<O>, loop_: Option<&Loop>, next: Option<usize>, placements: &[Placement]) {
        let mut named_itself = false;
        for (i, step) in self.steps.iter().enumerate() {
            let (late, fine): (Vec<_>, Vec<_>) = self.makers[i]
                .iter()
                .partition(|(maker, _)| placements[*maker] != Placement::Once || (Some(*maker) == next && *maker != i));
            for (maker, span) in &late {
                named_itself |= Some(*maker) == next;
                let maker = &self.steps[*maker];
                let message = format!(
                    "step `{}` names the model of `{}`, which is in the loop and makes another in each iteration",
                    show(&step.name),
                    show(&maker.name)
                );
                let problem = Diagnostic::new(&codes::MODEL_IN_LOOP, message, *span, "which one?");
                let problem = problem.also(maker.key, "made in each iteration");
                self.problems
                    .report(problem.help("write \"policy\" for the model of the current iteration".to_owned()));
            }
            self.makers[i] = fine;
        }
        let (Some(given), Some(loop_)) = (&file.loop_, loop_) else { return };
        if let ModelUse::Step(name) = &loop_.policy
            && self.by_name.get(name.as_str()).is_some_and(|&i| placements[i] != Placement::Once || Some(i) == next)
        {
            let message = format!("loop.policy names `{}`, which does not run before the loop", show(name));
            let problem = Diagnostic::new(&codes::POLICY_IN_LOOP, message, given.policy.span, "runs in the loop");
            self.problems.report(problem.help("name a model, or a training step that runs once".to_owned()));
        }
        if next.is_some_and(|i| placements[i] != Placement::Loop) && !named_itself {
            let message = format!("loop.next names `{}`, which does not depend on the policy", show(&loop_.next));
            let problem = Diagnostic::new(&codes::NEXT_NOT_IN_LOOP, message, given.next.span, "not in the loop");
            let help = "give it, or a step that it reads from, model = \"policy\"".to_owned();
            self.problems.report(problem.also(given.place, "").help(help));
        }
    }

    /// Returns the schema of each step whose inputs are known and fit.
    fn typecheck(&self, order: &[usize]) -> Vec<Option<&'static Schema>> {
        let mut schemas: Vec<Option<&'static Schema>> = vec![None; self.steps.len()];
        let mut lacks: Vec<Vec<&'static str>> = vec![Vec::new(); self.steps.len()];
        for &i in order {
            let step = &self.steps[i];
            let Some(op) = &step.op else { continue };
            let named = || step.inputs.iter().chain(&step.sides);
            let ports: Vec<Port<'_>> = named()
                .filter_map(|n| {
                    let from = *self.by_name.get(n.name.as_str())?;
                    Some(Port { step: &n.name, schema: schemas[from]?, key: n.key, lacks: &lacks[from] })
                })
                .collect();
            let (least, most) = step.kind.map_or((0, usize::MAX), |k| (k.min_inputs, k.max_inputs));
            // A missing or unknown input was reported, and a problem with the other inputs may follow from
            // it.
            if ports.len() != named().count() || step.inputs.len() < least || step.inputs.len() > most {
                continue;
            }
            match op.output(&ports) {
                Ok(schema) => {
                    let own = op.leaves_null(&ports);
                    (schemas[i], lacks[i]) = (Some(schema), own);
                }
                Err(words) => {
                    // The operator gave no message, so at least the place is reported.
                    let words = if words.is_empty() { vec!["its inputs do not fit".to_owned()] } else { words };
                    for message in words {
                        self.mismatch(step, &message, &schemas);
                    }
                }
            }
        }
        schemas
    }

    fn mismatch(&self, step: &Draft<O>, message: &str, schemas: &[Option<&'static Schema>]) {
        // Points at the input that the message names first.
        let inputs = step.inputs.iter().chain(&step.sides);
        let at = inputs.filter_map(|n| Some((message.find(&format!("`{}`", n.name))?, n))).min_by_key(|(at, _)| *at);
        let input = at.map(|(_, n)| n).or(step.inputs.first());
        let message = format!("step `{}`: {message}", show(&step.name));
        let span = input.map_or(step.place, |n| n.span);
        let mut problem = Diagnostic::new(&codes::SCHEMA_MISMATCH, message, span, "cannot be read here");
        if let Some((from, schema)) = input.and_then(|n| {
            let from = *self.by_name.get(n.name.as_str())?;
            Some((from, schemas[from]?))
        }) {
            problem = problem.also(self.steps[from].key, format!("gives `{}`", schema.name));
        }
        let help = "`reflux schema` lists every schema with its columns".to_owned();
        self.problems.report(problem.help(help));
    }

    /// Warns about steps and models without a use.
    fn unused(&self, uses: &[ModelUses], loop_: Option<&Loop>) {
        let mut read = vec![false; self.steps.len()];
        for &from in self.reads.iter().flatten() {
            read[from] = true;
        }
        for (i, step) in self.steps.iter().enumerate() {
            let why = match self.shape(i) {
                _ if read[i] => continue,
                Some(Shape::Train) => continue,
                Some(Shape::Source) => "it only reads what is stored, and no step reads from it",
                _ if step.keep => continue,
                _ => "no step reads from it, and keep = false drops its rows",
            };
            let message = format!("step `{}` is not used: {why}", show(&step.name));
            let help = "take it out, or name it in another step's `from`".to_owned();
            self.problems.report(Diagnostic::new(&codes::UNUSED_STEP, message, step.key, "not used").help(help));
        }
        let named: BTreeSet<&ModelUse> = uses
            .iter()
            .flat_map(|(model, models)| model.iter().chain(models.iter().map(|(_, m)| m)))
            .chain(loop_.map(|l| &l.policy))
            .collect();
        for model in self.models {
            if !named.contains(&ModelUse::Source(model.source.name.clone())) {
                let message = format!("model `{}` is not used", show(&model.source.name));
                let help = "take it out, or name it in a step's `model`".to_owned();
                self.problems.report(Diagnostic::new(&codes::UNUSED_MODEL, message, model.key, "not used").help(help));
            }
        }
    }
}
