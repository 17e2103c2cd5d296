//! The reference model of a DPO training and its log-probabilities, microbatch by microbatch.
//!
//! A generator with the reference's weights (the hash covers their type too) has recorded them while
//! sampling, raw: at temperature 1 over the full vocabulary. A random slice of them is computed again. If
//! the two differ too much, the whole microbatch is computed, as it is if other weights wrote the answers.
//! The values used are a dataset of their own, `STEP.reference`, with the microbatches of the pairs; those
//! of earlier iterations, if a training uses them, follow with higher numbers, the oldest first. They
//! cannot be part of the pairs: committed files never change, and the step that makes the pairs knows no
//! reference (several trainings may use several).

use std::collections::HashMap;

use arrow::array::Float64Array;
use rand_chacha::rand_core::Rng;

use crate::data::{RngKey, counted};
use crate::dataflow::ModelAt;
use crate::model::{Llama, Model};
use crate::operators::shared::datasets::references_of;
use crate::operators::shared::prelude::*;
use crate::pipeline::{Plan, Step};
use crate::store::Run;
use crate::train::{self, ForwardLimits, Pair, Progress, Reference, usable_pairs};

/// The keys of a reference.
pub(crate) struct ReferenceSettings {
    /// The word in the pipeline file.
    word: String,
    audit: f64,
    threshold: f64,
}

impl ReferenceSettings {
    /// Reads the keys.
    pub fn fields(f: &mut Fields<'_>) -> Self {
        let settings = Self {
            word: f.reference("reference", "the frozen reference model"),
            audit: f.float("audit", "share of the pairs whose log-probabilities, recorded while sampling, are computed again and compared; at least one pair of a microbatch, 0 for none", Some(0.02), 0.0..=1.0),
            threshold: f.float("audit_threshold", "greatest mean difference of a microbatch's audited tokens, in nats; above it all of the microbatch is computed", Some(1e-3), 0.0..=1e3),
        };
        if settings.audit == 0. {
            f.without_effect(&["audit_threshold"], "with audit = 0", "");
        }
        settings
    }
    /// Whether the policy itself is the reference, so that sampling has recorded its log-probabilities.
    pub fn recorded(&self) -> bool {
        self.word == "policy-start" || self.word == "policy"
    }
    /// Describes the settings for `explain`.
    pub fn explain(&self) -> String {
        format!("reference {}, {} % of recorded log-probabilities audited", self.word, self.audit * 100.)
    }
}

/// The reference of a training.
pub(crate) struct References<'a> {
    cx: &'a Context<'a>,
    settings: &'a ReferenceSettings,
    limits: ForwardLimits,
    max_length: Option<usize>,
    policy: &'a Model,
    at: ModelAt,
    /// Whether the policy serves as the reference, before its first step.
    is_policy: bool,
    /// Another model, or a copy of the policy before training.
    loaded: Option<Model>,
    hash: String,
    /// Pairs that the policy could learn from but that have no reference.
    pub errors: Vec<RowError>,
}

