//! Chooses pairs from a prompt's answers, by pure functions of the scores, lengths and ids of one prompt.
//!
//! Scores are integers in thousandths; a smaller difference is a tie. Every decision depends on an answer's
//! *value*, its score minus the length penalty. Ties are broken by the declared tie-break, and finally by
//! the id, which is arbitrary but stable. So the order of the answers does not matter.

use std::cmp::{Ordering, Reverse};

use rand_chacha::rand_core::Rng;

use crate::dataflow::Item;

/// The order of an answer without a score: below every score.
pub(crate) const UNSCORED: i64 = i64::MIN;
/// Larger scores are clamped to this, so that differences do not overflow.
const GREATEST: f64 = 1e15;

/// Converts a score to thousandths.
pub(crate) fn thousandths(score: f64) -> i64 {
    (score * 1000.).round().clamp(-GREATEST, GREATEST) as i64
}

/// Which answers are paired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Strategy {
    /// The highest with the lowest: the paper's strategy.
    BestWorst,
    /// The highest with a lower one drawn at random.
    BestRandom,
    /// Every answer with every lower one.
    AllPairs,
}

/// How ties of answers with the same value are broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tie {
    /// By id alone.
    Id,
    /// By the lowest variance of the judge's scores (NeMo).
    Variance,
    /// The shortest is chosen and the longest rejected.
    Length,
}

/// The settings of a selection. Lists have a value for each iteration, and the last one applies to all
/// further ones.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub strategy: Strategy,
    /// Minimum difference of values, in thousandths, at least 1.
    pub least_margin: i64,
    /// Minimum score of a chosen answer, in thousandths.
    pub chosen_min: Option<i64>,
    /// Maximum score of a rejected answer, in thousandths.
    pub rejected_max: Option<i64>,
    /// rho of Meta-Rewarding (arXiv 2407.19594), by iteration.
    pub length_control: Vec<f64>,
    /// Penalty in points per unit of length.
    pub length_penalty: f64,
    /// Maximum length of a chosen answer, by iteration; 0 means no limit.
    pub max_chosen_length: Vec<u32>,
    /// Maximum number of pairs of a prompt.
    pub max_pairs: usize,
    pub tie: Tie,
}

/// A selected pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SelectedPair {
    pub chosen: Item,
    pub rejected: Item,
    /// Difference of the values, in thousandths: at least 1.
    pub margin: i64,
}

/// Why a prompt has no pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    NoScore,
    OneAnswer,
    Tie,
    Threshold,
    BelowMargin,
    TooLong,
    SameAnswer,
}

impl Reason {
    const ALL: [Self; 7] = [
        Self::NoScore,
        Self::OneAnswer,
        Self::Tie,
        Self::Threshold,
        Self::BelowMargin,
        Self::TooLong,
        Self::SameAnswer,
    ];

    /// Encodes the reason for the reduce.
    pub fn number(self) -> u8 {
        self as u8
    }
    /// Decodes the reason.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
    /// Returns the code used in the `errors` dataset.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoScore => "no_score",
            Self::OneAnswer => "one_answer",
            Self::Tie => "tie",
            Self::Threshold => "threshold",
            Self::BelowMargin => "below_margin",
            Self::TooLong => "too_long",
            Self::SameAnswer => "same_answer",
        }
    }
    /// Returns the message.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoScore => "none of the prompt's answers has a score: no judgement of them was readable",
            Self::OneAnswer => "only one of the prompt's answers has a score, and a pair needs two",
            Self::Tie => "the prompt's answers all have the same score: nothing says which is better",
            Self::Threshold => "no answer of the prompt has a score of chosen_min, or none is as low as rejected_max",
            Self::BelowMargin => "the scores of the prompt's answers differ by less than min_margin",
            Self::TooLong => "the chosen answer is longer than max_chosen_length",
            Self::SameAnswer => "the chosen and the rejected answer are the same text: the judge contradicts itself",
        }
    }
}

/// An answer and its value.
#[derive(Clone, Copy)]
struct Valued {
    value: i64,
    item: Item,
}

/// Returns the value of a list by iteration; iteration 0 uses the first one.
fn by_iteration<T: Copy + Default>(list: &[T], iteration: u32) -> T {
    let at = (iteration.max(1) as usize - 1).min(list.len().saturating_sub(1));
    list.get(at).copied().unwrap_or_default()
}

