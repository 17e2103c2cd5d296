//! Flags shared by the commands that run one model.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use clap::ValueEnum;

use crate::error::{Error, Result};
use crate::model::{Model, saved_dtype};
use crate::pipeline::parse_bytes;
use crate::threads;

/// Parses a size from the command line.
pub fn size(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text).filter(|b| *b >= 1 << 20);
    bytes.ok_or_else(|| "expected a size of at least 1 MiB, such as 512MiB or 2GiB".into())
}

/// Computes the hash of the weights of a run's model.
pub fn weights(dir: &Path) -> Result<String> {
    Ok(Model::load(dir, &Device::Cpu, saved_dtype(dir)?, false)?.hash)
}

#[derive(clap::Args)]
pub struct ModelArgs {
    /// A GGUF file, a Hugging Face directory, or a LoRA adapter directory
    pub model: PathBuf,
    #[command(flatten)]
    pub loading: Loading,
}

/// Flags for loading models.
#[derive(clap::Args)]
pub struct Loading {
    /// Type of the weights in memory
    #[arg(long, value_enum, default_value = "f32", help_heading = "Model")]
    dtype: DtypeArg,
    /// Number of compute threads; one per core if absent. It does not change results
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Model")]
    threads: Option<u16>,
    /// Device of the model: cpu, cuda, metal, or auto
    #[arg(long, default_value = "auto", help_heading = "Model")]
    pub device: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeArg {
    F32,
    Bf16,
    F16,
}

impl Loading {
    /// The dtype as written in a pipeline file.
    pub fn dtype_name(&self) -> &'static str {
        match self.dtype {
            DtypeArg::F32 => "f32",
            DtypeArg::Bf16 => "bf16",
            DtypeArg::F16 => "f16",
        }
    }
    pub fn threads(&self) -> Option<usize> {
        self.threads.map(usize::from)
    }
}

impl ModelArgs {
    pub fn dtype(&self) -> DType {
        match self.loading.dtype {
            DtypeArg::F32 => DType::F32,
            DtypeArg::Bf16 => DType::BF16,
            DtypeArg::F16 => DType::F16,
        }
    }
    /// Runs `work` on the requested number of threads.
    pub fn on_threads<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self.threads() {
            None => work(),
            Some(threads) => {
                let refused = |e| Error::no_thread("the threads that compute", e);
                threads::check_memory(threads, threads::STACK).map_err(refused)?;
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                pool.map_err(|e| Error::no_thread("the threads that compute", e))?.install(work)
            }
        }
    }
    pub fn threads(&self) -> Option<usize> {
        self.loading.threads()
    }
}
