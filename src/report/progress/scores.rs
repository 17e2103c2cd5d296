//! Running figures of judged answers: mean, histogram, unreadable judgements, and an occasional example.

use std::time::Duration;

use arrow::array::{Array, RecordBatch};

use crate::data::Columns;

/// Number of histogram bins.
const BINS: usize = 10;

/// Score counts of a step in one iteration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ScoreCounts {
    /// All answers, and those with a score.
    pub answers: u64,
    pub scored: u64,
    sum: f64,
    /// All judgements, and those without a readable score.
    pub judgements: u64,
    pub unread: u64,
    /// The scale, and the number of scores in each of its equal parts.
    pub scale: Option<(f32, f32)>,
    pub bins: [u64; BINS],
}

impl ScoreCounts {
    /// Counts the scores of a batch; returns `None` if it has no scores.
    pub fn of(rows: &RecordBatch, scale: Option<(f32, f32)>) -> Option<Self> {
        let columns = Columns(rows);
        let (scores, said) = (columns.float("score").ok()?, columns.judgements("judgements").ok()?);
        let mut all = Self { answers: rows.num_rows() as u64, scale, ..Self::default() };
        for i in 0..rows.num_rows() {
            for (outcome, _) in said.row(i) {
                all.judgements += 1;
                all.unread += u64::from(outcome != "score");
            }
            if scores.is_valid(i) {
                all.scored += 1;
                all.sum += f64::from(scores.value(i));
                if let Some(bin) = scale.and_then(|scale| bin(scores.value(i), scale)) {
                    all.bins[bin] += 1;
                }
            }
        }
        Some(all)
    }

    pub fn add(&mut self, more: &Self) {
        self.answers += more.answers;
        self.scored += more.scored;
        self.sum += more.sum;
        self.judgements += more.judgements;
        self.unread += more.unread;
        self.scale = more.scale;
        self.bins.iter_mut().zip(more.bins).for_each(|(bin, n)| *bin += n);
    }

    /// Mean of the scores; `None` without scores.
    pub fn mean(&self) -> Option<f64> {
        (self.scored > 0).then(|| self.sum / self.scored as f64)
    }

    /// Formats the histogram as a line of blocks between the ends of the scale.
    pub fn histogram(&self) -> Option<String> {
        const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let ((least, greatest), most) = (self.scale?, *self.bins.iter().max()?);
        if most == 0 {
            return None;
        }
        let block = |&n: &u64| match n {
            0 => ' ',
            n => BLOCKS[((n * BLOCKS.len() as u64).div_ceil(most) as usize).clamp(1, BLOCKS.len()) - 1],
        };
        Some(format!("{least}|{}|{greatest}", self.bins.iter().map(block).collect::<String>()))
    }
}

/// Returns the histogram bin of a score; the greatest score belongs to the last bin.
fn bin(score: f32, (least, greatest): (f32, f32)) -> Option<usize> {
    let share = (score - least) / (greatest - least);
    share.is_finite().then(|| ((share * BINS as f32).max(0.) as usize).min(BINS - 1))
}

/// A judged answer as an example. Its texts come from a model, so they must be escaped before printing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ScoredSample {
    /// When it was first shown.
    pub at: Duration,
    /// The step that judged it.
    pub step: String,
    pub prompt: String,
    pub response: String,
    pub score: f32,
    /// Text of the judgement; empty if the judge wrote none.
    pub judgement: String,
}

impl ScoredSample {
    /// Takes the first row with a score.
    pub fn of(rows: &RecordBatch, at: Duration, step: &str) -> Option<Self> {
        let columns = Columns(rows);
        let (prompts, responses) = (columns.text("prompt").ok()?, columns.text("response").ok()?);
        let (scores, said) = (columns.float("score").ok()?, columns.judgements("judgements").ok()?);
        let row = (0..rows.num_rows()).find(|&i| scores.is_valid(i))?;
        let judgement = said.whole(row).into_iter().find(|j| j.score.is_some());
        Some(Self {
            at,
            step: step.to_owned(),
            prompt: prompts.value(row).to_owned(),
            response: responses.value(row).to_owned(),
            score: scores.value(row),
            judgement: judgement.map(|j| j.text).unwrap_or_default(),
        })
    }
}
