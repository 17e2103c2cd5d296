//! `reflux eval` builds a small pipeline that answers, judges and measures. The pipeline is written out, so
//! its rows are stored in a run like any others. This module also reads the resulting figures.

mod drift;
mod figures;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use toml::{Table, Value};

pub use drift::Drift;
pub use figures::Figures;

use super::summary::left_out::LeftOut;
use crate::data::{List, counted, named, quoted, unread_key};
use crate::error::{Error, ErrorContext as _, Result};
use crate::eval::alpaca::ModelOutput;
use crate::eval::bootstrap::Bootstrap;
use crate::store::{
    Dataset, ImportOptions, LoadedAnswer, LoadedPrompt, Run, import, load_answers, load_prompts, write_parquet,
};

/// One side of an evaluation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Side {
    /// A model that generates answers.
    Model(PathBuf),
    /// Stored answers.
    Answers(PathBuf),
}

impl Side {
    /// Detects the kind of a path. A GGUF file, a directory with config.json or adapter_config.json, and a
    /// .toml script are models; anything else is answers.
    pub fn of(path: &Path) -> Self {
        let ends = |with: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(with));
        let model = ["config.json", "adapter_config.json"].iter().any(|f| path.join(f).is_file());
        if ends("gguf") || ends("toml") || model { Self::Model(path.into()) } else { Self::Answers(path.into()) }
    }
}

/// How models are loaded, and the seed.
#[derive(Clone, PartialEq, Debug)]
pub struct Setting {
    /// `f32`, `bf16` or `f16`.
    pub dtype: &'static str,
    /// Number of compute threads; one per core if `None`.
    pub threads: Option<usize>,
    /// The seed of all random draws.
    pub seed: u64,
    /// How intervals are computed.
    pub bootstrap: Bootstrap,
}

/// How answers are sampled.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sampled {
    /// Answers to each prompt.
    pub samples: u32,
    /// The temperature; logits are divided by it.
    pub temperature: f64,
    /// The nucleus: sampling uses the smallest set of most likely tokens with at least this mass.
    pub top_p: f64,
    /// Maximum number of tokens in an answer.
    pub max_tokens: u32,
}

/// How a judge decides.
#[derive(Clone, PartialEq, Debug)]
pub struct Judging {
    /// `pairwise`, `expected` or `sampled`, as in the operator `judge`.
    pub mode: &'static str,
    /// A template or its file; the default of the mode if `None`.
    pub rubric: Option<String>,
    /// The pattern that reads a verdict or a score.
    pub pattern: Option<String>,
    /// Judgements of each answer, or of each pair in each order.
    pub samples: Option<u32>,
    /// Maximum number of tokens in a judgement.
    pub max_tokens: u32,
    /// The judge's temperature; its logits are divided by it.
    pub temperature: f64,
}

/// An evaluation pipeline and the files that it reads.
pub struct Evaluation {
    root: Table,
    setting: Setting,
    dir: PathBuf,
    /// Notes on the data for the user, such as rows that are not used.
    pub notes: Vec<String>,
    /// What the names in the figures stand for.
    pub names: Vec<String>,
}

