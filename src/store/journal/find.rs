//! Finding the run that a path or a name means.

use std::path::{Path, PathBuf};

use crate::data::nearest_path;
use crate::error::Error;

/// The run at `given`, or called so in the folder `runs`.
pub fn find_run(given: &Path) -> PathBuf {
    let named = Path::new("runs").join(given);
    let is_run = |dir: &Path| dir.join("manifest.jsonl").is_file();
    if !is_run(given) && given.is_relative() && is_run(&named) { named } else { given.to_owned() }
}

/// The name of the run that was probably meant by one that is not there.
pub(crate) fn near_run(given: &Path) -> Option<String> {
    let bases = if given.is_relative() { &["", "runs"][..] } else { &[""] };
    bases.iter().find_map(|base| {
        let near = nearest_path(&Path::new(base).join(given)).filter(|near| near.join("manifest.jsonl").is_file())?;
        Some(near.strip_prefix(base).unwrap_or(&near).to_string_lossy().into_owned())
    })
}

/// The error for a directory that holds no run, or no more.
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
    Error::user(format!("there is no run at `{}`", dir.display())).help(help)
}
