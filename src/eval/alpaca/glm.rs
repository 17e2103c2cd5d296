//! The length-controlled win rate: an estimate of a model's win rate with answers of the baseline's length.
//!
//! A logistic regression explains each preference by `tanh` of the difference in length (over its standard
//! deviation), the instruction's difficulty, and the model; then the difference is set to nothing. As in
//! `alpaca_eval`'s `glm_winrate.py`, weights have an L1 penalty whose strength is chosen by 5-fold cross-validation,
//! no intercept, and the annotations of two baselines that play with length join in with a weight of 0.2. Its solver
//! stops at a tolerance of 1e-4; this one goes on to the minimum, so the two differ in the third decimal of a per cent.

use super::Annotation;
use crate::error::{Error, Result};
use crate::eval::statistics::mean_and_error;

/// The regression, by the package's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Glm {
    /// `length_controlled_v1`, the leaderboard's.
    V1,
    /// `length_controlled_noreg`: without the baselines that play with length.
    NoRegularisation,
    /// `length_controlled_minimal`: without the difficulty of instructions too. Needs no table.
    Minimal,
}

impl Glm {
    /// The package's name.
    pub fn name(self) -> &'static str {
        match self {
            Glm::V1 => "length_controlled_v1",
            Glm::NoRegularisation => "length_controlled_noreg",
            Glm::Minimal => "length_controlled_minimal",
        }
    }
}

/// A row of `df_gamed.csv`: the preference for a baseline that plays with length, over the same baseline as it is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Gamed {
    /// The instruction's number.
    pub index: u64,
    /// The preference, from 0 to 1.
    pub preference: f64,
    /// Difference in length over its standard deviation.
    pub length: f64,
    /// Difficulty of the instruction.
    pub difficulty: f64,
}

/// Reads `df_gamed.csv` of the data set `tatsu-lab/alpaca_eval`; columns are found by their names.
///
/// # Errors
/// A column is missing, or a row has no number in it. The message names the row.
pub fn gamed(csv: &[u8]) -> Result<Vec<Gamed>> {
    let help = "df_gamed.csv is in the data set tatsu-lab/alpaca_eval on the Hugging Face hub";
    let bad = |what: String| Error::user(what).help(help);
    let text = std::str::from_utf8(csv).map_err(|e| bad(format!("not UTF-8: {e}")))?;
    let mut lines = text.trim_start_matches('\u{feff}').lines();
    let heads = cells(lines.next().unwrap_or(""));
    let column = |name: &str| {
        heads
            .iter()
            .position(|h| h == name)
            .ok_or_else(|| bad(format!("there is no column `{name}`; there are: {}", heads.join(", "))))
    };
    let names = ["index", "preference", "std_delta_len", "instruction_difficulty"];
    let places = [column(names[0])?, column(names[1])?, column(names[2])?, column(names[3])?];
    let mut rows = Vec::new();
    for (i, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row = cells(line);
        let number = |c: usize| {
            let cell = row.get(places[c]).map_or("", String::as_str);
            let number = cell.trim().parse::<f64>().ok().filter(|n| n.is_finite());
            number.ok_or_else(|| bad(format!("row {}: `{}` is no {}", i + 1, cell.escape_debug(), names[c])))
        };
        let index = number(0)?;
        if index < 0. || index.fract() != 0. {
            return Err(bad(format!("row {}: {index} is no index", i + 1)));
        }
        let preference = number(1)?;
        if !(0. ..=1.).contains(&preference) {
            return Err(bad(format!("row {}: the preference {preference} is not between 0 and 1", i + 1)));
        }
        rows.push(Gamed { index: index as u64, preference, length: number(2)?, difficulty: number(3)? });
    }
    Ok(rows)
}

/// The cells of a line of CSV. Quotes may hold commas, and no cell of this table spans lines.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().into_iter().for_each(|cell| cell.push(c)),
        }
    }
    cells
}

/// The result of the regression, in per cent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Controlled {
    /// Mean predicted preference at equal length, over all annotations, including those without a preference.
    pub win_rate: f64,
    /// Its standard error, over annotations.
    pub standard_error: Option<f64>,
    /// Weight of the length: above 0 if the judge prefers longer answers.
    pub length_weight: f64,
    /// Weight of the difficulty.
    pub difficulty_weight: f64,
    /// Weight of the model itself.
    pub model_weight: f64,
    /// The chosen strength: C, the inverse of the penalty.
    pub c: f64,
}

/// Settings of the length control.
#[derive(Clone, Copy, Debug)]
pub struct LengthControl<'a> {
    /// The regression.
    pub glm: Glm,
    /// The table of the gamed baselines. [`Glm::Minimal`] does not need it.
    pub gamed: Option<&'a [Gamed]>,
}

/// Features of a preference: length, difficulty, model.
type Features = [f64; 3];

/// A preference with its weight.
#[derive(Clone, Copy, Debug)]
struct Case {
    x: Features,
    preference: f64,
    weight: f64,
}

