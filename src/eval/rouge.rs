//! ROUGE-L between short texts (Lin 2004), and the search for near copies by it (Self-Instruct, arXiv 2212.10560).
//!
//! ROUGE-L is the F-measure of the longest common subsequence of two texts' words. [`NearCopies`] answers "is there a
//! text above the threshold?" exactly, without comparing with all: with words as multisets, the subsequence is at
//! most as long as what two texts share, so a copy must share `L` words of the query's `n`, and hence one of any `n -
//! L + 1`: those that fewest texts have. Only texts that do, and are of a length that can reach the threshold, are
//! compared.

use std::collections::{BTreeMap, HashMap};

/// The words of a text in ROUGE: lower-case runs of ASCII letters and digits, as in the `rouge-score` package without
/// stemming. All other characters, including accented letters and other scripts, separate words.
pub fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_string).collect()
}

/// F-measure of the longest common subsequence: `2 lcs / (|a| + |b|)`, between 0 and 1; 0 if either is empty.
///
/// ```
/// use reflux::eval::rouge::{rouge_l, words};
///
/// let score = |a: &str, b: &str| rouge_l(&words(a), &words(b));
/// assert_eq!(score("Name three rivers.", "name three rivers"), 1.0);
/// assert_eq!(score("name three rivers", "list hills"), 0.0);
/// ```
pub fn rouge_l(a: &[String], b: &[String]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 0.;
    }
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let up = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { up.max(row[j]) };
            diagonal = up;
        }
    }
    f_measure(row[b.len()], a.len() + b.len())
}

/// The F-measure from the subsequence's length and both texts' together.
fn f_measure(lcs: usize, both: usize) -> f64 {
    2. * lcs as f64 / both as f64
}

/// The length of the shortest subsequence whose F-measure is above `threshold`, by the same comparison that decides.
fn least(threshold: f64, both: usize) -> usize {
    let above = |lcs: usize| f_measure(lcs, both) > threshold;
    let mut lcs = (threshold * both as f64 / 2.) as usize + 1;
    while lcs > 0 && above(lcs - 1) {
        lcs -= 1;
    }
    while !above(lcs) {
        lcs += 1;
    }
    lcs
}

/// The text that a query is a near copy of.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct NearCopy {
    /// Its number, in the order of insertion.
    pub text: usize,
    /// ROUGE-L with the query.
    pub rouge_l: f64,
}

/// Texts, searched for the first whose ROUGE-L with a query is above a threshold. Its memory is about four bytes a
/// word for the texts and as much again for the index, whose lists, one for a word and a length that occur together,
/// take some fifty each.
pub struct NearCopies {
    threshold: f64,
    ids: HashMap<String, u32>,
    /// How many texts have a word, by its id.
    frequency: Vec<u32>,
    texts: Vec<Box<[u32]>>,
    /// The texts that have a word, by their length.
    postings: HashMap<(u32, usize), Vec<u32>>,
    /// How many texts have a length.
    lengths: BTreeMap<usize, usize>,
    /// The last query that was compared with each text, so that a query compares a text once.
    seen: Vec<u64>,
    queries: u64,
    matcher: Matcher,
}

impl NearCopies {
    /// An index without texts.
    pub fn new(threshold: f64) -> Self {
        Self {
            threshold,
            ids: HashMap::new(),
            frequency: Vec::new(),
            texts: Vec::new(),
            postings: HashMap::new(),
            lengths: BTreeMap::new(),
            seen: Vec::new(),
            queries: 0,
            matcher: Matcher::default(),
        }
    }

    /// Adds a text. Texts are numbered in the order of insertion, from 0.
    pub fn insert(&mut self, text: &str) {
        let text: Box<[u32]> = words(text)
            .into_iter()
            .map(|word| {
                let next = self.ids.len() as u32;
                *self.ids.entry(word).or_insert(next)
            })
            .collect();
        self.frequency.resize(self.ids.len(), 0);
        let number = self.texts.len() as u32;
        let mut distinct = text.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        for word in distinct {
            self.frequency[word as usize] += 1;
            self.postings.entry((word, text.len())).or_default().push(number);
        }
        *self.lengths.entry(text.len()).or_default() += 1;
        self.texts.push(text);
        self.seen.push(0);
    }

    /// Finds the first text above the threshold, the same as a comparison with all texts in their order.
    pub fn first(&mut self, query: &str) -> Option<NearCopy> {
        // A word that no text has is an id of its own, which is in no posting.
        let mut unknown = self.ids.len() as u32;
        let query: Vec<u32> = words(query)
            .iter()
            .map(|word| {
                self.ids.get(word).copied().unwrap_or_else(|| {
                    unknown += 1;
                    unknown - 1
                })
            })
            .collect();
        let n = query.len();
        self.queries += 1;
        self.matcher.start(&query, unknown as usize);
        // The query's words with their counts, from the rarest.
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        query.iter().for_each(|&word| *counts.entry(word).or_default() += 1);
        let mut rare: Vec<(u32, u32, usize)> = counts
            .into_iter()
            .map(|(word, count)| (self.frequency.get(word as usize).copied().unwrap_or(0), word, count))
            .collect();
        rare.sort_unstable();
        let mut first: Option<NearCopy> = None;
        for &length in self.lengths.keys() {
            let least = least(self.threshold, n + length);
            if least > n.min(length) || n == 0 {
                continue;
            }
            let mut looked = 0;
            for &(_, word, count) in &rare {
                if looked > n - least {
                    break;
                }
                looked += count;
                for &text in self.postings.get(&(word, length)).into_iter().flatten() {
                    let number = text as usize;
                    if first.is_some_and(|f| f.text <= number) {
                        break;
                    }
                    if std::mem::replace(&mut self.seen[number], self.queries) == self.queries {
                        continue;
                    }
                    let lcs = self.matcher.lcs(&self.texts[number]);
                    if lcs >= least {
                        first = Some(NearCopy { text: number, rouge_l: f_measure(lcs, n + length) });
                    }
                }
            }
        }
        first
    }
}

