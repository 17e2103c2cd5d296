//! Builds a timely dataflow from a plan. The graph is the same on every worker, and building it cannot
//! fail.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Concatenate, ConnectLoop, Feedback, Operator as _, Probe};
use timely::dataflow::{ProbeHandle, Scope};

use super::clock::Advance;
use super::compute::ComputePool;
use super::flow::{Flow, ModelFlow, SideInput, keyed, map, train};
use super::flow_join::join;
use super::jobs::StepJobs;
use super::join::Joins;
use super::operator::{ModelAt, Operator, Shared, Stage};
use super::progress::Event;
use super::start::{Start, start};
use crate::data::Epoch;
use crate::pipeline::{Input, ModelUse, Placement, Plan, Step};

/// The steps on which a starter's progress is measured: the last ones that stream from it before any
/// barrier.
struct Measured<'s> {
    /// Names of these steps; all steps of the loop if the starter is an iteration source.
    points: Vec<String>,
    handle: timely::dataflow::operators::feedback::Handle<'s, Epoch, Vec<()>>,
}

/// Builds the plan's dataflow. The returned probe is done when the run is.
pub(super) fn render(
    scope: Scope<'_, Epoch>,
    shared: &Arc<Shared>,
    joins: &Arc<Joins>,
    pool: &ComputePool,
    began: Instant,
) -> ProbeHandle<Epoch> {
    let plan = &*shared.plan;
    let mut flows: HashMap<&str, Flow<'_>> = HashMap::new();
    // Number of microbatches in an iteration, for the steps where it is known in advance.
    let mut planned: HashMap<&str, Option<u32>> = HashMap::new();
    let mut measured: Vec<Measured<'_>> = Vec::new();
    let (mut announce, mut fed_back) = match &plan.loop_ {
        Some(_) => {
            // The model trained in iteration t is the policy of t + 1, from its first microbatch on.
            let (announce, fed_back) = scope.feedback::<Vec<_>>(Advance::Next(1, 0));
            (Some(announce), Some(fed_back))
        }
        None => (None, None),
    };
    // The policy of every iteration, broadcast to every worker. If a step before the loop makes the first
    // policy, it is added once that step is rendered.
    let mut policy: Option<Flow<'_>> = None;

    for (index, step) in plan.steps.iter().enumerate() {
        let jobs = StepJobs { shared: Arc::clone(shared), index, start: began, joins: Arc::clone(joins) };
        let policy_step = plan.loop_.as_ref().and_then(|l| match &l.policy {
            ModelUse::Step(s) => Some(s.as_str()),
            _ => None,
        });
        if policy.is_none() && policy_step.is_none_or(|s| flows.contains_key(s)) {
            let first = policy_step.map(|s| flows[s].clone());
            // Every worker runs a part of each step, so every worker must learn of the policy.
            policy = fed_back.take().map(|back| scope.concatenate(first.into_iter().chain([back])).broadcast());
        }
        let models = || match &step.model {
            None => ModelFlow::Fixed(None),
            Some(ModelUse::Source(name)) => ModelFlow::Fixed(Some(ModelAt::Source(name.clone()))),
            Some(ModelUse::Step(name)) => ModelFlow::Step(flows[name.as_str()].clone().broadcast()),
            Some(ModelUse::Policy) => {
                let first = plan.loop_.as_ref().and_then(|l| match &l.policy {
                    ModelUse::Source(name) => Some(ModelAt::Source(name.clone())),
                    _ => None,
                });
                ModelFlow::Policy(first, policy.clone().expect("dependency order puts the policy's step first"))
            }
        };
        let in_loop = |name: &str| find(plan, name).placement != Placement::Once;
        let side = |i: &Input| SideInput { flow: flows[i.step.as_str()].clone(), in_loop: in_loop(&i.step) };
        let whole = || step.inputs.iter().filter(|i| i.whole).map(side);
        let iterations = step.iterations.clone();
        let per_iteration = match step.op.stage() {
            Stage::IterationSource(head) => Some(head.per_iteration().div_ceil(plan.microbatch) as u32),
            Stage::Collect(_) | Stage::Train(_) => Some(1),
            _ => longest(
                step.inputs.iter().filter(|i| !i.whole).map(|i| planned.get(i.step.as_str()).copied().flatten()),
            ),
        };
        // Steps after this one take their own number from it.
        planned.insert(&step.name, per_iteration);
        // Each worker builds the same graph; one of them reports it.
        if scope.index() == 0 {
            let (first, last) = (*iterations.start(), *iterations.end());
            let iterations = (last + 1).saturating_sub(first);
            shared.observer.event(&Event::Planned { step: &step.name, iterations, microbatches: per_iteration });
        }
        let stage = step.op.stage();
        let flow = match &stage {
            Stage::Source(_) => {
                // A source may run ahead of the slowest step after it by the window, and no further.
                let done = window(scope, &mut measured, descendants(plan, &step.name, step.placement));
                let state = Arc::new(Mutex::new(None));
                let (name, window) = (step.name.clone(), plan.window);
                let begin =
                    Start { name, iterations, microbatches: None, window, wait: vec![], models: models(), done };
                start(scope, begin, pool, move |epoch, _| jobs.source(epoch, &state))
            }
            Stage::IterationSource(head) => {
                let done = window(scope, &mut measured, descendants(plan, &step.name, step.placement));
                let state = Arc::new(Mutex::new(None));
                let (name, window, wait) = (step.name.clone(), plan.window, whole().collect());
                let (rows, size) = (head.per_iteration(), plan.microbatch);
                let begin =
                    Start { name, iterations, microbatches: per_iteration, window, wait, models: models(), done };
                start(scope, begin, pool, move |epoch, model| {
                    let rows = size.min(rows - epoch.microbatch as usize * size);
                    jobs.iteration_source(epoch, rows, model, &state)
                })
            }
            Stage::Map(_) | Stage::Keyed(_) => {
                let joins = step.inputs.iter().any(|i| i.joined);
                let mut streamed = |input: &Input| {
                    let side = side(input);
                    if side.in_loop || step.placement == Placement::Once {
                        return side.flow;
                    }
                    // A dataset made before the loop enters every iteration, microbatch by microbatch.
                    let mut points = descendants(plan, &step.name, step.placement);
                    if points.is_empty() {
                        // Nothing streams from this step, so its own progress bounds what enters.
                        points.push(step.name.clone());
                    }
                    // A step that joins may have to wait for the whole dataset and reads the rows itself,
                    // so only their places enter.
                    let window = if joins { usize::MAX } else { plan.window };
                    let done = self::window(scope, &mut measured, if joins { Vec::new() } else { points });
                    let entering =
                        plan.steps.iter().position(|s| s.name == input.step).expect("the plan has its inputs");
                    let entering = StepJobs { index: entering, ..jobs.clone() };
                    let (name, iterations) = (format!("{} enters {}", input.step, step.name), iterations.clone());
                    let models = ModelFlow::Fixed(None);
                    let begin = Start { name, iterations, microbatches: None, window, wait: vec![side], models, done };
                    let reader = (!joins).then_some(jobs.index);
                    start(scope, begin, pool, move |epoch, _| entering.enter(epoch, reader))
                };
                let mut flows =
                    step.inputs.iter().filter(|i| !i.whole).map(&mut streamed).collect::<Vec<_>>().into_iter();
                let input = flows.next().expect("a map has an input that streams");
                let is_map = matches!(&stage, Stage::Map(_));
                let is_local = matches!(&stage, Stage::Keyed(keyed) if keyed.complete());
                match flows.next() {
                    Some(other) => join(scope, [input, other], models(), jobs, pool),
                    None if is_local || is_map => map(scope, input, models(), whole().collect(), jobs, pool),
                    None => keyed(scope, input, jobs, pool),
                }
            }
            Stage::Collect(_) | Stage::Train(_) => {
                // Models that other keys name must exist before the step starts, like its input rows.
                let makers = step.models.iter().filter_map(|(_, m)| match m {
                    ModelUse::Step(maker) => Some(SideInput { flow: flows[maker.as_str()].clone(), in_loop: false }),
                    _ => None,
                });
                let inputs = step.inputs.iter().map(side).chain(makers).collect();
                let first = step.inputs.first().filter(|_| step.op.streams());
                let streamed = first.and_then(|i| planned.get(i.step.as_str()).copied().flatten());
                let flow = train(scope, inputs, models(), iterations, streamed, jobs, pool);
                if plan.loop_.as_ref().is_some_and(|l| l.next == step.name)
                    && let Some(announce) = announce.take()
                {
                    // Closes the loop: the announcement travels to the next iteration.
                    flow.clone().connect_loop(announce);
                }
                flow
            }
        };
        flows.insert(&step.name, flow);
    }
    // Only now do all flows exist that the windows are measured on.
    for Measured { points, handle } in measured {
        let progress = points.iter().map(|p| {
            flows[p.as_str()].clone().unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
                Pipeline,
                "Closed",
                |cap, _| {
                    drop(cap);
                    |input, _| input.for_each(|_, _| {})
                },
            )
        });
        scope.concatenate(progress.collect::<Vec<_>>()).connect_loop(handle);
    }
    // The run ends when every step has closed, including steps that nobody reads.
    let probe = ProbeHandle::new();
    for step in &plan.steps {
        if let Some(flow) = flows.remove(step.name.as_str()) {
            flow.probe_with(&probe);
        }
    }
    probe
}

