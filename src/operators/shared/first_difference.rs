//! How far the first policy of a server was from its weights, kept with the run: the bound for later policies is then the
//! same after the run was interrupted.

use serde_json::json;

use super::served_model::ServedModel;
use crate::data::read_regular;
use crate::store::write_bytes;

/// Reads the difference. It counts for the command that it was measured with: another one may round in another way.
pub(super) fn read(model: &ServedModel) -> Option<f32> {
    if !model.canary_file.exists() {
        return None;
    }
    let read = read_regular(&model.canary_file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let Some(kept) = read else {
        let file = model.canary_file.display();
        tracing::warn!("{}: {file} cannot be read; the next start is compared with `tolerance` alone", model.who());
        return None;
    };
    let kept: serde_json::Value = kept;
    let difference = kept["difference"].as_f64().filter(|d| d.is_finite() && *d >= 0.)?;
    (kept["program"] == program(model)).then_some(difference as f32)
}

/// Keeps the difference. A run goes on without it, and says so.
pub(super) fn write(model: &ServedModel, difference: f32) {
    let kept = json!({ "program": program(model), "difference": f64::from(difference), "model": model.hash });
    if let Err(e) = write_bytes(&model.canary_file, format!("{kept:#}\n").as_bytes()) {
        let file = model.canary_file.display();
        tracing::warn!("{}: {file} cannot be written, and another start does not know this one: {e}", model.who());
    }
}

/// Identifies what decides how a server computes. Secrets are not a part of it.
fn program(model: &ServedModel) -> String {
    let program = &model.program;
    let text = format!("{} {:?}", program.command, program.environment);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}
