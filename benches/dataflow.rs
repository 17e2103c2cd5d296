//! Rows a second through the whole dataflow, with scripted models: what the engine costs beside the models.
//!
//! `cargo bench --bench dataflow`

use std::sync::Arc;
use std::time::Instant;

use reflux::dataflow::{self, Services, Shared, Stop, Transport};
use reflux::engine::Config;
use reflux::operators::{self, Models};
use reflux::pipeline;
use reflux::report::Tally;
use reflux::store::Run;

const SCRIPT: &str = "
[[answer]]
match = \"You grade an AI\"
text = [\"Clear.\\nScore: {score}\", \"Dull.\\nScore: {score}\"]
[[answer]]
text = [\"Answer {n}.\", \"Perhaps {n}.\"]
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("reflux-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let (script, prompts) = (dir.join("script.toml"), dir.join("prompts.jsonl"));
    std::fs::write(&script, SCRIPT)?;
    for rows in [1_000, 10_000] {
        let lines: Vec<String> =
            (0..rows).map(|i| format!("{{\"prompt\": \"Tell me about {i}\", \"response\": \"x\"}}")).collect();
        std::fs::write(&prompts, lines.join("\n"))?;
        let text = format!(
            "[pipeline]\nname = \"bench\"\nmicrobatch = 256\n[model.s]\nscript = {script:?}\n[step.prompts]\nop = \"read\"\nschema = \"ift\"\n\
             dataset = {prompts:?}\n[step.responses]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"s\"\nsamples = 4\n\
             [step.scores]\nop = \"judge\"\nfrom = \"responses\"\nmodel = \"s\"\nsamples = 3\n[step.pairs]\nop = \"select\"\nfrom = \"scores\"\n"
        );
        let plan = pipeline::parse_str("bench.toml", &text, &[], operators::ALL)?;
        let (run, _) = Run::create_or_open(&dir.join(rows.to_string()), &plan.resolved, plan.seed, true)?;
        let (services, tally) = (Services::new(Models::new("cpu", Config::default(), 0)?), Arc::new(Tally::default()));
        let observer = Arc::clone(&tally) as Arc<dyn dataflow::Observer>;
        let began = Instant::now();
        dataflow::run(
            Shared { plan: Arc::new(plan), run: Arc::new(run), services, observer, stop: Stop::default() },
            1,
            Transport::Typed,
        )?;
        let seconds = began.elapsed().as_secs_f64();
        let all: u64 = tally.counts().values().map(|c| c.rows).sum();
        let judgements = rows * 4 * 3;
        println!(
            "{rows} prompts: {seconds:.2} s, {:.0} rows/s written, {:.0} judgements/s",
            all as f64 / seconds,
            judgements as f64 / seconds
        );
    }
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
