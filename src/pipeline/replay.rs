//! Finds what a changed pipeline file leaves unchanged: the steps and iterations that give the same rows as
//! before.
//!
//! Once a step is made again in an iteration, it is made again in all later ones, as is everything that
//! depends on it; through the policy the next iteration follows. So one number per step suffices: the first
//! iteration that is made again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::plan::{ModelUse, Plan, Step};
use crate::data::quoted;

/// Keys of `[pipeline]` that change the amount or the order of the work, but not the rows.
const HARMLESS: [&str; 3] = ["name", "iterations", "window"];

/// Steps whose rows depend on changed tables of the file, with those tables.
pub type Changed = BTreeMap<String, BTreeSet<String>>;

/// Tables of a resolved pipeline file: keys and literals by the table's name.
fn tables(resolved: &str) -> BTreeMap<&str, BTreeMap<&str, &str>> {
    let mut tables: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    let mut name = "";
    for line in resolved.lines() {
        if let Some(header) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name = header;
            tables.entry(name).or_default();
        } else if let Some((key, literal)) = line.split_once(" = ") {
            tables.entry(name).or_default().insert(key, literal);
        }
    }
    tables
}

fn models<O: ?Sized>(step: &Step<O>) -> impl Iterator<Item = &ModelUse> {
    step.model.iter().chain(step.models.iter().map(|(_, m)| m))
}

/// Returns the steps of `after` that are new or differ from those in `before`, without steps that only
/// depend on them. `inputs` are the tables that name external inputs with changed content.
pub fn changed<O: ?Sized>(before: &Plan<O>, after: &Plan<O>, inputs: &BTreeSet<String>) -> Changed {
    let (old, new) = (tables(&before.resolved), tables(&after.resolved));
    let differs = |table: &str| old.get(table) != new.get(table) || inputs.contains(table);
    let all = |at: &BTreeMap<&str, BTreeMap<&str, &str>>| {
        let mut keys = at.get("pipeline").cloned().unwrap_or_default();
        keys.retain(|key, _| !HARMLESS.contains(key));
        keys.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>()
    };
    let everything = all(&old) != all(&new);
    let loops = |plan: &Plan<O>| plan.loop_.clone();
    let trains = |step: &str| {
        [loops(before), loops(after)]
            .into_iter()
            .flatten()
            .any(|l| l.next == step || l.policy == ModelUse::Step(step.to_owned()))
    };
    let mut changed = Changed::new();
    for step in &after.steps {
        let mut why = BTreeSet::new();
        let own = format!("step.{}", super::syntax::tree::key(&step.name));
        let moved = before.step(&step.name).is_none_or(|was| {
            was.inputs != step.inputs
                || was.placement != step.placement
                || was.iterations.start() != step.iterations.start()
                || was.schema.name != step.schema.name
                || !models(was).eq(models(step))
        });
        if differs(&own) || moved {
            why.insert(own);
        }
        for used in models(step) {
            if let ModelUse::Source(name) = used {
                why.extend(Some(format!("model.{}", super::syntax::tree::key(name))).filter(|table| differs(table)));
            }
        }
        if (trains(&step.name) || models(step).any(|m| *m == ModelUse::Policy)) && loops(before) != loops(after) {
            why.insert("loop".to_owned());
        }
        if let Some(ModelUse::Source(name)) = after.loop_.as_ref().map(|l| &l.policy)
            && models(step).any(|m| *m == ModelUse::Policy)
        {
            why.extend(Some(format!("model.{}", super::syntax::tree::key(name))).filter(|table| differs(table)));
        }
        if everything {
            why.insert("pipeline".to_owned());
        }
        if !why.is_empty() {
            changed.insert(step.name.clone(), why);
        }
    }
    changed
}

/// The part of a plan to make again: the first affected iteration of each step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RerunSet(BTreeMap<String, u32>);

