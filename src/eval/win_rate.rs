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

/// The result of many comparisons.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct WinRecord {
    /// Comparisons that the first won.
    pub wins: u64,
    /// Comparisons without a winner.
    pub ties: u64,
    /// Comparisons that the second won.
    pub losses: u64,
    /// Comparisons without a readable verdict.
    pub nulls: u64,
    /// Prompts with at least one verdict.
    pub prompts: u64,
    /// `(wins + ties / 2) / (wins + ties + losses)`, its interval by prompts; `None` without a verdict.
    pub win_rate: Option<Estimate>,
    /// `wins / n` in the same way, as the paper's figures show it.
    pub win_share: Option<Estimate>,
    /// `ties / n`.
    pub tie_share: Option<Estimate>,
    /// `losses / n`.
    pub loss_share: Option<Estimate>,
}

impl WinRecord {
    /// Of comparisons, each with the prompt that its answers belong to.
    pub fn from_comparisons<'a>(
        comparisons: impl IntoIterator<Item = (&'a str, ComparisonOutcome)>,
        bootstrap: &Bootstrap,
    ) -> Self {
        // By prompt in the order of their names, so that the result does not depend on the order of rows.
        let mut prompts: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
        for (prompt, outcome) in comparisons {
            prompts.entry(prompt).or_default()[outcome as usize] += 1;
        }
        let sum = |o: ComparisonOutcome| prompts.values().map(|c| c[o as usize]).sum::<u64>();
        let share = |of: &dyn Fn(&[u64; 4]) -> f64| {
            let parts: Vec<ClusterSum> = prompts.values().map(|c| (of(c), (c[0] + c[1] + c[2]) as f64)).collect();
            bootstrap.ratio(&parts)
        };
        Self {
            wins: sum(ComparisonOutcome::Win),
            ties: sum(ComparisonOutcome::Tie),
            losses: sum(ComparisonOutcome::Loss),
            nulls: sum(ComparisonOutcome::Null),
            prompts: prompts.values().filter(|c| c[0] + c[1] + c[2] > 0).count() as u64,
            win_rate: share(&|c| c[0] as f64 + c[1] as f64 / 2.),
            win_share: share(&|c| c[0] as f64),
            tie_share: share(&|c| c[1] as f64),
            loss_share: share(&|c| c[2] as f64),
        }
    }
    /// Comparisons with a verdict.
    pub fn n(&self) -> u64 {
        self.wins + self.ties + self.losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_nulls_apart_and_draws_prompts_whole() {
        use ComparisonOutcome::{Loss, Null, Tie, Win};
        let rows = [("p", Win), ("p", Tie), ("q", Loss), ("q", Null), ("r", Null), ("s", Win)];
        let record = WinRecord::from_comparisons(rows, &Bootstrap::default());
        assert_eq!((record.wins, record.ties, record.losses, record.nulls), (2, 1, 1, 2));
        assert_eq!((record.n(), record.prompts), (4, 3));
        let rate = record.win_rate.unwrap();
        assert_eq!((rate.value, rate.n), (0.625, 4));
        assert!(rate.low < 0.625 && 0.625 < rate.high);
        let mut turned = rows;
        turned.reverse();
        assert_eq!(WinRecord::from_comparisons(turned, &Bootstrap::default()), record);
        // Ten answers to one prompt are one draw: there is nothing to vary.
        let one =
            WinRecord::from_comparisons((0..10).map(|i| ("p", if i < 5 { Win } else { Loss })), &Bootstrap::default());
        let rate = one.win_rate.unwrap();
        assert_eq!((rate.low, rate.high, rate.n), (0.5, 0.5, 10));
        assert_eq!(WinRecord::from_comparisons([("p", Null)], &Bootstrap::default()).win_rate, None);
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