/// The longest common subsequence of one text with others, 64 of its words at a time (Hyyrö 2004).
#[derive(Default)]
struct Matcher {
    /// Where a word's bits begin in `bits`, counted from 1; 0 for a word that the query lacks.
    place: Vec<u32>,
    /// For every distinct word of the query, a bit where it stands.
    bits: Vec<u64>,
    query: Vec<u32>,
    blocks: usize,
    state: Vec<u64>,
}

impl Matcher {
    /// Prepares for a query whose word ids are below `ids`.
    fn start(&mut self, query: &[u32], ids: usize) {
        for word in self.query.drain(..) {
            self.place[word as usize] = 0;
        }
        self.bits.clear();
        if self.place.len() < ids {
            self.place.resize(ids, 0);
        }
        self.query.extend(query);
        self.blocks = query.len().div_ceil(64);
        for (i, &word) in query.iter().enumerate() {
            let place = &mut self.place[word as usize];
            if *place == 0 {
                *place = (self.bits.len() / self.blocks) as u32 + 1;
                self.bits.resize(self.bits.len() + self.blocks, 0);
            }
            self.bits[(*place as usize - 1) * self.blocks + i / 64] |= 1 << (i % 64);
        }
    }

    /// Length of the longest common subsequence of the query and a text.
    fn lcs(&mut self, text: &[u32]) -> usize {
        self.state.clear();
        self.state.resize(self.blocks, u64::MAX);
        for &word in text {
            let place = self.place[word as usize] as usize;
            if place == 0 {
                continue;
            }
            let bits = &self.bits[(place - 1) * self.blocks..place * self.blocks];
            let mut carry = false;
            for (v, m) in self.state.iter_mut().zip(bits) {
                let u = *v & m;
                let (sum, over) = v.overflowing_add(u);
                let (sum, more) = sum.overflowing_add(u64::from(carry));
                carry = over || more;
                *v = sum | (*v & !m);
            }
        }
        // A zero for each word of the subsequence; bits beyond the query stay ones, for no word stands there and what
        // is carried past its end meets the ones of `v & !m`.
        self.state.iter().map(|v| v.count_zeros() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_of_the_rouge_score_package() {
        let golden = include_str!("../../tests/goldens/rouge/pairs.jsonl");
        let (mut rows, mut between) = (0, 0);
        for line in golden.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let [a, b] = ["a", "b"].map(|key| row[key].as_str().unwrap());
            let want = row["rouge_l"].as_f64().unwrap();
            let tokens: Vec<String> = serde_json::from_value(row["tokens"].clone()).unwrap();
            assert_eq!(words(a), tokens, "{a}");
            let got = rouge_l(&words(a), &words(b));
            assert!((got - want).abs() < 1e-12, "{got} and not {want}: {a:?}, {b:?}");
            rows += 1;
            between += usize::from(want > 0. && want < 1.);
        }
        assert!(rows >= 100 && between >= 50, "{rows} rows, {between} between 0 and 1");
    }

    #[test]
    fn the_least_subsequence_is_the_first_above() {
        for both in 1..400 {
            for threshold in [0., 0.3, 0.5, 0.7, 2. / 3., 0.95] {
                let l = least(threshold, both);
                assert!(f_measure(l, both) > threshold && (l == 0 || f_measure(l - 1, both) <= threshold));
            }
        }
    }

    #[test]
    fn whatever_is_long_or_empty() {
        let mut near = NearCopies::new(0.7);
        assert_eq!(near.first("anything"), None);
        near.insert("");
        near.insert("日本語");
        assert_eq!(near.first(""), None);
        assert_eq!(near.first("日本語"), None, "a text without a word is near to nothing");
        let long: Vec<String> = (0..1000).map(|i| format!("w{}", i * i % 977)).collect();
        near.insert(&long.join(" "));
        assert_eq!(near.first(&long.join("-")), Some(NearCopy { text: 2, rouge_l: 1. }));
        assert_eq!(near.first(&long[..600].join(" ")).unwrap().rouge_l, 1200. / 1600.);
        assert_eq!(near.first(&long[..500].join(" ")), None);
    }

    /// Texts of few words, so that they repeat, have words in common, and are sometimes copies.
    fn texts(size: std::ops::Range<usize>, longest: usize) -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(0u8..12, 0..longest), size)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

        #[test]
        fn the_index_decides_as_all_pairs_do(
            texts in prop_oneof![texts(0..40, 12), texts(0..8, 150)],
            threshold in prop_oneof![Just(0.7), Just(0.5), Just(0.), Just(1.), 0.0..1.0],
        ) {
            let spell = |text: &Vec<u8>| text.iter().map(|w| format!("w{w}")).collect::<Vec<_>>().join(" ");
            let mut near = NearCopies::new(threshold);
            let mut before: Vec<Vec<String>> = Vec::new();
            for text in texts.iter().map(spell) {
                let query = words(&text);
                let want = before.iter().position(|b| rouge_l(b, &query) > threshold);
                let got = near.first(&text);
                prop_assert_eq!(got.map(|n| n.text), want);
                if let Some(n) = got {
                    prop_assert_eq!(n.rouge_l, rouge_l(&before[n.text], &query));
                }
                near.insert(&text);
                before.push(query);
            }
        }
    }
}
