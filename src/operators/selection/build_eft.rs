//! `build_eft`: makes evaluation fine-tuning data from answers that people ranked and a model judged (Yuan
//! et al. 2024, section 3.1: a judgement is kept if the scores rank a prompt's answers as people did, and
//! the most common score is thinned out).
//!
//! The k-th readable judgements of a prompt's answers form one trial; unreadable attempts that were
//! repeated do not count. The first trial whose scores agree with the ranks becomes the prompt's rows. All
//! of the data is read at once, because the balance of scores depends on all of it.
//!
//! Scores and ranks match by response id. A score without a rank, or a rank without a score, is a row of
//! `errors` and is left out of its prompt's ranking.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{AsArray, ListArray};
use rand_chacha::rand_core::Rng as _;

use crate::data::{Id, counted};
use crate::dataflow::{Collect, Matching, Place};
use crate::operators::shared::prelude::*;

pub static DEF: OperatorDef<dyn Operator> = OperatorDef {
    name: "build_eft",
    about: "keeps judgements whose scores rank a prompt's answers as people did, with balanced scores",
    shape: Shape::Collect,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.eft]\nop = \"build_eft\"\nfrom = \"scores\"\nranks = \"ranked\"\n",
    parse: |f| {
        let ranks = f.step("ranks", "step with the `ranked` rows that `from` has judged; must be given");
        if ranks.is_none() && !f.given("ranks") {
            f.problem(
                "ranks",
                "`ranks` is missing: the people's ranks to compare the scores with",
                "name the step whose rows were judged: ranks = \"STEP\"",
            );
        }
        let rankings = [
            ("strict", "of two answers the better ranked has the higher score"),
            ("weak", "no worse ranked answer has the higher score, and not all scores are the same"),
        ];
        Box::new(BuildEft {
            ranks: ranks.unwrap_or_default(),
            strict: f.choice("ranking", "when scores agree with ranks", &rankings, Some("strict")) == "strict",
            balance: f.float(
                "balance",
                "the commonest score keeps at most this many times the rows of the next common one; 0 keeps all",
                Some(1.),
                0.0..=1e6,
            ),
            limit: f
                .optional_int(
                    "limit",
                    "keeps at most this many rows, drawn at random; the paper trained on 1,630",
                    1..=i64::MAX,
                )
                .map(|n| n as usize),
        })
    },
};

struct BuildEft {
    ranks: String,
    strict: bool,
    balance: f64,
    limit: Option<usize>,
}

impl StepSpec for BuildEft {
    fn explain(&self) -> String {
        let ranking = if self.strict { "strictly" } else { "weakly" };
        let limit = self.limit.map(|n| format!(", at most {}", counted(n, "row"))).unwrap_or_default();
        format!("scores {ranking} as ranked, commonest score at most {} x the next{limit}", self.balance)
    }
    fn work(&self, _: u32, inputs: &[InputStats], _: &CostAssumptions) -> CostEstimate {
        let from = inputs.first().map(|i| i.amount).unwrap_or_default();
        CostEstimate::rows(RowStats {
            rows: self.limit.map_or(from.rows, |n| from.rows.min(n as f64)),
            per_prompt: 1.,
            ..from
        })
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        let problem = |p: &Port<'_>| match p.key {
            "ranks" => {
                settings::needs(std::slice::from_ref(p), &["prompt_id", "response_id", "rank"], "ranked answers").err()
            }
            _ => p.expect(&[&named::SCORES]).err().map(|e| vec![e]),
        };
        let problems: Vec<String> = inputs.iter().filter_map(problem).flatten().collect();
        if problems.is_empty() { Ok(&named::EFT) } else { Err(problems) }
    }
}
impl Operator for BuildEft {
    fn stage(&self) -> Stage<'_> {
        Stage::Collect(self)
    }
}

/// A judged answer.
struct JudgedAnswer {
    id: String,
    response: String,
    rank: u32,
    /// Number of judgements, readable or not.
    asked: usize,
    /// Text and score of each readable judgement.
    judgements: Vec<(String, f32)>,
}

/// A prompt with its answers, in row order.
struct PromptGroup {
    id: String,
    prompt: String,
    answers: Vec<JudgedAnswer>,
}

/// A row that was kept.
struct EftRow {
    id: String,
    prompt: String,
    response: String,
    judgement: String,
    score: f32,
    /// A random number that decides which rows are dropped if there are too many.
    draw: u64,
}

