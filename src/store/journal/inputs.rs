//! External inputs of a run: the files that it reads from outside its directory, with their content hashes.
//!
//! The manifest gets an entry when an input is first read. Every later read, in this process or another, is
//! compared with that entry. Hashing a large file is slow, so the entry of a large file also has the file's
//! timestamps, and a file of the same size and timestamps is assumed to be unchanged. Small files are always
//! hashed.

use std::fs;
use std::io;
use std::path::Path;

use super::entry::{Entry, InputEntry, InputForm};
use super::input_files::{file_stamps, snapshot};
use super::run::Run;
use crate::error::{Error, Result};

/// An input that differs from its manifest entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangedInput {
    /// The table of the pipeline file that names it.
    pub table: String,
    /// Description of the change for a message.
    pub what: String,
}

/// An input to read.
#[derive(Clone, Copy, Debug)]
pub struct InputPlace<'a> {
    /// The table of the pipeline file that names it.
    pub table: &'a str,
    /// The key of that table.
    pub key: &'a str,
    /// Its path.
    pub path: &'a Path,
    /// Kind of the input.
    pub form: InputForm,
    /// Commit of the hub that it was resolved to.
    pub revision: Option<&'a str>,
    /// Hash of a text that was read before the run was opened.
    pub content: Option<&'a str>,
}

/// The error for inputs that have changed since the run read them.
pub fn changed_error(run: &Run, what: &[String]) -> Error {
    Error::user(format!(
        "the run `{}` read other inputs than are here now:\n  {}",
        run.dir().display(),
        what.join("\n  ")
    ))
}

impl Run {
    /// Compares an input with its manifest entry before it is read, or records the entry at the first read.
    ///
    /// # Errors
    /// The input has changed since the run first read it; it cannot be read; the disk is full.
    pub fn read_input(&self, place: &InputPlace<'_>) -> Result<()> {
        let id = (place.table.to_owned(), place.key.to_owned());
        // The lock is held while hashing, so that another thread with the same input waits instead of hashing
        // it too.
        let mut seen = self.checked_inputs();
        if let Some(before) = seen.get(&id)
            && *before == file_stamps(place.path, place.form)?
        {
            return Ok(());
        }
        let known = self.input(place.table, place.key);
        let found = snapshot(place.path, place.form, known.as_ref())?;
        // `content` is the hash of one text, so it is comparable with a single file only.
        let read_before = place.content.filter(|_| found.files.len() == 1);
        if let (Some(read), Some(now)) = (read_before, found.files.values().next())
            && now.hash != read
        {
            let what = format!("`{}` has changed since the pipeline file was checked", place.path.display());
            return Err(changed_error(self, &[what]));
        }
        match known {
            Some(known) => {
                if let Some(what) = known.difference(&found) {
                    return Err(
                        changed_error(self, &[what]).help("give it back its content, or start another run with --name")
                    );
                }
            }
            None => self.record_input(InputEntry {
                table: id.0.clone(),
                key: id.1.clone(),
                path: place.path.to_string_lossy().into_owned(),
                form: place.form,
                revision: place.revision.map(str::to_owned),
                hash: found.hash,
                files: found.files,
            })?,
        }
        seen.insert(id, found.file_stamps);
        Ok(())
    }

