//! Selects a device by name.

use candle_core::Device;

use crate::error::{Error, ErrorContext, Result};

/// Returns the device named `cpu`, `cuda`, `cuda:1` or `metal`. `auto` selects the first accelerator that
/// this build supports, else the CPU.
///
/// # Errors
/// The name is unknown, or the device is absent or not supported by this build.
pub fn device(name: &str) -> Result<Device> {
    let (kind, ordinal) = name.split_once(':').unwrap_or((name, "0"));
    let unknown = || {
        Error::user(format!("no device is named `{name}`"))
            .help("devices are cpu, cuda, cuda:N, metal, metal:N and auto")
    };
    let ordinal: usize = ordinal.parse().map_err(|_| unknown())?;
    let build = |kind: &str| format!("device `{name}` (reflux must be built with `--features {kind}` for it)");
    match kind {
        "cpu" => Ok(Device::Cpu),
        "cuda" => Device::new_cuda(ordinal).user(|| build("cuda")),
        "metal" => Device::new_metal(ordinal).user(|| build("metal")),
        "auto" => Ok(Device::new_cuda(0).or_else(|_| Device::new_metal(0)).unwrap_or(Device::Cpu)),
        _ => Err(unknown()),
    }
}