/// The key that matches scores and ranks: the response id.
fn by_response(rows: &RecordBatch) -> Result<Vec<u128>> {
    Ok(Columns(rows).text("response_id")?.iter().map(|id| Id::from_parts([id.unwrap_or_default()]).0).collect())
}

/// Reads text and score of every judgement of a row; no score if it was unreadable.
fn judgements(rows: &RecordBatch) -> Result<impl Fn(usize) -> Vec<(String, Option<f32>)> + '_> {
    let broken = || Error::user("column `judgements` is not a list of {text, outcome, score}");
    let list: &ListArray = rows.column_by_name("judgements").and_then(|c| c.as_list_opt()).ok_or_else(broken)?;
    let items = list.values().as_struct_opt().ok_or_else(broken)?;
    let text = items.column_by_name("text").and_then(|c| c.as_string_opt::<i32>()).ok_or_else(broken)?;
    let numbers = |name| items.column_by_name(name).and_then(|c| c.as_primitive_opt::<arrow::datatypes::Float32Type>());
    let score = numbers("score").ok_or_else(broken)?;
    // An expected score differs from the one at the end of the text, so it must not be trained on.
    let expected = numbers("mass");
    Ok(move |row: usize| {
        let span = list.value_offsets()[row] as usize..list.value_offsets()[row + 1] as usize;
        let written = |i: usize| score.is_valid(i) && expected.is_none_or(|mass| mass.is_null(i));
        let readable = |i: usize| written(i).then(|| score.value(i)).filter(|s| s.is_finite());
        span.map(|i| (text.value(i).to_owned(), readable(i))).collect()
    })
}

impl BuildEft {
    fn groups(&self, cx: &Context<'_>, errors: &mut Vec<RowError>) -> Result<Vec<PromptGroup>> {
        let scores = &cx.step.inputs[0].step;
        let matching = Matching::new(cx, scores, &self.ranks, by_response)?;
        let mut ranks: HashMap<Place, u32> = HashMap::new();
        for rows in cx.microbatches(&self.ranks) {
            let (microbatch, rows) = rows?;
            let columns = Columns(&rows);
            let (ids, rank) = (columns.text("response_id")?, columns.uint("rank")?);
            for (i, score) in matching.of_theirs(microbatch, &rows)?.into_iter().enumerate() {
                if score.is_some() {
                    ranks.insert(Place { microbatch, row: i as u32 }, rank.value(i));
                } else {
                    let message =
                        format!("`{scores}` has no row for this answer; it is left out of its prompt's ranking");
                    errors.push(RowError::failed(ids.value(i), "not_judged", message));
                }
            }
        }
        let mut groups: Vec<PromptGroup> = Vec::new();
        let mut place: HashMap<String, usize> = HashMap::new();
        for rows in cx.microbatches(scores) {
            let (microbatch, rows) = rows?;
            let columns = Columns(&rows);
            let (prompt_ids, prompts) = (columns.text("prompt_id")?, columns.text("prompt")?);
            let (ids, responses) = (columns.text("response_id")?, columns.text("response")?);
            let judgements = judgements(&rows)?;
            for (i, partner) in matching.of_ours(microbatch, &rows)?.into_iter().enumerate() {
                let Some(&rank) = partner.and_then(|at| ranks.get(&at)) else {
                    let message =
                        format!("`{}` has no rank of this answer; it is left out of its prompt's ranking", self.ranks);
                    errors.push(RowError::failed(ids.value(i), "no_rank", message));
                    continue;
                };
                let at = *place.entry(prompt_ids.value(i).to_owned()).or_insert_with(|| {
                    groups.push(PromptGroup {
                        id: prompt_ids.value(i).into(),
                        prompt: prompts.value(i).into(),
                        answers: Vec::new(),
                    });
                    groups.len() - 1
                });
                let all = judgements(i);
                groups[at].answers.push(JudgedAnswer {
                    id: ids.value(i).into(),
                    response: responses.value(i).into(),
                    rank,
                    asked: all.len(),
                    judgements: all.into_iter().filter_map(|(text, score)| Some((text, score?))).collect(),
                });
            }
        }
        Ok(groups)
    }

    /// Whether scores rank answers as `ranks` do, which has at least two different ranks.
    fn agrees(&self, ranks: &[u32], scores: &[f32]) -> bool {
        let mut apart = false;
        for (i, &better) in ranks.iter().enumerate() {
            for (j, &worse) in ranks.iter().enumerate() {
                if better < worse {
                    if scores[i] < scores[j] || self.strict && scores[i] == scores[j] {
                        return false;
                    }
                    apart |= scores[i] > scores[j];
                }
            }
        }
        apart
    }