/// Returns the pairs of a prompt, best first, or the reason that there is none. `rng` is called only if
/// something is drawn.
pub(crate) fn select<R: Rng>(
    rules: &Rules,
    iteration: u32,
    items: &[Item],
    rng: impl FnOnce() -> R,
) -> Result<Vec<SelectedPair>, Reason> {
    let penalty = |item: &Item| {
        if rules.length_penalty == 0. { 0 } else { thousandths(rules.length_penalty * f64::from(item.length)) }
    };
    let valued = |item: &Item| Valued { value: item.order - penalty(item), item: *item };
    let all: Vec<Valued> = items.iter().filter(|i| i.order != UNSCORED).map(valued).collect();
    match all.len() {
        0 => return Err(Reason::NoScore),
        1 => return Err(Reason::OneAnswer),
        _ if all.iter().all(|v| v.value == all[0].value) => return Err(Reason::Tie),
        _ => {}
    }
    let good = |v: &&Valued| rules.chosen_min.is_none_or(|least| v.item.order >= least);
    let bad = |v: &&Valued| rules.rejected_max.is_none_or(|most| v.item.order <= most);
    let (good, bad): (Vec<&Valued>, Vec<&Valued>) =
        (all.iter().filter(good).collect(), all.iter().filter(bad).collect());
    if good.is_empty() || bad.is_empty() {
        return Err(Reason::Threshold);
    }
    let mut pairs = match rules.strategy {
        Strategy::BestWorst => match by_iteration(&rules.length_control, iteration) {
            rho if rho > 0. => length_control(rules, rho, &all, &good, &bad),
            _ => best_worst(rules, &good, &bad),
        },
        Strategy::BestRandom => best_random(rules, &good, &bad, rng),
        Strategy::AllPairs => all_pairs(rules, &good, &bad),
    };
    if pairs.is_empty() {
        return Err(Reason::BelowMargin);
    }
    let longest = by_iteration(&rules.max_chosen_length, iteration);
    pairs.retain(|p| longest == 0 || p.chosen.length <= longest);
    if pairs.is_empty() { Err(Reason::TooLong) } else { Ok(pairs) }
}

/// Orders ties for the chosen answer: the greatest is chosen.
fn as_chosen(tie: Tie, a: &Item, b: &Item) -> Ordering {
    let by = match tie {
        Tie::Id => Ordering::Equal,
        Tie::Variance => b.variance.cmp(&a.variance),
        Tie::Length => b.length.cmp(&a.length),
    };
    by.then(a.id.cmp(&b.id))
}

/// Orders ties for the rejected answer: the least is rejected.
fn as_rejected(tie: Tie, a: &Item, b: &Item) -> Ordering {
    let by = match tie {
        Tie::Id => Ordering::Equal,
        Tie::Variance => a.variance.cmp(&b.variance),
        Tie::Length => b.length.cmp(&a.length),
    };
    by.then(a.id.cmp(&b.id))
}

/// Returns the pair if its margin is large enough.
fn pair(rules: &Rules, chosen: &Valued, rejected: &Valued) -> Option<SelectedPair> {
    let margin = chosen.value - rejected.value;
    (margin >= rules.least_margin).then_some(SelectedPair { chosen: chosen.item, rejected: rejected.item, margin })
}

/// Returns the answer with the highest value that may be chosen.
fn best<'a>(rules: &Rules, good: &[&'a Valued]) -> Option<&'a Valued> {
    good.iter().copied().max_by(|a, b| a.value.cmp(&b.value).then(as_chosen(rules.tie, &a.item, &b.item)))
}

/// Pairs the highest with the lowest.
fn best_worst(rules: &Rules, good: &[&Valued], bad: &[&Valued]) -> Vec<SelectedPair> {
    let worst = bad.iter().copied().min_by(|a, b| a.value.cmp(&b.value).then(as_rejected(rules.tie, &a.item, &b.item)));
    let both = best(rules, good).zip(worst);
    both.and_then(|(best, worst)| pair(rules, best, worst)).into_iter().collect()
}

