//! A judge as a reward model, against answers that people have ranked: Table 4 of Self-Rewarding Language Models. Each
//! figure of the table is a sum and a weight of every prompt's answers, see [`Bootstrap::ratio`].
//!
//! * **Pairwise accuracy**: share of pairs of answers to one prompt that judge and people order alike. Pairs that
//!   people tie do not count; a pair that the judge ties is not ordered alike.
//! * **5-best**: of the answers with a perfect score, the share that people rank top (a shared top is the top).
//! * **Exact match**: share of prompts whose every pair that people order, the judge orders alike.
//! * **Spearman's rho, Kendall's tau-b**: means over prompts, each between its answers' scores and their ranks turned
//!   round. Where the judge gives all answers one score neither is defined and 0 stands for it: no order was told.
//!   Prompts that people rank all alike do not count, nor those with one answer.
//!
//! The paper does not say what it does with ties; these are the choices that a judge cannot gain by. Answers without
//! a score are taken out first, and counted.

use super::bootstrap::{Bootstrap, ClusterSum, Estimate};
use super::statistics::{kendall_tau, spearman};

/// An answer's rank among those to its prompt (lower is better), and its score by the judge.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RankedAnswer {
    /// Rank by people; 0 is the best.
    pub rank: f64,
    /// Score by the judge; none if no judgement was readable.
    pub score: Option<f64>,
}

/// Rank and score of each answer that has a score.
pub fn scored(answers: &[RankedAnswer]) -> impl Iterator<Item = (f64, f64)> {
    answers.iter().filter_map(|answer| Some((answer.rank, answer.score.filter(|score| score.is_finite())?)))
}

/// Pairs of a prompt ordered alike, of the pairs that people order.
pub fn pairwise_accuracy(answers: &[RankedAnswer]) -> ClusterSum {
    let pairs = HumanPairs::count(answers);
    (pairs.alike, pairs.all)
}

/// Pairs of a prompt that the judge ties, of the pairs that people order.
pub fn pairwise_tied(answers: &[RankedAnswer]) -> ClusterSum {
    let pairs = HumanPairs::count(answers);
    (pairs.tied, pairs.all)
}

/// Answers to a prompt that people rank top, of those whose score is at least `perfect`, the greatest score of the
/// rubric: 5 in the paper.
pub fn five_best(answers: &[RankedAnswer], perfect: f64) -> ClusterSum {
    let top = answers.iter().map(|answer| answer.rank).fold(f64::INFINITY, f64::min);
    let best = scored(answers).filter(|(_, score)| *score >= perfect);
    let (best, all) = best.fold((0, 0), |(best, all), (rank, _)| (best + i32::from(rank == top), all + 1));
    (best.into(), all.into())
}

/// Whether the judge orders every pair of a prompt as people do, if they order any.
pub fn exact_match(answers: &[RankedAnswer]) -> ClusterSum {
    let pairs = HumanPairs::count(answers);
    let counts = pairs.all > 0.;
    (f64::from(u8::from(counts && pairs.alike == pairs.all)), f64::from(u8::from(counts)))
}

/// Spearman's rho of a prompt's answers, if people do not rank them all alike.
pub fn rank_spearman(answers: &[RankedAnswer]) -> ClusterSum {
    correlation(answers, spearman)
}

/// Kendall's tau-b of a prompt's answers, if people do not rank them all alike.
pub fn rank_kendall(answers: &[RankedAnswer]) -> ClusterSum {
    correlation(answers, kendall_tau)
}

fn correlation(answers: &[RankedAnswer], of: fn(&[f64], &[f64]) -> Option<f64>) -> ClusterSum {
    let (better, scores): (Vec<f64>, Vec<f64>) = scored(answers).map(|(rank, score)| (-rank, score)).unzip();
    let told = better.iter().any(|b| *b != better[0]);
    if told { (of(&better, &scores).unwrap_or(0.), 1.) } else { (0., 0.) }
}

/// Spearman's rho between the scores that answers were given and those of the judge, over all answers to all prompts,
/// with the prompts as clusters: where most prompts have one scored answer, ranks within a prompt say little. `None`
/// where either has all scores the same. What is no number is left out.
pub fn agreement(prompts: &[Vec<(f64, f64)>], bootstrap: &Bootstrap) -> Option<Estimate> {
    let known = |p: &Vec<(f64, f64)>| p.iter().copied().filter(|(a, b)| a.is_finite() && b.is_finite()).collect();
    let prompts: Vec<Vec<(f64, f64)>> = prompts.iter().map(known).collect();
    let answers = prompts.iter().map(Vec::len).sum::<usize>() as u64;
    bootstrap.figure(prompts.len(), answers, |drawn| {
        let (given, said): (Vec<f64>, Vec<f64>) = drawn.iter().flat_map(|&i| &prompts[i]).copied().unzip();
        spearman(&given, &said)
    })
}

