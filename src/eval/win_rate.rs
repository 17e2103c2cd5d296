//! Head-to-head results: wins, ties, losses, and the win rate with its interval.

use std::collections::BTreeMap;

use super::bootstrap::{Bootstrap, ClusterSum, Estimate};

/// The outcome of a comparison, from the first answer's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ComparisonOutcome {
    /// The first is better.
    Win,
    /// Neither is better, or the verdicts in the two orders disagree.
    Tie,
    /// The second is better.
    Loss,
    /// Unknown, because no verdict was readable. It is counted, but in no rate.
    Null,
}

impl ComparisonOutcome {
    /// The first one's share of the win: 1, 1/2 or 0.
    pub fn share(self) -> Option<f64> {
        match self {
            ComparisonOutcome::Win => Some(1.),
            ComparisonOutcome::Tie => Some(0.5),
            ComparisonOutcome::Loss => Some(0.),
            ComparisonOutcome::Null => None,
        }
    }
    /// As in the datasets.
    pub fn name(self) -> &'static str {
        match self {
            ComparisonOutcome::Win => "win",
            ComparisonOutcome::Tie => "tie",
            ComparisonOutcome::Loss => "loss",
            ComparisonOutcome::Null => "null",
        }
    }
    /// The outcome with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [ComparisonOutcome::Win, ComparisonOutcome::Tie, ComparisonOutcome::Loss, ComparisonOutcome::Null]
            .into_iter()
            .find(|o| o.name() == name)
    }
    /// Of two scores: the greater wins, and they tie within `margin`; not known without one of them.
    pub fn from_scores(first: Option<f64>, second: Option<f64>, margin: f64) -> Self {
        match (first, second) {
            (Some(a), Some(b)) if a - b > margin => ComparisonOutcome::Win,
            (Some(a), Some(b)) if b - a > margin => ComparisonOutcome::Loss,
            (Some(a), Some(b)) if !(a - b).is_nan() => ComparisonOutcome::Tie,
            _ => ComparisonOutcome::Null,
        }
    }
}

/// The outcomes of many comparisons, by prompt.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct WinRecord {
    /// Numbers of wins, ties, losses and nulls by prompt, in the order of the prompts' names, so that a share does not
    /// depend on the order of rows.
    prompts: BTreeMap<String, [u64; 4]>,
}

impl WinRecord {
    /// Adds a comparison of two answers to a prompt.
    pub fn add(&mut self, prompt: &str, outcome: ComparisonOutcome) {
        let counts = match self.prompts.get_mut(prompt) {
            Some(counts) => counts,
            None => self.prompts.entry(prompt.into()).or_default(),
        };
        counts[outcome as usize] += 1;
    }
    /// Number of comparisons with this outcome.
    pub fn count(&self, outcome: ComparisonOutcome) -> u64 {
        self.prompts.values().map(|counts| counts[outcome as usize]).sum()
    }
    /// Number of comparisons with a verdict.
    pub fn n(&self) -> u64 {
        self.prompts.values().map(|[wins, ties, losses, _]| wins + ties + losses).sum()
    }
    /// A share of the comparisons with a verdict, its interval by prompts; `None` without a verdict. `of` has the
    /// numbers of wins, ties and losses.
    pub fn share(&self, of: fn([f64; 3]) -> f64, bootstrap: &Bootstrap) -> Option<Estimate> {
        let parts = self.prompts.values().map(|&[wins, ties, losses, _]| {
            (of([wins as f64, ties as f64, losses as f64]), (wins + ties + losses) as f64)
        });
        bootstrap.ratio(&parts.collect::<Vec<ClusterSum>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_nulls_apart_and_draws_prompts_whole() {
        use ComparisonOutcome::{Loss, Null, Tie, Win};
        let record = |rows: &[(&str, ComparisonOutcome)]| {
            let mut record = WinRecord::default();
            rows.iter().for_each(|(prompt, outcome)| record.add(prompt, *outcome));
            record
        };
        let rate = |record: &WinRecord| record.share(|[wins, ties, _]| wins + ties / 2., &Bootstrap::default());
        let rows = [("p", Win), ("p", Tie), ("q", Loss), ("q", Null), ("r", Null), ("s", Win)];
        let all = record(&rows);
        assert_eq!([Win, Tie, Loss, Null].map(|outcome| all.count(outcome)), [2, 1, 1, 2]);
        assert_eq!(all.n(), 4);
        let win_rate = rate(&all).unwrap();
        assert_eq!((win_rate.value, win_rate.n), (0.625, 4));
        assert!(win_rate.low < 0.625 && 0.625 < win_rate.high);
        let mut turned = rows;
        turned.reverse();
        assert_eq!(record(&turned), all);
        // Ten answers to one prompt are one draw: there is nothing to vary.
        let one = rate(&record(&[[("p", Win); 5], [("p", Loss); 5]].concat())).unwrap();
        assert_eq!((one.low, one.high, one.n), (0.5, 0.5, 10));
        assert_eq!(rate(&record(&[("p", Null)])), None);
    }

    #[test]
    fn scores_within_the_margin_tie() {
        let of = |a, b| ComparisonOutcome::from_scores(a, b, 0.25);
        assert_eq!(of(Some(3.), Some(2.)), ComparisonOutcome::Win);
        assert_eq!(of(Some(3.), Some(3.25)), ComparisonOutcome::Tie);
        assert_eq!(of(Some(3.), Some(3.5)), ComparisonOutcome::Loss);
        assert_eq!(of(Some(f64::NAN), Some(3.5)), ComparisonOutcome::Null);
        assert_eq!(of(None, Some(3.5)), ComparisonOutcome::Null);
        assert!(["win", "tie", "loss", "null"].iter().all(|n| ComparisonOutcome::from_name(n).unwrap().name() == *n));
        assert_eq!(ComparisonOutcome::from_name("won"), None);
    }
}