const FOLDS: usize = 5;
/// Weight of the gamed annotations, shared by the two baselines.
const GAMED_WEIGHT: f64 = 0.2 / 2.;

impl LengthControl<'_> {
    /// Controls annotations of one model against one baseline.
    ///
    /// # Errors
    /// The table is missing or lacks an instruction, there are fewer preferences than folds, or all differences of
    /// length are equal.
    pub fn of(&self, annotations: &[Annotation]) -> Result<Controlled> {
        if annotations.first().is_some_and(|a| a.generator_1 == a.generator_2) {
            let (win_rate, zero) = (50., 0.);
            return Ok(Controlled {
                win_rate,
                standard_error: Some(zero),
                length_weight: zero,
                difficulty_weight: zero,
                model_weight: zero,
                c: f64::INFINITY,
            });
        }
        let difficulty = |index: u64| -> Result<f64> {
            if self.glm == Glm::Minimal {
                return Ok(0.);
            }
            let table = self.gamed.ok_or_else(|| {
                Error::user(format!("{} needs the difficulty of instructions", self.glm.name()))
                    .help("give df_gamed.csv of the data set tatsu-lab/alpaca_eval")
            })?;
            table.iter().find(|g| g.index == index).map(|g| g.difficulty).ok_or_else(|| {
                Error::user(format!("the table of difficulties has no instruction {index}")).help(
                    "the annotations are not of the same evaluation set, or not in its order and without an `index`",
                )
            })
        };
        let delta: Vec<f64> = annotations.iter().map(|a| a.length_1 as f64 - a.length_2 as f64).collect();
        let spread = mean_and_error(&delta).1.map_or(0., |e| e * (delta.len() as f64).sqrt());
        if spread == 0. {
            return Err(Error::user("all answers differ in length by the same, so there is nothing to control")
                .help("at least two annotations with different lengths are needed"));
        }
        let mut cases: Vec<Case> = Vec::new();
        if self.glm == Glm::V1 {
            let gamed = self.gamed.unwrap_or_default().iter();
            cases.extend(gamed.map(|g| Case {
                x: [g.length.tanh(), g.difficulty, 0.],
                preference: g.preference,
                weight: GAMED_WEIGHT,
            }));
        }
        let difficulties: Vec<f64> = annotations.iter().map(|a| difficulty(a.index)).collect::<Result<_>>()?;
        for ((a, delta), difficulty) in annotations.iter().zip(&delta).zip(&difficulties) {
            if let Some(preference) = a.preference {
                cases.push(Case { x: [(delta / spread).tanh(), *difficulty, 1.], preference, weight: 1. });
            }
        }
        if cases.len() < FOLDS {
            return Err(Error::user(format!("{} preferences are too few for {FOLDS} folds", cases.len())));
        }
        let c = chosen_c(&cases);
        let w = fit(&cases, c);
        let predicted: Vec<f64> = difficulties.iter().map(|d| 100. * logistic(w[1] * d + w[2])).collect();
        let (mean, standard_error) = mean_and_error(&predicted);
        Ok(Controlled {
            win_rate: mean.unwrap_or(f64::NAN),
            standard_error,
            length_weight: w[0],
            difficulty_weight: w[1],
            model_weight: w[2],
            c,
        })
    }
}

/// The strength of ten from 1e-4 to 1e4 whose weighted log loss on held-out folds is least; the least strength of
/// equals. Case `i` of n is in fold `(n - 1 - i) mod 5`, as scikit-learn's `GroupKFold` has it for groups of one size.
fn chosen_c(cases: &[Case]) -> f64 {
    let fold = |i: usize| (cases.len() - 1 - i) % FOLDS;
    let part = |held: usize, out: bool| -> Vec<Case> {
        cases.iter().enumerate().filter(|(i, _)| (fold(*i) == held) == out).map(|(_, c)| *c).collect()
    };
    let strength = |i: i32| 10f64.powf(-4. + 8. * f64::from(i) / 9.);
    let folds: Vec<(Vec<Case>, Vec<Case>)> = (0..FOLDS).map(|f| (part(f, false), part(f, true))).collect();
    let loss = |c: f64| -> f64 {
        let each = folds.iter().map(|(train, test)| {
            let w = fit(train, c);
            let total: f64 = test
                .iter()
                .map(|t| {
                    let p = logistic(dot(&w, &t.x)).clamp(1e-15, 1. - 1e-15);
                    -t.weight * (t.preference * p.ln() + (1. - t.preference) * (1. - p).ln())
                })
                .sum();
            total / test.len() as f64
        });
        each.sum::<f64>() / FOLDS as f64
    };
    let losses = (0..10).map(|i| (loss(strength(i)), strength(i)));
    losses.fold((f64::INFINITY, 1.), |best, next| if next.0 < best.0 { next } else { best }).1
}

