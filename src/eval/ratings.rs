//! Ratings from battles: Bradley-Terry by penalised maximum likelihood, on the Elo scale.

/// One battle between two players.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Battle {
    /// One player.
    pub one: usize,
    /// The other.
    pub other: usize,
    /// `one`'s share of the win: 1, 1/2 for a tie, 0.
    pub share: f64,
    /// Weight of the battle, at least 0.
    pub weight: f64,
}

/// The scale of ratings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatingScale {
    /// The difference in points that makes odds of ten to one.
    pub scale: f64,
    /// The rating of a player who is as good as the mean.
    pub base: f64,
    /// Weight of the penalty on squared ratings, above 0. Without it, a player who wins all battles has no finite
    /// rating.
    pub l2: f64,
}

/// Ratings of `players` players, in their order.
///
/// With `P(i beats j) = 1 / (1 + 10^((R_j - R_i) / scale))` and `R = base + scale c`, c is what minimises
/// `l2/2 |c|^2 - sum weight (share ln P + (1 - share) ln (1 - P))`: scikit-learn's
/// `LogisticRegression(C = 1 / l2, fit_intercept = False)` on rows of +ln 10 and -ln 10, as the Elo scores of Chatbot
/// Arena and of Meta-Rewarding (arXiv 2407.19594) are made. Found by Newton's method; the objective is convex, so
/// there is one.
///
/// # Panics
/// A battle names a player who does not exist, or `l2` is not above 0.
pub fn ratings(players: usize, battles: &[Battle], scale: RatingScale) -> Vec<f64> {
    assert!(scale.l2 > 0., "without a penalty there need not be a solution");
    assert!(battles.iter().all(|b| b.one < players && b.other < players), "a battle of nobody");
    let unit = std::f64::consts::LN_10;
    let objective = |c: &[f64]| {
        let loss = |b: &Battle| {
            let z = unit * (c[b.one] - c[b.other]);
            b.weight * (softplus(-z) * b.share + softplus(z) * (1. - b.share))
        };
        scale.l2 / 2. * c.iter().map(|x| x * x).sum::<f64>() + battles.iter().map(loss).sum::<f64>()
    };
    let mut c = vec![0.; players];
    for _ in 0..100 {
        let mut gradient: Vec<f64> = c.iter().map(|x| scale.l2 * x).collect();
        let mut hessian = vec![vec![0.; players]; players];
        (0..players).for_each(|i| hessian[i][i] = scale.l2);
        for b in battles.iter().filter(|b| b.one != b.other) {
            let p = 1. / (1. + (-unit * (c[b.one] - c[b.other])).exp());
            let (slope, curve) = (b.weight * unit * (p - b.share), b.weight * unit * unit * p * (1. - p));
            gradient[b.one] += slope;
            gradient[b.other] -= slope;
            hessian[b.one][b.one] += curve;
            hessian[b.other][b.other] += curve;
            hessian[b.one][b.other] -= curve;
            hessian[b.other][b.one] -= curve;
        }
        if gradient.iter().all(|g| g.abs() < 1e-12) {
            break;
        }
        let step = solve(hessian, gradient);
        // The full step, or as much of it as goes down.
        let (before, mut size) = (objective(&c), 1.);
        let moved = loop {
            let moved: Vec<f64> = std::iter::zip(&c, &step).map(|(x, s)| x - size * s).collect();
            if objective(&moved) <= before || size < 1e-6 {
                break moved;
            }
            size /= 2.;
        };
        c = moved;
    }
    c.into_iter().map(|x| scale.base + scale.scale * x).collect()
}

/// `ln(1 + e^x)`.
fn softplus(x: f64) -> f64 {
    x.max(0.) + (-x.abs()).exp().ln_1p()
}

/// Solves `a x = b` for a symmetric positive definite matrix, by elimination.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        for i in k + 1..n {
            let factor = a[i][k] / a[k][k];
            if factor != 0. {
                let (above, below) = a.split_at_mut(i);
                std::iter::zip(&mut below[0][k..], &above[k][k..]).for_each(|(x, y)| *x -= factor * y);
                b[i] -= factor * b[k];
            }
        }
    }
    for k in (0..n).rev() {
        let rest: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - rest) / a[k][k];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: RatingScale = RatingScale { scale: 400., base: 1000., l2: 1. };

    #[derive(serde::Deserialize)]
    struct Golden {
        players: usize,
        l2: f64,
        /// One, other, share, weight.
        battles: Vec<(usize, usize, f64, f64)>,
        ratings: Vec<f64>,
    }

    #[test]
    fn ratings_are_scikit_learns() {
        let text = include_str!("../../tests/goldens/ratings/ratings.jsonl");
        let goldens: Vec<Golden> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert!(goldens.len() >= 20);
        for (n, golden) in goldens.iter().enumerate() {
            let battle = |&(one, other, share, weight): &(usize, usize, f64, f64)| Battle { one, other, share, weight };
            let battles: Vec<Battle> = golden.battles.iter().map(battle).collect();
            let got = ratings(golden.players, &battles, RatingScale { l2: golden.l2, ..SCALE });
            for (a, b) in std::iter::zip(&got, &golden.ratings) {
                assert!((a - b).abs() < 1e-4, "golden {n}: {got:?}, scikit-learn has {:?}", golden.ratings);
            }
        }
    }

    #[test]
    fn who_wins_all_has_a_finite_rating_and_who_never_met_the_base() {
        let battles = [Battle { one: 0, other: 1, share: 1., weight: 1e6 }];
        let r = ratings(3, &battles, SCALE);
        assert!(r.iter().all(|x| x.is_finite()) && r[0] > 1000. && r[1] < 1000. && r[2] == 1000.);
        assert!((r[0] + r[1] - 2000.).abs() < 1e-6);
        assert!(ratings(0, &[], SCALE).is_empty());
    }
}
