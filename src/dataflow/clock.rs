//! timely's view of the [`Epoch`] clock: totally ordered, with a loop summary that *restarts* the
//! microbatch.
//!
//! Neither of timely's own nested times fits. With `Product` the microbatches of two iterations are
//! incomparable, so no barrier can separate iterations. Tuples and plain integers can only add, so (t, m)
//! could never become (t + 1, 0).

use differential_dataflow::lattice::Lattice;
use timely::order::{PartialOrder, TotalOrder};
use timely::progress::timestamp::{PathSummary, Refines, Timestamp};

use crate::data::Epoch;

/// The effect of a path through the dataflow on an [`Epoch`]. The order of the variants makes `Within(_) <
/// Next(_, _)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Advance {
    /// Same iteration, `microbatch + n`.
    Within(u32),
    /// `iteration + n`, where n is at least 1, with the microbatch restarted at `m`.
    Next(u32, u32),
}

impl Default for Advance {
    fn default() -> Self {
        Advance::Within(0)
    }
}
impl PartialOrder for Advance {
    fn less_equal(&self, other: &Self) -> bool {
        self <= other
    }
}
impl PathSummary<Epoch> for Advance {
    fn results_in(&self, e: &Epoch) -> Option<Epoch> {
        Some(match *self {
            Advance::Within(n) => Epoch::new(e.iteration, e.microbatch.checked_add(n)?),
            Advance::Next(n, m) => Epoch::new(e.iteration.checked_add(n)?, m),
        })
    }
    fn followed_by(&self, other: &Self) -> Option<Self> {
        Some(match (*self, *other) {
            (Advance::Within(a), Advance::Within(b)) => Advance::Within(a.checked_add(b)?),
            // A restart forgets the microbatch that was reached before it.
            (Advance::Within(_), next @ Advance::Next(..)) => next,
            (Advance::Next(n, a), Advance::Within(b)) => Advance::Next(n, a.checked_add(b)?),
            (Advance::Next(n, _), Advance::Next(k, b)) => Advance::Next(n.checked_add(k)?, b),
        })
    }
}

impl PartialOrder for Epoch {
    fn less_equal(&self, other: &Self) -> bool {
        self <= other
    }
}
impl TotalOrder for Epoch {}
impl Timestamp for Epoch {
    type Summary = Advance;
    fn minimum() -> Self {
        Epoch::new(0, 0)
    }
}
/// Allows [`Epoch`] as the time of a whole dataflow.
impl Refines<()> for Epoch {
    fn to_inner((): ()) -> Self {
        Self::minimum()
    }
    fn to_outer(self) {}
    fn summarize(_: Advance) {}
}
impl Lattice for Epoch {
    fn join(&self, other: &Self) -> Self {
        // Times are totally ordered, so the least upper bound is the larger one.
        *self.max(other)
    }
    fn meet(&self, other: &Self) -> Self {
        *self.min(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn advance() -> impl Strategy<Value = Advance> {
        let small = prop_oneof![0u32..5, Just(u32::MAX), Just(u32::MAX - 1)];
        prop_oneof![
            small.clone().prop_map(Advance::Within),
            (prop_oneof![1u32..4, Just(u32::MAX)], small).prop_map(|(n, m)| Advance::Next(n, m)),
        ]
    }
    fn epoch() -> impl Strategy<Value = Epoch> {
        (0u32..4, 0u32..4).prop_map(|(i, m)| Epoch::new(i, m))
    }

    proptest! {
        // Progress tracking is sound only if these properties hold.
        #[test]
        fn following_is_applying_in_turn(a in advance(), b in advance(), e in epoch()) {
            let both = a.followed_by(&b).and_then(|ab| ab.results_in(&e));
            let in_turn = a.results_in(&e).and_then(|x| b.results_in(&x));
            // A summary may promise a time that the path overflows before reaching, but never miss one that
            // it reaches.
            if let (Some(x), Some(y)) = (both, in_turn) { prop_assert_eq!(x, y); }
            prop_assert!(in_turn.is_none() || both.is_some());
        }
        #[test]
        fn following_is_associative(a in advance(), b in advance(), c in advance()) {
            let left = a.followed_by(&b).and_then(|ab| ab.followed_by(&c));
            let right = b.followed_by(&c).and_then(|bc| a.followed_by(&bc));
            if let (Some(l), Some(r)) = (left, right) { prop_assert_eq!(l, r); }
        }
        #[test]
        fn advancing_keeps_order(a in advance(), e in epoch(), f in epoch()) {
            if let (Some(x), Some(y), true) = (a.results_in(&e), a.results_in(&f), e <= f) {
                prop_assert!(x <= y);
            }
            if let Some(x) = a.results_in(&e) { prop_assert!(e <= x); }
        }
        #[test]
        fn nothing_is_the_identity(a in advance(), e in epoch()) {
            prop_assert_eq!(Advance::default().results_in(&e), Some(e));
            prop_assert_eq!(Advance::default().followed_by(&a), Some(a));
            prop_assert_eq!(a.followed_by(&Advance::default()), Some(a));
        }
    }
}
