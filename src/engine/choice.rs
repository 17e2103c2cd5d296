//! How likely an answer is to continue with each candidate: the distribution of a judge's score, without writing it.
//!
//! A candidate may have several tokens ("10", or a digit after a lone blank). Their common beginning is taken as given.
//! The rest is a chain, `p(c) = p(t1) p(t2 | t1) ..`, and each point at which candidates diverge is one row of a pass
//! through the model. If a candidate is the beginning of another ("1" and "10"), the probability of the longer one is
//! subtracted from the shorter one's. So no mass counts twice, and the probabilities sum to at most 1.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::codec::Codec;
use super::encoded::EncodedRequest;
use super::request::{AnswerPrefix, ChoiceRequest, RequestError};
use super::sampling::Sampling;
use crate::data::RngKey;

/// The candidates of a choice as a tree of tokens, below their common beginning.
pub(super) struct ChoiceTree {
    candidates: Vec<Vec<u32>>,
    /// Points at which candidates diverge: the tokens before the point, and the possible next tokens.
    nodes: BTreeMap<Vec<u32>, BTreeSet<u32>>,
    /// The conversation and the given beginning of the answer.
    given: Vec<u32>,
}

impl ChoiceTree {
    pub fn new(codec: &dyn Codec, choice: &ChoiceRequest) -> std::result::Result<Self, RequestError> {
        let refuse = |code, message: String| RequestError { code, message };
        let template = |e: crate::error::Error| refuse("template", e.to_string());
        if choice.messages.last().is_none_or(|m| m.content.trim().is_empty()) {
            return Err(refuse("empty_prompt", "the prompt is empty; remove the row or give it a text".into()));
        }
        let mut given = codec.encode(&choice.messages).map_err(template)?;
        let prompt = given.len();
        let lead = match &choice.prefix {
            AnswerPrefix::Text(text) => text.clone(),
            AnswerPrefix::Tokens(tokens, at) => {
                let (whole, gap) = split(codec, tokens, *at);
                given.extend_from_slice(whole);
                gap
            }
        };
        let begins = given.len() == prompt;
        let encode = |candidate: &String| {
            let text = format!("{lead}{candidate}");
            let ids = if begins { codec.encode_beginning(&choice.messages, &text) } else { codec.encode_more(&text) };
            ids.map_err(template)
        };
        let mut candidates: Vec<Vec<u32>> = choice.candidates.iter().map(encode).collect::<Result<_, _>>()?;
        let distinct: BTreeSet<&Vec<u32>> = candidates.iter().collect();
        if distinct.len() < candidates.len() || candidates.iter().any(Vec::is_empty) {
            let message = "the model's tokenizer does not tell the scores apart; use a judge whose vocabulary has them";
            return Err(refuse("template", message.into()));
        }
        let first = candidates.first().cloned().unwrap_or_default();
        // At least one token of each candidate must remain, or it would have no probability of its own.
        let common =
            candidates.iter().map(|c| std::iter::zip(&first, c).take_while(|(a, b)| a == b).count().min(c.len() - 1));
        let common = common.min().unwrap_or(0);
        given.extend_from_slice(&first[..common]);
        let mut nodes: BTreeMap<Vec<u32>, BTreeSet<u32>> = BTreeMap::new();
        for c in &mut candidates {
            // Equal beginnings share a node, so the model computes each of them once.
            c.drain(..common);
            (0..c.len()).for_each(|i| _ = nodes.entry(c[..i].to_vec()).or_default().insert(c[i]));
        }
        Ok(Self { candidates, nodes, given })
    }

    /// The rows that the model must compute, one for each node, numbered from `row`.
    pub fn rows(&self, row: usize) -> impl Iterator<Item = EncodedRequest> + '_ {
        let sampling = Arc::new(Sampling { max_tokens: 1, ..Sampling::default() });
        self.nodes.iter().enumerate().map(move |(i, (before, next))| EncodedRequest {
            row: row + i,
            prompt: [&self.given[..], before].concat().into(),
            sampling: sampling.clone(),
            // Nothing is drawn.
            key: RngKey([0; 32]),
            wanted: Some(next.iter().copied().collect()),
        })
    }
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The probabilities of the candidates, from each node's log-probabilities.
    pub fn chances(&self, nodes: &[Vec<f32>]) -> Vec<f64> {
        let after: BTreeMap<(&[u32], u32), f64> = std::iter::zip(&self.nodes, nodes)
            .flat_map(|((before, next), values)| {
                std::iter::zip(next, values).map(|(&t, &l)| ((before.as_slice(), t), f64::from(l)))
            })
            .collect();
        let tree = |c: &Vec<u32>| {
            (0..c.len()).map(|i| after.get(&(&c[..i], c[i])).copied().unwrap_or(f64::NEG_INFINITY)).sum::<f64>().exp()
        };
        let whole: Vec<f64> = self.candidates.iter().map(tree).collect();
        let extends = |long: &[u32], short: &[u32]| long.len() > short.len() && long.starts_with(short);
        let all = &self.candidates;
        let own = |i: usize| {
            // The direct extensions of this candidate: no other candidate lies between them and it.
            let next = (0..all.len()).filter(|&j| extends(&all[j], &all[i]));
            let next = next.filter(|&j| !all.iter().any(|k| extends(k, &all[i]) && extends(&all[j], k)));
            (whole[i] - next.map(|j| whole[j]).sum::<f64>()).max(0.)
        };
        (0..all.len()).map(own).collect()
    }
}