/// Returns the largest of several numbers of microbatches, or `None` if one of them is unknown.
fn longest(numbers: impl Iterator<Item = Option<u32>>) -> Option<u32> {
    numbers.collect::<Option<Vec<u32>>>()?.into_iter().max()
}

fn find<'a>(plan: &'a Plan<dyn Operator>, name: &str) -> &'a Step<dyn Operator> {
    plan.steps.iter().find(|s| s.name == name).expect("a plan has the steps that its inputs name")
}

/// Creates a progress-only feedback loop, which is closed once all steps are rendered.
fn window<'s>(
    scope: Scope<'s, Epoch>,
    measured: &mut Vec<Measured<'s>>,
    points: Vec<String>,
) -> timely::dataflow::StreamVec<'s, Epoch, ()> {
    let (handle, stream) = scope.feedback::<Vec<()>>(Advance::default());
    measured.push(Measured { points, handle });
    stream
}

/// Whether a step is `name` or depends on it, directly or not, within an iteration.
fn made_of(plan: &Plan<dyn Operator>, step: &str, name: &str) -> bool {
    let (mut todo, mut seen) = (vec![step], HashSet::new());
    while let Some(step) = todo.pop() {
        if step == name {
            return true;
        }
        let Some(step) = plan.step(step).filter(|s| seen.insert(s.name.as_str())) else { continue };
        todo.extend(step.inputs.iter().map(|i| i.step.as_str()));
        todo.extend(makers(step));
    }
    false
}

