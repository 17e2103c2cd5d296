//! A client that asks a judge model, and asks again if a judgement is unreadable.

use std::ops::Range;

use super::score::Outcome;
use crate::engine::{Answer, Engine, Finish, Request, Sampling};
use crate::error::Error;
use crate::model::Message;
use crate::operators::shared::models::cancel;
use crate::operators::shared::prelude::*;

/// How a judge is asked.
pub struct JudgeClient {
    /// Sampling settings.
    pub sampling: Sampling,
    /// How often an unreadable judgement is requested again, with a new sample.
    pub retries: u32,
}

/// A request to a judge.
pub struct JudgeRequest<'a> {
    /// Id of the judgement. Random numbers depend on it and on the sample number.
    pub row: &'a str,
    /// Numbers of the samples to draw.
    pub samples: Range<u32>,
    /// The judge's prompt.
    pub text: &'a str,
}

/// The reply to one attempt.
pub struct JudgeReply<T = f32> {
    /// The judge's answer, or the reason that there is none.
    pub answer: Answer,
    /// `score`, `no_match`, `ambiguous`, `out_of_range`, `truncated`, `too_long` or `error`.
    pub outcome: &'static str,
    /// The value that was read; `None` unless `outcome` is `score`.
    pub value: Option<T>,
}

impl<T> JudgeReply<T> {
    fn new(answer: Answer, read: impl Fn(&str, bool) -> Outcome<T>) -> Self {
        let (outcome, value) = match &answer {
            Ok(a) => {
                let outcome = read(&a.text, a.finish == Finish::Length);
                (outcome.name(), outcome.score())
            }
            Err(e) if e.code == "prompt_too_long" => ("too_long", None),
            Err(_) => ("error", None),
        };
        Self { answer, outcome, value }
    }
    /// Returns the judge's text, or the message that explains its absence.
    pub fn text(&self) -> &str {
        self.answer.as_ref().map_or_else(|e| &e.message, |a| &a.text)
    }
}

impl JudgeClient {
    /// Reads the keys `retries` and `sampling`. `samples` is the value of that key.
    pub fn fields(f: &mut Fields<'_>, samples: u32) -> Self {
        let about = "how often an unreadable judgement is sampled again; all attempts are kept. At temperature 0 there are \
                     no retries, because the judge would only repeat itself";
        let retries = f.int("retries", about, Some(2), 0..=100) as u32;
        let default = Sampling { temperature: 0.7, top_p: 0.9, max_tokens: 256, ..Sampling::default() };
        let sampling = settings::sampling(f, &default);
        if sampling.temperature == 0. {
            if f.given("samples") && samples > 1 {
                f.problem(
                    "samples",
                    "at temperature 0 every sample is the same",
                    "raise the temperature, or take the key out",
                );
            }
            if retries > 0 {
                f.without_effect(
                    &["retries"],
                    "with temperature = 0: the judge would only repeat itself",
                    "raise the temperature",
                );
            }
        }
        Self { sampling, retries }
    }

    /// The form to which judgements are held, by its name in the pipeline file.
    pub fn constrains(&self) -> Option<&'static str> {
        self.sampling.constraint.as_ref().map(|constraint| constraint.form().name())
    }

    /// Describes how judgements are drawn, for `explain`.
    pub fn describe(&self) -> String {
        let held = self.constrains().map(|form| format!(", held to a {form}")).unwrap_or_default();
        settings::describe(&self.sampling) + &held
    }

    /// Refuses a judge that would ignore the form. Checks before the run refuse it already.
    fn can_constrain(&self, cx: &Context<'_>, engine: &dyn Engine) -> Result<()> {
        match self.constrains() {
            Some(form) if !engine.capabilities().constraints => Err(Error::user(format!(
                "step `{}` has structured = {form:?}, and its model is not on a server",
                cx.step.name
            ))
            .help("take `structured` out; mode = \"expected\" reads scores from any local judge")),
            _ => Ok(()),
        }
    }

    /// Draws every sample of every request until it is readable, with at most `retries` further attempts.
    /// Returns all attempts of each request, sample by sample.
    ///
    /// # Errors
    /// The run was cancelled, or the engine failed.
    /// Cancelled, or the engine itself failed.
    pub fn ask<T>(
        &self,
        cx: &Context<'_>,
        engine: &dyn Engine,
        questions: &[JudgeRequest<'_>],
        read: impl Fn(&str, bool) -> Outcome<T>,
    ) -> Result<Vec<Vec<JudgeReply<T>>>> {
        self.can_constrain(cx, engine)?;
        let samples =
            questions.iter().enumerate().flat_map(|(q, question)| question.samples.clone().map(move |n| (q, n)));
        let samples: Vec<(usize, u32)> = samples.collect();
        let mut attempts: Vec<Vec<JudgeReply<T>>> = samples.iter().map(|_| Vec::new()).collect();
        let mut open: Vec<usize> = (0..samples.len()).collect();
        let retries = if self.sampling.temperature == 0. { 0 } else { self.retries };
        for attempt in 0..=retries {
            let request = |&i: &usize| {
                let (question, sample) = (&questions[samples[i].0], samples[i].1);
                // Each attempt has its own random stream, independent of the others.
                let key = match attempt {
                    0 => cx.key(question.row, sample),
                    n => cx.key(&format!("{} retry {n}", question.row), sample),
                };
                Request { messages: vec![Message::new("user", question.text)], sampling: self.sampling.clone(), key }
            };
            let answers = engine.generate(open.iter().map(request).collect(), &cancel(cx))?;
            for (&i, answer) in open.iter().zip(answers) {
                attempts[i].push(JudgeReply::new(answer, &read));
            }
            // A request that the judge cannot take at all would fail again.
            open.retain(|&i| matches!(attempts[i].last(), Some(s) if s.value.is_none() && s.answer.is_ok()));
            if open.is_empty() {
                break;
            }
        }
        let mut said: Vec<Vec<JudgeReply<T>>> = questions.iter().map(|_| Vec::new()).collect();
        for ((q, _), attempts) in samples.into_iter().zip(attempts) {
            said[q].extend(attempts);
        }
        Ok(said)
    }
}
