//! Estimates what a pipeline needs (tokens, arithmetic, memory and time) from its settings. Nothing is
//! loaded or run.
//!
//! A forward takes two operations for each matrix weight and `4 L A` for each token attended to
//! ([`ModelShape::forward`]). Training takes three times that, because the backward costs two forwards;
//! with `checkpoint_activations` it takes four times. Training an adapter computes no gradients of the base
//! weights, which saves one of these. The output matrix counts for every token except prompt tokens that
//! are only read.
//!
//! Memory has three parts: the weights, in the type of `dtype`; in training, the gradient, two moments and
//! (for 16-bit weights) master weights, all in f32, and the f32 activations of what is computed at once; in
//! sampling, the keys and values of all sequences that are decoded together, at their full length. Several
//! devices count as one: the estimate ignores how they share the work.

mod hardware;
mod shape;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

pub use hardware::Hardware;
pub use shape::ModelShape;

use crate::dataflow::Operator;
use crate::error::{Error, Result};
use crate::pipeline::{
    CostAssumptions, CostEstimate, Dtype, EngineSection, Input, InputStats, ModelKind, ModelUse, Plan, Price, RowStats,
    Step,
};

/// Cost of one step in one iteration.
#[derive(Debug)]
struct StepCost {
    step: String,
    iteration: u32,
    /// The model that the step uses, as named in the pipeline file.
    model: String,
    training: bool,
    /// The model is on servers of others, whose time and memory are not known.
    served: bool,
    /// What the tokens cost there, at the prices of the pipeline file.
    price: Option<f64>,
    work: CostEstimate,
    flops: f64,
    hours: f64,
    memory: Memory,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Memory {
    weights: f64,
    /// Gradients, moments and master weights.
    optimizer: f64,
    /// Activations of training, or keys and values of sampling.
    working: f64,
}

impl Memory {
    fn all(self) -> f64 {
        self.weights + self.optimizer + self.working
    }
}

/// The estimated cost of a pipeline.
#[derive(Debug)]
pub struct Cost {
    steps: Vec<StepCost>,
    hardware: Hardware,
}

impl Cost {
    /// Estimates the cost of a plan. `shapes` holds the shapes of the models in `[model.*]`. `given` holds
    /// known row counts of steps by iteration; the last count applies to all later iterations.
    ///
    /// # Errors
    /// The rows of a dataset or the shape of a model are unknown.
    pub fn of(
        plan: &Plan<dyn Operator>,
        shapes: &BTreeMap<String, ModelShape>,
        given: &BTreeMap<String, Vec<f64>>,
        assume: &CostAssumptions,
        hardware: Hardware,
    ) -> Result<Self> {
        if let Some(name) = given.keys().find(|name| plan.step(name).is_none()) {
            return Err(Error::user(format!("--rows: step `{name}` not found")));
        }
        let mut amounts: BTreeMap<(&str, u32), RowStats> = BTreeMap::new();
        let mut steps = Vec::new();
        let last = plan.steps.iter().map(|s| *s.iterations.end()).max().unwrap_or(0);
        for iteration in 0..=last {
            for step in plan.steps.iter().filter(|s| s.iterations.contains(&iteration)) {
                let load = |i: &Input| {
                    let of = plan.step(&i.step)?;
                    let own = amounts.get(&(i.step.as_str(), iteration));
                    let once = || amounts.get(&(i.step.as_str(), 0));
                    Some(InputStats {
                        key: i.key,
                        schema: of.schema,
                        amount: own.or_else(once).copied().unwrap_or_default(),
                    })
                };
                let loads: Vec<InputStats> = step.inputs.iter().filter_map(load).collect();
                let mut work = step.op.work(iteration, &loads, assume);
                let known = given.get(&step.name).and_then(|r| r.get(iteration.max(1) as usize - 1).or(r.last()));
                if let Some(rows) = known {
                    work.out.rows = *rows;
                }
                if step.inputs.is_empty() && known.is_none() && work.out.rows == 0. {
                    return Err(Error::user(format!("the number of rows of `{}` is unknown", step.name))
                        .help(format!("give --rows {}=N, or set `limit` in the file", step.name)));
                }
                amounts.insert((&step.name, iteration), work.out);
                if let Some(used) = &step.model {
                    let source = plan.source_of(used);
                    if let Some(ModelKind::Server(server)) = source.map(|source| &source.kind) {
                        steps.push(cost_on_servers(step, iteration, used, work, server.price));
                        continue;
                    }
                    let (shape, dtype) = shape_of(plan, shapes, used, step)?;
                    steps.push(cost(step, iteration, used, work, shape, dtype, &plan.engine, &hardware));
                }
            }
        }
        Ok(Self { steps, hardware })
    }

