//! Steps that wait for all that comes of the source that feeds them: however many microbatches it has, the run ends.

use crate::common::{ends, outcome};
use reflux::data::Columns;
use reflux::store::Run;

/// Twelve microbatches, three times what is open at once. `m1` learns from the source and answers it; `against` has all of
/// `marks_m1` beside each of its microbatches of `marks`, and both are made of the source.
const DIAMOND: &str = r#"
[pipeline]
name = "diamond"
seed = 4
microbatch = 4
[model.m0]
init = "pipelines/listworld/model"
[step.source]
op = "listworld"
data = "ift"
rows = 48
[step.ift]
op = "split"
from = "source"
part = "train"
[step.asked]
op = "split"
from = "source"
part = "held-out"
[step.m1]
op = "sft"
from = "ift"
model = "m0"
learning_rate = 1e-3
[step.answers]
op = "generate"
from = "asked"
model = "m0"
samples = 1
sampling = { max_tokens = 3 }
[step.answers_m1]
op = "generate"
from = "asked"
model = "m1"
samples = 1
sampling = { max_tokens = 3 }
[step.marks]
op = "oracle"
from = "answers"
[step.marks_m1]
op = "oracle"
from = "answers_m1"
[step.against]
op = "compare"
from = ["marks", "marks_m1"]
by = "score"
[step.figures]
op = "measure"
from = "against"
"#;

#[test]
fn a_step_can_wait_for_what_it_is_fed_by() {
    let temp = tempfile::tempdir().unwrap();
    let (one, two) = (temp.path().join("one"), temp.path().join("two"));
    ends(DIAMOND, &one, 1);
    ends(DIAMOND, &two, 2);
    assert_eq!(outcome(&one), outcome(&two));
    let opened = Run::open(&one).unwrap();
    assert_eq!(opened.files("source").len(), 12);
    let rows = |step: &str| opened.read_step(step, Some(0)).unwrap().unwrap();
    let (asked, against) = (rows("asked"), rows("against"));
    assert_eq!(asked.num_rows() + rows("ift").num_rows(), 48);
    assert!(asked.num_rows() >= 5 && against.num_rows() == asked.num_rows());
    assert!(Columns(&against).text("second_id").unwrap().iter().all(|id| id.is_some()), "every answer met the other's");
}