/// Length control of Meta-Rewarding: the chosen answer is the shortest with a value in `[(1 - rho) max +
/// rho min, max]`, the rejected one the longest with a value in `[min, (1 - rho) min + rho max]`.
fn length_control(rules: &Rules, rho: f64, all: &[Valued], good: &[&Valued], bad: &[&Valued]) -> Vec<SelectedPair> {
    // The bounds are in thousandths; a value within rounding of a bound counts as inside.
    const NEAR: f64 = 1e-6;
    let (least, most) = all.iter().fold((i64::MAX, i64::MIN), |(lo, hi), v| (lo.min(v.value), hi.max(v.value)));
    let (least, most) = (least as f64, most as f64);
    let (high, low) = ((1. - rho) * most + rho * least - NEAR, (1. - rho) * least + rho * most + NEAR);
    let high = good.iter().filter(|v| v.value as f64 >= high);
    let low = bad.iter().filter(|v| v.value as f64 <= low);
    let chosen = high.min_by(|a, b| a.item.length.cmp(&b.item.length).then(as_chosen(rules.tie, &b.item, &a.item)));
    let rejected = low.min_by(|a, b| b.item.length.cmp(&a.item.length).then(as_rejected(rules.tie, &a.item, &b.item)));
    chosen.zip(rejected).and_then(|(c, r)| pair(rules, c, r)).into_iter().collect()
}

/// Pairs the highest with others that are low enough, drawn without replacement.
fn best_random<R: Rng>(rules: &Rules, good: &[&Valued], bad: &[&Valued], rng: impl FnOnce() -> R) -> Vec<SelectedPair> {
    let Some(best) = best(rules, good) else { return Vec::new() };
    let mut others: Vec<SelectedPair> = bad.iter().filter_map(|v| pair(rules, best, v)).collect();
    // Indices are drawn from an order that does not depend on the order of the answers.
    others.sort_unstable_by_key(|p| p.rejected.id);
    let mut rng = rng();
    let n = others.len().min(rules.max_pairs);
    for i in 0..n {
        let left = (others.len() - i) as u128;
        // Lemire's multiplication; its bias is below 2^-40.
        let at = i + ((u128::from(rng.next_u64()) * left) >> 64) as usize;
        others.swap(i, at);
    }
    others.truncate(n);
    others
}