fn table(keys: impl IntoIterator<Item = (&'static str, Value)>) -> Table {
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

impl Evaluation {
    /// Creates an empty evaluation that writes its files to `dir`.
    pub fn new(name: &'static str, dir: &Path, setting: Setting) -> Self {
        let mut root = Table::new();
        let seed = i64::try_from(setting.seed).unwrap_or(i64::MAX);
        root.insert("pipeline".into(), Value::Table(table([("name", name.into()), ("seed", seed.into())])));
        if let Some(threads) = setting.threads {
            root.insert("engine".into(), Value::Table(table([("threads", (threads as i64).into())])));
        }
        Self { root, setting, dir: dir.to_owned(), notes: Vec::new(), names: Vec::new() }
    }

    /// Checks that the run in `dir`, if there is one, is this evaluation. The resolved pipeline files are
    /// compared.
    ///
    /// # Errors
    /// The run is another evaluation, or cannot be read.
    pub fn same(dir: &Path, resolved: &str) -> Result<()> {
        if !dir.join("manifest.jsonl").is_file() || Run::open(dir)?.pipeline_text()? == resolved {
            return Ok(());
        }
        let place = dir.parent().unwrap_or(dir).display();
        Err(Error::user(format!("`{place}` holds another evaluation, with other models, rows or settings"))
            .help("name another directory with --into"))
    }

    /// Lists unreadable judgements and other rows without an outcome, by step, with the reason and a
    /// suggestion. `kept` is the run directory if the run is kept.
    ///
    /// # Errors
    /// A file is damaged.
    pub fn unread(run: &Run, kept: Option<&Path>) -> Result<Vec<String>> {
        let mut lines = LeftOut::of(run)?.lines();
        if let Some(last) = lines.last_mut() {
            *last += &match kept {
                Some(dir) => {
                    format!("; `reflux show {}` shows why", quoted(&dir.join("errors").to_string_lossy()))
                }
                None => "; --into DIR keeps the rows, and then `reflux show DIR/run/errors` shows why".to_owned(),
            };
            *last += ". Truncated judgements need more --judge-tokens; a judge with its own format needs --rubric and --pattern";
        }
        Ok(lines)
    }

    /// Returns the text of the pipeline file.
    pub fn text(&self) -> String {
        self.root.to_string()
    }

    fn under(&mut self, section: &str, name: &str, keys: Table) {
        let section = self.root.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(name.into(), Value::Table(keys));
        }
    }

    fn model(&mut self, name: &str, path: &Path) {
        let path_text = path.display().to_string();
        let script = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
        let keys = match script {
            true => table([("script", path_text.into())]),
            false => table([("path", path_text.into()), ("dtype", self.setting.dtype.into())]),
        };
        self.under("model", name, keys);
    }

    fn read(&mut self, name: &str, dataset: &Path, schema: &str) {
        let dataset = dataset.display().to_string();
        self.under(
            "step",
            name,
            table([("op", "read".into()), ("dataset", dataset.into()), ("schema", schema.into())]),
        );
    }

    /// Adds a step that answers `prompts` with a model, or one that reads stored answers. Stored answers
    /// are matched to the prompts by id or text.
    fn side(
        &mut self,
        name: &'static str,
        side: &Side,
        stored: Option<Vec<LoadedAnswer>>,
        prompts: &[LoadedPrompt],
        sampled: &Sampled,
    ) -> Result<()> {
        match (side, stored) {
            (Side::Answers(path), Some(answers)) => {
                let (kept, others) = matched(answers, prompts);
                if kept.is_empty() {
                    return Err(Error::user(format!(
                        "no answer in `{}` belongs to one of {}",
                        path.display(),
                        counted(prompts.len(), "prompt")
                    ))
                    .help("they are matched by prompt_id, then by the prompt's text"));
                }
                if others > 0 {
                    self.notes.push(format!(
                        "`{}` has {} to other prompts, which are not used",
                        path.display(),
                        counted(others, "answer")
                    ));
                }
                self.given(name, &answers_batch(&kept)?, "responses")?;
            }
            (Side::Model(path) | Side::Answers(path), _) => {
                // A step and a model must not have the same name.
                let model = format!("model_{name}");
                self.model(&model, path);
                let sampling = table([
                    ("temperature", sampled.temperature.into()),
                    ("top_p", sampled.top_p.into()),
                    ("max_tokens", i64::from(sampled.max_tokens).into()),
                ]);
                let keys = [
                    ("op", "generate".into()),
                    ("from", "prompts".into()),
                    ("model", model.into()),
                    ("samples", i64::from(sampled.samples).into()),
                    ("sampling", Value::Table(sampling)),
                ];
                self.under("step", name, table(keys));
            }
        }
        Ok(())
    }

    /// Writes rows to a file and adds a step that reads it. The file name contains the hash of the rows, so
    /// that an evaluation of other rows has another pipeline file.
    fn given(&mut self, name: &str, rows: &RecordBatch, schema: &str) -> Result<()> {
        let written = self.dir.join(format!("{name}.parquet"));
        let hash = write_parquet(&written, rows)?.hash;
        self.imported(name, &written, &hash, schema)
    }

    /// Like [`Evaluation::given`], for a file that is already written.
    fn imported(&mut self, name: &str, written: &Path, hash: &str, schema: &str) -> Result<()> {
        let file = self.dir.join(format!("{name}-{}.parquet", hash.get(..16).unwrap_or(hash)));
        std::fs::rename(written, &file).doing(|| file.display())?;
        self.read(name, &file, schema);
        Ok(())
    }

    fn prompts(&mut self, prompts: &[LoadedPrompt]) -> Result<()> {
        let text = |of: &dyn Fn(&LoadedPrompt) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(prompts.iter().map(of)))
        };
        let none = vec![Vec::<String>::new(); prompts.len()];
        let rows = named::PROMPTS.batch(vec![
            text(&|p| p.id.clone()),
            text(&|p| p.text.clone()),
            text(&|_| "given".into()),
            List::of_texts(&none),
        ])?;
        self.given("prompts", &rows, "prompts")
    }

    fn judged(&self, op: &'static str, from: Value, model: &'static str, judging: &Judging) -> Table {
        let template = if op == "compare" { "template" } else { "rubric" };
        let mut keys = table([("op", op.into()), ("from", from), ("model", model.into())]);
        if op == "judge" {
            keys.insert("mode".into(), judging.mode.into());
        }
        let text = |t: &Option<String>| t.clone().map(Value::from);
        let samples = judging.samples.map(|n| i64::from(n).into());
        for (key, value) in
            [(template, text(&judging.rubric)), ("pattern", text(&judging.pattern)), ("samples", samples)]
        {
            keys.extend(value.map(|v| (key.to_owned(), v)));
        }
        // An expected score without reasons needs no sampling.
        if judging.mode != "expected" {
            let most = i64::from(judging.max_tokens).into();
            let sampling = table([("temperature", judging.temperature.into()), ("max_tokens", most)]);
            keys.insert("sampling".into(), Value::Table(sampling));
        }
        keys
    }

    fn measure(&mut self, from: &[&str], more: Table) {
        let from: Vec<Value> = from.iter().map(|&s| s.into()).collect();
        let Bootstrap { resamples, confidence, .. } = self.setting.bootstrap;
        let mut keys = table([
            ("op", "measure".into()),
            ("from", from.into()),
            ("resamples", i64::from(resamples).into()),
            ("confidence", confidence.into()),
        ]);
        keys.extend(more);
        self.under("step", "figures", keys);
    }

    /// Adds a head-to-head comparison: a judge compares the answers `a` and `b` to each prompt. Without
    /// `prompts`, the prompts of the stored answers are used.
    ///
    /// # Errors
    /// A file cannot be read, prompts are missing, stored answers match no prompt, or the disk is full.
    pub fn win_rate(
        &mut self,
        a: &Side,
        b: &Side,
        prompts: Option<&Path>,
        sampled: &Sampled,
        judge: &Path,
        judging: &Judging,
    ) -> Result<()> {
        let mut stored =
            [a, b].map(|side| if let Side::Answers(path) = side { Some(self.answers(path)) } else { None });
        let [ours, theirs] = &mut stored;
        let (ours, theirs) = (ours.take().transpose()?, theirs.take().transpose()?);
        let prompts = self.asked(prompts, ours.as_deref().or(theirs.as_deref()))?;
        self.prompts(&prompts)?;
        self.side("a", a, ours, &prompts, sampled)?;
        self.side("b", b, theirs, &prompts, sampled)?;
        self.model("judge", judge);
        let path = |side: &Side| match side {
            Side::Model(path) | Side::Answers(path) => path.display().to_string(),
        };
        self.names = vec![format!("a: {}", path(a)), format!("b: {}", path(b)), format!("judge: {}", judge.display())];
        let both = |a: &str, b: &str| Value::from(vec![Value::from(a), Value::from(b)]);
        let compare = if judging.mode == "pairwise" {
            self.judged("compare", both("a", "b"), "judge", judging)
        } else {
            for (of, scores) in [("a", "a_scores"), ("b", "b_scores")] {
                let keys = self.judged("judge", of.into(), "judge", judging);
                self.under("step", scores, keys);
            }
            table([("op", "compare".into()), ("from", both("a_scores", "b_scores")), ("by", "score".into())])
        };
        self.under("step", "comparisons", compare);
        let sides = if judging.mode == "pairwise" { ["a", "b"] } else { ["a_scores", "b_scores"] };
        self.measure(&["comparisons", sides[0], sides[1]], Table::new());
        Ok(())
    }

    /// Adds a test of a judge as a reward model (Table 4 of the paper): the judge scores answers that
    /// people have ranked. In pairwise mode its agreement with the ranks is measured. `ranked` is a dataset
    /// of that schema, or a file that can be imported as one.
    ///
    /// # Errors
    /// `ranked` is neither of these, or the disk is full.
    pub fn reward(&mut self, judge: &Path, ranked: &Path, judging: &Judging, perfect: f64) -> Result<()> {
        self.model("judge", judge);
        match Dataset::open(ranked, &named::RANKED) {
            Ok(_) => self.read("ranked", ranked, "ranked"),
            // A directory or a Parquet file can only be a dataset, so its own error is the right one.
            Err(e) if ranked.is_dir() || ranked.extension().is_some_and(|e| e == "parquet") => return Err(e),
            Err(_) => {
                let file = self.dir.join("ranked.parquet");
                let how =
                    ImportOptions { schema: Some(&named::RANKED), out: Some(file.clone()), ..ImportOptions::default() };
                let hash = import(ranked, &how)?.written.hash;
                self.imported("ranked", &file, &hash, "ranked")?;
            }
        }
        if judging.mode == "pairwise" {
            let keys = self.judged("compare", "ranked".into(), "judge", judging);
            self.under("step", "comparisons", keys);
            self.measure(&["comparisons"], Table::new());
        } else {
            let keys = self.judged("judge", "ranked".into(), "judge", judging);
            self.under("step", "scores", keys);
            self.measure(&["scores"], table([("ranked", "ranked".into()), ("perfect", perfect.into())]));
        }
        Ok(())
    }

    /// Adds the step `a`, in which a model answers each prompt once; returns the prompts.
    ///
    /// # Errors
    /// The prompts cannot be read, or the disk is full.
    pub fn answer(&mut self, model: &Path, prompts: &Path, sampled: &Sampled) -> Result<Vec<LoadedPrompt>> {
        let prompts = self.asked(Some(prompts), None)?;
        self.prompts(&prompts)?;
        self.side("a", &Side::Model(model.into()), None, &prompts, sampled)?;
        Ok(prompts)
    }

    fn answers(&mut self, path: &Path) -> Result<Vec<LoadedAnswer>> {
        let given = load_answers(path)?;
        if given.left_out > 0 {
            self.notes.push(format!(
                "`{}` has {} with an error instead of an answer",
                path.display(),
                counted(given.left_out, "row")
            ));
        }
        Ok(given.rows)
    }

    fn asked(&mut self, prompts: Option<&Path>, answers: Option<&[LoadedAnswer]>) -> Result<Vec<LoadedPrompt>> {
        if let Some(path) = prompts {
            let given = load_prompts(path)?;
            if given.left_out > 0 {
                self.notes.push(format!(
                    "`{}` repeats prompts in {}; each prompt is used once",
                    path.display(),
                    counted(given.left_out, "row")
                ));
            }
            let unread: Vec<String> = given.unread.iter().map(|(key, rows)| unread_key(key, *rows)).collect();
            if !unread.is_empty() {
                self.notes.push(format!("not read of `{}`: {}", path.display(), unread.join(", ")));
            }
            return Ok(given.rows);
        }
        let answers = answers.ok_or_else(|| {
            Error::user("two models need prompts to answer")
                .help("name a file: --prompts prompts.jsonl, .json, .csv, .parquet or .txt")
        })?;
        let mut seen = std::collections::HashSet::new();
        Ok(answers.iter().map(|a| &a.prompt).filter(|p| seen.insert(p.id.clone())).cloned().collect())
    }
}

