//! Gradients against finite differences, declared inputs against the values, and known values.

use candle_core::{Device, Tensor, Var};

use super::*;

fn params(label_smoothing: f64) -> LossParams {
    let mut params = LossParams::default();
    for parameter in parameters() {
        let value = match parameter.key {
            "label_smoothing" => label_smoothing,
            "simpo_gamma" => 0.3,
            "margin_scale" => 0.7,
            _ => parameter.default,
        };
        params.set(parameter, value);
    }
    params
}

/// Values of a column of the pairs, in its range.
fn values(column: &PairColumn) -> [f64; 4] {
    [1., 0.5, 0.8, 0.].map(|value: f64| value.clamp(column.range.0, column.range.1))
}

fn scores(chosen: &Tensor, rejected: &Tensor, label_smoothing: f64) -> Scores {
    let of = |values: [f64; 4]| Tensor::new(&values, &Device::Cpu).unwrap();
    Scores {
        chosen: chosen.clone(),
        rejected: rejected.clone(),
        ref_chosen: of([-10., -20., -3., -900.]),
        ref_rejected: of([-12., -20., -4., -10.]),
        chosen_tokens: of([3., 7., 1., 300.]),
        rejected_tokens: of([4., 7., 2., 3.]),
        columns: columns().into_iter().map(|column| (column.name, of(values(column)))).collect(),
        params: params(label_smoothing),
    }
}

#[test]
fn gradients_are_those_of_finite_differences_also_where_policy_equals_reference() {
    // The second pair sits exactly on the reference, the last is far out.
    let at = [[-11., -20., -1.5, -10.], [-9., -20., -6., -5000.]];
    for loss in LOSSES {
        for smoothing in [0., 0.2] {
            let vars = at.map(|v| Var::new(&v, &Device::Cpu).unwrap());
            let total = (loss.each)(&scores(&vars[0], &vars[1], smoothing)).unwrap().sum_all().unwrap();
            let grads = total.backward().unwrap();
            for (side, var) in vars.iter().enumerate() {
                let got = grads.get(var).unwrap().to_vec1::<f64>().unwrap();
                for i in 0..4 {
                    let value = |step: f64| {
                        let mut moved = at;
                        moved[side][i] += step;
                        let [c, r] = moved.map(|v| Tensor::new(&v, &Device::Cpu).unwrap());
                        let each = (loss.each)(&scores(&c, &r, smoothing)).unwrap().to_vec1::<f64>().unwrap();
                        assert!(each[i].is_finite());
                        each[i]
                    };
                    let want = (value(1e-4) - value(-1e-4)) / 2e-4;
                    let (got, near) = (got[i], 1e-6 * (1. + want.abs()));
                    assert!((got - want).abs() < near, "{} {smoothing} {side} {i}: {got} {want}", loss.name);
                }
            }
        }
    }
}

/// What a loss says it reads is what its value depends on, and no more.
#[test]
fn losses_read_what_they_declare() {
    let at = |v: [f64; 4]| Tensor::new(&v, &Device::Cpu).unwrap();
    let base = || scores(&at([-10., -21., -3., -90.]), &at([-12., -20., -6., -10.]), 0.1);
    for loss in LOSSES {
        let values = |s: &Scores| (loss.each)(s).unwrap().to_vec1::<f64>().unwrap();
        let check = |input: LossInput, changed: Scores| {
            let depends = values(&base()) != values(&changed);
            assert_eq!(depends, loss.takes(input), "{} and {input:?}", loss.name);
        };
        for parameter in parameters() {
            let mut changed = base();
            let value = changed.params.get(parameter) + 0.1;
            assert!((parameter.range.0..=parameter.range.1).contains(&value), "{parameter:?}: {value}");
            changed.params.set(parameter, value);
            check(LossInput::Parameter(parameter), changed);
        }
        for column in columns() {
            let mut changed = base();
            let values = (&changed.columns[column.name] * 0.5).unwrap();
            changed.columns.insert(column.name, values);
            check(LossInput::Column(column), changed);
        }
        let mut changed = base();
        changed.ref_chosen = (&changed.ref_chosen * 0.9).unwrap();
        check(LossInput::Reference, changed);
    }
}

#[test]
fn known_values() {
    let at = |v: [f64; 4]| Tensor::new(&v, &Device::Cpu).unwrap();
    let each = |name: &str, e: f64| {
        let s = scores(&at([-10., -20., -3., -900.]), &at([-12., -20., -14., -10.]), e);
        (by_name(name).unwrap().each)(&s).unwrap().to_vec1::<f64>().unwrap()
    };
    let ln2 = 2f64.ln();
    assert!((each("sigmoid", 0.)[0] - ln2).abs() < 1e-15);
    assert!((each("sigmoid", 0.)[2] - (1. + (-1f64).exp()).ln()).abs() < 1e-15);
    assert!((each("sigmoid", 0.3)[1] - ln2).abs() < 1e-15);
    assert!((each("ipo", 0.)[2] - 0.).abs() < 1e-15);
    assert!((each("hinge", 0.)[1] - 1.).abs() < 1e-15);
    assert!((each("hinge", 0.)[2] - 0.).abs() < 1e-15);
    let error = by_name("sigmoidal").unwrap_err();
    assert_eq!(
        error.help_text(),
        Some(format!("choose one of: {}", LOSSES.iter().map(|l| l.name).collect::<Vec<_>>().join(", ")).as_str())
    );
}
