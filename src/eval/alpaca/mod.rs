//! AlpacaEval 2.0: its annotations, the win rate over them, and the length-controlled win rate (arXiv 2404.04475), of
//! [`Glm`].
//!
//! Figures are those of the `alpaca_eval` package (0.6.6), in per cent, with one difference: a preference that is
//! none (below 1 or above 2, other than the old 0 for a draw) is an error here and passed over there.

mod glm;

pub use glm::{Controlled, Glm, LengthControl, gamed};

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::statistics::mean_and_error;
use crate::data::parse_json_up_to;
use crate::error::{Error, Result};

/// A model's answer, as the package reads outputs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ModelOutput {
    /// The instruction.
    pub instruction: String,
    /// The answer.
    pub output: String,
    /// The model's name.
    pub generator: String,
    /// Which part of the evaluation set it is from.
    pub dataset: String,
}

/// One annotation: which of two answers is preferred.
#[derive(Clone, PartialEq, Debug)]
pub struct Annotation {
    /// The instruction.
    pub instruction: String,
    /// The instruction's number in the evaluation set.
    pub index: u64,
    /// Characters of the baseline's answer.
    pub length_1: u64,
    /// Characters of the model's answer.
    pub length_2: u64,
    /// The baseline.
    pub generator_1: String,
    /// The model.
    pub generator_2: String,
    /// 0 if the judge prefers the baseline's answer, 1 if it prefers the model's, a number between if it is unsure,
    /// and none if it failed.
    pub preference: Option<f64>,
}

/// The columns of the package's annotations that are read. Other columns are ignored.
#[derive(Deserialize)]
struct AnnotationRow {
    instruction: String,
    output_1: String,
    output_2: String,
    generator_1: String,
    generator_2: String,
    #[serde(default)]
    preference: Option<f64>,
    #[serde(default)]
    index: Option<u64>,
}

/// Maximum number of values in a file of annotations: those of a million rows.
const MAX_VALUES: usize = 16 << 20;

/// Reads annotations as the package writes them (`annotations.json`): a list of objects.
///
/// # Errors
/// The file is not such a list, or a row lacks a key, has an invalid preference, or names another model than the
/// other rows. Rows are counted from 1.
pub fn annotations(json: &[u8]) -> Result<Vec<Annotation>> {
    let help = "annotations.json of alpaca_eval is a list of {instruction, output_1, output_2, generator_1, generator_2, preference}";
    let bad = |what: String| Error::user(what).help(help);
    let rows = match parse_json_up_to(MAX_VALUES, json) {
        Ok(Value::Array(rows)) => rows,
        Ok(_) => return Err(bad("not a JSON list".to_owned())),
        Err(e) => return Err(bad(format!("not a JSON list: {e}"))),
    };
    let mut all: Vec<Annotation> = Vec::with_capacity(rows.len());
    for (i, row) in rows.into_iter().enumerate() {
        let at = i + 1;
        let row: AnnotationRow = serde_json::from_value(row).map_err(|e| bad(format!("row {at}: {e}")))?;
        let preference = match row.preference {
            Some(0.) => Some(0.5),
            Some(p) if (1. ..=2.).contains(&p) => Some(p - 1.),
            Some(p) => {
                let help =
                    "1 is for the first answer, 2 for the second, 1.5 (or 0) for neither, null for a judge that failed";
                return Err(Error::user(format!("row {at}: the preference {p} is none")).help(help));
            }
            None => None,
        };
        if let Some(first) = all.first()
            && (&first.generator_1, &first.generator_2) != (&row.generator_1, &row.generator_2)
        {
            return Err(Error::user(format!(
                "row {at} compares {} with {}, those before {} with {}",
                row.generator_2, row.generator_1, first.generator_2, first.generator_1
            ))
            .help("one file has one model and one baseline: split it by generator_1 and generator_2"));
        }
        all.push(Annotation {
            index: row.index.unwrap_or(i as u64),
            length_1: row.output_1.chars().count() as u64,
            length_2: row.output_2.chars().count() as u64,
            instruction: row.instruction,
            generator_1: row.generator_1,
            generator_2: row.generator_2,
            preference,
        });
    }
    if all.is_empty() {
        return Err(bad("there is no annotation in it".into()));
    }
    Ok(all)
}

/// The package's `get_winrate`; rates and errors in per cent.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct WinRate {
    /// Mean preference, if there is a preference.
    pub win_rate: Option<f64>,
    /// Its standard error.
    pub standard_error: Option<f64>,
    /// The win rate with every preference rounded to a win or a loss, and exactly one half counted as a draw.
    pub discrete_win_rate: Option<f64>,
    /// Preferences above one half.
    pub n_wins: u64,
    /// Preferences below one half.
    pub n_wins_base: u64,
    /// Preferences of one half.
    pub n_draws: u64,
    /// Preferences.
    pub n_total: u64,
    /// Annotations without a preference.
    pub n_null: u64,
    /// Mean characters of the model's answers, as on the leaderboard.
    pub avg_length: f64,
}

impl WinRate {
    /// The win rate over annotations of a model against a baseline.
    pub fn of(annotations: &[Annotation]) -> Self {
        let known: Vec<f64> = annotations.iter().filter_map(|a| a.preference).collect();
        // 1.5 exactly is a draw before anything is rounded.
        let discrete: Vec<f64> = known.iter().map(|&p| if p == 0.5 { p } else { p.round() }).collect();
        let count = |of: &dyn Fn(f64) -> bool| known.iter().filter(|p| of(**p)).count() as u64;
        let (mean, error) = mean_and_error(&known);
        let lengths: Vec<f64> = annotations.iter().map(|a| a.length_2 as f64).collect();
        Self {
            win_rate: mean.map(|m| m * 100.),
            standard_error: error.map(|e| e * 100.),
            discrete_win_rate: mean_and_error(&discrete).0.map(|m| m * 100.),
            n_wins: count(&|p| p > 0.5),
            n_wins_base: count(&|p| p < 0.5),
            n_draws: count(&|p| p == 0.5),
            n_total: known.len() as u64,
            n_null: (annotations.len() - known.len()) as u64,
            avg_length: mean_and_error(&lengths).0.unwrap_or(0.),
        }
    }
}

