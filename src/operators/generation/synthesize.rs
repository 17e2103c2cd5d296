//! `synthesize`: a model writes new prompts from examples of seed prompts and earlier written ones
//! (Self-Instruct, arXiv 2212.10560). Near copies are dropped.
//!
//! The pool of accepted prompts grows from microbatch to microbatch, so this is an iteration source with a
//! state: the examples drawn for microbatch m depend only on the prompts accepted before it, in canonical
//! order.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

use super::filters::PromptFilters;
use crate::data::counted;
use crate::dataflow::{IterationSource, IterationState};
use crate::engine::{Finish, Request, Sampling};
use crate::eval::rouge::NearCopies;
use crate::jinja::Value;
use crate::model::Message;
use crate::operators::shared::models::cancel;
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "synthesize",
    about: "writes new prompts after examples of seed and of generated ones",
    shape: Shape::IterationSource,
    model: NeedsModel::Yes,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.prompts]\nop = \"synthesize\"\nfrom = \"ift\"\nmodel = \"m0\"\nper_iteration = 512\nshots = { seed = 6, generated = 2 }\nsampling = { temperature = 0.6, top_p = 0.9, max_tokens = 128 }\nreject = { rouge_l = 0.7 }\n",
    parse: |f| {
        let default = Sampling { temperature: 0.6, top_p: 0.9, max_tokens: 128, ..Sampling::default() };
        let template = PromptTemplate::field(
            f,
            "template",
            "the writer's prompt: a built-in template or a file with {{ examples }}",
            "instruct",
            Variables::WRITE,
        );
        let per_iteration =
            f.int("per_iteration", "prompts to write per iteration", Some(512), 1..=100_000_000) as usize;
        let (seed_shots, generated_shots) = f.table("shots", "examples shown to the writer", |f| {
            let seed = f.int("seed", "of the input", Some(6), 0..=64) as usize;
            (
                seed,
                f.int(
                    "generated",
                    "number from earlier generated prompts, or from the input while there are none",
                    Some(2),
                    0..=64,
                ) as usize,
            )
        });
        let reject = PromptFilters::fields(f);
        let first_paragraph = f.bool(
            "first_paragraph",
            "uses only the first paragraph as the prompt, because small models ramble",
            Some(false),
        );
        let attempts = f.int(
            "attempts",
            "how often a microbatch requests replacements for dropped prompts before it continues with fewer",
            Some(4),
            1..=1000,
        ) as u32;
        let sampling = settings::sampling(f, &default);
        let settings =
            SynthesisSettings { template, seed_shots, generated_shots, reject, first_paragraph, attempts, sampling };
        Box::new(Synthesize { per_iteration, settings: Arc::new(settings) })
    },
};

struct Synthesize {
    per_iteration: usize,
    settings: Arc<SynthesisSettings>,
}

/// Settings shared by the operator and its state.
struct SynthesisSettings {
    template: PromptTemplate,
    seed_shots: usize,
    generated_shots: usize,
    reject: PromptFilters,
    first_paragraph: bool,
    attempts: u32,
    sampling: Sampling,
}

impl StepSpec for Synthesize {
    fn explain(&self) -> String {
        let (n, s, g) = (self.per_iteration, self.settings.seed_shots, self.settings.generated_shots);
        format!(
            "{} an iteration after {s} seed and {}, {}",
            counted(n, "prompt"),
            counted(g, "generated example"),
            settings::describe(&self.settings.sampling)
        )
    }
    fn asks(&self) -> Option<Asks> {
        let s = &self.settings;
        let examples = Value::list(vec!["".into(); s.seed_shots + s.generated_shots]).ok()?;
        s.template.asks(&[("examples", examples)], s.sampling.max_tokens)
    }
    fn work(&self, _: u32, _: &[InputStats], assume: &CostAssumptions) -> CostEstimate {
        let s = &self.settings;
        let (rows, most) = (self.per_iteration as f64, s.sampling.max_tokens as f64);
        let written = assume.fill * most;
        let shown = (s.seed_shots + s.generated_shots) as f64 * assume.prompt;
        CostEstimate {
            out: RowStats { rows, prompt: written, answer: 0., per_prompt: 1. },
            read: TokenCount::of_sequences(rows, 0., shown),
            sampled: TokenCount::of_sequences(rows, shown, written),
            longest: shown + most,
            ..CostEstimate::default()
        }
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(inputs, &["prompt"], "example prompts")?;
        Ok(&named::PROMPTS)
    }
}
impl Operator for Synthesize {
    fn stage(&self) -> Stage<'_> {
        Stage::IterationSource(self)
    }
}