/// The pairs of one prompt that people order.
struct HumanPairs {
    all: f64,
    alike: f64,
    tied: f64,
}

impl HumanPairs {
    fn count(answers: &[RankedAnswer]) -> Self {
        let answers: Vec<(f64, f64)> = scored(answers).collect();
        let mut pairs = Self { all: 0., alike: 0., tied: 0. };
        for (i, (rank, score)) in answers.iter().enumerate() {
            for (other_rank, other_score) in &answers[..i] {
                if rank == other_rank {
                    continue;
                }
                pairs.all += 1.;
                if score == other_score {
                    pairs.tied += 1.;
                } else if (rank < other_rank) == (score > other_score) {
                    pairs.alike += 1.;
                }
            }
        }
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scipy's rho; of the ends what is left is the Monte Carlo error of a quantile, of which the bounds are five
    /// standard errors.
    #[test]
    fn agreement_over_all_answers_is_scipys() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/eval/agreement.json")).unwrap();
        let cases = golden.as_array().unwrap();
        assert!(cases.len() >= 3);
        for case in cases {
            let prompts: Vec<Vec<(f64, f64)>> = serde_json::from_value(case["prompts"].clone()).unwrap();
            let got = agreement(&prompts, &Bootstrap { resamples: 40_000, seed: 2, ..Bootstrap::default() }).unwrap();
            let near = |name: &str, got: f64, within: f64| {
                assert!((got - case[name].as_f64().unwrap()).abs() <= within, "{name} {got}");
            };
            near("value", got.value, 1e-12);
            near("low", got.low, case["within"].as_f64().unwrap());
            near("high", got.high, case["within"].as_f64().unwrap());
            assert_eq!(got.n, case["n"].as_u64().unwrap());
        }
        let few = Bootstrap { resamples: 10, ..Bootstrap::default() };
        assert_eq!(agreement(&[], &few), None);
        assert_eq!(
            agreement(&[vec![(1., 2.), (3., 2.)], vec![(2., 2.)]], &few),
            None,
            "a judge that always says the same"
        );
        let with_nan = agreement(&[vec![(1., 2.), (f64::NAN, 1.)], vec![(2., 3.)]], &few).unwrap();
        assert!((with_nan.value - 1.).abs() < 1e-12 && with_nan.n == 2, "{with_nan:?}");
    }

    type OfPrompt = fn(&[RankedAnswer]) -> ClusterSum;

    #[test]
    fn the_table_is_what_scipy_and_the_definitions_say() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/eval/reward.json")).unwrap();
        let cases = golden.as_array().unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let prompts: Vec<Vec<(f64, Option<f64>)>> = serde_json::from_value(case["prompts"].clone()).unwrap();
            let judged = |p: &Vec<_>| p.iter().map(|&(rank, score)| RankedAnswer { rank, score }).collect();
            let prompts: Vec<Vec<RankedAnswer>> = prompts.iter().map(judged).collect();
            let unscored: usize = prompts.iter().map(|answers| answers.len() - scored(answers).count()).sum();
            assert_eq!(unscored as u64, case["nulls"].as_u64().unwrap());
            let few = Bootstrap { resamples: 200, ..Bootstrap::default() };
            let figures: [(&str, OfPrompt); 6] = [
                ("pairwise_accuracy", pairwise_accuracy),
                ("pairwise_tied", pairwise_tied),
                ("five_best", |answers| five_best(answers, 5.)),
                ("exact_match", exact_match),
                ("spearman", rank_spearman),
                ("kendall", rank_kendall),
            ];
            for (name, of) in figures {
                let got = few.ratio(&prompts.iter().map(|answers| of(answers)).collect::<Vec<_>>());
                match (got, case[name]["value"].as_f64()) {
                    (Some(got), Some(want)) => {
                        assert!((got.value - want).abs() < 1e-12, "{name}: {} is not {want}", got.value);
                        assert_eq!(got.n, case[name]["n"].as_u64().unwrap(), "{name}");
                        assert!(got.low <= got.value + 1e-12 && got.value <= got.high + 1e-12, "{name}: {got:?}");
                    }
                    (got, want) => assert_eq!((got.is_some(), want), (false, None), "{name}"),
                }
            }
        }
    }
}
