//! Prints a plan: as a tree, as Mermaid, as Graphviz DOT.

use std::fmt::Write as _;

use super::fields::KeyDoc;
use super::kind::{Shape, StepSpec};
use super::plan::{Input, ModelKind, ModelSource, ModelUse, Placement, Plan, Step};
use super::study::Variant;
use crate::data::counted;

/// The format of a printed plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanFormat {
    /// Indented text with branches.
    Tree,
    /// A Mermaid flowchart, as GitHub renders it.
    Mermaid,
    /// Graphviz.
    Dot,
}

/// Prints the plan as text: the steps that run once, ahead, in the loop and as observers; the schema of
/// each edge; where the window is measured and where the barriers are; the model and settings of each step.
pub fn explain<O: StepSpec + ?Sized>(plan: &Plan<O>, format: PlanFormat) -> String {
    match format {
        PlanFormat::Tree => tree(plan),
        PlanFormat::Mermaid => mermaid(plan),
        PlanFormat::Dot => dot(plan),
    }
}

const PLACES: [Placement; 4] = [Placement::Once, Placement::Ahead, Placement::Loop, Placement::Observer];

fn range(plan_steps: u32, extra: u32) -> String {
    match plan_steps + extra {
        1 => "iteration 1".to_owned(),
        n => format!("iterations 1 to {n}"),
    }
}

/// Returns the title of a group of steps, with its iterations.
fn title<O: ?Sized>(plan: &Plan<O>, place: Placement) -> String {
    let t = plan.iterations;
    match place {
        Placement::Once => "once, before anything else (iteration 0)".to_owned(),
        Placement::Ahead => format!("ahead of the loop ({}; does not wait for the policy)", range(t, 0)),
        Placement::Loop => format!("in the loop ({})", range(t, 0)),
        Placement::Observer => format!("for every policy, beside the loop ({})", range(t, 1)),
    }
}

fn source(model: &ModelSource) -> String {
    let from = match &model.kind {
        ModelKind::Path(path) => path.shown(),
        ModelKind::Hub { repo, revision: None } => format!("{repo} from the hub"),
        ModelKind::Hub { repo, revision: Some(r) } => format!("{repo} at {r} from the hub"),
        ModelKind::Init { config, .. } => format!("random weights of the shape in {}", config.shown()),
        ModelKind::Script { file } => format!("scripted answers of {}", file.shown()),
        ModelKind::Server(server) => return format!("{} on {}", server.name, server.urls.join(", ")),
    };
    let served = model.program.as_ref().map(|program| format!(", served by [server.{}]", program.name));
    format!("{from}, {}{}", model.dtype.name(), served.unwrap_or_default())
}

/// Whether the step reads this input microbatch by microbatch, as they close.
fn streams<O: StepSpec + ?Sized>(step: &Step<O>, input: &Input) -> bool {
    step.op.streams() && step.inputs.first() == Some(input)
}

fn how<O: StepSpec + ?Sized>(plan: &Plan<O>, step: &Step<O>, input: &Input) -> String {
    let mut words = Vec::new();
    if streams(step, input) {
        words.push("by microbatch, as they close");
    } else if input.whole {
        words.push("whole");
    } else if input.joined {
        words.push("joined row by row");
    } else {
        words.push("by microbatch");
    }
    if plan.enters(step, input) {
        words.push("the same rows in each iteration");
    }
    let window = plan.loop_.as_ref().is_some_and(|l| l.next == step.name) && !plan.enters(step, input);
    let window = if window { format!("; window of {} measured here", plan.window) } else { String::new() };
    format!("{}{window}", words.join(", "))
}

fn schema<O: ?Sized>(plan: &Plan<O>, step: &str) -> &'static str {
    plan.step(step).map_or("?", |s| s.schema.name)
}

fn policy_words<O: ?Sized>(plan: &Plan<O>) -> Option<String> {
    let l = plan.loop_.as_ref()?;
    Some(format!("policy: {} in iteration 1, then the model that {} made one iteration before", l.policy, l.next))
}

