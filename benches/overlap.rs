//! What streaming hides: the wall time of an iteration against the slower of making its pairs and training on them.
//!
//! `cargo bench --profile dev --bench overlap` (the profile of `cargo run`, so that nothing is built twice)
//!
//! Answers are scripted with a latency that costs no compute (the one resource); training is real, on the small world's
//! model (the other). Three latencies are tried: training is the slower half, both take about as long, making the pairs is
//! the slower half. One run says little on a machine that others use too, so the two ways alternate and medians are told.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reflux::cancel::CancelFlag;
use reflux::dataflow::{self, RuntimeEnv, Shared, WorkerTransport};
use reflux::engine::EngineConfig;
use reflux::operators::{self, Models};
use reflux::pipeline;
use reflux::store::Run;

#[path = "../tests/common/spans.rs"]
mod spans;
use spans::Spans;

const MICROBATCHES: u32 = 32;
/// Runs each way.
const RUNS: usize = 3;

/// How long an iteration took, until its pairs were there, and what training took of it.
struct Took {
    all: Duration,
    pairs: Duration,
    training: Duration,
}

fn iteration(dir: &Path, schedule: &str, latency_ms: f64) -> Result<Took, Box<dyn Error>> {
    let script = |name: &str, latency: f64, rules: &str| -> Result<String, Box<dyn Error>> {
        let path = dir.join(format!("{name}.toml"));
        // Token ids are to be the small world's.
        std::fs::write(&path, format!("per_call_ms = {latency:?}\nvocab_size = 140\n{rules}"))?;
        Ok(format!("{path:?}"))
    };
    let answer = "[[answer]]\ntext = [\"It is {n}, and {n} more of the same kind, as far as anybody has looked into it.\", \
                  \"Perhaps {n}, perhaps not: it depends on whom one asks and on what day of the week.\"]\n";
    let judge = "[[answer]]\ntext = \"Clear.\\nScore: {score}\"\n";
    let (quick, slow) = (script("judge", 0., judge)?, script("answers", latency_ms, answer)?);
    let prompts = dir.join("seed.jsonl");
    let lines: Vec<String> =
        (0..8).map(|i| format!("{{\"prompt\": \"Tell me about {i}\", \"response\": \"x\"}}")).collect();
    std::fs::write(&prompts, lines.join("\n"))?;
    let rows = 32 * MICROBATCHES;
    let text = format!(
        "[pipeline]\nname = \"overlap\"\nmicrobatch = 32\nwindow = 8\n[model.policy_start]\npath = \"pipelines/listworld/m0\"\n\
         [model.quick]\nscript = {quick}\n[model.slow]\nscript = {slow}\n\
         [step.seed]\nop = \"read\"\nschema = \"ift\"\ndataset = {prompts:?}\n\
         [loop]\npolicy = \"policy_start\"\nnext = \"dpo\"\n\
         [step.prompts]\nop = \"synthesize\"\nfrom = \"seed\"\nmodel = \"slow\"\nper_iteration = {rows}\n\
         shots = {{ seed = 2, generated = 0 }}\nreject = {{ rouge_l = 1.0 }}\nattempts = 1\n\
         [step.responses]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"slow\"\nsamples = 4\n\
         [step.scores]\nop = \"judge\"\nfrom = \"responses\"\nmodel = \"quick\"\nsamples = 1\n\
         [step.pairs]\nop = \"select\"\nfrom = \"scores\"\n\
         [step.dpo]\nop = \"dpo\"\nfrom = \"pairs\"\nmodel = \"policy\"\nbatch_size = 4\ndata_schedule = \"{schedule}\"\n"
    );
    let plan = pipeline::parse_str("overlap.toml", &text, &[], operators::ALL).map_err(|d| d.render(false))?;
    let (run, _) = Run::create_or_open(&dir.join("run"), &plan.resolved, plan.seed, true)?;
    let (env, spans) = (RuntimeEnv::new(Models::new("cpu", EngineConfig::default(), 0)?), Arc::new(Spans::default()));
    let observer = Arc::clone(&spans) as Arc<dyn dataflow::Observer>;
    let began = Instant::now();
    let shared = Shared { plan: Arc::new(plan), run: Arc::new(run), env, observer, stop: CancelFlag::default() };
    dataflow::run(shared, 1, WorkerTransport::Typed)?;
    let all = began.elapsed();
    let spans = spans.all();
    let of = |step: &'static str| spans.iter().filter(move |s| s.step == step && s.epoch.iteration == 1);
    let pairs = of("pairs").map(|s| s.ended).max().unwrap_or_default();
    let training = of("dpo").map(|s| s.ended - s.began).sum();
    Ok(Took { all, pairs, training })
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("reflux-overlap-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let training: Result<Vec<Took>, _> = (0..3).map(|_| iteration(&dir, "epochs", 0.)).collect();
    // Prompts are written one microbatch at a time.
    let latency = 1e3 * median(training?.iter().map(|t| t.training.as_secs_f64())) / f64::from(MICROBATCHES);
    for share in [0.7, 1.0, 1.4] {
        let (mut apart, mut together) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            apart.push(iteration(&dir, "epochs", share * latency)?);
            together.push(iteration(&dir, "streaming", share * latency)?);
        }
        let of = |runs: &[Took], part: fn(&Took) -> Duration| median(runs.iter().map(|t| part(t).as_secs_f64()));
        let (pairs, training) = (of(&apart, |t| t.pairs), of(&apart, |t| t.training));
        let (apart, streaming) = (of(&apart, |t| t.all), of(&together, |t| t.all));
        println!(
            "pairs {pairs:.2} s, training {training:.2} s; one after the other {apart:.2} s, streaming {streaming:.2} s: {:.3} x the slower",
            streaming / pairs.max(training)
        );
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