impl<'a> References<'a> {
    /// Prepares the references of the training of `policy`. If `untouched` is set, the policy takes no step
    /// before all references are found; otherwise a copy of it is loaded if something must be computed.
    ///
    /// # Errors
    /// The reference cannot be loaded, or has another vocabulary.
    pub fn new(
        cx: &'a Context<'a>,
        settings: &'a ReferenceSettings,
        policy: &'a Model,
        untouched: bool,
        limits: ForwardLimits,
        max_length: Option<usize>,
    ) -> Result<Self> {
        let own = cx.model.clone().ok_or_else(|| Error::bug("a training step has no model"))?;
        let at = cx.other_model("reference")?.unwrap_or_else(|| own.clone());
        let mut new = Self {
            cx,
            settings,
            limits,
            max_length,
            policy,
            is_policy: at == own,
            at,
            loaded: None,
            hash: policy.hash.clone(),
            errors: Vec::new(),
        };
        if !new.is_policy {
            let model = cx.env::<Models>()?.frozen(cx, &new.at)?;
            let (has, wants) = (model.llama.config().vocab_size, policy.llama.config().vocab_size);
            if has != wants {
                return Err(Error::user(format!("the reference {} has a vocabulary of {has} tokens, the policy one of {wants}: their token ids mean different things", settings.word))
                    .help("name a reference with the policy's tokenizer"));
            }
            if model.tokenizer.vocabulary_hash() != policy.tokenizer.vocabulary_hash() {
                return Err(Error::user(format!("the reference {} has another vocabulary than the policy, of the same size: their token ids mean different things", settings.word))
                    .help("name a reference with the policy's tokenizer"));
            }
            new.hash.clone_from(&model.hash);
            // Other files with the same weights need no second copy in memory.
            new.is_policy = model.hash == policy.hash && untouched;
            new.loaded = (!new.is_policy).then_some(model);
        } else if !untouched {
            new.is_policy = false;
        }
        Ok(new)
    }

    /// Returns the weights that compute.
    fn llama(&mut self) -> Result<&Llama> {
        if self.is_policy {
            return Ok(&self.policy.llama);
        }
        if self.loaded.is_none() {
            self.loaded = Some(self.cx.env::<Models>()?.frozen(self.cx, &self.at)?);
        }
        self.loaded.as_ref().map(|m| &m.llama).ok_or_else(|| Error::bug("the reference is not loaded"))
    }

