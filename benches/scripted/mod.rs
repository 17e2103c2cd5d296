//! A pipeline on scripted models: prompts are read, answered four times, each answer is judged three times, pairs are selected.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

const SCRIPT: &str = "
[[answer]]
match = \"You grade an AI\"
text = [\"Clear.\\nScore: {score}\", \"Dull.\\nScore: {score}\"]
[[answer]]
text = [\"Answer {n}.\", \"Perhaps {n}.\"]
";

/// Writes the script and the prompts into `dir`; returns the pipeline file.
pub fn pipeline(dir: &Path, prompts: usize, microbatch: usize) -> io::Result<String> {
    let (script, rows) = (dir.join("script.toml"), dir.join("prompts.jsonl"));
    fs::write(&script, SCRIPT)?;
    let mut file = BufWriter::new(File::create(&rows)?);
    for i in 0..prompts {
        writeln!(file, "{{\"prompt\": \"Tell me about {i}\", \"response\": \"x\"}}")?;
    }
    file.flush()?;
    Ok(format!(
        "[pipeline]\nname = \"scripted\"\nmicrobatch = {microbatch}\n[model.s]\nscript = {script:?}\n[step.prompts]\nop = \"read\"\n\
         schema = \"ift\"\ndataset = {rows:?}\n[step.responses]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"s\"\nsamples = 4\n\
         [step.scores]\nop = \"judge\"\nfrom = \"responses\"\nmodel = \"s\"\nsamples = 3\n[step.pairs]\nop = \"select\"\nfrom = \"scores\"\n"
    ))
}
