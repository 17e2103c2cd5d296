//! `reflux export`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::session::Session;
use crate::data::{counted, open_regular};
use crate::error::{Error, ErrorContext as _, Result};
use crate::model::formats::export::{Export, GgufType};
use crate::model::formats::peft;
use crate::model::is_gguf;
use crate::store::{fill_output, output_target, write_output};

const AFTER: &str = "Examples:
  reflux export runs/smollm2/models/M2 m2.gguf         every bit of the weights, for llama.cpp
  reflux export models/M2 m2-q8_0.gguf --type q8_0     about a quarter of the size
  reflux export models/M2/adapter m2.gguf              a LoRA adapter, merged into its base model
  reflux export models/M2/adapter m2-adapter           the adapter alone, for peft.AutoPeftModelForCausalLM
  llama-cli -m m2.gguf -p 'Name a river.'              what the file is for

The file includes the tokenizer and the chat template, and reflux itself reads it too. Norms are f32 in \
every type. A model that GGUF cannot express (for example because of its tokenizer) is an error, and no \
file is written.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// A Hugging Face directory such as a run's models/M2, a LoRA adapter directory, or a GGUF file
    model: PathBuf,
    /// The GGUF file to write; for a LoRA adapter also a folder to create
    out: PathBuf,
    /// Type of the weight matrices
    #[arg(long = "type", value_enum, default_value = "f32", value_name = "TYPE")]
    kind: ExportType,
    /// Overwrites an existing file
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ExportType {
    /// 32 bits per weight, lossless
    F32,
    /// 16 bits per weight
    F16,
    /// 8.5 bits per weight
    #[value(name = "q8_0")]
    Q8_0,
}

/// Writes the adapter in `from` to the folder `out`. Returns the name of its base model.
fn export_adapter(from: &Path, out: &Path) -> Result<String> {
    let adapter = peft::standalone(from)?;
    // The settings are written last: a folder without them is not an adapter yet.
    fill_output(&output_target(&out.join(peft::WEIGHTS))?, |file| {
        let mut weights = open_regular(&adapter.weights).doing(|| adapter.weights.display())?;
        Ok(std::io::copy(&mut weights, file)?)
    })?;
    write_output(&output_target(&out.join(peft::CONFIG))?, adapter.config.as_bytes())?;
    Ok(adapter.base)
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let quiet = session.quiet;
    let out = args.out.display();
    let gguf = is_gguf(&args.out);
    let alone = !gguf && peft::is_one(&args.model);
    if !gguf && !alone {
        return Err(Error::user(format!("{out}: the file's name must end in .gguf"))
            .help("programs recognize GGUF files by this extension"));
    }
    if args.out.exists() && !args.force {
        return Err(Error::user(format!("{out} already exists")).help("--force overwrites it"));
    }
    if alone {
        let base = export_adapter(&args.model, &args.out)?;
        return if quiet { Ok(()) } else { super::terminal::print_line(&format!("{out}: an adapter of {base}")) };
    }
    let kind = match args.kind {
        ExportType::F32 => GgufType::F32,
        ExportType::F16 => GgufType::F16,
        ExportType::Q8_0 => GgufType::Q8_0,
    };
    let model = Export::open(&args.model, kind)?;
    let made = fill_output(&output_target(&args.out)?, |file| model.write(file))?;
    for note in &made.notes {
        super::terminal::note(note);
    }
    if quiet {
        return Ok(());
    }
    super::terminal::print_line(&format!(
        "{out}: {}, {:.1} MB",
        counted(made.tensors, "tensor"),
        made.bytes as f64 / 1e6
    ))
}