/// Returns the answers to these prompts, with the prompts' ids and in their order, and the number of other
/// answers.
fn matched(answers: Vec<LoadedAnswer>, prompts: &[LoadedPrompt]) -> (Vec<LoadedAnswer>, usize) {
    let by_id: HashMap<&str, usize> = prompts.iter().enumerate().map(|(i, p)| (p.id.as_str(), i)).collect();
    let by_text: HashMap<&str, usize> = prompts.iter().enumerate().map(|(i, p)| (p.text.trim(), i)).collect();
    let all = answers.len();
    let place =
        |a: &LoadedAnswer| by_id.get(a.prompt.id.as_str()).or_else(|| by_text.get(a.prompt.text.trim())).copied();
    let mut kept: Vec<(usize, LoadedAnswer)> = answers.into_iter().filter_map(|a| Some((place(&a)?, a))).collect();
    kept.sort_by_key(|(place, a)| (*place, a.sample));
    let others = all - kept.len();
    (kept.into_iter().map(|(place, a)| LoadedAnswer { prompt: prompts[place].clone(), ..a }).collect(), others)
}

/// Builds rows of schema `responses`; the token columns are empty, because stored answers have no tokens.
fn answers_batch(answers: &[LoadedAnswer]) -> Result<RecordBatch> {
    let text = |of: &dyn Fn(&LoadedAnswer) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(answers.iter().map(of)))
    };
    let tokens = || List::of_tokens(&vec![Vec::new(); answers.len()]);
    named::RESPONSES.batch(vec![
        text(&|a| a.prompt.id.clone()),
        text(&|a| a.prompt.text.clone()),
        text(&|a| a.id.clone()),
        Arc::new(UInt32Array::from_iter_values(answers.iter().map(|a| a.sample))),
        text(&|a| a.text.clone()),
        text(&|_| "stop".into()),
        tokens(),
        tokens(),
        List::of_floats(&vec![Vec::new(); answers.len()]),
        text(&|_| "given".into()),
    ])
}

/// Converts the first answer to each prompt to AlpacaEval's format, in the order of the prompts. A prompt
/// without an answer gets an empty one, which the package counts as lost; the number of such prompts is
/// returned.
pub fn model_outputs(
    prompts: &[LoadedPrompt],
    answers: Vec<LoadedAnswer>,
    generator: &str,
) -> (Vec<ModelOutput>, usize) {
    let (answers, _) = matched(answers, prompts);
    let mut first: HashMap<String, String> = HashMap::new();
    for answer in answers {
        first.entry(answer.prompt.id).or_insert(answer.text);
    }
    let mut missing = 0;
    let output = |p: &LoadedPrompt| {
        let output = first.remove(&p.id);
        missing += usize::from(output.is_none());
        ModelOutput {
            instruction: p.text.clone(),
            output: output.unwrap_or_default(),
            generator: generator.to_owned(),
            dataset: p.dataset.clone().unwrap_or_else(|| "alpaca_eval".into()),
        }
    };
    let outputs = prompts.iter().map(output).collect();
    (outputs, missing)
}