/// Returns the steps whose models a step uses.
fn makers(step: &Step<dyn Operator>) -> impl Iterator<Item = &str> {
    step.model.iter().chain(step.models.iter().map(|m| &m.1)).filter_map(|m| match m {
        ModelUse::Step(maker) => Some(maker.as_str()),
        _ => None,
    })
}

/// Returns the last steps that stream from `name`: no barrier lies between, and they run in the same
/// iterations. Observers run once more, after the last training, and must not hold a window of the loop
/// open. Three kinds of steps must not hold the window of `name` open because they would deadlock: a step
/// that waits for everything made from `name`, such as a model trained on it; a second input made from it;
/// and a step that joins, because a row without a partner waits for both inputs in full.
fn descendants(plan: &Plan<dyn Operator>, name: &str, placement: Placement) -> Vec<String> {
    let same = |p: Placement| match placement {
        Placement::Once => p == Placement::Once,
        Placement::Loop | Placement::Ahead => matches!(p, Placement::Loop | Placement::Ahead),
        Placement::Observer => p == Placement::Observer,
    };
    let streams = |of: &str| {
        let waits = |s: &Step<dyn Operator>| {
            s.inputs
                .iter()
                .filter(|i| i.whole)
                .map(|i| i.step.as_str())
                .chain(makers(s))
                .any(|w| made_of(plan, w, name))
        };
        let from = |s: &&Step<dyn Operator>| {
            let joins = s.inputs.iter().any(|i| i.joined);
            same(s.placement) && s.inputs.iter().any(|i| !i.whole && i.step == of) && !joins && !waits(s)
        };
        plan.steps.iter().filter(from).map(|s| s.name.clone()).collect::<Vec<_>>()
    };
    let (mut leaves, mut todo) = (Vec::new(), streams(name));
    while let Some(step) = todo.pop() {
        let next = streams(&step);
        if next.is_empty() {
            leaves.push(step);
        } else {
            // Only the last steps are measured: the ones in between are at least as far.
            todo.extend(next);
        }
    }
    leaves.sort();
    leaves.dedup();
    leaves
}