/// Refuses to compare models that answered different instructions.
///
/// # Errors
/// The sets of instructions differ. The message has their sizes, and an instruction that is not in all of them.
pub fn same_instructions(models: &[(String, Vec<Annotation>)]) -> Result<()> {
    let set = |a: &[Annotation]| a.iter().map(|a| a.instruction.clone()).collect::<BTreeSet<_>>();
    let Some(((name, first), rest)) = models.split_first() else { return Ok(()) };
    let ours = set(first);
    for (other, annotations) in rest {
        let theirs = set(annotations);
        if let Some(lone) = ours.symmetric_difference(&theirs).next() {
            let shown: String = lone.chars().take(60).collect();
            let (has, lacks) = if ours.contains(lone) { (name, other) } else { (other, name) };
            return Err(Error::user(format!(
                "{name} has {} instructions and {other} {}, not the same ones: {has} has `{}`, {lacks} does not",
                ours.len(),
                theirs.len(),
                shown.escape_debug()
            ))
            .help("win rates over different instructions do not compare; annotate the same ones for each model"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../../tests/goldens/alpaca/golden.json");
    const GAMED: &str = include_str!("../../../tests/goldens/alpaca/gamed.csv");

    fn cases() -> Vec<Value> {
        serde_json::from_str(GOLDEN).unwrap()
    }
    fn read(case: &Value) -> Vec<Annotation> {
        annotations(case["annotations"].to_string().as_bytes()).unwrap()
    }

    #[test]
    fn win_rates_are_the_packages() {
        assert_eq!(cases().len(), 4);
        for case in cases() {
            let got = serde_json::to_value(WinRate::of(&read(&case))).unwrap();
            let want = case["glm"]["length_controlled_v1"]["exact"].as_object().unwrap();
            for (key, want) in want.iter().filter(|(k, _)| !k.contains("length_controlled") && !k.starts_with("lc_")) {
                let (got, want) = (got[key].as_f64().unwrap(), want.as_f64().unwrap());
                assert!((got - want).abs() < 1e-9, "{} {key}: {got}, {want}", case["name"]);
            }
        }
        assert!(cases().iter().any(|c| WinRate::of(&read(c)).n_null > 0));
        assert!(cases().iter().any(|c| WinRate::of(&read(c)).n_draws > 0));
    }

    #[test]
    fn length_controlled_win_rates_are_the_packages() {
        let gamed = gamed(GAMED.as_bytes()).unwrap();
        for case in cases() {
            let annotations = read(&case);
            for (glm, name) in [
                (Glm::V1, "length_controlled_v1"),
                (Glm::NoRegularisation, "length_controlled_noreg"),
                (Glm::Minimal, "length_controlled_minimal"),
            ] {
                let got = LengthControl { glm, gamed: Some(&gamed) }.of(&annotations).unwrap();
                // Ours is solved to the end, as `exact` is; as it ships, the package stops at its solver's tolerance.
                for (which, within) in [("exact", 1e-5), ("as_is", 0.01)] {
                    let want = &case["glm"][name][which];
                    let near = |got: f64, key: &str| {
                        assert!(
                            (got - want[key].as_f64().unwrap()).abs() < within,
                            "{} {name} {key}: {got}, {want}",
                            case["name"]
                        );
                    };
                    near(got.win_rate, "length_controlled_winrate");
                    near(got.standard_error.unwrap(), "lc_standard_error");
                }
            }
        }
    }

    #[test]
    fn what_is_no_annotation_is_named() {
        let row = |preference: &str, model: &str| {
            format!(
                r#"{{"instruction":"i","output_1":"a","output_2":"b","generator_1":"base","generator_2":"{model}","preference":{preference}}}"#
            )
        };
        let fails = |json: String| annotations(json.as_bytes()).unwrap_err().to_string();
        assert!(fails(format!("[{},{}]", row("1", "m"), row("2.5", "m"))).contains("row 2: the preference 2.5"));
        assert!(fails(format!("[{},{}]", row("1", "m"), row("2", "n"))).contains("row 2 compares n with base"));
        assert!(fails(r#"[{"instruction":"i"}]"#.into()).contains("row 1: missing field `output_1`"));
        assert!(fails("{}".into()).contains("not a JSON list"));
        assert!(fails("[]".into()).contains("no annotation"));
        let rows = annotations(format!("[{},{}]", row("0", "m"), row("null", "m")).as_bytes()).unwrap();
        assert_eq!(rows.iter().map(|r| r.preference).collect::<Vec<_>>(), [Some(0.5), None]);
    }

    #[test]
    fn other_instructions_do_not_compare() {
        let of = |name: &str, instructions: &[&str]| {
            let one = |i: &&str| Annotation {
                instruction: (*i).into(),
                index: 0,
                length_1: 1,
                length_2: 1,
                generator_1: "base".into(),
                generator_2: name.into(),
                preference: None,
            };
            (name.to_owned(), instructions.iter().map(one).collect::<Vec<_>>())
        };
        same_instructions(&[of("m", &["a", "b"]), of("n", &["b", "a"])]).unwrap();
        let e = same_instructions(&[of("m", &["a", "b"]), of("n", &["b"])]).unwrap_err().to_string();
        assert!(e.contains("m has 2 instructions and n 1") && e.contains("m has `a`, n does not"), "{e}");
    }
}
