//! A microbatch may have no rows: a filter before it left none. Every operator takes it.

use std::collections::BTreeSet;

use crate::common::{self, RunOptions, run};
use reflux::operators;
use reflux::store::Run;

/// Operators that read no microbatch of another step.
const STARTERS: [&str; 3] = ["read", "listworld", "synthesize"];

/// Steps after `unique`, whose second microbatch is empty.
const STEPS: &str = r#"
[step.unique]
op = "dedup"
from = "given"
[step.answers]
op = "generate"
from = "unique"
model = "tiny"
samples = 3
sampling = { temperature = 1.0, max_tokens = 6 }
[step.others]
op = "generate"
from = "unique"
model = "script"
samples = 2
[step.scores]
op = "judge"
from = "answers"
model = "script"
samples = 4
keep_tokens = true
[step.again]
op = "rescore"
from = "scores"
[step.meta]
op = "meta-judge"
from = "scores"
model = "script"
[step.truth]
op = "oracle"
from = "answers"
[step.pairs]
op = "select"
from = "scores"
strategy = "all-pairs"
consistency = "again"
consistency_of = "microbatch"
[step.meta_pairs]
op = "select"
from = "meta"
[step.both]
op = "concat"
from = "pairs"
with = "meta_pairs"
[step.good]
op = "positives"
from = "scores"
score_min = 0.0
[step.judged]
op = "compare"
from = ["answers", "others"]
model = "script"
[step.counted]
op = "compare"
from = ["scores", "again"]
by = "score"
[step.figures]
op = "measure"
from = ["judged", "scores", "answers"]
resamples = 10
[step.ift]
op = "listworld"
data = "ift"
rows = 4
[step.part]
op = "split"
from = "ranked"
part = "held-out"
[step.part_scores]
op = "judge"
from = "part"
model = "script"
samples = 2
[step.eft]
op = "build_eft"
from = "part_scores"
ranks = "part"
balance = 0.0
[step.tuned]
op = "sft"
from = ["good", "ift"]
model = "tiny"
[step.trained]
op = "dpo"
from = "both"
model = "tiny"
other_tokenizer = "encode"
[step.outside]
op = "train"
from = "both"
model = "tiny"
command = ["sh", "-c", "cp {model}/* {output}; ls {pairs}"]
"#;

#[test]
fn every_operator_takes_a_microbatch_without_rows() {
    let temp = tempfile::tempdir().unwrap();
    let given = temp.path().join("given.jsonl");
    let line = |prompt: &str| format!("{{\"prompt\": \"{prompt}\"}}\n");
    std::fs::write(&given, ["list a b", "list c", "list a b", "list c", "list d", "list e"].map(line).concat())
        .unwrap();
    let script = common::script(temp.path(), 0);
    let text = format!(
        "[pipeline]\nname = \"empty\"\nseed = 3\nmicrobatch = 2\n[model.tiny]\ninit = \"pipelines/listworld/model\"\n[model.script]\n\
         script = {script:?}\n[step.given]\nop = \"read\"\ndataset = {given:?}\n[step.ranked]\nop = \"listworld\"\ndata = \"ranked\"\n\
         rows = 24\n{STEPS}"
    );
    let tried: BTreeSet<&str> = text.lines().filter_map(|l| l.strip_prefix("op = \"")?.strip_suffix('"')).collect();
    let all: BTreeSet<&str> = operators::ALL.iter().map(|kind| kind.name).collect();
    assert_eq!(
        all.difference(&tried).copied().collect::<Vec<_>>(),
        STARTERS.into_iter().filter(|s| !tried.contains(s)).collect::<Vec<_>>()
    );
    let dir = temp.path().join("run");
    run(&text, &dir, &RunOptions::default()).0.unwrap();
    let run = Run::open(&dir).unwrap();
    let rows = |step: &str| run.files(step).iter().map(|f| (f.microbatch, f.rows)).collect::<Vec<_>>();
    assert_eq!(rows("unique"), [(0, 2), (1, 0), (2, 2)]);
    for step in [
        "answers",
        "others",
        "scores",
        "again",
        "meta",
        "truth",
        "pairs",
        "meta_pairs",
        "both",
        "good",
        "judged",
        "counted",
    ] {
        assert!(rows(step).contains(&(1, 0)), "{step}: {:?}", rows(step));
    }
    assert!(rows("part").iter().any(|(_, rows)| *rows == 0), "{:?}", rows("part"));
    assert_eq!(rows("part_scores").len(), rows("part").len());
    assert!(run.read_step("eft", None).unwrap().is_some_and(|rows| rows.num_rows() > 0));
}
