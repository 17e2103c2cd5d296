//! Finding the run that a path or a name means.

use std::path::{Path, PathBuf};

use crate::data::nearest_path;
use crate::error::Error;

/// The directory of the run at `given`, or of the run with this name in the folder `runs`.
pub fn find_run(given: &Path) -> PathBuf {
    let named = Path::new("runs").join(given);
    let is_run = |dir: &Path| dir.join("manifest.jsonl").is_file();
    if !is_run(given) && given.is_relative() && is_run(&named) { named } else { given.to_owned() }
}

/// Name of the existing run with the most similar name.
pub(crate) fn near_run(given: &Path) -> Option<String> {
    let bases = if given.is_relative() { &["", "runs"][..] } else { &[""] };
    bases.iter().find_map(|base| {
        let near = nearest_path(&Path::new(base).join(given)).filter(|near| near.join("manifest.jsonl").is_file())?;
        Some(near.strip_prefix(base).unwrap_or(&near).to_string_lossy().into_owned())
    })
}

/// The error for a directory that contains no run, or whose manifest is gone.
pub(crate) fn no_run(dir: &Path) -> Error {
    let help = match near_run(dir) {
        Some(near) => format!("did you mean `{near}`?"),
        None if dir.join("data").is_dir() => {
            "its manifest.jsonl, which says what its files are, is gone: put it back, or \
             move the directory away and run the pipeline file again"
                .to_owned()
        }
        None => "a run is a directory with a manifest.jsonl, by default runs/NAME".to_owned(),
    };
    Error::user(format!("no run found at `{}`", dir.display())).help(help)
}