fn dot(a: &Features, b: &Features) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
fn logistic(x: f64) -> f64 {
    if x >= 0. { 1. / (1. + (-x).exp()) } else { x.exp() / (1. + x.exp()) }
}
/// `log(1 + exp(x))`.
fn softplus(x: f64) -> f64 {
    x.max(0.) + (-x.abs()).exp().ln_1p()
}

/// The weights that minimise `|w|_1 + C sum_i s_i (softplus(w x_i) - p_i w x_i)`: proximal Newton, each step's
/// quadratic by coordinate descent, each step's length by halving.
fn fit(cases: &[Case], c: f64) -> Features {
    let objective = |w: &Features| -> f64 {
        let loss = |k: &Case| k.weight * (softplus(dot(w, &k.x)) - k.preference * dot(w, &k.x));
        w.iter().map(|w| w.abs()).sum::<f64>() + c * cases.iter().map(loss).sum::<f64>()
    };
    let (mut w, mut at) = ([0.; 3], objective(&[0.; 3]));
    for _ in 0..200 {
        let (mut g, mut h) = ([0.; 3], [[0.; 3]; 3]);
        for k in cases {
            let p = logistic(dot(&w, &k.x));
            let (slope, curve) = (c * k.weight * (p - k.preference), c * k.weight * p * (1. - p));
            for (i, xi) in k.x.iter().enumerate() {
                g[i] += slope * xi;
                for (j, xj) in k.x.iter().enumerate() {
                    h[i][j] += curve * xi * xj;
                }
            }
        }
        // The step's end, z: minimises g (z - w) + (z - w) h (z - w) / 2 + |z|.
        let mut z = w;
        for _ in 0..1000 {
            let mut moved: f64 = 0.;
            for i in 0..3 {
                if h[i][i] <= 0. {
                    continue;
                }
                let slope = g[i] + (0..3).map(|j| h[i][j] * (z[j] - w[j])).sum::<f64>();
                let free = z[i] - slope / h[i][i];
                let new = free.signum() * (free.abs() - 1. / h[i][i]).max(0.);
                moved = moved.max((new - z[i]).abs());
                z[i] = new;
            }
            if moved <= 1e-15 * (1. + z.iter().fold(0., |m: f64, v| m.max(v.abs()))) {
                break;
            }
        }
        let (mut next, mut then) = (z, objective(&z));
        for _ in 0..40 {
            if then <= at {
                break;
            }
            next = std::array::from_fn(|i| (next[i] + w[i]) / 2.);
            then = objective(&next);
        }
        let moved = next.iter().zip(&w).map(|(a, b)| (a - b).abs()).fold(0., f64::max);
        if then > at {
            break;
        }
        (w, at) = (next, then);
        if moved < 1e-13 {
            break;
        }
    }
    w
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_is_the_minimum() {
        let cases: Vec<Case> = (0..50)
            .map(|i| {
                let t = f64::from(i);
                Case {
                    x: [(t * 0.7).sin(), (t * 1.3).cos(), 1.],
                    preference: 0.5 + 0.45 * (t * 0.7 + 0.4).sin(),
                    weight: 1. + f64::from(i % 2),
                }
            })
            .collect();
        // At a minimum every weight that is not 0 has a loss whose slope the penalty's balances; the others' are
        // within it.
        for c in [0.01, 0.1, 1., 100., 1e4] {
            let w = fit(&cases, c);
            for i in 0..3 {
                let slope: f64 =
                    cases.iter().map(|k| c * k.weight * (logistic(dot(&w, &k.x)) - k.preference) * k.x[i]).sum();
                let off = if w[i] == 0. { (slope.abs() - 1.).max(0.) } else { (slope + w[i].signum()).abs() };
                assert!(off < 1e-7 * (1. + c), "C {c}, weight {i} {}: {off}", w[i]);
            }
        }
        assert_eq!(fit(&cases, 1e-4), [0.; 3]);
    }

    #[test]
    fn a_bad_table_is_named() {
        let fails = |csv: &str| gamed(csv.as_bytes()).unwrap_err().to_string();
        assert!(fails("index,preference\n").contains("no column `std_delta_len`"));
        let heads = "model,index,preference,std_delta_len,instruction_difficulty\n";
        assert!(fails(&format!("{heads}m,0,0.5,x,1\n")).contains("row 1: `x` is no std_delta_len"));
        assert!(fails(&format!("{heads}m,0,1.5,1,1\n")).contains("between 0 and 1"));
        assert!(fails(&format!("{heads}m,0.5,0.5,1,1\n")).contains("no index"));
        assert!(fails(&format!("{heads}m,0\n")).contains("row 1: `` is no preference"));
        let quoted = gamed(format!("{heads}\"a, b\",3,0.5,1,\"2\"\r\n\n").as_bytes()).unwrap();
        assert_eq!(quoted, [Gamed { index: 3, preference: 0.5, length: 1., difficulty: 2. }]);
    }
}