impl IterationSource for Synthesize {
    fn per_iteration(&self) -> usize {
        self.per_iteration
    }
    fn start(&self, cx: &Context<'_>) -> Result<Box<dyn IterationState>> {
        let seeds = cx.whole(&cx.step.inputs[0].step)?;
        let prompts = Columns(&seeds).text("prompt")?;
        let ids = super::generate::prompt_ids(&seeds)?;
        let seeds: Vec<PoolPrompt> =
            ids.into_iter().zip(prompts.iter().flatten()).map(|(id, text)| PoolPrompt::new(id, text)).collect();
        let shots = self.settings.seed_shots + self.settings.generated_shots;
        if seeds.len() < shots {
            let input = &cx.step.inputs[0].step;
            return Err(Error::user(format!("{shots} examples are asked for, `{input}` has {} rows", seeds.len()))
                .help("give it more rows, or show fewer examples: shots = { seed = .., generated = .. }"));
        }
        let mut near = NearCopies::new(self.settings.reject.rouge_l);
        if self.settings.reject.rouge_l < 1. {
            seeds.iter().for_each(|seed| near.insert(&seed.text));
        }
        Ok(Box::new(PromptPool { seeds, written: Vec::new(), near, settings: Arc::clone(&self.settings) }))
    }
}

/// A prompt of the pool.
struct PoolPrompt {
    id: String,
    text: String,
}
impl PoolPrompt {
    fn new(id: String, text: &str) -> Self {
        Self { id, text: text.to_string() }
    }
}

struct PromptPool {
    seeds: Vec<PoolPrompt>,
    written: Vec<PoolPrompt>,
    /// Seed and written prompts by number; `None` if near copies are not detected.
    near: NearCopies,
    settings: Arc<SynthesisSettings>,
}

impl PromptPool {
    /// Draws indices of examples: into the seeds, then (from `seeds.len()`) into the written prompts.
    fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<usize> {
        let (n, m) = (self.seeds.len(), self.written.len());
        let generated = self.settings.generated_shots.min(m);
        let mut picked = distinct(rng, n, self.settings.seed_shots + self.settings.generated_shots - generated, 0);
        picked.extend(distinct(rng, m, generated, n));
        for i in (1..picked.len()).rev() {
            picked.swap(i, below(rng, i + 1));
        }
        picked
    }
    fn prompt(&self, i: usize) -> &PoolPrompt {
        self.seeds.get(i).unwrap_or_else(|| &self.written[i - self.seeds.len()])
    }
    /// Returns the reason to drop a text.
    fn fault(&mut self, text: &str, whole: bool) -> Option<(&'static str, String)> {
        self.settings.reject.fault(text, whole).or_else(|| {
            let near = self.near.first(text)?;
            let prompt = self.prompt(near.text);
            Some(("near_copy", format!("ROUGE-L {:.3} with {}, {:?}", near.rouge_l, prompt.id, prompt.text)))
        })
    }
    fn add(&mut self, prompt: PoolPrompt) {
        if self.settings.reject.rouge_l < 1. {
            self.near.insert(&prompt.text);
        }
        self.written.push(prompt);
    }
}

fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    // The bias of a 64-bit remainder is negligible at these sizes.
    (rng.next_u64() % n.max(1) as u64) as usize
}

/// Draws `count` distinct numbers below `n` and adds `offset` to each (Floyd's algorithm, which needs no
/// shuffle of all).
fn distinct(rng: &mut ChaCha8Rng, n: usize, count: usize, offset: usize) -> Vec<usize> {
    let mut picked: Vec<usize> = Vec::with_capacity(count);
    for top in n - count.min(n)..n {
        let i = below(rng, top + 1);
        picked.push(if picked.contains(&(i + offset)) { top + offset } else { i + offset });
    }
    picked
}

/// Extracts the instruction from a writer's answer, and says whether it is complete: the text without a
/// leading "Task 9:" or "9." (but 3.5 and 10:30 are no labels) and without the next task. If asked, takes
/// only the first paragraph, which is complete even if the rest was cut.
fn instruction(answer: &str, cut: bool, first_paragraph: bool) -> (&str, bool) {
    let text = answer.trim();
    let label = text.strip_prefix("Task").unwrap_or(text).trim_start();
    let digits = label.trim_start_matches(|c: char| c.is_ascii_digit());
    let text = match digits.strip_prefix([':', '.']) {
        Some(rest) if label.len() < text.len() => rest.trim_start(),
        Some(rest) if digits.len() < label.len() && !rest.starts_with(|c: char| c.is_ascii_digit()) => {
            rest.trim_start()
        }
        _ => text,
    };
    let numbered = |at: &usize| text[at + "\nTask ".len()..].starts_with(|c: char| c.is_ascii_digit());
    let next = text.match_indices("\nTask ").map(|(at, _)| at).find(numbered);
    let end = if first_paragraph { [next, text.find("\n\n")].into_iter().flatten().min() } else { next };
    match end {
        Some(end) => (text[..end].trim(), true),
        None => (text.trim(), !cut),
    }
}

