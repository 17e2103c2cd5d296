//! `pipeline.toml` of a run: the resolved pipeline file, with a hash of its own text in a comment on the last
//! line.
//!
//! The manifest records the hash of the part that determines the rows. The other settings (`[health]`,
//! `[engine]`, the window, the name) may change when a run is resumed, and the file is rewritten then; only
//! the hash in the file itself can show whether this part is intact.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::data::{read_regular, read_text};
use crate::error::Result;
use crate::store::files::atomic::write_bytes;

/// The file's name in a run's directory.
pub(crate) const NAME: &str = "pipeline.toml";
/// Start of the last line, which has the hash of all lines before it.
const HASH_LINE: &str = "# blake3 of the lines above: ";
/// Line that a repair adds to a file that it has reconstructed in part.
const REPAIRED: &str =
    "# repaired: settings that decide no rows were lost; `reflux run` of the pipeline file brings them back\n";
/// First manifest format whose pipeline file has a hash of its own.
const HASHED: u32 = 3;

/// Keys of a model on servers that say where and how fast requests are sent, and when to stop.
const SERVER_KEYS: [&str; 7] =
    ["server = ", "key = ", "max_in_flight = ", "time_limit = ", "price = ", "max_cost = ", "max_tokens = "];

/// Names of the steps in a resolved pipeline file.
pub(crate) fn steps_of(pipeline: &str) -> BTreeSet<String> {
    let name = |line: &str| Some(line.strip_prefix("[step.")?.strip_suffix(']')?.trim_matches('"').to_owned());
    pipeline.lines().filter_map(name).collect()
}

/// The part of a resolved pipeline file that determines the rows. `[health]` decides when to stop;
/// `[engine]`, `pipeline.window`, `pipeline.name`, the addresses and limits of servers, and a step's `time_limit` and
/// `restarts` decide how and where rows are computed. Manifests of
/// format 1 excluded `[health]` only.
pub(crate) fn identity(text: &str, format: u32) -> String {
    let mut table = String::new();
    let mut kept = String::new();
    for line in text.split_inclusive('\n') {
        if line.starts_with('[') {
            line.trim_end().clone_into(&mut table);
        }
        let left_out = match table.as_str() {
            _ if line.starts_with(HASH_LINE) || line == REPAIRED => true,
            "[health]" => true,
            // How a server is started, like the address of one that runs.
            server if server.starts_with("[server.") => true,
            "[engine]" => format >= 2,
            // How often a program outside is started, and for how long it may run.
            step if step.starts_with("[step.") => line.starts_with("time_limit = ") || line.starts_with("restarts = "),
            "[pipeline]" => format >= 2 && (line.starts_with("window = ") || line.starts_with("name = ")),
            model if model.starts_with("[model.") => SERVER_KEYS.iter().any(|key| line.starts_with(key)),
            _ => false,
        };
        if !left_out {
            kept.push_str(line);
        }
    }
    kept.trim_end().to_owned()
}

/// Hash of the [`identity`] of a pipeline file, as recorded in the first line of a manifest of this format.
pub(crate) fn pipeline_hash(text: &str, format: u32) -> String {
    blake3::hash(identity(text, format).as_bytes()).to_hex().to_string()
}

/// Writes the resolved file `text` into the run's directory.
///
/// # Errors
/// A full disk.
pub(crate) fn write(dir: &Path, text: &str) -> Result<()> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let text = format!("{text}{end}");
    // The hashed text includes its last line end, so truncation anywhere is detected.
    let hash = blake3::hash(text.as_bytes()).to_hex();
    write_bytes(&dir.join(NAME), format!("{text}{HASH_LINE}{hash}\n").as_bytes()).map(drop)
}

/// Reads the resolved file of the run in `dir`, without its hash line.
pub(crate) fn read(dir: &Path) -> io::Result<String> {
    read_text(&dir.join(NAME)).map(|text| split(&text).0.to_owned())
}

/// Splits a stored file into its text and the hash of its last line, if it has one.
fn split(stored: &str) -> (&str, Option<&str>) {
    let last = stored.strip_suffix('\n').unwrap_or(stored).rfind('\n').map_or(0, |end| end + 1);
    let (text, line) = stored.split_at(last);
    match line.strip_prefix(HASH_LINE) {
        Some(hash) => (text, Some(hash)),
        None => (stored, None),
    }
}