    /// Returns the trial that becomes the group's rows, or the reason that there is none.
    fn trial(&self, group: &PromptGroup) -> Result<(usize, Vec<f32>), (&'static str, String)> {
        let ranks: Vec<u32> = group.answers.iter().map(|a| a.rank).collect();
        if ranks.iter().all(|r| *r == ranks[0]) {
            return Err(("no_ranking", format!("{} answers of one rank: there is nothing to agree with", ranks.len())));
        }
        let trials = group.answers.iter().map(|a| a.judgements.len()).min().unwrap_or(0);
        let scores = |k: usize| group.answers.iter().map(|a| a.judgements[k].1).collect::<Vec<f32>>();
        let readable: Vec<(usize, Vec<f32>)> = (0..trials).map(|k| (k, scores(k))).collect();
        if readable.is_empty() {
            let asked: usize = group.answers.iter().map(|a| a.asked).sum();
            let silent = group.answers.iter().filter(|a| a.judgements.is_empty()).count();
            let message = format!(
                "{silent} of {} answers have no readable score that the judge wrote, in {asked} judgements; expected scores are none",
                group.answers.len()
            );
            return Err(("unreadable", message));
        }
        let said: Vec<String> = readable.iter().take(10).map(|(_, s)| format!("{s:?}")).collect();
        let found = readable.into_iter().find(|(_, scores)| self.agrees(&ranks, scores));
        found.ok_or_else(|| ("disagrees", format!("ranks {ranks:?}, but scores {}", said.join(", "))))
    }

    /// Drops rows of the most common score beyond its share, then rows beyond the limit.
    fn thin(&self, mut rows: Vec<EftRow>, errors: &mut Vec<RowError>) -> Vec<EftRow> {
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        let key = |row: &EftRow| (f64::from(row.score) * 1000.).round() as i64;
        rows.iter().for_each(|r| *counts.entry(key(r)).or_default() += 1);
        let mut by_count: Vec<(usize, i64)> = counts.into_iter().map(|(score, n)| (n, score)).collect();
        by_count.sort_unstable();
        let mut cut = |rows: &mut Vec<EftRow>, of: &dyn Fn(&EftRow) -> bool, most: usize, code: &str, why: String| {
            let mut draws: Vec<(u64, String)> = rows.iter().filter(|r| of(r)).map(|r| (r.draw, r.id.clone())).collect();
            draws.sort_unstable();
            let Some(last) = most.checked_sub(1).and_then(|i| draws.get(i)).filter(|_| draws.len() > most).cloned()
            else {
                return;
            };
            rows.retain(|r| {
                let stays = !of(r) || (r.draw, &r.id) <= (last.0, &last.1);
                if !stays {
                    errors.push(RowError::dropped(r.id.clone(), code, why.clone()));
                }
                stays
            });
        };
        if let [.., (next, _), (_, commonest)] = by_count[..]
            && self.balance > 0.
        {
            let most = (self.balance * next as f64).ceil().max(1.) as usize;
            let why = format!("score {} is the commonest; {most} rows of it are kept", commonest as f64 / 1000.);
            cut(&mut rows, &|r| key(r) == commonest, most, "over_common", why);
        }
        if let Some(limit) = self.limit {
            cut(&mut rows, &|_| true, limit, "limit", format!("{limit} rows are kept"));
        }
        rows
    }
}