    /// Total hours, with one step running after the other.
    pub fn hours(&self) -> f64 {
        self.steps.iter().map(|s| s.hours).sum()
    }
    /// What servers ask for at the given prices; `None` if no model has a price.
    pub fn price(&self) -> Option<f64> {
        let prices: Vec<f64> = self.steps.iter().filter_map(|s| s.price).collect();
        if prices.is_empty() { None } else { Some(prices.iter().sum()) }
    }
    /// Total operations.
    pub fn flops(&self) -> f64 {
        self.steps.iter().map(|s| s.flops).sum()
    }
    /// Peak memory in bytes, and when it occurs: in a training, or in an iteration whose models sample at
    /// the same time.
    pub fn most_memory(&self) -> (f64, String) {
        let mut at: BTreeMap<(u32, Option<&str>), BTreeMap<&str, Memory>> = BTreeMap::new();
        for s in &self.steps {
            let training = s.training.then_some(s.step.as_str());
            let most = at.entry((s.iteration, training)).or_default().entry(s.model.as_str()).or_default();
            // One engine serves all steps of a model, so it needs the largest of their needs.
            most.weights = most.weights.max(s.memory.weights);
            most.optimizer = most.optimizer.max(s.memory.optimizer);
            most.working = most.working.max(s.memory.working);
        }
        let sums = at.into_iter().map(|((iteration, training), models)| {
            let names: Vec<&str> = models.keys().copied().collect();
            let what = match training {
                Some(step) => format!("in `{step}`"),
                None => format!("sampling from {}", names.join(" and ")),
            };
            (models.values().map(|m| m.all()).sum::<f64>(), format!("{what}, iteration {iteration}"))
        });
        sums.fold((0., String::new()), |most, next| if next.0 > most.0 { next } else { most })
    }

    /// Returns the cost as JSON: tokens, operations, bytes and hours.
    pub fn json(&self) -> Value {
        let step = |s: &StepCost| {
            json!({
                "step": s.step, "iteration": s.iteration, "model": s.model, "rows": s.work.out.rows,
                "read_tokens": s.work.read.tokens, "sampled_tokens": s.work.sampled.tokens,
                "scored_tokens": s.work.scored.tokens, "trained_tokens": s.work.trained.tokens,
                "optimizer_steps": s.work.steps, "flops": s.flops, "hours": s.hours,
                "weight_bytes": s.memory.weights, "optimizer_bytes": s.memory.optimizer,
                "activation_or_kv_bytes": s.memory.working,
                "external": s.work.external, "served": s.served, "price": s.price,
            })
        };
        let h = &self.hardware;
        let (bytes, when) = self.most_memory();
        json!({
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(), "flops": self.flops(), "hours": self.hours(),
            "price": self.price(), "most_bytes": bytes, "most_bytes_when": when, "most_bytes_per_device": bytes / h.devices,
            "hardware": {
                "devices": h.devices, "peak_tflops": h.peak_tflops, "memory_gb": h.memory_gb, "mfu": h.mfu,
                "sampling_mfu": h.sampling_mfu,
            },
        })
    }