/// Checks a stored file against its own hash. Files of earlier versions have no hash and only have to be
/// valid TOML.
///
/// # Errors
/// The reason why it is damaged.
pub(crate) fn check(stored: &str, format: u32) -> Result<(), String> {
    match split(stored) {
        (text, Some(hash)) if hash.strip_suffix('\n') == Some(blake3::hash(text.as_bytes()).to_hex().as_str()) => {
            Ok(())
        }
        (_, None) if format < HASHED => match stored.parse::<toml::Table>() {
            Ok(_) => Ok(()),
            Err(e) => Err(format!("it is not TOML: {}", e.message())),
        },
        _ => Err("it is not as the run wrote it".to_owned()),
    }
}

/// Checks a stored file if the manifest's first line, and thus the format, is unknown. Only the file's own
/// hash can prove that it is intact.
///
/// # Errors
/// The reason why it is damaged, or why that cannot be decided.
pub(crate) fn check_alone(stored: &str) -> Result<(), String> {
    match split(stored) {
        (_, None) => Err("it has no hash of its own text, and the manifest's first line is damaged".to_owned()),
        _ => check(stored, HASHED),
    }
}

/// Whether the run's pipeline file must be rewritten: it is damaged, or a repair has reconstructed only a
/// part of it.
pub(crate) fn is_to_be_replaced(dir: &Path, format: u32) -> bool {
    let Ok(stored) = read_text(&dir.join(NAME)) else { return true };
    stored.contains(REPAIRED) || check(&stored, format).is_err()
}

/// Rewrites a damaged file from the part that determines the rows. Returns false if that part is damaged too.
///
/// # Errors
/// A full disk.
pub(crate) fn salvage(dir: &Path, pipeline: &str, format: u32) -> Result<bool> {
    let Ok(bytes) = read_regular(&dir.join(NAME)) else { return Ok(false) };
    let text = String::from_utf8_lossy(&bytes);
    if pipeline_hash(&text, format) != pipeline {
        return Ok(false);
    }
    write(dir, &format!("{}\n{REPAIRED}", identity(&text, format)))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const TEXT: &str = "[pipeline]\nname = \"x\"\nseed = 1\n\n[engine]\nthreads = 0\n\n[health]\nduplicates = { warn = 0.2 }\n\n[step.a]\nop = \"read\"\n";

    #[test]
    fn what_was_written_is_read_and_any_change_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        write(dir.path(), TEXT).unwrap();
        assert_eq!(read(dir.path()).unwrap(), TEXT);
        let stored = fs::read_to_string(&path).unwrap();
        assert_eq!(check(&stored, HASHED), Ok(()));
        assert_eq!(pipeline_hash(&stored, 2), pipeline_hash(TEXT, 2));
        for at in 0..stored.len() {
            let mut bytes = stored.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(text) = String::from_utf8(bytes) {
                assert!(check(&text, HASHED).is_err(), "byte {at}: {text}");
            }
            assert!(check(&stored[..at], HASHED).is_err(), "cut at {at}");
        }
        assert_eq!(check_alone(&stored), Ok(()));
        assert!(check_alone(&stored.replace("{ warn", "{ worn")).is_err() && check_alone(TEXT).is_err());
        // An earlier version wrote no hash.
        assert_eq!(check(TEXT, 2), Ok(()));
        assert!(check(&TEXT.replace("{ warn", "{ \u{0}"), 2).unwrap_err().contains("not TOML"));
    }

    #[test]
    fn settings_that_are_lost_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let hash = pipeline_hash(TEXT, 3);
        write(dir.path(), &TEXT.replace("{ warn", "{ \u{0}")).unwrap();
        assert!(salvage(dir.path(), &hash, 3).unwrap());
        let stored = fs::read_to_string(dir.path().join(NAME)).unwrap();
        assert_eq!(check(&stored, 3), Ok(()));
        assert!(!stored.contains("[health]") && stored.contains("[step.a]") && is_to_be_replaced(dir.path(), 3));
        assert_eq!(pipeline_hash(&stored, 3), hash);
        write(dir.path(), &TEXT.replace("seed = 1", "seed = 2")).unwrap();
        assert!(!salvage(dir.path(), &hash, 3).unwrap(), "what decides rows is damaged");
    }
}