    /// Fills in the references of `pairs`, which are the rows of the microbatch `of` of the pairs' dataset,
    /// from the microbatch `microbatch` of the reference dataset, which is made and committed if it does
    /// not exist. Usable pairs without a reference are removed and reported.
    ///
    /// # Errors
    /// The committed file belongs to another model or other pairs, or computing fails.
    pub fn fill(
        &mut self,
        microbatch: u32,
        of: Epoch,
        rows: &RecordBatch,
        mut pairs: Vec<Pair>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Pair>> {
        let (name, epoch) = (references_of(&self.cx.step.name), Epoch::new(self.cx.epoch.iteration, microbatch));
        if self.cx.run().committed(&name, epoch).is_none() {
            let made = self.make(microbatch, rows, pairs.clone(), progress)?;
            let lineage = self.cx.run().committed(&self.cx.step.inputs[0].step, of);
            let lineage: Vec<String> = std::iter::once(self.hash.clone()).chain(lineage.map(|f| f.hash)).collect();
            self.cx.run().commit(&name, epoch, &made, &named::ERRORS.empty(), &lineage)?;
        }
        // The values used are the stored ones, whether they were made now or before.
        let stored = self
            .cx
            .run()
            .load(&name, epoch)?
            .ok_or_else(|| Error::bug("the reference's microbatch is not committed"))?;
        self.take(&stored, &mut pairs)
            .doing(|| format!("data/{name}, iteration {}, microbatch {microbatch}", epoch.iteration))?;
        let policy = self.policy.llama.config();
        let (usable, _) = usable_pairs(policy, &pairs, self.max_length);
        let without: Vec<usize> = usable.into_iter().filter(|&i| pairs[i].reference.is_none()).collect();
        for &i in without.iter().rev() {
            let pair = pairs.remove(i);
            let limit = self.loaded.as_ref().map_or(policy, |m| m.llama.config());
            let (_, problems) = usable_pairs(limit, std::slice::from_ref(&pair), self.max_length);
            let (code, message) =
                problems.first().map_or(("no_reference", String::new()), |p| (p.code, p.message.clone()));
            let message = format!("the reference {} cannot take it: {message}", self.settings.word);
            self.errors.push(RowError::failed(pair.id, code, message));
        }
        Ok(pairs)
    }

    /// Computes the references of held-out pairs, which are not stored.
    ///
    /// # Errors
    /// Computing fails.
    pub fn compute(&mut self, pairs: &mut [Pair], progress: &mut dyn Progress) -> Result<()> {
        let limits = self.limits;
        train::reference(self.llama()?, pairs, limits, progress).map(drop)
    }

    /// Makes the reference's rows of a microbatch.
    fn make(
        &mut self,
        microbatch: u32,
        rows: &RecordBatch,
        mut pairs: Vec<Pair>,
        progress: &mut dyn Progress,
    ) -> Result<RecordBatch> {
        let (columns, limits) = (Columns(rows), self.limits);
        let (models, chosen, rejected) =
            (columns.text("model")?, columns.floats("chosen_logprobs")?, columns.floats("rejected_logprobs")?);
        let fits =
            |tokens: &[u32], logprobs: &[f32]| tokens.len() == logprobs.len() && logprobs.iter().all(|l| l.is_finite());
        // Complete values that the reference itself has recorded.
        for (i, pair) in pairs.iter_mut().enumerate() {
            let here = Reference { chosen: chosen.row(i).to_vec(), rejected: rejected.row(i).to_vec() };
            let good = models.value(i) == self.hash
                && fits(&pair.chosen, &here.chosen)
                && fits(&pair.rejected, &here.rejected);
            pair.reference = good.then_some(here);
        }
        let mut recorded: Vec<bool> = pairs.iter().map(|p| p.reference.is_some()).collect();
        let slice = self.slice(&pairs);
        let mut audit: Vec<Option<f64>> = vec![None; pairs.len()];
        if !slice.is_empty() {
            let mut again: Vec<Pair> = slice.iter().map(|&i| Pair { reference: None, ..pairs[i].clone() }).collect();
            train::reference(self.llama()?, &mut again, limits, progress)?;
            let (mut sum, mut tokens) = (0., 0);
            for (&i, again) in slice.iter().zip(&again) {
                let (Some(said), Some(found)) = (&pairs[i].reference, &again.reference) else { continue };
                let (total, n) = difference(said, found);
                audit[i] = Some(total / n.max(1) as f64);
                (sum, tokens) = (sum + total, tokens + n);
            }
            let mean = sum / f64::from(tokens.max(1));
            if mean.is_nan() || mean > self.settings.threshold {
                tracing::warn!(
                    "step `{}`, iteration {}, microbatch {microbatch}: the log-probabilities recorded while sampling differ from those computed \
                     by {mean:.3e} nats a token, more than audit_threshold = {:.3e}; all of its {} pairs are computed",
                    self.cx.step.name,
                    self.cx.epoch.iteration,
                    self.settings.threshold,
                    pairs.len(),
                );
                pairs.iter_mut().for_each(|p| p.reference = None);
                recorded.fill(false);
            }
        }
        if pairs.iter().any(|p| p.reference.is_none()) {
            train::reference(self.llama()?, &mut pairs, limits, progress)?;
        }
        self.batch(rows, &pairs, &recorded, &audit)
    }

    /// Returns the indices of the pairs to audit: those whose draw is below the share, or else the one with
    /// the least draw. Only pairs with a recorded reference that can be computed are considered.
    fn slice(&self, pairs: &[Pair]) -> Vec<usize> {
        let (usable, _) = usable_pairs(self.policy.llama.config(), pairs, None);
        let purpose = format!("{}.audit", self.cx.step.name);
        let draw = |i: usize| {
            let key = RngKey::new(self.cx.shared.plan.seed, &purpose, self.cx.epoch.iteration, &pairs[i].id, 0);
            (key.rng().next_u64(), i)
        };
        let draws: Vec<(u64, usize)> = usable.into_iter().filter(|&i| pairs[i].reference.is_some()).map(draw).collect();
        if self.settings.audit <= 0. {
            return Vec::new();
        }
        let below = |&(draw, _): &(u64, usize)| {
            (draw as f64) < self.settings.audit * 2f64.powi(64) || self.settings.audit >= 1.
        };
        let slice: Vec<usize> = draws.iter().filter(|d| below(d)).map(|d| d.1).collect();
        if slice.is_empty() { draws.iter().min().map(|d| d.1).into_iter().collect() } else { slice }
    }

    /// Makes the dataset's rows from the pairs that have a reference, in order.
    fn batch(
        &self,
        rows: &RecordBatch,
        pairs: &[Pair],
        recorded: &[bool],
        audit: &[Option<f64>],
    ) -> Result<RecordBatch> {
        let columns = Columns(rows);
        let (prompt_ids, chosen_ids, rejected_ids) =
            (columns.text("prompt_id")?, columns.text("chosen_id")?, columns.text("rejected_id")?);
        let known: Vec<(usize, &Reference)> =
            pairs.iter().enumerate().filter_map(|(i, p)| Some((i, p.reference.as_ref()?))).collect();
        let text = |of: &dyn Fn(usize) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(known.iter().map(|k| of(k.0))))
        };
        let floats =
            |of: &dyn Fn(&Reference) -> Vec<f32>| List::of_floats(&known.iter().map(|k| of(k.1)).collect::<Vec<_>>());
        let sums = |of: &dyn Fn((f64, f64)) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(known.iter().map(|k| of(k.1.sums()))))
        };
        named::REFERENCE.batch(vec![
            text(&|i| prompt_ids.value(i).into()),
            text(&|i| chosen_ids.value(i).into()),
            text(&|i| rejected_ids.value(i).into()),
            floats(&|r| r.chosen.clone()),
            floats(&|r| r.rejected.clone()),
            sums(&|s| s.0),
            sums(&|s| s.1),
            text(&|_| self.hash.clone()),
            text(&|i| if recorded[i] { "recorded" } else { "computed" }.into()),
            Arc::new(Float64Array::from_iter(known.iter().map(|k| audit[k.0]))),
        ])
    }

    /// Gives the pairs their stored log-probabilities after checking that they belong to them.
    fn take(&self, stored: &RecordBatch, pairs: &mut [Pair]) -> Result<()> {
        let columns = Columns(stored);
        let (chosen_ids, rejected_ids, models) =
            (columns.text("chosen_id")?, columns.text("rejected_id")?, columns.text("model")?);
        let (chosen, rejected) = (columns.floats("chosen_logprobs")?, columns.floats("rejected_logprobs")?);
        if let Some(other) = (0..stored.num_rows()).map(|i| models.value(i)).find(|m| *m != self.hash) {
            return Err(Error::user(format!(
                "the log-probabilities are those of the model {other}, but the reference {} is {}",
                self.settings.word, self.hash
            ))
            .help("the model's file has changed since: restore it, or run again with --fresh"));
        }
        let rows: HashMap<String, usize> =
            (0..stored.num_rows()).map(|i| (pair_id(chosen_ids.value(i), rejected_ids.value(i)), i)).collect();
        for pair in pairs {
            pair.reference = rows
                .get(&pair.id)
                .map(|&i| Reference { chosen: chosen.row(i).to_vec(), rejected: rejected.row(i).to_vec() });
            if let Some(r) = &pair.reference
                && (r.chosen.len(), r.rejected.len()) != (pair.chosen.len(), pair.rejected.len())
            {
                return Err(Error::user(format!(
                    "pair `{}` has {} and {} tokens, but {} and {} log-probabilities are stored",
                    pair.id,
                    pair.chosen.len(),
                    pair.rejected.len(),
                    r.chosen.len(),
                    r.rejected.len()
                ))
                .help("the file was changed: restore it, or run again with --fresh"));
            }
        }
        Ok(())
    }
}