    /// The recorded inputs selected by `wanted` that have changed since.
    ///
    /// # Errors
    /// An input exists and cannot be read.
    pub fn changed_inputs(&self, wanted: &dyn Fn(&InputEntry) -> bool) -> Result<Vec<ChangedInput>> {
        let mut changed = Vec::new();
        for entry in self.inputs().into_iter().filter(|e| wanted(e)) {
            let path = Path::new(&entry.path);
            let what = match fs::metadata(path) {
                // A model of the hub is downloaded again, at the recorded commit.
                Err(_) if entry.revision.is_some() => None,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    Some(format!("`{}` is gone ({}.{})", entry.path, entry.table, entry.key))
                }
                _ => entry.difference(&snapshot(path, entry.form, Some(&entry))?),
            };
            changed.extend(what.map(|what| ChangedInput { table: entry.table.clone(), what }));
        }
        Ok(changed)
    }

    /// Compares the inputs that this process has read with their recorded state. A run calls it at its end,
    /// because an input that changes during the run gives rows of both versions.
    ///
    /// # Errors
    /// An input has changed or cannot be read.
    pub fn check_inputs_again(&self) -> Result<()> {
        let seen = self.checked_inputs().clone();
        let unchanged = |e: &InputEntry| {
            let before = seen.get(&(e.table.clone(), e.key.clone()));
            before.is_none_or(|before| file_stamps(Path::new(&e.path), e.form).is_ok_and(|now| now == *before))
        };
        let changed = self.changed_inputs(&|e| !unchanged(e))?;
        if changed.is_empty() {
            return Ok(());
        }
        let what: Vec<String> = changed.into_iter().map(|c| c.what).collect();
        Err(changed_error(self, &what))
    }

    fn record_input(&self, entry: InputEntry) -> Result<()> {
        self.record_if_open(Entry::Input(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place<'a>(path: &'a Path, form: InputForm) -> InputPlace<'a> {
        InputPlace { table: "step.p", key: "dataset", path, form, revision: None, content: None }
    }
    fn open(dir: &Path) -> Run {
        Run::create_or_open(&dir.join("run"), "[step.p]\n", 1, false).unwrap().0
    }
    fn all(_: &InputEntry) -> bool {
        true
    }

    #[test]
    fn an_input_is_recorded_once_and_a_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        fs::write(&path, "{\"a\": 1}\n").unwrap();
        {
            let run = open(dir.path());
            run.read_input(&place(&path, InputForm::Dataset)).unwrap();
            run.read_input(&place(&path, InputForm::Dataset)).unwrap();
            assert_eq!(run.inputs().len(), 1);
            run.check_inputs_again().unwrap();
        }
        let run = open(dir.path());
        assert!(run.changed_inputs(&all).unwrap().is_empty());
        // The same size, and even the same time of modification.
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "{\"a\": 2}\n").unwrap();
        fs::File::options().append(true).open(&path).unwrap().set_modified(before).unwrap();
        let changed = run.changed_inputs(&all).unwrap();
        assert!(changed[0].what.contains("p.jsonl` has other content (step.p.dataset)"), "{changed:?}");
        let refused = run.read_input(&place(&path, InputForm::Dataset)).unwrap_err().to_string();
        assert!(refused.contains("other inputs") && refused.contains("p.jsonl"), "{refused}");
        fs::remove_file(&path).unwrap();
        assert!(run.changed_inputs(&all).unwrap()[0].what.contains("is gone"));
        fs::write(&path, "{\"a\": 1}\n").unwrap();
        run.read_input(&place(&path, InputForm::Dataset)).unwrap();
    }

    #[test]
    fn a_change_while_the_run_reads_is_found_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rubric.jinja");
        fs::write(&path, "A").unwrap();
        let run = open(dir.path());
        run.read_input(&place(&path, InputForm::Text)).unwrap();
        fs::write(&path, "B, and longer").unwrap();
        assert!(run.check_inputs_again().unwrap_err().to_string().contains("13 bytes, it had 1"));
        assert!(run.read_input(&place(&path, InputForm::Text)).is_err());
    }

    #[test]
    fn a_folder_is_what_its_loader_reads() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        fs::create_dir(&model).unwrap();
        for name in ["config.json", "model.safetensors", "README.md", "training.log"] {
            fs::write(model.join(name), name).unwrap();
        }
        let run = open(dir.path());
        run.read_input(&place(&model, InputForm::Model)).unwrap();
        let files: Vec<String> = run.inputs()[0].files.keys().cloned().collect();
        assert_eq!(files, ["config.json", "model.safetensors"]);
        fs::write(model.join("README.md"), "more").unwrap();
        assert!(run.changed_inputs(&all).unwrap().is_empty(), "nobody reads it");
        fs::write(model.join("tokenizer.json"), "{}").unwrap();
        assert!(run.changed_inputs(&all).unwrap()[0].what.contains("tokenizer.json` is new"));
    }
}
