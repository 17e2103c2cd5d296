//! ROUGE-L between short texts, for dropping prompts that are near copies (Lin 2004; Self-Instruct, arXiv 2212.10560).

/// A text as ROUGE sees it: lower-case runs of ASCII letters and digits, as in the `rouge-score` package without stemming.
pub fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_string).collect()
}

/// F-measure of the longest common subsequence: `2 lcs / (|a| + |b|)`, between 0 and 1; 0 if either is empty.
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
    2. * row[b.len()] as f64 / (a.len() + b.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_rouge_score_package() {
        // rouge_scorer.RougeScorer(["rougeL"]).score(a, b)["rougeL"].fmeasure
        let f = |a: &str, b: &str| rouge_l(&words(a), &words(b));
        assert!((f("The quick brown fox", "the slow brown fox jumps") - 0.666_666_666).abs() < 1e-6);
        assert!((f("a b c d", "d c b a") - 0.25).abs() < 1e-12);
        assert_eq!(f("same words here", "Same words, here!"), 1.);
        assert_eq!(f("", "x"), 0.);
    }
}
