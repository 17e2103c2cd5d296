//! What is measured on held-out rows is what a step on these rows would have said.

use crate::support::{against, bits, examples, policy};
use reflux::train::losses::column;
use reflux::train::{
    DpoConfig, KeepWeights, Objective, Progress, SftConfig, StepMetrics, Validation, ValidationMetric, dpo, sft,
};

fn close(what: &str, a: Option<f64>, b: Option<f64>) {
    let (a, b) = (a.unwrap(), b.unwrap());
    assert!((a - b).abs() <= 1e-12 * a.abs().max(1e-9), "{what}: {a} and {b}");
}

fn validation<T>(rows: Vec<T>) -> Option<Validation<T>> {
    Some(Validation { rows, every: 1, measure: ValidationMetric::Loss, patience: None, keep: KeepWeights::Last })
}

#[test]
fn measured_after_a_step_is_the_next_step_on_the_same_rows() {
    // Every step takes all rows, and the held-out rows are the same: a step's metrics are from before it.
    let mut pairs = against("reference");
    pairs
        .iter_mut()
        .enumerate()
        .for_each(|(i, pair)| pair.columns.set(column("consistency").unwrap(), (i % 5) as f64 / 4.));
    let runs = [(4096, "sigmoid", None), (60, "ipo", None), (60, "sigmoid", Some(0.3)), (4096, "cream", None)];
    for (rows_at_once, loss, ld_alpha) in runs {
        let loss = reflux::train::losses::LOSSES.iter().find(|l| l.name == loss).unwrap();
        let config = DpoConfig {
            objective: Objective { loss, nll_weight: 0.3, ld_alpha, ..Objective::default() },
            epochs: 4,
            batch_size: pairs.len(),
            shuffle: false,
            max_rows_per_forward: rows_at_once,
            validation: validation(pairs.clone()),
            ..DpoConfig::default()
        };
        let metrics = dpo(&policy("start"), &pairs, &[], &config, &mut reflux::train::Quiet).unwrap().metrics;
        assert_eq!(metrics.len(), 4);
        for two in metrics.windows(2) {
            close("loss", two[0].eval_loss, Some(two[1].loss));
            close("chosen", two[0].eval_rewards_chosen, two[1].rewards_chosen);
            close("rejected", two[0].eval_rewards_rejected, two[1].rewards_rejected);
            close("margins", two[0].eval_rewards_margins, two[1].rewards_margins);
            close("accuracies", two[0].eval_rewards_accuracies, two[1].rewards_accuracies);
        }
        assert!(metrics[3].eval_loss.is_some() && metrics[0].eval_loss != metrics[3].eval_loss);
    }
    let config = SftConfig {
        epochs: 3,
        batch: reflux::train::BatchSize::Sequences(1000),
        shuffle: false,
        validation: validation(examples()),
        ..SftConfig::default()
    };
    let metrics = sft(&policy("start"), &examples(), &config, &mut reflux::train::Quiet).unwrap().metrics;
    for two in metrics.windows(2) {
        close("sft loss", two[0].eval_loss, Some(two[1].loss));
    }
}

/// Remembers the weights after every step.
struct Weights<'a>(&'a reflux::model::Llama, Vec<Vec<u32>>);
impl Progress for Weights<'_> {
    fn step(&mut self, _: &StepMetrics, _: usize, _: usize) -> reflux::error::Result<()> {
        self.1.push(bits(self.0));
        Ok(())
    }
}

#[test]
fn the_weights_kept_are_those_of_the_chosen_step() {
    for (measure, patience) in
        [(ValidationMetric::Loss, None), (ValidationMetric::Margin, Some(1)), (ValidationMetric::Accuracy, Some(2))]
    {
        let pairs = against("reference");
        let held_out = Validation { rows: pairs[..5].to_vec(), every: 2, measure, patience, keep: KeepWeights::Best };
        let mut config = DpoConfig { batch_size: 2, epochs: 2, validation: Some(held_out), ..DpoConfig::default() };
        config.schedule.learning_rate = 0.05; // far too high: it gets worse again
        let llama = policy("start");
        let mut after = Weights(&llama, Vec::new());
        let trained = dpo(&llama, &pairs[5..], &[], &config, &mut after).unwrap();
        let values: Vec<(usize, f64)> =
            trained.metrics.iter().filter_map(|m| Some((m.step as usize, measure.value(m)?))).collect();
        let steps = trained.metrics.len();
        assert!(values.iter().all(|(step, _)| step % 2 == 0 || *step == steps), "{values:?}");
        let better = |new: f64, old: f64| if measure == ValidationMetric::Loss { new < old } else { new > old };
        let best = values.iter().copied().reduce(|a, b| if better(b.1, a.1) { b } else { a }).unwrap();
        assert_eq!(trained.chosen, best.0, "{values:?}");
        assert_eq!(bits(&llama), after.1[trained.chosen - 1], "{measure:?}");
        if let Some(patience) = patience {
            let since = values.iter().filter(|(step, _)| *step > best.0).count();
            assert!(since <= patience, "{values:?}");
        }
    }
}