/// Pairs every answer with every one that is low enough, and keeps the greatest margins if there are more
/// than `max_pairs`.
fn all_pairs(rules: &Rules, good: &[&Valued], bad: &[&Valued]) -> Vec<SelectedPair> {
    let rank = |p: &SelectedPair| (Reverse(p.margin), Reverse(p.chosen.order), p.chosen.id, p.rejected.id);
    let mut pairs = Vec::new();
    for g in good {
        pairs.extend(bad.iter().filter_map(|b| pair(rules, g, b)));
        // A prompt may have very many answers, so no more pairs are held than are kept.
        if pairs.len() > 2 * rules.max_pairs + bad.len() {
            pairs.sort_unstable_by_key(rank);
            pairs.truncate(rules.max_pairs);
        }
    }
    pairs.sort_unstable_by_key(rank);
    pairs.truncate(rules.max_pairs);
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RngKey;
    use proptest::prelude::{Just, ProptestConfig, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use proptest::strategy::Strategy as Arbitrary;
    use rand_chacha::ChaCha8Rng;

    fn rng() -> ChaCha8Rng {
        RngKey::new(3, "pairs", 1, "prompt", 0).rng()
    }

    /// The paper's selection, without thresholds.
    fn best_worst() -> Rules {
        Rules {
            strategy: Strategy::BestWorst,
            least_margin: 1,
            chosen_min: None,
            rejected_max: None,
            length_control: vec![],
            length_penalty: 0.,
            max_chosen_length: vec![],
            max_pairs: 1,
            tie: Tie::Id,
        }
    }

    fn items() -> impl Arbitrary<Value = Vec<Item>> {
        let order = prop_oneof![Just(UNSCORED), (0i64..6).prop_map(|s| s * 1000), 0i64..5000];
        let one = (order, 0u32..5, 0u32..3);
        prop::collection::vec(one, 0..7).prop_map(|all| {
            let item = |(i, (order, length, variance))| Item { order, id: i as u128 * 7919 % 31, length, variance };
            all.into_iter().enumerate().map(item).collect()
        })
    }

    fn rules() -> impl Arbitrary<Value = Rules> {
        let strategy = prop_oneof![Just(Strategy::BestWorst), Just(Strategy::BestRandom), Just(Strategy::AllPairs)];
        let tie = prop_oneof![Just(Tie::Id), Just(Tie::Variance), Just(Tie::Length)];
        let bounds = (prop::option::of(0i64..5000), prop::option::of(0i64..5000));
        let rho = prop_oneof![Just(vec![]), Just(vec![0., 0.4]), Just(vec![0.32]), Just(vec![1.])];
        let penalty = prop_oneof![Just(0.), Just(0.25), Just(1.5)];
        let longest = prop_oneof![Just(vec![]), Just(vec![0, 3]), Just(vec![2])];
        (strategy, tie, bounds, rho, penalty, longest, 1usize..4, prop_oneof![Just(1i64), 1i64..3000]).prop_map(
            |(
                strategy,
                tie,
                (chosen_min, rejected_max),
                length_control,
                length_penalty,
                max_chosen_length,
                max_pairs,
                least_margin,
            )| {
                let max_pairs = if strategy == Strategy::BestWorst { 1 } else { max_pairs };
                Rules {
                    strategy,
                    least_margin,
                    chosen_min,
                    rejected_max,
                    length_control,
                    length_penalty,
                    max_chosen_length,
                    max_pairs,
                    tie,
                }
            },
        )
    }

    /// A sort key of an answer as chosen, greatest first, written independently of the code above.
    fn key(tie: Tie, item: &Item, chosen: bool) -> (i64, i128) {
        let id = item.id as i128;
        match (tie, chosen) {
            (Tie::Id, _) => (0, if chosen { -id } else { id }),
            (Tie::Variance, _) => (item.variance.into(), if chosen { -id } else { id }),
            (Tie::Length, true) => (item.length.into(), -id),
            (Tie::Length, false) => (-i64::from(item.length), id),
        }
    }

    /// Returns all valid pairs by brute force, or the reason that there is none.
    fn naive(rules: &Rules, iteration: u32, items: &[Item]) -> Result<Vec<(u128, u128)>, Reason> {
        let scored: Vec<Item> = items.iter().copied().filter(|i| i.order > UNSCORED).collect();
        let value = |i: &Item| i.order - (rules.length_penalty * 1000. * f64::from(i.length)) as i64;
        if scored.len() < 2 {
            return Err(if scored.is_empty() { Reason::NoScore } else { Reason::OneAnswer });
        }
        let mut values: Vec<i64> = scored.iter().map(value).collect();
        values.sort_unstable();
        let (least, most) = (values[0], values[values.len() - 1]);
        if least == most {
            return Err(Reason::Tie);
        }
        let may_win = |i: &Item| i.order >= rules.chosen_min.unwrap_or(i64::MIN + 1);
        let may_lose = |i: &Item| i.order <= rules.rejected_max.unwrap_or(i64::MAX);
        if !scored.iter().any(may_win) || !scored.iter().any(may_lose) {
            return Err(Reason::Threshold);
        }
        let at = |list: &[f64]| list.get(iteration as usize - 1).or(list.last()).copied().unwrap_or(0.);
        let rho = at(&rules.length_control);
        let mut winners: Vec<Item> = scored.iter().copied().filter(may_win).collect();
        let mut losers: Vec<Item> = scored.iter().copied().filter(may_lose).collect();
        winners.sort_by_key(|i| (-value(i), key(rules.tie, i, true)));
        losers.sort_by_key(|i| (value(i), key(rules.tie, i, false)));
        let mut found: Vec<(Item, Item)> = Vec::new();
        match rules.strategy {
            Strategy::BestWorst if rho > 0. => {
                let (most, least) = (most as f64, least as f64);
                winners.retain(|i| value(i) as f64 > (1. - rho) * most + rho * least - 1e-3);
                losers.retain(|i| (value(i) as f64) < (1. - rho) * least + rho * most + 1e-3);
                winners.sort_by_key(|i| (i.length, key(rules.tie, i, true)));
                losers.sort_by_key(|i| (Reverse(i.length), key(rules.tie, i, false)));
                if let (Some(w), Some(l)) = (winners.first(), losers.first()) {
                    found.push((*w, *l));
                }
            }
            Strategy::BestWorst => found.push((winners[0], losers[0])),
            Strategy::BestRandom => found.extend(losers.iter().map(|l| (winners[0], *l))),
            Strategy::AllPairs => found.extend(winners.iter().flat_map(|w| losers.iter().map(|l| (*w, *l)))),
        }
        found.retain(|(w, l)| value(w) - value(l) >= rules.least_margin);
        if found.is_empty() {
            return Err(Reason::BelowMargin);
        }
        if rules.strategy == Strategy::AllPairs {
            found.sort_by_key(|(w, l)| (value(l) - value(w), -w.order, w.id, l.id));
            found.truncate(rules.max_pairs);
        }
        let limit = at(&rules.max_chosen_length.iter().map(|&n| n.into()).collect::<Vec<f64>>());
        let fits = |w: &Item| limit == 0. || f64::from(w.length) <= limit;
        found.retain(|(w, _)| fits(w));
        if found.is_empty() { Err(Reason::TooLong) } else { Ok(found.into_iter().map(|(w, l)| (w.id, l.id)).collect()) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn every_strategy_is_what_the_naive_one_says(rules in rules(), items in items(), iteration in 1u32..4, turn in 0usize..7) {
            let picked = select(&rules, iteration, &items, rng);
            let said = picked.clone().map(|all| all.iter().map(|p| (p.chosen.id, p.rejected.id)).collect::<Vec<_>>());
            match (rules.strategy, &said, naive(&rules, iteration, &items)) {
                // Every drawn pair is valid and occurs once; all valid pairs are drawn if they are few.
                (Strategy::BestRandom, Ok(said), Ok(all)) => {
                    prop_assert_eq!(said.len(), all.len().min(rules.max_pairs));
                    let once: std::collections::HashSet<_> = said.iter().collect();
                    prop_assert!(once.len() == said.len() && said.iter().all(|p| all.contains(p)));
                }
                (_, said, naive) => prop_assert_eq!(said, &naive),
            }
            if let Ok(pairs) = &picked {
                prop_assert!((1..=rules.max_pairs).contains(&pairs.len()));
                let value = |i: &Item| i.order - (rules.length_penalty * 1000. * f64::from(i.length)) as i64;
                for p in pairs {
                    prop_assert!(p.margin > 0 && p.margin == value(&p.chosen) - value(&p.rejected));
                    prop_assert!(rules.length_penalty > 0. || p.chosen.order > p.rejected.order);
                }
            }
            // The order of the answers does not matter.
            let mut turned = items.clone();
            turned.rotate_left(turn.min(items.len()));
            prop_assert_eq!(&select(&rules, iteration, &turned, rng), &picked);
            turned.reverse();
            prop_assert_eq!(&select(&rules, iteration, &turned, rng), &picked);
        }
    }

    #[test]
    fn every_other_answer_is_drawn_as_often() {
        let item = |id: u128, order| Item { order, id, ..Item::default() };
        let items: Vec<Item> = (0..5).map(|i| item(i, 1000)).chain([item(9, 4000)]).collect();
        let rules = Rules { strategy: Strategy::BestRandom, max_pairs: 2, ..best_worst() };
        let mut drawn = [0; 5];
        for n in 0..5000 {
            let pairs = select(&rules, 1, &items, || RngKey::new(1, "pairs", 1, &n.to_string(), 0).rng()).unwrap();
            assert_eq!(pairs.iter().filter(|p| p.chosen.id == 9).count(), 2);
            pairs.iter().for_each(|p| drawn[p.rejected.id as usize] += 1);
        }
        // 2,000 each; five standard deviations are 173.
        assert!(drawn.iter().all(|&n| (1827..2173).contains(&n)), "{drawn:?}");
    }

    /// Scores are compared in thousandths: averages of the same judgements in different orders differ by
    /// less.
    #[test]
    fn scores_within_a_thousandth_tie_and_the_margin_has_thousandths() {
        let item = |id: u128, score: f64| Item { order: thousandths(score), id, ..Item::default() };
        let rules = best_worst();
        let of = |high: f64, low: f64| select(&rules, 1, &[item(1, low), item(2, high)], rng);
        assert_eq!(of(3.3334, 3.3333), Err(Reason::Tie));
        // (0.1 + 0.2) + 0.3 and 0.1 + (0.2 + 0.3) are different floats.
        assert_eq!(of((0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)), Err(Reason::Tie));
        assert_eq!(of(3.334, 3.333).unwrap()[0].margin, 1);
        assert_eq!(of(11. / 3., 3.).unwrap()[0].margin, 667);
    }

    /// Among answers with the same score the greatest id is chosen and the lowest rejected, whatever their
    /// order.
    #[test]
    fn equal_scores_are_decided_by_id() {
        let item = |id: u128, order| Item { order, id, ..Item::default() };
        let mut items = vec![item(8, 1000), item(3, 1000), item(5, 4000), item(7, 4000), item(6, 2000)];
        for _ in 0..items.len() {
            let pairs = select(&best_worst(), 1, &items, rng).unwrap();
            assert_eq!(pairs.iter().map(|p| (p.chosen.id, p.rejected.id)).collect::<Vec<_>>(), [(7, 3)]);
            items.rotate_left(1);
        }
    }

    #[test]
    fn reasons_travel_as_numbers() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason.number()), Some(reason));
        }
        assert_eq!(Reason::from_number(7), None);
    }
}