impl RerunSet {
    /// Returns what must be made again if the steps `from` are.
    pub fn from<'a, O: ?Sized>(plan: &Plan<O>, from: impl IntoIterator<Item = &'a str>) -> Self {
        let from: BTreeSet<&str> = from.into_iter().collect();
        let mut first: BTreeMap<String, u32> = BTreeMap::new();
        // The steps are in dependency order except for the policy, which comes from the previous iteration.
        // So each pass settles one more iteration, or finds nothing and ends the search.
        loop {
            let before = first.clone();
            for step in &plan.steps {
                let start = *step.iterations.start();
                let inputs = step.inputs.iter().filter_map(|input| first.get(&input.step));
                let mut at: Vec<u32> = inputs.map(|&f| f.max(start)).collect();
                at.extend(from.contains(step.name.as_str()).then_some(start));
                for used in models(step) {
                    match used {
                        ModelUse::Source(_) => {}
                        ModelUse::Step(name) => at.extend(first.get(name).map(|_| start)),
                        ModelUse::Policy => {
                            let Some(loop_) = &plan.loop_ else { continue };
                            if let ModelUse::Step(name) = &loop_.policy {
                                at.extend(first.get(name).map(|_| start));
                            }
                            at.extend(first.get(&loop_.next).map(|&f| (f + 1).max(start)));
                        }
                    }
                }
                if let Some(&at) = at.iter().min().filter(|at| step.iterations.contains(at)) {
                    first.insert(step.name.clone(), at);
                }
            }
            if first == before {
                return Self(first);
            }
        }
    }

    /// Whether rows of a step, or of a dataset next to it such as `dpo.reference`, can be copied in an
    /// iteration.
    pub fn takes<O: ?Sized>(&self, plan: &Plan<O>, dataset: &str, iteration: u32) -> bool {
        owner(plan, dataset)
            .is_some_and(|step| step.iterations.contains(&iteration) && self.first(&step.name) > iteration)
    }

    /// Whether a step is made again from its first iteration.
    pub fn whole<O: ?Sized>(&self, plan: &Plan<O>, step: &str) -> bool {
        plan.step(step).is_some_and(|s| self.0.get(step) == Some(s.iterations.start()))
    }

    /// Returns the first iteration that is made again; the largest number if none is.
    pub fn first(&self, step: &str) -> u32 {
        self.0.get(step).copied().unwrap_or(u32::MAX)
    }
}

/// Returns the step of a dataset: the one with its name, or with the part of the name before a point.
pub fn owner<'a, O: ?Sized>(plan: &'a Plan<O>, dataset: &str) -> Option<&'a Step<O>> {
    let beside = |s: &&Step<O>| dataset.strip_prefix(&s.name).is_some_and(|rest| rest.starts_with('.'));
    plan.step(dataset).or_else(|| plan.steps.iter().filter(beside).max_by_key(|s| s.name.len()))
}

/// Returns the fewest steps of `changed` on which all of it depends, in plan order.
pub fn roots<O: ?Sized>(plan: &Plan<O>, changed: &Changed) -> Vec<String> {
    let mut roots: Vec<String> = Vec::new();
    for step in plan.steps.iter().filter(|s| changed.contains_key(&s.name)) {
        if !RerunSet::from(plan, roots.iter().map(String::as_str)).whole(plan, &step.name) {
            roots.push(step.name.clone());
        }
    }
    roots
}

/// Returns the `--set` options that turn one resolved file into another, in the order of the second; `None`
/// if a key or a table would have to be removed.
pub fn settings(before: &str, after: &str) -> Option<Vec<String>> {
    let (old, new) = (tables(before), tables(after));
    let goes = |table: &str, keys: &BTreeMap<&str, &str>| {
        new.get(table).is_none_or(|there| keys.keys().any(|key| !there.contains_key(key)))
    };
    if old.iter().any(|(table, keys)| goes(table, keys)) || new.keys().any(|table| !old.contains_key(table)) {
        return None;
    }
    let mut set = Vec::new();
    for (table, keys) in &new {
        for (key, literal) in keys {
            if old[table].get(key) != Some(literal) {
                set.push(format!("{table}.{key}={literal}"));
            }
        }
    }
    Some(set)
}

/// Returns the command that replays a run under a changed file, if some of its rows can be copied. `run`
/// names the run on the command line, `into` is a free name, and `runs` their folder if it is not the usual
/// one. `otherwise` holds the options that stand for the file if `--set` cannot.
pub fn command<O: ?Sized>(
    before: &Plan<O>,
    after: &Plan<O>,
    run: &str,
    into: &str,
    runs: Option<&str>,
    otherwise: &[String],
) -> Option<String> {
    let from = roots(after, &changed(before, after, &BTreeSet::new()));
    let rerun = RerunSet::from(after, from.iter().map(String::as_str));
    let kept = |s: &Step<O>| before.step(&s.name).is_some() && rerun.first(&s.name) > *s.iterations.start();
    if !after.steps.iter().any(kept) {
        return None;
    }
    let mut command = replay_from(run, &from);
    match settings(&before.resolved, &after.resolved) {
        Some(set) => set.iter().for_each(|s| command.push_str(&format!(" --set {}", quoted(s)))),
        None => otherwise.iter().for_each(|s| command.push_str(&format!(" {}", quoted(s)))),
    }
    add_place(&mut command, into, runs);
    Some(command)
}

/// Returns the command that remakes what depends on changed external inputs, those of the tables `inputs`;
/// `None` if no step reads them. `run`, `into` and `runs` are as for [`command`].
pub fn command_for_inputs<O: ?Sized>(
    plan: &Plan<O>,
    inputs: &BTreeSet<String>,
    run: &str,
    into: &str,
    runs: Option<&str>,
) -> Option<String> {
    let from = roots(plan, &changed(plan, plan, inputs));
    if from.is_empty() {
        return None;
    }
    let mut command = replay_from(run, &from);
    add_place(&mut command, into, runs);
    Some(command)
}