impl Collect for BuildEft {
    fn whole(&self, cx: &Context<'_>) -> Result<Output> {
        let mut errors = Vec::new();
        let mut rows: Vec<EftRow> = Vec::new();
        let groups = self.groups(cx, &mut errors)?;
        let mut accounted = errors.iter().filter(|e| e.code == "no_rank").count();
        for group in groups {
            accounted += group.answers.len();
            match self.trial(&group) {
                Err((code, why)) => errors.push(RowError::dropped(group.id, code, why)),
                Ok((k, scores)) => rows.extend(group.answers.into_iter().zip(scores).map(|(mut a, score)| EftRow {
                    draw: cx.key(&a.id, 0).rng().next_u64(),
                    judgement: std::mem::take(&mut a.judgements[k].0).trim().to_owned(),
                    id: a.id,
                    prompt: group.prompt.clone(),
                    response: a.response,
                    score,
                })),
            }
        }
        let rows = self.thin(rows, &mut errors);
        let text =
            |of: &dyn Fn(&EftRow) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(of))) };
        let rows = named::EFT.batch(vec![
            text(&|r| &r.prompt),
            text(&|r| &r.response),
            text(&|r| &r.judgement),
            Arc::new(Float32Array::from_iter_values(rows.iter().map(|r| r.score))),
        ])?;
        Ok(Output::of_iteration(rows, errors, accounted as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(strict: bool, balance: f64, limit: Option<usize>) -> BuildEft {
        BuildEft { ranks: String::new(), strict, balance, limit }
    }

    #[test]
    fn agreement_with_ranks() {
        let (strict, weak) = (op(true, 1., None), op(false, 1., None));
        for (ranks, scores, strictly, weakly) in [
            (&[0, 1, 2][..], &[5., 3., 1.][..], true, true),
            (&[2, 0, 1], &[1., 5., 3.], true, true),
            (&[0, 1, 2], &[5., 3., 3.], false, true),
            (&[0, 1, 2], &[5., 1., 3.], false, false),
            (&[0, 1], &[4., 4.], false, false),
            (&[0, 0, 1], &[5., 2., 1.], true, true),
            (&[0, 0, 1], &[5., 1., 1.], false, true),
        ] {
            assert_eq!(strict.agrees(ranks, scores), strictly, "{ranks:?} {scores:?}");
            assert_eq!(weak.agrees(ranks, scores), weakly, "{ranks:?} {scores:?}");
        }
    }

    #[test]
    fn the_first_trial_that_agrees_is_taken() {
        let answer = |rank, scores: &[Option<f32>]| JudgedAnswer {
            id: format!("a{rank}"),
            response: String::new(),
            rank,
            asked: scores.len(),
            judgements: scores.iter().flatten().map(|s| (format!("{s:?}"), *s)).collect(),
        };
        let group = |answers| PromptGroup { id: "p".into(), prompt: "p".into(), answers };
        let op = op(true, 1., None);
        let good = group(vec![
            answer(0, &[Some(1.), None, Some(5.), Some(4.)]),
            answer(1, &[Some(2.), Some(1.), Some(4.), Some(3.)]),
        ]);
        assert_eq!(op.trial(&good), Ok((1, vec![5., 1.])), "what was not readable is no trial");
        let retried = group(vec![answer(0, &[None, None, Some(5.)]), answer(1, &[Some(1.)])]);
        assert_eq!(op.trial(&retried), Ok((0, vec![5., 1.])));
        let code = |answers| op.trial(&group(answers)).unwrap_err().0;
        assert_eq!(code(vec![answer(0, &[Some(1.)]), answer(1, &[Some(2.)])]), "disagrees");
        assert_eq!(code(vec![answer(0, &[None]), answer(1, &[Some(2.)])]), "unreadable");
        assert_eq!(code(vec![answer(0, &[Some(1.)])]), "no_ranking");
        assert_eq!(code(vec![answer(1, &[Some(1.)]), answer(1, &[Some(2.)])]), "no_ranking");
    }

    #[test]
    fn the_commonest_score_is_thinned_out() {
        let rows = |scores: &[f32]| -> Vec<EftRow> {
            let row = |(i, &score): (usize, &f32)| EftRow {
                id: format!("r{i}"),
                prompt: String::new(),
                response: String::new(),
                judgement: String::new(),
                score,
                draw: (i as u64 * 7919) % 101,
            };
            scores.iter().enumerate().map(row).collect()
        };
        let scores = [4., 4., 1., 4., 4., 3., 4., 3., 4., 4.];
        let kept = |op: BuildEft| {
            let mut errors = Vec::new();
            let kept = op.thin(rows(&scores), &mut errors);
            assert_eq!(kept.len() + errors.len(), scores.len());
            assert!(kept.is_sorted_by_key(|r| r.id.clone()), "in the order of the rows");
            let codes: Vec<String> = errors.into_iter().map(|e| e.code).collect();
            (kept.iter().map(|r| r.score).collect::<Vec<_>>(), codes)
        };
        let (left, codes) = kept(op(true, 1., None));
        assert_eq!((left.iter().filter(|s| **s == 4.).count(), left.len()), (2, 5));
        assert_eq!(codes, vec!["over_common"; 5]);
        assert_eq!(kept(op(true, 1.5, None)).0.len(), 6);
        assert_eq!(kept(op(true, 0., None)).0, scores);
        assert_eq!(kept(op(true, 0., Some(4))).1, vec!["limit"; 6]);
        assert_eq!(kept(op(true, 1., Some(5))).0.len(), 5);
        let mut errors = Vec::new();
        assert_eq!(
            op(true, 1., None).thin(rows(&[3.; 4]), &mut errors).len(),
            4,
            "one score alone has nothing to be balanced with"
        );
    }
}