fn tree<O: StepSpec + ?Sized>(plan: &Plan<O>) -> String {
    let mut groups: Vec<Branch> = Vec::new();
    if !plan.models.is_empty() {
        let leaves = plan.models.iter().map(|m| Branch::leaf(format!("{}: {}", m.name, source(m)))).collect();
        groups.push(Branch { text: "models".into(), below: leaves });
    }
    if let Some(study) = &plan.study {
        let variant = |v: &Variant| {
            Branch::leaf(format!(
                "{}: {}",
                v.name,
                if v.set.is_empty() { "as in the file".into() } else { v.set.join(", ") }
            ))
        };
        let text = format!(
            "study: {}, each with {}",
            counted(study.variants.len(), "variant"),
            counted(study.seeds.len(), "seed")
        );
        groups.push(Branch { text, below: study.variants.iter().map(variant).collect() });
    }
    for place in PLACES {
        let mut below: Vec<Branch> =
            plan.steps.iter().filter(|s| s.placement == place).map(|s| step_branch(plan, s)).collect();
        if below.is_empty() {
            continue;
        }
        if let (Placement::Loop, Some(words)) = (place, policy_words(plan)) {
            below.insert(0, Branch::leaf(words));
        }
        groups.push(Branch { text: title(plan, place), below });
    }
    let text = format!(
        "{}: {} of the loop, {} a microbatch, at most {} open, seed {}",
        plan.name,
        counted(plan.iterations, "iteration"),
        counted(plan.microbatch, "row"),
        counted(plan.window, "microbatch"),
        plan.seed
    );
    let text = if plan.loop_.is_some() {
        text
    } else {
        format!("{}: no loop, {} a microbatch, seed {}", plan.name, counted(plan.microbatch, "row"), plan.seed)
    };
    let mut out = String::new();
    Branch { text, below: groups }.print(&mut out, "", "");
    out
}