    /// Lines on what is not in the sums, and on what servers ask for.
    fn unknown(&self) -> Vec<String> {
        let named = |is: fn(&StepCost) -> bool| -> BTreeSet<&str> {
            self.steps.iter().filter(|s| is(s)).map(|s| s.step.as_str()).collect()
        };
        let unknown = "its time and memory are not known, and not in the sums";
        let external = named(|s| s.work.external).into_iter();
        let mut lines: Vec<String> =
            external.map(|step| format!("`{step}` is trained by an external command: {unknown}")).collect();
        let served = named(|s| s.served).into_iter();
        lines.extend(served.map(|step| format!("`{step}` asks servers: {unknown}")));
        lines.extend(self.price().map(|price| {
            format!(
                "servers ask for {price:.4} at the given prices, with each prompt counted once; they may count it for \
                 every sample"
            )
        }));
        lines
    }

    /// Formats the cost as an aligned table with totals, the hardware and the peak memory.
    pub fn table(&self) -> String {
        let heads = ["step", "iteration", "rows", "read", "sampled", "scored", "trained", "FLOPs", "memory", "hours"];
        let mut table: Vec<Vec<String>> = vec![heads.map(String::from).to_vec()];
        for s in &self.steps {
            let w = &s.work;
            let mut cells = vec![s.step.clone(), s.iteration.to_string()];
            cells.push(if s.training { String::new() } else { format!("{:.0}", w.out.rows) });
            cells.extend([w.read, w.sampled, w.scored, w.trained].map(|p| short(p.tokens)));
            cells.extend(match w.external || s.served {
                true => ["?", "?", "?"].map(str::to_owned),
                false => [format!("{:.2e}", s.flops), bytes(s.memory.all()), hours(s.hours)],
            });
            table.push(cells);
        }
        let mut total = vec!["all".to_owned(), String::new(), String::new()];
        let sum = |of: fn(&CostEstimate) -> f64| short(self.steps.iter().map(|s| of(&s.work)).sum());
        total.extend([sum(|w| w.read.tokens), sum(|w| w.sampled.tokens), sum(|w| w.scored.tokens)]);
        total.extend([sum(|w| w.trained.tokens), format!("{:.2e}", self.flops()), String::new(), hours(self.hours())]);
        table.push(total);
        let widths: Vec<usize> =
            (0..heads.len()).map(|c| table.iter().map(|r| r[c].len()).max().unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let cell = |(i, c): (usize, &String)| {
                if i == 0 { format!("{c:<w$}", w = widths[0]) } else { format!("{c:>w$}", w = widths[i]) }
            };
            row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ")
        };
        let mut lines: Vec<String> = table.iter().map(line).collect();
        lines.extend(self.unknown());
        lines.push(self.hardware.describe());
        let (most, when) = self.most_memory();
        let (h, gb) = (&self.hardware, most / 1e9);
        lines.push(format!("at most {} at once, {} per device ({when})", bytes(most), bytes(most / h.devices)));
        if gb > h.devices * h.memory_gb {
            lines.push(format!("that does not fit these devices; {:.0} would suffice", (gb / h.memory_gb).ceil()));
        }
        lines.join("\n")
    }
}

/// Formats a count with a unit.
fn short(n: f64) -> String {
    match n {
        n if n >= 1e9 => format!("{:.2}G", n / 1e9),
        n if n >= 1e6 => format!("{:.2}M", n / 1e6),
        n if n >= 1e3 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// Formats a size with a unit, in powers of 1000 as device makers count.
fn bytes(n: f64) -> String {
    match n {
        n if n >= 1e12 => format!("{:.2} TB", n / 1e12),
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n => format!("{:.1} MB", n / 1e6),
    }
}

/// Formats hours with two significant digits, even for very short times.
fn hours(n: f64) -> String {
    if n == 0. || n >= 0.1 { format!("{n:.2}") } else { format!("{n:.1e}") }
}

/// Returns the shape and dtype of the model that a step uses. A trained model has the shape of its starting
/// model.
fn shape_of(
    plan: &Plan<dyn Operator>,
    shapes: &BTreeMap<String, ModelShape>,
    used: &ModelUse,
    step: &Step<dyn Operator>,
) -> Result<(ModelShape, Dtype)> {
    let mut at = used.clone();
    // A chain without a circle visits each step at most once.
    for _ in 0..=plan.steps.len() {
        at = match (&at, &plan.loop_) {
            (ModelUse::Policy, Some(l)) => l.policy.clone(),
            (ModelUse::Step(name), _) => match plan.step(name).and_then(|s| s.model.clone()) {
                Some(model) => model,
                None => break,
            },
            (ModelUse::Source(name), _) => {
                let found = shapes.get(name).copied().zip(plan.model(name).map(|m| m.dtype));
                return found.ok_or_else(|| {
                    Error::user(format!("the shape of model `{name}` is unknown")).help(format!(
                        "give --shape {name}=PATH, a config.json or its directory; or set `config` in [model.{name}]"
                    ))
                });
            }
            (ModelUse::Policy, None) => break,
        };
    }
    Err(Error::bug(format!("the model of `{}` has no source", step.name)))
}

#[allow(clippy::too_many_arguments, reason = "the parts of one sum, each from elsewhere")]
fn cost(
    step: &Step<dyn Operator>,
    iteration: u32,
    used: &ModelUse,
    work: CostEstimate,
    shape: ModelShape,
    dtype: Dtype,
    engine: &EngineSection,
    h: &Hardware,
) -> StepCost {
    let forward = |pass: crate::pipeline::TokenCount, output| pass.tokens * shape.forward(pass.context, output);
    let backward = if work.adapter.is_some() { 1. } else { 2. };
    let passes = 1. + backward + if work.recompute { 1. } else { 0. };
    let dense = forward(work.read, false) + forward(work.scored, true) + passes * forward(work.trained, true);
    let sampled = forward(work.sampled, true);
    let hours = dense / (h.per_hour() * h.mfu) + sampled / (h.per_hour() * h.sampling_mfu);
    let (n, bytes) = (shape.parameters(), if dtype == Dtype::F32 { 4. } else { 2. });
    let training = step.is_training();
    let memory = if work.external {
        Memory::default()
    } else if training {
        let (trained, masters) = match &work.adapter {
            Some((rank, targets)) => (shape.adapter(*rank, targets), 4.),
            None => (n, if dtype == Dtype::F32 { 0. } else { 4. }),
        };
        Memory {
            weights: bytes * n,
            optimizer: (4. + 8. + masters) * trained,
            working: 4. * work.held * shape.activations(work.recompute),
        }
    } else {
        let sequences = f64::min(engine.max_batch as f64, work.out.rows.max(1.));
        // Keys and values are f32 whatever the dtype of the weights.
        let kv = sequences * work.longest * shape.kv() * 4.;
        Memory { weights: bytes * n, optimizer: 0., working: engine.kv_memory.map_or(kv, |most| kv.min(most as f64)) }
    };
    let (step, model) = (step.name.clone(), used.to_string());
    let (served, price) = (false, None);
    StepCost { step, iteration, model, training, served, price, work, flops: dense + sampled, hours, memory }
}

/// The cost of a step whose model is on servers of others: tokens and, at the given prices of a million, their sum.
fn cost_on_servers(
    step: &Step<dyn Operator>,
    iteration: u32,
    used: &ModelUse,
    work: CostEstimate,
    price: Option<Price>,
) -> StepCost {
    let read = work.read.tokens + work.scored.tokens;
    let price = price.map(|price| (read * price.input + work.sampled.tokens * price.output) / 1e6);
    let (step, model, training) = (step.name.clone(), used.to_string(), step.is_training());
    let (flops, hours, memory, served) = (0., 0., Memory::default(), true);
    StepCost { step, iteration, model, training, served, price, work, flops, hours, memory }
}
