//! The graph of steps: reachability, cycles, order, and when each step runs.

use std::collections::{BTreeMap, BTreeSet};

use super::fields::{How, Named, Problems};
use super::kind::{Shape, StepSpec};
use super::plan::Placement;
use super::sections::{Draft, DraftModel};
use super::syntax::codes;
use super::syntax::diagnostic::{Diagnostic, Span};
use super::syntax::suggest::show;

/// Drafts with resolved names. Steps are numbered in the order of their names.
pub(super) struct Graph<'a, O: ?Sized + 'static> {
    pub steps: &'a [Draft<O>],
    pub models: &'a [DraftModel],
    /// The model that `loop.policy` names, if the file has a loop.
    pub first: Option<&'a Named>,
    pub by_name: BTreeMap<&'a str, usize>,
    pub problems: &'a Problems,
    /// The steps that each step reads, in order: `from`, then other keys.
    pub reads: Vec<Vec<usize>>,
    /// The training steps whose models each step uses, with the place that names them.
    pub makers: Vec<Vec<(usize, Span)>>,
    /// Whether a step uses the policy directly.
    pub uses_policy: Vec<bool>,
}

impl<'a, O: StepSpec + ?Sized> Graph<'a, O> {
    pub fn names(&self) -> impl Iterator<Item = &'a str> + Clone {
        self.steps.iter().map(|s| s.name.as_str())
    }
    pub fn shape(&self, i: usize) -> Option<Shape> {
        self.steps[i].kind.map(|k| k.shape)
    }

    /// Returns every step that is reachable from `seeds` along data edges, forwards (to readers) or
    /// backwards (to inputs), through steps that `within` allows.
    fn reach(&self, seeds: Vec<usize>, forwards: bool, within: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut edges = vec![Vec::new(); self.steps.len()];
        for (reader, froms) in self.reads.iter().enumerate() {
            for &from in froms {
                let (a, b) = if forwards { (from, reader) } else { (reader, from) };
                edges[a].push(b);
            }
        }
        let mut reached = vec![false; self.steps.len()];
        let mut open = seeds;
        while let Some(i) = open.pop() {
            if !within(i) || std::mem::replace(&mut reached[i], true) {
                continue;
            }
            open.extend(&edges[i]);
        }
        reached
    }

    /// Returns when each step runs. It also works for graphs with cycles, which are reported elsewhere.
    pub fn placements(&self, next: Option<usize>) -> Vec<Placement> {
        let all = 0..self.steps.len();
        let policy = self.reach(all.clone().filter(|&i| self.uses_policy[i]).collect(), true, |_| true);
        let leads = self.reach(next.into_iter().collect(), false, |_| true);
        let heads = all.clone().filter(|&i| self.shape(i) == Some(Shape::IterationSource) && leads[i]).collect();
        let ahead = self.reach(heads, true, |i| !policy[i]);
        all.map(|i| match (policy[i], leads[i], ahead[i]) {
            (true, true, _) => Placement::Loop,
            (true, false, _) => Placement::Observer,
            (false, _, true) => Placement::Ahead,
            (false, _, false) => Placement::Once,
        })
        .collect()
    }

    /// Checks that a streaming training reads from an iteration source: only then is the number of
    /// microbatches known in advance.
    pub fn check_streams(&self) {
        for (i, step) in self.steps.iter().enumerate().filter(|(_, s)| s.op.as_ref().is_some_and(|op| op.streams())) {
            let Some(input) = step.inputs.first() else { continue };
            let Some(at) = self.reads[i].first().and_then(|&from| self.first_of_unknown_length(from)) else { continue };
            let (name, origin) = (show(&step.name), &self.steps[at]);
            let message = format!(
                "step `{name}` takes the microbatches of `{}` as they close, but it is not known before how many there will be",
                show(&input.name)
            );
            let problem = Diagnostic::new(&codes::UNKNOWN_LENGTH, message, input.span, "how many microbatches?");
            let help = "write data_schedule = \"epochs\", or take pairs whose prompts a step with per_iteration writes";
            let label = format!("`{}` is read to its end", show(&origin.name));
            self.problems.report(problem.also(origin.key, label).help(help.to_owned()));
        }
    }

    /// Returns the first step whose number of microbatches is not known in advance, from `start` on and
    /// through all inputs read microbatch by microbatch. Joined inputs count too: they may have more
    /// microbatches than the first input.
    fn first_of_unknown_length(&self, start: usize) -> Option<usize> {
        let (mut open, mut seen) = (vec![start], BTreeSet::new());
        while let Some(at) = open.pop() {
            // A cycle is reported elsewhere.
            if !seen.insert(at) {
                continue;
            }
            match self.shape(at) {
                Some(Shape::Map | Shape::Keyed) => open.extend(self.streamed(at).rev()),
                Some(Shape::Source | Shape::Collect | Shape::Train) => return Some(at),
                Some(Shape::IterationSource) | None => {}
            }
        }
        None
    }

    /// Returns the steps that a map or keyed map reads microbatch by microbatch: all of `from`, and those
    /// that it joins.
    fn streamed(&self, i: usize) -> impl DoubleEndedIterator<Item = usize> {
        let step = &self.steps[i];
        let named = step.inputs.iter().chain(step.sides.iter().filter(|s| s.how == How::Joined));
        named.filter_map(|n| self.by_name.get(n.name.as_str()).copied()).collect::<Vec<_>>().into_iter()
    }

    /// Returns what a step waits for: the steps it reads and the makers of its models.
    pub fn waits_for(&self, i: usize) -> impl Iterator<Item = usize> {
        self.reads[i].iter().copied().chain(self.makers[i].iter().map(|(m, _)| *m))
    }

    /// Reports each cycle once, as a chain in the direction of the data.
    pub fn cycles(&self) {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.steps.len()];
        let mut reported = BTreeSet::new();
        for root in 0..self.steps.len() {
            // An explicit stack, because a chain may be thousands of steps long.
            let mut path: Vec<(usize, Vec<usize>)> = Vec::new();
            if marks[root] == Mark::New {
                marks[root] = Mark::Open;
                path.push((root, self.waits_for(root).collect()));
            }
            while let Some((at, open)) = path.last_mut() {
                let at = *at;
                let Some(to) = open.pop() else {
                    marks[at] = Mark::Done;
                    path.pop();
                    continue;
                };
                match marks[to] {
                    Mark::Done => {}
                    Mark::New => {
                        marks[to] = Mark::Open;
                        path.push((to, self.waits_for(to).collect()));
                    }
                    Mark::Open => {
                        let start = path.iter().position(|(i, _)| *i == to).unwrap_or(0);
                        // Data flows against the direction of the search.
                        let mut chain: Vec<usize> = path[start..].iter().rev().map(|(i, _)| *i).collect();
                        let least = (0..chain.len()).min_by_key(|k| chain[*k]).unwrap_or(0);
                        chain.rotate_left(least);
                        if reported.insert(chain.clone()) && reported.len() <= 20 {
                            self.report_cycle(&chain);
                        }
                    }
                }
            }
        }
    }

    fn report_cycle(&self, chain: &[usize]) {
        let names: Vec<String> = chain.iter().chain(chain.first()).map(|&i| show(&self.steps[i].name)).collect();
        let words = if names.len() > 42 {
            format!(
                "{} -> ... ({} steps) ... -> {}",
                names[..20].join(" -> "),
                chain.len(),
                names[names.len() - 20..].join(" -> ")
            )
        } else {
            names.join(" -> ")
        };
        let last = self.steps.get(chain[chain.len() - 1]);
        let first = &self.steps[chain[0]];
        let place = last.and_then(|last| {
            let inputs = first.inputs.iter().chain(&first.sides).chain(&first.model).chain(&first.models);
            inputs.into_iter().find(|n| n.name == last.name).map(|n| n.span)
        });
        let message = format!("steps read from one another in a circle: {words}");
        let problem = Diagnostic::new(&codes::CYCLE, message, place.unwrap_or(first.place), "closes the circle");
        let help = "a training step's model comes back by [loop] and model = \"policy\", not by `from`".to_owned();
        self.problems.report(problem.help(help));
    }

    /// Returns the steps in dependency order, ties by name. Steps in a cycle or behind one are left out.
    pub fn order(&self, first_policy: Option<usize>) -> Vec<usize> {
        let mut waits: Vec<BTreeSet<usize>> = (0..self.steps.len())
            .map(|i| {
                let policy = first_policy.filter(|&f| self.uses_policy[i] && f != i);
                self.waits_for(i).chain(policy).collect()
            })
            .collect();
        let mut readers = vec![Vec::new(); self.steps.len()];
        for (i, waits) in waits.iter().enumerate() {
            for &w in waits {
                readers[w].push(i);
            }
        }
        let mut ready: BTreeSet<usize> = (0..waits.len()).filter(|&i| waits[i].is_empty()).collect();
        let mut order = Vec::with_capacity(waits.len());
        while let Some(i) = ready.pop_first() {
            order.push(i);
            for &reader in &readers[i] {
                waits[reader].remove(&i);
                if waits[reader].is_empty() {
                    ready.insert(reader);
                }
            }
        }
        order
    }

    /// Returns the last iteration in which each step has rows.
    pub fn last_iterations(&self, order: &[usize], placements: &[Placement], iterations: u32) -> Vec<u32> {
        let mut last = vec![0; self.steps.len()];
        for &i in order {
            last[i] = match placements[i] {
                Placement::Once => 0,
                Placement::Ahead | Placement::Loop => iterations,
                Placement::Observer => {
                    let looped = |&from: &usize| placements[from] != Placement::Once && last[from] <= iterations;
                    if self.reads[i].iter().any(looped) { iterations } else { iterations + 1 }
                }
            };
        }
        last
    }
}