fn step_branch<O: StepSpec + ?Sized>(plan: &Plan<O>, step: &Step<O>) -> Branch {
    let mut text = format!("{}: {} gives `{}`", step.name, step.kind.name, step.schema.name);
    if step.kind.shape == Shape::Keyed {
        text.push_str(" (groups by key)");
    }
    if step.placement == Placement::Observer && *step.iterations.end() <= plan.iterations {
        text.push_str(&format!(" ({} only: it reads rows of the loop)", range(plan.iterations, 0)));
    }
    if !step.keep {
        text.push_str(" (not kept)");
    }
    let mut below = Vec::new();
    let settings = step.op.explain();
    if !settings.is_empty() {
        below.push(Branch::leaf(one_line(&settings)));
    }
    for input in &step.inputs {
        let key = if input.key == "from" { "from".to_owned() } else { format!("{} =", input.key) };
        let words = how(plan, step, input);
        below.push(Branch::leaf(format!("{key} {} (`{}`, {words})", input.step, schema(plan, &input.step))));
    }
    if let Some(model) = &step.model {
        below.push(Branch::leaf(format!("model {model}")));
    }
    for (key, model) in &step.models {
        below.push(Branch::leaf(format!("{key} = model {model}")));
    }
    let closes = if step.placement == Placement::Once { "its inputs close" } else { "its iteration closes" };
    if step.is_training() {
        let next = plan.loop_.as_ref().is_some_and(|l| l.next == step.name);
        let makes = if next { "makes the next policy" } else { "makes a model" };
        let trains = if step.op.streams() { "trains as microbatches close, " } else { "" };
        below.push(Branch::leaf(format!("barrier: {trains}{makes} when {closes}")));
    } else if step.is_barrier() {
        below.push(Branch::leaf(format!("barrier: makes rows when {closes}")));
    }
    Branch { text, below }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Branch {
    text: String,
    below: Vec<Branch>,
}

impl Branch {
    fn leaf(text: String) -> Self {
        Self { text, below: Vec::new() }
    }
    fn print(&self, out: &mut String, first: &str, rest: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{first}{}", self.text);
        for (i, branch) in self.below.iter().enumerate() {
            let (tee, bar) = if i + 1 == self.below.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            branch.print(out, &format!("{rest}{tee}"), &format!("{rest}{bar}"));
        }
    }
}

/// Nodes are numbered because names may be keywords of the language.
fn number<O: ?Sized>(plan: &Plan<O>, name: &str) -> usize {
    plan.steps.iter().position(|s| s.name == name).unwrap_or(0)
}
fn model_number<O: ?Sized>(plan: &Plan<O>, name: &str) -> usize {
    plan.models.iter().position(|m| m.name == name).unwrap_or(0)
}

/// Returns the models that a step uses, as node names.
fn model_nodes<O: ?Sized>(plan: &Plan<O>, step: &Step<O>) -> Vec<String> {
    let others = step.models.iter().map(|(_, m)| m).filter(|m| step.model.as_ref() != Some(m));
    step.model.iter().chain(others).map(|u| node(plan, u)).collect()
}
fn node<O: ?Sized>(plan: &Plan<O>, model: &ModelUse) -> String {
    match model {
        ModelUse::Source(name) => format!("m{}", model_number(plan, name)),
        ModelUse::Step(name) => format!("s{}", number(plan, name)),
        ModelUse::Policy => "policy".to_owned(),
    }
}

fn edge_label<O: StepSpec + ?Sized>(plan: &Plan<O>, step: &Step<O>, input: &Input) -> String {
    let whole = match input.whole {
        true if streams(step, input) => ", streaming",
        true => ", whole",
        false => "",
    };
    let window = plan.loop_.as_ref().is_some_and(|l| l.next == step.name) && !plan.enters(step, input);
    format!("{}{whole}{}", schema(plan, &input.step), if window { ", window" } else { "" })
}

fn mermaid<O: StepSpec + ?Sized>(plan: &Plan<O>) -> String {
    let escape = |s: &str| s.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;");
    let mut out = String::from("flowchart LR\n");
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    for (i, model) in plan.models.iter().enumerate() {
        line(format!("  m{i}[(\"{}<br/>{}\")]", escape(&model.name), escape(&source(model))));
    }
    for (i, place) in PLACES.into_iter().enumerate() {
        if !plan.steps.iter().any(|s| s.placement == place) {
            continue;
        }
        line(format!("  subgraph g{i}[\"{}\"]", escape(&title(plan, place))));
        for (n, step) in plan.steps.iter().enumerate().filter(|(_, s)| s.placement == place) {
            let text = format!("{}<br/>{}", escape(&step.name), escape(step.kind.name));
            line(if step.is_barrier() {
                format!("    s{n}{{{{\"{text}<br/>barrier\"}}}}")
            } else {
                format!("    s{n}[\"{text}\"]")
            });
        }
        line("  end".to_owned());
    }
    if let Some(l) = &plan.loop_ {
        line("  policy((\"policy\"))".to_owned());
        line(format!("  {} -. first .-> policy", node(plan, &l.policy)));
        line(format!("  s{} -. next .-> policy", number(plan, &l.next)));
    }
    for (n, step) in plan.steps.iter().enumerate() {
        for input in &step.inputs {
            line(format!("  s{} -- \"{}\" --> s{n}", number(plan, &input.step), edge_label(plan, step, input)));
        }
        for model in model_nodes(plan, step) {
            line(format!("  {model} -. model .-> s{n}"));
        }
    }
    out
}

fn dot<O: StepSpec + ?Sized>(plan: &Plan<O>) -> String {
    let escape = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"");
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!("digraph \"{}\" {{", escape(&plan.name)));
    line("  rankdir=LR; node [shape=box, fontname=\"sans-serif\"]; edge [fontname=\"sans-serif\"];".to_owned());
    for (i, model) in plan.models.iter().enumerate() {
        line(format!("  m{i} [shape=cylinder, label=\"{}\\n{}\"];", escape(&model.name), escape(&source(model))));
    }
    for (i, place) in PLACES.into_iter().enumerate() {
        if !plan.steps.iter().any(|s| s.placement == place) {
            continue;
        }
        line(format!("  subgraph cluster_{i} {{"));
        line(format!("    label=\"{}\";", escape(&title(plan, place))));
        for (n, step) in plan.steps.iter().enumerate().filter(|(_, s)| s.placement == place) {
            let barrier = if step.is_barrier() { (", shape=hexagon", "\\nbarrier") } else { ("", "") };
            let label = format!("{}\\n{}{}", escape(&step.name), escape(step.kind.name), barrier.1);
            let tip = escape(&one_line(&step.op.explain()));
            line(format!("    s{n} [label=\"{label}\", tooltip=\"{tip}\"{}];", barrier.0));
        }
        line("  }".to_owned());
    }
    if let Some(l) = &plan.loop_ {
        line("  policy [shape=circle];".to_owned());
        line(format!("  {} -> policy [style=dashed, label=\"first\"];", node(plan, &l.policy)));
        line(format!("  s{} -> policy [style=dashed, label=\"next\", constraint=false];", number(plan, &l.next)));
    }
    for (n, step) in plan.steps.iter().enumerate() {
        for input in &step.inputs {
            line(format!("  s{} -> s{n} [label=\"{}\"];", number(plan, &input.step), edge_label(plan, step, input)));
        }
        for model in model_nodes(plan, step) {
            line(format!("  {model} -> s{n} [style=dashed, label=\"model\"];"));
        }
    }
    line("}".to_owned());
    out
}

