//! The adapters that lead from one model to another: each model that `lora` trains is also left as an adapter of the one
//! that its training started from.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::model::formats::peft;

/// What the name of a base begins with if the run has made it. See [`super::models::Models::base`].
const MADE: &str = "../../";
/// Maximum number of adapters that are looked at. A run has one for each training.
const MAX_LINKS: usize = 4096;

/// An adapter, and how it names the model that it was trained on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AdapterLink {
    dir: PathBuf,
    base: Option<String>,
}

/// The adapters that lead to a model of the run, the newest first. The list ends before a model that was trained whole,
/// or that the run has not made.
///
/// # Errors
/// The settings of an adapter cannot be read.
pub(super) fn adapters_of(models: &Path, name: &str) -> Result<Vec<AdapterLink>> {
    let (mut links, mut name) = (Vec::new(), name.to_owned());
    while links.len() < MAX_LINKS {
        let dir = models.join(&name).join("adapter");
        if !peft::is_one(&dir) {
            break;
        }
        let (_, base) = peft::open(&dir)?;
        let above = base.as_deref().and_then(|base| base.strip_prefix(MADE)).map(str::to_owned);
        links.push(AdapterLink { dir, base });
        match above {
            Some(above) => name = above,
            None => break,
        }
    }
    Ok(links)
}

/// The adapters that lead from a base to the model, the oldest first; `None` if none do.
pub(super) fn adapters_from(links: &[AdapterLink], base: Option<&str>) -> Option<Vec<PathBuf>> {
    let last = links.iter().position(|link| link.base.as_deref() == base)?;
    Some(links[..=last].iter().rev().map(|link| link.dir.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_followed_down_to_a_base() {
        let dir = tempfile::tempdir().unwrap();
        for (name, base) in [("M2", "\"m0\""), ("M3", "\"../../M2\""), ("M4", "\"../../M3\""), ("N1", "null")] {
            let at = dir.path().join(name).join("adapter");
            std::fs::create_dir_all(&at).unwrap();
            let text = format!(
                "{{\"peft_type\": \"LORA\", \"r\": 2, \"lora_alpha\": 4, \"target_modules\": [\"q_proj\"], \
                 \"base_model_name_or_path\": {base}}}"
            );
            std::fs::write(at.join(peft::CONFIG), text).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("M5")).unwrap();
        let links = adapters_of(dir.path(), "M4").unwrap();
        let from = |base: Option<&str>| {
            let found = adapters_from(&links, base)?;
            let names = found.iter().map(|at| at.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned());
            Some(names.collect::<Vec<_>>().join(" "))
        };
        assert_eq!(from(Some("m0")).unwrap(), "M2 M3 M4");
        assert_eq!(from(Some("../../M3")).unwrap(), "M4");
        assert_eq!(from(Some("other")), None);
        assert_eq!(from(None), None);
        assert!(adapters_of(dir.path(), "M5").unwrap().is_empty());
        let without_name = adapters_of(dir.path(), "N1").unwrap();
        assert_eq!(adapters_from(&without_name, None).map(|found| found.len()), Some(1));
    }
}
