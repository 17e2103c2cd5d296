//! `[study]`: runs the same pipeline with several seeds and in several variants, to separate effects from
//! chance.

use super::fields::Fields;
use super::syntax::values::is_name;

/// The values of `[study]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Study {
    /// Seeds, one run each.
    pub seeds: Vec<u32>,
    /// Measures of the summary to show in the study's table; all if empty.
    pub measures: Vec<String>,
    /// Variants of the pipeline by name; at least one.
    pub variants: Vec<Variant>,
}

/// The pipeline with some keys changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Variant {
    /// Its name, also of its directory.
    pub name: String,
    /// `SECTION.KEY=VALUE`, as after `--set`.
    pub set: Vec<String>,
}

impl Variant {
    /// Returns the overrides of its run with a seed.
    pub fn overrides(&self, seed: u32) -> Vec<String> {
        self.set.iter().cloned().chain([format!("pipeline.seed={seed}")]).collect()
    }
}

pub(super) fn study(f: &mut Fields<'_>) -> Study {
    let seeds = f.ints("seeds", "seeds of the runs; an interval needs at least two", None, 0..=u32::MAX.into());
    if f.given("seeds") && seeds.is_empty() {
        f.problem("seeds", "a study without seeds has no runs", "for example seeds = [1, 2, 3]");
    }
    let measures = f.texts("measures", "columns of the loop's table to show; all if empty", Some(&[]));
    let about = "variant name = its settings, one per line, as after --set; without variants, the file itself is run";
    let mut variants = Vec::new();
    for (name, text) in f.mapping("variants", about) {
        if !is_name(&name) {
            f.problem(
                "variants",
                format!("`{name}` cannot be the name of a variant"),
                "names have letters, digits, _ and -",
            );
        }
        if variants.iter().any(|v: &Variant| v.name.eq_ignore_ascii_case(&name)) {
            f.problem("variants", format!("two variants are called `{name}`, but for case"), "give one another name");
        }
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
        variants.push(Variant { name, set: lines.map(str::to_owned).collect() });
    }
    if variants.is_empty() {
        variants.push(Variant { name: "as-it-is".into(), set: Vec::new() });
    }
    // All values are within their range.
    let seeds = seeds.into_iter().filter_map(|s| u32::try_from(s).ok()).collect();
    Study { seeds, measures, variants }
}
