//! The table of diagnostic codes, with titles and explanations. `reflux explain E0102` prints from it.

/// Whether a diagnostic stops the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The file cannot be run.
    Error,
    /// The file can be run, but probably not as meant.
    Warning,
}

/// A kind of diagnostic.
#[derive(Debug)]
pub struct Code {
    /// `E0102`, `W0401`.
    pub id: &'static str,
    /// Kebab-case title, e.g. `unknown-key`.
    pub name: &'static str,
    /// A longer explanation of the cause and the remedy.
    pub explanation: &'static str,
}

impl Code {
    /// Returns the severity: codes of warnings start with W.
    pub fn severity(&self) -> Severity {
        if self.id.starts_with('W') { Severity::Warning } else { Severity::Error }
    }
}

/// Finds the code with this id or title, ignoring case.
pub fn find(id_or_name: &str) -> Option<&'static Code> {
    ALL.iter().copied().find(|c| c.id.eq_ignore_ascii_case(id_or_name) || c.name.eq_ignore_ascii_case(id_or_name))
}

macro_rules! codes {
    ($($ident:ident = $id:literal $name:literal $explanation:literal;)*) => {
        $(#[doc = $explanation] pub static $ident: Code = Code { id: $id, name: $name, explanation: $explanation };)*
        /// Every code, by id.
        pub static ALL: &[&Code] = &[$(&$ident),*];
    };
}

codes! {
    UNREADABLE = "E0001" "unreadable-file"
        "The pipeline file could not be read: it does not exist, may not be opened, is not UTF-8 text, or is larger than 1 MiB.";
    SYNTAX = "E0002" "syntax"
        "The file is not TOML. Nothing else is checked until it is. A key or table that is given twice counts too.";
    NO_THREAD = "E0003" "no-thread"
        "The system gave reflux no thread to read the file with. Nothing is known of the file. Raise the limits of threads and memory \
         (`ulimit -u`, `ulimit -v`), or end other programs.";
    UNKNOWN_SECTION = "E0101" "unknown-section"
        "The top level has the tables pipeline, engine, health, model.NAME, step.NAME, loop and study, and nothing else.";
    UNKNOWN_KEY = "E0102" "unknown-key"
        "The table has a key that nobody reads. Each operator lists its keys with `reflux operators`.";
    MISSING_KEY = "E0103" "missing-key"
        "A key without a default was not given.";
    WRONG_TYPE = "E0104" "wrong-type"
        "A value has another type than its key asks for: text where a number is wanted, say. An integer may stand for a float.";
    OUT_OF_RANGE = "E0105" "out-of-range"
        "A number, size or length lies outside of what its key allows.";
    BAD_CHOICE = "E0106" "bad-choice"
        "The key takes one of a few words, and this is none of them.";
    BAD_NAME = "E0107" "bad-name"
        "Names of pipelines, steps and models become directories. They start with a letter, a digit or an underscore, go on with these or hyphens, have at most 64 characters, and are not a reserved word.";
    MISSING_FILE = "E0108" "missing-file"
        "A file or directory that a key names does not exist. Relative paths start from the directory that reflux is run in.";
    CONFLICT = "E0109" "conflicting-keys"
        "Two values of one table do not go together, or a value breaks a rule that its operator states.";
    BAD_OVERRIDE = "E0110" "bad-override"
        "`--set` takes SECTION.KEY=VALUE, e.g. --set step.dpo.beta=0.2; a value that is not TOML is taken as text.";
    UNKNOWN_OPERATOR = "E0201" "unknown-operator"
        "`op` names no operator. `reflux operators` lists them.";
    UNKNOWN_STEP = "E0202" "unknown-step"
        "`from`, or another key that names a step, names one that the file does not have.";
    DUPLICATE_INPUT = "E0203" "duplicate-input"
        "A step lists the same input twice.";
    TOO_FEW_INPUTS = "E0204" "too-few-inputs"
        "The operator reads more input steps than `from` lists.";
    TOO_MANY_INPUTS = "E0205" "too-many-inputs"
        "The operator reads fewer input steps than `from` lists.";
    SCHEMA_MISMATCH = "E0206" "schema-mismatch"
        "A step's input has another schema than the step can read. `reflux schema` lists the schemas with their columns.";
    CYCLE = "E0207" "cycle"
        "Steps read from one another in a circle. The only way round is the loop: a step that uses model = \"policy\" gets the model that loop.next made one iteration before.";
    NO_STEPS = "E0208" "no-steps"
        "The file has no [step.NAME] table, so there is nothing to run.";
    UNKNOWN_LENGTH = "E0209" "unknown-length"
        "A training that takes microbatches as they close sets its learning rate by how many of them there will be. That is known where they come from a step with per_iteration, not where a dataset is read to its end.";
    UNKNOWN_MODEL = "E0301" "unknown-model"
        "`model` names neither a [model.NAME] table, nor a training step, nor \"policy\".";
    POLICY_WITHOUT_LOOP = "E0302" "policy-without-loop"
        "\"policy\" is the model of the current iteration. Without a loop table there is none.";
    MODEL_IN_LOOP = "E0303" "model-in-loop"
        "A training step inside the loop makes another model in each iteration. Name it \"policy\"; only a training step that runs once can be named by itself.";
    NOT_A_TRAINER = "E0304" "not-a-model"
        "A key that wants a model names a step that makes rows, not a model.";
    NEXT_NOT_TRAINING = "E0305" "next-not-training"
        "loop.next must name a training step: its model is the policy of the next iteration.";
    NEXT_NOT_IN_LOOP = "E0306" "next-not-in-loop"
        "loop.next must depend on the policy, by its model or through its inputs; otherwise every iteration would make the same model.";
    POLICY_IN_LOOP = "E0307" "first-policy-in-loop"
        "loop.policy is the policy of the first iteration. It must exist before the loop starts: a model, or a training step that runs once.";
    MODEL_UNUSED = "E0308" "takes-no-model"
        "The operator uses no model, but `model` is given.";
    AMBIGUOUS_NAME = "E0309" "ambiguous-name"
        "Two things share a name, or have names that differ in case only: a model and a step, the models that two steps make (a loop makes M1, M2 and so on), or the folders of two steps.";
    UNKNOWN_SERVER = "E0310" "unknown-server"
        "`server` of a model is neither an address, which has `://`, nor the name of a [server.NAME] table of the file.";
    UNUSED_STEP = "W0401" "unused-step"
        "Nobody reads what the step makes, and it is not kept either, or it only reads what is already stored.";
    UNUSED_MODEL = "W0402" "unused-model"
        "No step uses the model, or no model uses the server. It is not loaded or started.";
    ABSENT_DATA = "W0403" "absent-data"
        "A file or directory that a key names does not exist. With `check --no-data`, and for `explain` and `cost`, which read none, the file is right for all that; it cannot be run here.";
    NOT_SHOWN = "W0404" "not-shown"
        "A template does not show everything that it is given: the judge's rubric leaves out the prompt, say. The model then does not know it.";
    UNUSED_VALUES = "W0405" "unused-values"
        "A list by iteration has more values than its step has iterations. The last ones are not used; a run that goes on with more iterations would use them.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_unique_and_sorted() {
        for pair in ALL.windows(2) {
            assert!(pair[0].id.trim_start_matches(['E', 'W']) < pair[1].id.trim_start_matches(['E', 'W']));
        }
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|c| c.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(find("unknown-KEY").map(|c| c.id), Some("E0102"));
        assert_eq!(find("w0401").map(Code::severity), Some(Severity::Warning));
        assert!(find("E9999").is_none());
    }
}
