//! The figures of an evaluation, as a table and as JSON.

use arrow::array::{Array as _, RecordBatch};
use serde_json::{Map, Value, json};

use crate::data::Columns;
use crate::error::{Error, Result};
use crate::eval::figures::{FigureDef, Unit};
use crate::report::inspect::show::aligned;
use crate::store::Run;

/// A figure with its interval.
#[derive(Clone, PartialEq, Debug)]
struct FigureInterval {
    step: String,
    name: String,
    value: Option<f64>,
    interval: Option<(f64, f64)>,
    n: u32,
}

impl FigureInterval {
    /// Whether the figure is a number of rows.
    fn counts(&self) -> bool {
        FigureDef::by_name(&self.name).is_some_and(|def| def.unit == Unit::Rows)
    }
}

/// Figures that the step `figures` of a run computed.
#[derive(Clone, PartialEq, Debug)]
pub struct Figures(Vec<FigureInterval>);

impl Figures {
    /// Reads the figures of a run.
    ///
    /// # Errors
    /// A file is damaged or missing.
    pub fn of(run: &Run) -> Result<Self> {
        let rows = run.read_step("figures", None)?;
        Self::read(&rows.ok_or_else(|| Error::bug("the step `figures` has no rows"))?)
    }

    fn read(rows: &RecordBatch) -> Result<Self> {
        let c = Columns(rows);
        let (step, name, n) = (c.text("step")?, c.text("name")?, c.uint("n")?);
        let [value, low, high] = [c.double("value")?, c.double("low")?, c.double("high")?];
        let figure = |i: usize| FigureInterval {
            step: step.value(i).into(),
            name: name.value(i).into(),
            value: value.is_valid(i).then(|| value.value(i)),
            interval: (low.is_valid(i) && high.is_valid(i)).then(|| (low.value(i), high.value(i))),
            n: n.value(i),
        };
        Ok(Self((0..rows.num_rows()).map(figure).collect()))
    }

    /// Returns value, low, high and n by step and name.
    pub fn json(&self) -> Value {
        let mut steps = Map::new();
        for f in &self.0 {
            let step = steps.entry(f.step.clone()).or_insert_with(|| json!({}));
            let (low, high) = f.interval.unzip();
            step[f.name.as_str()] = json!({"value": f.value, "low": low, "high": high, "n": f.n});
        }
        Value::Object(steps)
    }

    /// Formats one line for each figure.
    pub fn table(&self) -> String {
        let row = |f: &FigureInterval| {
            let number = |v: f64| if f.counts() { format!("{v}") } else { format!("{v:.4}") };
            let interval = f.interval.map(|(low, high)| format!("{} to {}", number(low), number(high)));
            let value = f.value.map_or("-".into(), number);
            vec![f.step.clone(), f.name.clone(), value, interval.unwrap_or_default(), f.n.to_string()]
        };
        let rows: Vec<Vec<String>> = self.0.iter().map(row).collect();
        aligned(&["of", "figure", "value", "interval", "n"], &[false, false, true, true, true], &rows).join("\n")
    }
}