impl IterationState for PromptPool {
    fn next(&mut self, cx: &Context<'_>, rows: usize) -> Result<Output> {
        let engine = cx.env::<Models>()?.engine(cx)?;
        let (mut new, mut parents, mut errors) = (Vec::<PoolPrompt>::new(), Vec::new(), Vec::new());
        for attempt in 0..self.settings.attempts {
            let (mut requests, mut shown) = (Vec::new(), Vec::new());
            for slot in 0..rows - new.len() {
                let key = cx.key(&format!("microbatch {} attempt {attempt}", cx.epoch.microbatch), slot as u32);
                let picked = self.draw(&mut key.rng());
                let examples = picked.iter().map(|&i| self.prompt(i).text.as_str().into()).collect();
                let examples = Value::list(examples).map_err(|e| Error::user(e.to_string()))?;
                let text = self.settings.template.render(&[("examples", examples)])?;
                shown.push(picked.iter().map(|&i| self.prompt(i).id.clone()).collect::<Vec<_>>());
                // Drawing the examples and sampling the tokens use different random streams.
                let key = cx.key(&format!("microbatch {} attempt {attempt} text", cx.epoch.microbatch), slot as u32);
                requests.push(Request {
                    messages: vec![Message::new("user", text)],
                    sampling: self.settings.sampling.clone(),
                    key,
                });
            }
            let answers = engine.generate(requests, &cancel(cx))?;
            for (slot, (answer, shown)) in answers.into_iter().zip(shown).enumerate() {
                let row = format!("{}.{attempt}.{slot}", cx.epoch.microbatch);
                let answer = match answer {
                    Ok(answer) => answer,
                    Err(e) => {
                        errors.push(RowError::failed(row, e.code, e.message));
                        continue;
                    }
                };
                let cut = answer.finish == Finish::Length;
                let (text, whole) = instruction(&answer.text, cut, self.settings.first_paragraph);
                if let Some((code, message)) = self.fault(text, whole) {
                    errors.push(RowError::dropped(row, code, format!("{message}: {text:?}")));
                    continue;
                }
                let (iteration, place) =
                    (cx.epoch.iteration.to_string(), format!("{}.{}", cx.epoch.microbatch, new.len()));
                let id = hash_hex([cx.step.name.as_str(), &iteration, &place, text]);
                let prompt = PoolPrompt::new(id, text);
                self.add(PoolPrompt::new(prompt.id.clone(), &prompt.text));
                new.push(prompt);
                parents.push(shown);
            }
            if new.len() == rows {
                break;
            }
        }
        let text = |of: &dyn Fn(&PoolPrompt) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(new.iter().map(of)))
        };
        let rows = named::PROMPTS.batch(vec![
            text(&|p| p.id.clone()),
            text(&|p| p.text.clone()),
            text(&|_| cx.step.name.clone()),
            List::of_texts(&parents),
            text(&|_| engine.id().to_string()),
        ])?;
        Ok(Output::new(rows, errors))
    }

    fn restore(&mut self, _: Epoch, rows: &RecordBatch) -> Result<()> {
        let (ids, prompts) = (Columns(rows).text("prompt_id")?, Columns(rows).text("prompt")?);
        ids.iter()
            .flatten()
            .zip(prompts.iter().flatten())
            .for_each(|(id, text)| self.add(PoolPrompt::new(id.into(), text)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RngKey;

    #[test]
    fn instructions_lose_their_label_and_what_follows() {
        let all = |answer| instruction(answer, false, false).0;
        assert_eq!(all("Task 9: Name a tree.\n\nTask 10: x"), "Name a tree.");
        assert_eq!(all(" 9. Name a tree. "), "Name a tree.");
        assert_eq!(all("2024 was a leap year. Why?"), "2024 was a leap year. Why?");
        assert_eq!(all("Task lists: make one"), "Task lists: make one");
        assert_eq!(all("Sum this up:\n\nA passage."), "Sum this up:\n\nA passage.");
        assert_eq!(all("3.5 litres are how many cups?"), "3.5 litres are how many cups?");
        assert_eq!(
            all("10:30 is when the train leaves. When is it due?"),
            "10:30 is when the train leaves. When is it due?"
        );
        assert_eq!(all("Task 3: 3.5 litres are how many cups?"), "3.5 litres are how many cups?");
        assert_eq!(all("9.Name a tree.\nTask 10: Name a bird."), "Name a tree.");
        assert_eq!(
            all("Rank these:\n\nTask A is short.\nTask B is not."),
            "Rank these:\n\nTask A is short.\nTask B is not."
        );
        assert_eq!(all(""), "");
        let first = |answer| instruction(answer, true, true);
        assert_eq!(first("Task 9:\n\nName a tree.\n\nThis task is"), ("Name a tree.", true));
        assert_eq!(first("Name a tr"), ("Name a tr", false));
    }

    #[test]
    fn distinct_is_distinct_and_uniform() {
        let mut seen = [0u32; 5];
        for i in 0..2000 {
            let mut rng = RngKey::new(0, "t", 0, "", i).rng();
            let mut picked = distinct(&mut rng, 5, 2, 0);
            picked.iter().for_each(|&p| seen[p] += 1);
            picked.dedup();
            assert_eq!(picked.len(), 2);
        }
        // 800 expected, standard deviation about 22.
        assert!(seen.iter().all(|&n| (690..910).contains(&n)), "{seen:?}");
        assert_eq!(distinct(&mut RngKey::new(0, "t", 0, "", 0).rng(), 3, 3, 0).len(), 3);
    }
}
