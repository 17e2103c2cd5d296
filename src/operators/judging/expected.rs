//! `mode = "expected"` of `judge`: the mean of the scores, weighted by the probability that the judge gives
//! each at the position of the score.
//!
//! Without reasons, the judge's answer is started with `lead` ("Score: "), and one forward pass gives the
//! probabilities; nothing is decoded. With reasons, the judge first writes its judgement, and the
//! probabilities are those at the position of the score it wrote. They are taken at temperature 1 over the
//! full vocabulary. The mass on the scores is recorded, and the mean is over that mass. If it is less than
//! `min_mass`, the judge was about to write something else, and the outcome is no_match.

use super::client::JudgeReply;
use super::score::Reader;
use crate::data::Judgement;
use crate::engine::{AnswerPrefix, ChoiceRequest, Engine};
use crate::model::Message;
use crate::operators::shared::models::cancel;
use crate::operators::shared::prelude::*;

/// How scores are computed from probabilities.
pub(crate) struct Expected {
    /// Start of the judge's answer; `None` if it writes its reasons first.
    lead: Option<String>,
    min_mass: f64,
    scores: Arc<[String]>,
    values: Vec<f64>,
}

/// Most entries in the list of scores.
const MAX_CANDIDATES: f32 = 100.;

impl Expected {
    /// Reads the keys `reasons`, `lead` and `min_mass`; `None` unless `used`.
    pub fn fields(f: &mut Fields<'_>, used: bool, reader: &Reader) -> Option<Self> {
        let about = "expected mode: whether the judge writes its judgement before the probabilities are taken, at the place of its score";
        let reasons = f.bool("reasons", about, Some(false));
        let about = "expected mode without reasons: what the judge's answer is made to begin with, up to the score";
        let lead = f.text("lead", about, Some("Score: "));
        let about = "expected mode: least probability of all scores together; with less a judgement is no_match";
        let min_mass = f.float("min_mass", about, Some(0.5), 0.0..=1.0);
        for key in ["reasons", "lead", "min_mass"] {
            if !used && f.given(key) {
                f.problem(key, "only expected scores have this", "set mode = \"expected\", or take the key out");
            }
        }
        if used && reasons {
            f.without_effect(&["lead"], "with reasons = true: the judge begins its answer itself", "");
        }
        if !used {
            return None;
        }
        let (min, max) = (reader.min, reader.max);
        if min.fract() != 0. || max.fract() != 0. || max - min > MAX_CANDIDATES {
            let message = format!(
                "expected scores are whole numbers, at most {MAX_CANDIDATES} apart; the scale is from {min} to {max}"
            );
            f.problem("mode", message, "change `min` and `max`");
            return None;
        }
        let values: Vec<f64> = (min as i64..=max as i64).map(|s| s as f64).collect();
        let scores = values.iter().map(ToString::to_string).collect();
        Some(Self { lead: (!reasons).then_some(lead), min_mass, scores, values })
    }

    /// Whether the judge writes nothing.
    pub fn scores_only(&self) -> bool {
        self.lead.is_some()
    }

    /// Describes the settings for `explain`.
    pub fn describe(&self) -> &'static str {
        if self.scores_only() { "expected score, nothing decoded" } else { "expected score after reasons" }
    }

    fn ask(&self, cx: &Context<'_>, engine: &dyn Engine, asked: Vec<(&str, AnswerPrefix)>) -> Result<Vec<Judgement>> {
        let choice = |(text, prefix)| ChoiceRequest {
            messages: vec![Message::new("user", text)],
            prefix,
            candidates: Arc::clone(&self.scores),
        };
        let chances = engine.choose(asked.into_iter().map(choice).collect(), &cancel(cx))?;
        Ok(chances.into_iter().map(|c| self.judgement(c)).collect())
    }

    fn judgement(&self, chances: crate::engine::Probabilities) -> Judgement {
        match chances {
            Err(e) => {
                let outcome = if e.code == "prompt_too_long" { "too_long" } else { "error" };
                Judgement { text: e.message, outcome: outcome.into(), ..Judgement::default() }
            }
            Ok(chances) => {
                let mass: f64 = chances.iter().sum();
                let mean = std::iter::zip(&chances, &self.values).map(|(p, v)| p * v).sum::<f64>() / mass;
                let listed: Vec<String> =
                    std::iter::zip(&*self.scores, &chances).map(|(s, p)| format!("{s} {p:.6}")).collect();
                let score = (mass > 0. && mass >= self.min_mass).then_some(mean as f32);
                let outcome = if score.is_some() { "score" } else { "no_match" };
                Judgement {
                    text: format!("chances {}", listed.join(", ")),
                    outcome: outcome.into(),
                    score,
                    mass: Some(mass as f32),
                    tokens: None,
                }
            }
        }
    }

    /// Judges each prompt without decoding a token.
    pub fn silent(&self, cx: &Context<'_>, engine: &dyn Engine, texts: &[String]) -> Result<Vec<Judgement>> {
        let lead = self.lead.clone().unwrap_or_default();
        self.ask(cx, engine, texts.iter().map(|t| (t.as_str(), AnswerPrefix::Text(lead.clone()))).collect())
    }

    /// Replaces the scores that the judge wrote by expected scores. `said` holds the replies to each
    /// prompt.
    pub fn after(
        &self,
        cx: &Context<'_>,
        engine: &dyn Engine,
        reader: &Reader,
        said: &mut [(&str, Judgement, &JudgeReply)],
    ) -> Result<()> {
        let (mut places, mut asked) = (Vec::new(), Vec::new());
        for (i, (text, _, said)) in said.iter().enumerate() {
            let Ok(answer) = &said.answer else { continue };
            if said.value.is_none() {
                continue;
            }
            // A readable reply has the position of its score.
            let Some(place) = reader.locate(&answer.text, false).1 else { continue };
            places.push(i);
            asked.push((*text, AnswerPrefix::Tokens(answer.tokens.clone(), place.start)));
        }
        for (i, expected) in places.into_iter().zip(self.ask(cx, engine, asked)?) {
            let judgement = &mut said[i].1;
            judgement.score = expected.score;
            judgement.mass = expected.mass;
            judgement.outcome = expected.outcome;
        }
        Ok(())
    }
}
