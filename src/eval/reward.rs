//! A judge as a reward model, against answers that people have ranked: Table 4 of Self-Rewarding Language Models.
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

/// The table. A figure is `None` if nothing counts for it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RewardModelTable {
    /// Prompts with an answer.
    pub prompts: u64,
    /// Answers.
    pub answers: u64,
    /// Answers without a score.
    pub nulls: u64,
    /// Share of pairs ordered alike; n counts the pairs.
    pub pairwise_accuracy: Option<Estimate>,
    /// Share of the same pairs that the judge ties.
    pub pairwise_tied: Option<Estimate>,
    /// n counts the answers with a perfect score.
    pub five_best: Option<Estimate>,
    /// n counts prompts.
    pub exact_match: Option<Estimate>,
    /// n counts prompts.
    pub spearman: Option<Estimate>,
    /// n counts prompts.
    pub kendall: Option<Estimate>,
}

impl RewardModelTable {
    /// Of prompts, each with its answers. `perfect` is the greatest score of the rubric, 5 in the paper.
    pub fn from_prompts(prompts: &[Vec<RankedAnswer>], perfect: f64, bootstrap: &Bootstrap) -> Self {
        let known = |answers: &Vec<RankedAnswer>| {
            let scored = answers.iter().filter_map(|a| Some((a.rank, a.score.filter(|s| s.is_finite())?)));
            scored.collect::<Vec<(f64, f64)>>()
        };
        let scored: Vec<Vec<(f64, f64)>> = prompts.iter().map(known).collect();
        let ratio = |of: &dyn Fn(usize) -> ClusterSum| {
            bootstrap.ratio(&(0..prompts.len()).map(of).collect::<Vec<ClusterSum>>())
        };
        let (answers, known) =
            (prompts.iter().map(Vec::len).sum::<usize>(), scored.iter().map(Vec::len).sum::<usize>());
        let correlation = |i: usize, of: fn(&[f64], &[f64]) -> Option<f64>| -> ClusterSum {
            let (better, scores): (Vec<f64>, Vec<f64>) = scored[i].iter().map(|(rank, score)| (-rank, score)).unzip();
            let told = better.iter().any(|b| *b != better[0]);
            if told { (of(&better, &scores).unwrap_or(0.), 1.) } else { (0., 0.) }
        };
        Self {
            prompts: prompts.iter().filter(|p| !p.is_empty()).count() as u64,
            answers: answers as u64,
            nulls: (answers - known) as u64,
            pairwise_accuracy: ratio(&|i| {
                let pairs = Pairs::count(&scored[i]);
                (pairs.alike, pairs.all)
            }),
            pairwise_tied: ratio(&|i| {
                let pairs = Pairs::count(&scored[i]);
                (pairs.tied, pairs.all)
            }),
            five_best: ratio(&|i| {
                let top = prompts[i].iter().map(|a| a.rank).fold(f64::INFINITY, f64::min);
                let perfect = scored[i].iter().filter(|(_, score)| *score >= perfect);
                let (best, all) =
                    perfect.fold((0, 0), |(best, all), (rank, _)| (best + i32::from(*rank == top), all + 1));
                (best.into(), all.into())
            }),
            exact_match: ratio(&|i| {
                let pairs = Pairs::count(&scored[i]);
                let counts = pairs.all > 0.;
                (f64::from(u8::from(counts && pairs.alike == pairs.all)), f64::from(u8::from(counts)))
            }),
            spearman: ratio(&|i| correlation(i, spearman)),
            kendall: ratio(&|i| correlation(i, kendall_tau)),
        }
    }
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
struct Pairs {
    all: f64,
    alike: f64,
    tied: f64,
}

impl Pairs {
    fn count(answers: &[(f64, f64)]) -> Self {
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
            let table =
                RewardModelTable::from_prompts(&prompts, 5., &Bootstrap { resamples: 200, ..Bootstrap::default() });
            assert_eq!(table.nulls, case["nulls"].as_u64().unwrap());
            for (name, got) in [
                ("pairwise_accuracy", table.pairwise_accuracy),
                ("pairwise_tied", table.pairwise_tied),
                ("five_best", table.five_best),
                ("exact_match", table.exact_match),
                ("spearman", table.spearman),
                ("kendall", table.kendall),
            ] {
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