/// Prints keys as plain text, one per line with its default, and choices and sub-keys below.
pub fn keys_table(keys: &[KeyDoc]) -> String {
    fn lines(keys: &[KeyDoc], indent: usize, out: &mut String) {
        let pad = " ".repeat(indent);
        let width = keys.iter().map(|k| k.key.len()).max().unwrap_or(0);
        for key in keys {
            let default = match (&key.default, key.required) {
                (Some(d), _) => format!("; default {d}"),
                (None, true) => "; required".to_owned(),
                (None, false) => String::new(),
            };
            let _ = writeln!(out, "{pad}{:width$}  {} ({}{default})", key.key, key.about, key.kind);
            for (word, meaning) in &key.options {
                let _ = writeln!(out, "{pad}{:width$}    \"{word}\": {meaning}", "");
            }
            lines(&key.nested, indent + width + 4, out);
        }
    }
    let mut out = String::new();
    lines(keys, 2, &mut out);
    out
}

/// Prints keys as rows of a Markdown table; the keys of a sub-table follow it as `table.key`.
///
/// A `|` in `about` would end a cell, so it is escaped.
pub fn keys_markdown(keys: &[KeyDoc]) -> String {
    fn rows(keys: &[KeyDoc], prefix: &str, out: &mut String) {
        for key in keys {
            let name = format!("{prefix}{}", key.key);
            let default = match (&key.default, key.required) {
                (Some(literal), _) => format!("`{literal}`"),
                (None, true) => "required".to_owned(),
                (None, false) => String::new(),
            };
            let mut about = key.about.to_owned();
            for (word, meaning) in &key.options {
                let _ = write!(about, "<br>`\"{word}\"`: {meaning}");
            }
            let _ = writeln!(
                out,
                "| `{name}` | {} | {} | {} |",
                about.replace('|', "\\|"),
                key.kind.replace('|', "\\|"),
                default.replace('|', "\\|")
            );
            rows(&key.nested, &format!("{name}."), out);
        }
    }
    let mut out = String::from("| key | meaning | value | default |\n|---|---|---|---|\n");
    rows(keys, "", &mut out);
    out
}