/// Returns the id of a pair.
pub(crate) fn pair_id(chosen: &str, rejected: &str) -> String {
    format!("{chosen}>{rejected}")
}

/// Returns the sum of absolute differences of two references' tokens, and the number of tokens.
fn difference(a: &Reference, b: &Reference) -> (f64, u32) {
    let both = a.chosen.iter().zip(&b.chosen).chain(a.rejected.iter().zip(&b.rejected));
    both.fold((0., 0), |(sum, n), (a, b)| (sum + (f64::from(*a) - f64::from(*b)).abs(), n + 1))
}

/// The use of references in a training, for the summary.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ReferenceUse {
    /// The training step.
    pub step: String,
    /// Its iteration.
    pub iteration: u32,
    /// The reference's word in the pipeline file.
    pub model: String,
    /// Hash of its weights.
    pub hash: String,
    /// Pairs whose log-probabilities were recorded while sampling.
    pub recorded: u64,
    /// Pairs whose log-probabilities were computed.
    pub computed: u64,
    /// Audited pairs.
    pub audited: u64,
    /// Mean absolute difference of an audited token, in nats; `None` without an audit.
    pub audit_difference: Option<f64>,
    /// Microbatches that were computed because their audit failed.
    pub audits_failed: u64,
}

impl ReferenceUse {
    /// Reads those of all trainings of a run, in plan order and by iteration.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn load_all(plan: &Plan<dyn Operator>, run: &Run) -> Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for step in &plan.steps {
            for iteration in step.iterations.clone() {
                all.extend(Self::load(step, run, iteration)?);
            }
        }
        Ok(all)
    }

    /// Reads those of one training, if it has stored any.
    ///
    /// # Errors
    /// As [`ReferenceUse::load_all`].
    pub fn load(step: &Step<dyn Operator>, run: &Run, iteration: u32) -> Result<Option<Self>> {
        let Some((_, model)) = step.models.iter().find(|(key, _)| *key == "reference") else { return Ok(None) };
        let mut sums = (0., 0.);
        let mut used = Self {
            step: step.name.clone(),
            iteration,
            model: model.to_string(),
            hash: String::new(),
            recorded: 0,
            computed: 0,
            audited: 0,
            audit_difference: None,
            audits_failed: 0,
        };
        for rows in run.batches(&references_of(&step.name), Some(iteration)) {
            used.add(&rows?.1, &mut sums)?;
        }
        used.audit_difference = (used.audited > 0).then(|| sums.0 / f64::max(sums.1, 1.));
        Ok((!used.hash.is_empty()).then_some(used))
    }

    fn add(&mut self, rows: &RecordBatch, (sum, tokens): &mut (f64, f64)) -> Result<()> {
        let columns = Columns(rows);
        let (models, sources, audit) = (columns.text("model")?, columns.text("source")?, columns.double("audit")?);
        let (chosen, rejected) = (columns.floats("chosen_logprobs")?, columns.floats("rejected_logprobs")?);
        let mut failed = false;
        for i in 0..rows.num_rows() {
            self.hash = models.value(i).into();
            let recorded = sources.value(i) == "recorded";
            *(if recorded { &mut self.recorded } else { &mut self.computed }) += 1;
            if audit.is_valid(i) {
                let n = (chosen.row(i).len() + rejected.row(i).len()) as f64;
                (*sum, *tokens) = (*sum + audit.value(i) * n, *tokens + n);
                self.audited += 1;
                failed |= !recorded;
            }
        }
        self.audits_failed += u64::from(failed);
        Ok(())
    }
}

impl std::fmt::Display for ReferenceUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, iteration, model, recorded, computed, audited, audits_failed, .. } = self;
        let hash = self.hash.get(..12).unwrap_or(&self.hash);
        write!(
            f,
            "{step} {iteration}: reference {model} ({hash}); log-probabilities of {} as recorded while sampling, of {computed} computed",
            counted(*recorded, "pair")
        )?;
        if let Some(difference) = self.audit_difference {
            write!(f, "; {audited} audited, {difference:.1e} nats a token apart")?;
        }
        if *audits_failed > 0 {
            let were = if *audits_failed == 1 { "was" } else { "were" };
            write!(f, "; {} failed the audit and {were} computed", counted(*audits_failed, "microbatch"))?;
        }
        Ok(())
    }
}