/// Splits a text of tokens at byte `at`: the tokens that lie before it as a whole, and the remaining text before it.
fn split<'a>(codec: &dyn Codec, tokens: &'a [u32], at: usize) -> (&'a [u32], String) {
    let text = codec.decode(tokens);
    let text = text.get(..at).unwrap_or(&text);
    let fits = |n: &usize| text.strip_prefix(codec.decode(&tokens[..*n]).as_str()).map(|rest| (*n, rest.to_owned()));
    let (n, rest) = (0..=tokens.len()).rev().find_map(|n| fits(&n)).unwrap_or_default();
    (&tokens[..n], rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Result;
    use crate::model::Message;

    /// Bytes as tokens.
    struct Bytes;
    impl Codec for Bytes {
        fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
            Ok(messages.iter().flat_map(|m| m.content.bytes()).map(u32::from).collect())
        }
        fn encode_more(&self, text: &str) -> Result<Vec<u32>> {
            Ok(text.bytes().map(u32::from).collect())
        }
        fn decode(&self, tokens: &[u32]) -> String {
            tokens.iter().map(|&t| char::from(t as u8)).collect()
        }
        fn eos_ids(&self) -> &[u32] {
            &[0]
        }
    }

    fn tree(prefix: AnswerPrefix, candidates: &[&str]) -> std::result::Result<ChoiceTree, RequestError> {
        let candidates = candidates.iter().map(ToString::to_string).collect();
        ChoiceTree::new(&Bytes, &ChoiceRequest { messages: vec![Message::new("user", "?")], prefix, candidates })
    }

    #[test]
    fn single_tokens_are_one_row() {
        let tree = tree(AnswerPrefix::Text("S: ".into()), &["0", "1", "2"]).unwrap();
        let rows: Vec<EncodedRequest> = tree.rows(5).collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(Bytes.decode(&rows[0].prompt), "?S: ");
        assert_eq!(rows[0].wanted.as_deref().unwrap(), [48, 49, 50]);
        let chances = tree.chances(&[vec![0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln()]]);
        assert!(std::iter::zip(chances, [0.5, 0.25, 0.125]).all(|(a, b)| (a - b).abs() < 1e-7));
    }

    #[test]
    fn a_longer_score_takes_its_mass_from_the_shorter() {
        let tree =
            tree(AnswerPrefix::Tokens("Score: 10 of".bytes().map(u32::from).collect(), 7), &["1", "10", "100", "2"])
                .unwrap();
        let rows: Vec<EncodedRequest> = tree.rows(0).collect();
        let asked: Vec<String> = rows.iter().map(|r| Bytes.decode(&r.prompt)).collect();
        assert_eq!(asked, ["?Score: ", "?Score: 1", "?Score: 10"]);
        // 1 or 2 first, each a half; then 0 with 0.4; then 0 with 0.1.
        let ln = |x: f32| x.ln();
        let chances = tree.chances(&[vec![ln(0.5), ln(0.5)], vec![ln(0.4)], vec![ln(0.1)]]);
        for (got, want) in std::iter::zip(&chances, [0.3, 0.18, 0.02, 0.5]) {
            assert!((got - want).abs() < 1e-7, "{chances:?}");
        }
    }

    #[test]
    fn what_all_share_is_given() {
        let tree = tree(AnswerPrefix::Text("x".into()), &[" 4", " 5"]).unwrap();
        let rows: Vec<EncodedRequest> = tree.rows(0).collect();
        assert_eq!((rows.len(), Bytes.decode(&rows[0].prompt).as_str()), (1, "?x "));
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        assert_eq!(tree(AnswerPrefix::Text(String::new()), &["4", "4"]).err().unwrap().code, "template");
        assert_eq!(tree(AnswerPrefix::Text(String::new()), &[""]).err().unwrap().code, "template");
        let empty = ChoiceRequest {
            messages: Vec::new(),
            prefix: AnswerPrefix::Text("x".into()),
            candidates: ["1".to_owned()].into(),
        };
        assert_eq!(ChoiceTree::new(&Bytes, &empty).err().unwrap().code, "empty_prompt");
    }
}