fn replay_from(run: &str, from: &[String]) -> String {
    let mut command = format!("reflux replay {}", quoted(run));
    for step in from {
        // Writing to a string cannot fail.
        let _ = write!(command, " --from {step}");
    }
    command
}

fn add_place(command: &mut String, into: &str, runs: Option<&str>) {
    let _ = write!(command, " --into {}", quoted(into));
    if let Some(runs) = runs {
        let _ = write!(command, " --runs {}", quoted(runs));
    }
}

#[cfg(test)]
mod tests {
    use super::super::stub::KINDS;
    use super::super::tests::PAPER;
    use super::*;
    use crate::pipeline::kind::StepSpec;

    fn plan(text: &str, set: &[&str]) -> Plan<dyn StepSpec> {
        let set: Vec<String> = set.iter().map(ToString::to_string).collect();
        super::super::load::parse_str("test.toml", text, &set, KINDS).unwrap_or_else(|d| panic!("{}", d.render(false)))
    }

    #[test]
    fn what_is_below_is_made_anew_and_the_next_iterations_through_the_policy() {
        let paper = plan(PAPER, &[]);
        let rerun = RerunSet::from(&paper, ["scores"]);
        let first = |step: &str| rerun.first(step);
        assert_eq!(
            ["ift", "m1", "prompts", "responses", "scores", "pairs", "dpo"].map(first),
            [u32::MAX, u32::MAX, u32::MAX, 2, 1, 1, 1]
        );
        assert!(rerun.takes(&paper, "responses", 1) && !rerun.takes(&paper, "responses", 2));
        assert!(rerun.takes(&paper, "prompts", 2) && !rerun.takes(&paper, "prompts", 3), "only what the plan has");
        assert!(!rerun.takes(&paper, "dpo.reference", 1) && !rerun.takes(&paper, "gone", 1));
        assert!(RerunSet::from(&paper, ["ift"]).whole(&paper, "dpo"));
        assert_eq!(RerunSet::from(&paper, [] as [&str; 0]).0, BTreeMap::new());
    }

    #[test]
    fn a_change_is_found_where_it_acts() {
        let paper = plan(PAPER, &[]);
        let of = |set: &[&str]| changed(&paper, &plan(PAPER, set), &BTreeSet::new()).into_keys().collect::<Vec<_>>();
        assert_eq!(of(&[]), [] as [&str; 0]);
        assert_eq!(
            of(&["pipeline.iterations=3", "pipeline.window=9", "engine.threads=3", "pipeline.name=other"]),
            [""; 0]
        );
        assert_eq!(of(&["step.dpo.beta=0.3"]), ["dpo"]);
        assert_eq!(of(&["model.m0.dtype=bf16"]), ["m1", "prompts"]);
        assert_eq!(of(&["step.scores.model=m0"]), ["scores"]);
        assert_eq!(of(&["pipeline.seed=18"]).len(), paper.steps.len());
        assert!(of(&["loop.policy=m0"]).contains(&"responses".to_owned()));
    }

    #[test]
    fn a_changed_input_is_a_change_of_the_steps_that_read_it() {
        let paper = plan(PAPER, &[]);
        let of = |tables: &[&str]| {
            let tables = tables.iter().map(ToString::to_string).collect();
            changed(&paper, &paper, &tables).into_keys().collect::<Vec<_>>()
        };
        assert_eq!(of(&["step.ift"]), ["ift"]);
        assert_eq!(of(&["model.m0"]), ["m1", "prompts"]);
        let tables = BTreeSet::from(["step.scores".to_owned()]);
        let command = command_for_inputs(&paper, &tables, "small", "small-2", Some("elsewhere")).unwrap();
        assert_eq!(command, "reflux replay small --from scores --into small-2 --runs elsewhere");
        assert_eq!(command_for_inputs(&paper, &BTreeSet::from(["step.gone".to_owned()]), "a", "b", None), None);
    }

    #[test]
    fn the_command_has_the_fewest_roots_and_the_changed_keys() {
        let paper = plan(PAPER, &[]);
        let command = |set: &[&str]| {
            let otherwise = ["--file".to_owned(), "my file.toml".to_owned()];
            command(&paper, &plan(PAPER, set), "small", "small-2", None, &otherwise)
        };
        assert_eq!(
            command(&["step.dpo.beta=0.3", "step.pairs.strategy=best-worst"]).unwrap(),
            "reflux replay small --from dpo --set step.dpo.beta=0.3 --into small-2"
        );
        let two = command(&["step.dpo.beta=0.3", "step.scores.samples=2"]).unwrap();
        assert!(two.contains("--from scores --set") && !two.contains("--from dpo"), "{two}");
        assert_eq!(command(&["pipeline.seed=18"]), None, "nothing could be taken over");
        let other = command(&["step.more.op=judge", "step.more.from=responses", "step.more.model=policy"]).unwrap();
        assert_eq!(other, "reflux replay small --from more --file 'my file.toml' --into small-2");
    }
}
