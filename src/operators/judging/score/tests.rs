//! What is read in judges' texts, by the grammar and by a pattern.

use proptest::prelude::*;
use serde::Deserialize;

use super::pattern::number;
use super::*;

fn reader(pattern: &str, max: f32, several: Several) -> Reader {
    Reader::new(pattern, 0., max, several).unwrap()
}
fn read(text: &str) -> Outcome {
    reader(GRAMMAR, 5., Several::Agree).read(text, false)
}

#[test]
fn what_judges_write() {
    use Outcome::{Ambiguous, NoMatch, OutOfRange, Score};
    for (text, outcome) in [
        ("Good.\nScore: 4", Score(4.)),
        ("score:3.5 ... Score: 3.5", Score(3.5)),
        ("Score: 4/5", Score(4.)),
        ("Score: 4 / 5", Score(4.)),
        ("**Score:** 4", Score(4.)),
        ("**Score: 4**", Score(4.)),
        ("**Score**: 4/5.", Score(4.)),
        ("*Score:* **4** / 5", Score(4.)),
        ("Score: [[4]]", Score(4.)),
        ("Score: <4>", Score(4.)),
        ("Score: \"4\"", Score(4.)),
        ("Score (0-5): 4", Score(4.)),
        ("Final score = 4", Score(4.)),
        ("Score:\n4", Score(4.)),
        ("Score: 4.", Score(4.)),
        ("Score: 4, for it is short", Score(4.)),
        ("Score: 4,5", Score(4.5)),
        ("Score: 4.5", Score(4.5)),
        ("Score: four", Score(4.)),
        ("SCORE: FIVE.", Score(5.)),
        ("Score: \u{664}", Score(4.)),
        ("Score: \u{ff14}/\u{ff15}", Score(4.)),
        ("the score is 4 out of 5", Score(4.)),
        ("The score is **4** of 5", Score(4.)),
        ("The score is one of the best", NoMatch),
        ("Score: 5\nScore: 5", Score(5.)),
        ("Score: 5\nScore: 5/5", Score(5.)),
        ("Score: 1 + 1 + 1 = 3", Score(3.)),
        ("Score: 0", Score(0.)),
        ("Score: 05", Score(5.)),
        ("Score: 1+1+1", Ambiguous),
        ("Score: 4-5", Ambiguous),
        ("Score: 4 to 5", Ambiguous),
        ("Score: 3 or 4", Ambiguous),
        ("Score: 4 no, Score: 2", Ambiguous),
        ("Score: 4\nScore: 9", Ambiguous),
        ("Score: 9", OutOfRange),
        ("Score: -1", OutOfRange),
        ("Score: \u{2212}1", OutOfRange),
        ("Score: 4/10", OutOfRange),
        ("Score: 80/100", OutOfRange),
        ("Score: 1,000", OutOfRange),
        ("Score: 5.01", OutOfRange),
        ("Score: 999999999999999999999999999999999999999999999999", OutOfRange),
        ("Five points", NoMatch),
        ("Score: N", NoMatch),
        ("Score: none", NoMatch),
        ("Score: nan", NoMatch),
        ("Score: inf", NoMatch),
        ("Score: oneness", NoMatch),
        ("underscore: 4", NoMatch),
        ("A score of 5 would need more.\nScore: 3", Score(3.)),
        ("", NoMatch),
    ] {
        assert_eq!(read(text), outcome, "{text:?}");
    }
}

/// A judgement, and the score that a person reads in it; none where no score is certain.
#[derive(Deserialize)]
struct Judgement {
    text: String,
    score: Option<f32>,
    #[serde(default)]
    cut: bool,
    #[serde(default = "five")]
    max: f32,
}

fn five() -> f32 {
    5.
}

/// The bars: no score that a person does not read, and at most one in twenty unread that a person reads.
#[test]
fn the_corpus_is_read_as_a_person_reads_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/judgements/judgements.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let rows: Vec<Judgement> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() >= 300);
    let (mut wrong, mut unread) = (Vec::new(), Vec::new());
    for row in &rows {
        let outcome = reader(GRAMMAR, row.max, Several::Agree).read(&row.text, row.cut);
        match outcome.score() {
            read if read == row.score => {}
            Some(read) => wrong.push(format!("{:?}: a person reads {:?}, not {read}", row.text, row.score)),
            None => unread.push(format!("{:?}: {}", row.text, outcome.name())),
        }
    }
    let readable = rows.iter().filter(|row| row.score.is_some()).count();
    println!("{} judgements: {} read wrongly, {} of {readable} unread", rows.len(), wrong.len(), unread.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(unread.len() * 20 <= readable, "{}", unread.join("\n"));
}

#[test]
fn a_cut_text_has_a_score_only_if_it_is_whole() {
    for pattern in [PATTERN, GRAMMAR] {
        let ten = reader(pattern, 10., Several::Agree);
        assert_eq!(ten.read("It is rele", true), Outcome::Truncated);
        assert_eq!(ten.read("Score: 1", true), Outcome::Truncated);
        assert_eq!(ten.read("Score: 1", false), Outcome::Score(1.));
        assert_eq!(ten.read("Score: 1. It", true), Outcome::Score(1.));
    }
    // By the scale, 7 is whole; but it may have become "7/100" or "7 or 8".
    assert_eq!(reader(PATTERN, 10., Several::Agree).read("Score: 7", true), Outcome::Score(7.));
    assert_eq!(reader(GRAMMAR, 10., Several::Agree).read("Score: 7", true), Outcome::Truncated);
}

#[test]
fn several_scores_are_a_choice() {
    let text = "Score: 2\nNo: Score: 4";
    for pattern in [PATTERN, GRAMMAR] {
        let read = |several| reader(pattern, 5., several).locate(text, false);
        assert_eq!(read(Several::Agree), (Outcome::Ambiguous, None));
        assert_eq!(read(Several::Last), (Outcome::Score(4.), Some(text.len() - 1..text.len())));
        assert_eq!(read(Several::First), (Outcome::Score(2.), Some(7..8)));
    }
}

#[test]
fn other_patterns_and_scales() {
    let listworld = reader(r"score ([0-5])$", 5., Several::Agree);
    assert_eq!(listworld.read("kind yes, score 3", false), Outcome::Score(3.));
    let scale = Reader::new(r"Rating: (\S+)", 1., 10., Several::Agree).unwrap();
    assert_eq!(scale.read("Rating: 0", false), Outcome::OutOfRange);
    assert_eq!(scale.read("Rating: 10", false), Outcome::Score(10.));
    assert_eq!(scale.read("Rating: high", false), Outcome::NoMatch);
    assert_eq!(scale.read("Rating: infinity", false), Outcome::NoMatch);
}

#[test]
fn huge_texts_are_read() {
    // Patterns that go back would not come to an end.
    assert_eq!(read(&"Score: ".repeat(300_000)), Outcome::NoMatch);
    assert_eq!(read(&format!("{}\nScore: 4", "score (".repeat(300_000))), Outcome::Score(4.));
    assert_eq!(read(&format!("Score: {}", "9".repeat(2_000_000))), Outcome::OutOfRange);
}

proptest! {
    /// No text makes a score that is not on the scale, or a place that is not in the text; nothing panics.
    #[test]
    fn any_text(words in prop::collection::vec("score|Score|:|is|=| |\n|[0-9]{1,3}|[.,/+-]|of|to|\\*\\*|four|\\PC", 0..24), cut: bool) {
        let text = words.concat();
        for several in [Several::Agree, Several::Last, Several::First] {
            for pattern in [PATTERN, GRAMMAR] {
                let (outcome, place) = reader(pattern, 5., several).locate(&text, cut);
                if let Outcome::Score(s) = outcome {
                    prop_assert!((0. ..=5.).contains(&s));
                    prop_assert!(pattern == GRAMMAR || number(&text[place.clone().unwrap()]) == Some(s));
                }
                prop_assert!(place.is_none_or(|p| text.get(p).is_some()));
            }
        }
    }

    /// Whatever is said before and after, a last line in the asked form is read, unless there is another score.
    #[test]
    fn a_score_in_words(before in "[a-rt-z .,\n]{0,80}", score in 0u8..=5, whole in any::<bool>(), after in "[.\n] [a-z ,\n]{0,40}") {
        let text = format!("{before}\nScore: {score}{}{}", if whole { "/5" } else { "" }, after);
        prop_assert_eq!(read(&text), Outcome::Score(f32::from(score)));
    }

    /// The order of agreeing scores and their number do not matter; any that differs makes it ambiguous.
    #[test]
    fn scores_agree_or_not(scores in prop::collection::vec(0u8..=5, 1..6)) {
        let text = scores.iter().map(|s| format!("Score: {s}\n")).collect::<String>();
        let same = scores.iter().all(|s| *s == scores[0]);
        prop_assert_eq!(read(&text), if same { Outcome::Score(scores[0].into()) } else { Outcome::Ambiguous });
    }

    /// Every phrasing that the grammar makes of a score is read as that score.
    #[test]
    fn phrasings_have_their_value(
        tenths in (0u8..=10).prop_map(|n| n * 5),
        head in prop::sample::select(vec!["Score", "**Score**", "Final score", "Overall Score", "Rating", "My final score", "### Score"]),
        joint in prop::sample::select(vec![": ", ":", " = ", " - ", ": **", ": [", " is ", " (0-5): ", ":\n"]),
        scale in prop::sample::select(vec!["", "/5", " / 5", " out of 5", " (out of 5)", " points", " out of a possible 5", " of 5 points", " on a scale of 0 to 5"]),
        tail in prop::sample::select(vec!["", ".", "\n\nIt is clear.", ". It is clear.", " because it is clear", " - clear", " (clear)", ", as it is clear"]),
        before in prop::sample::select(vec!["", "It is relevant.\n", "1. Relevance: yes\n2. Clarity: yes\n\n", "<think>Score: 1</think>\n"]),
    ) {
        let value = f32::from(tenths) / 10.;
        // "Score:" and below "4. It is clear." is the fourth of a list.
        prop_assume!(!(joint == ":\n" && scale.is_empty() && tail == ". It is clear."));
        let closer = match joint { ": **" => "**", ": [" => "]", _ => "" };
        let text = format!("{before}{head}{joint}{value}{closer}{scale}{tail}");
        prop_assert_eq!(read(&text), Outcome::Score(value), "{:?}", text);
    }

    /// A sum is its total, whatever is said of its terms; another total is no score.
    #[test]
    fn sums_are_their_totals(
        terms in prop::collection::vec(0u8..=1, 2..6),
        said in prop::sample::select(vec!["", " (relevant)", " point", " for relevance", " point for being clear"]),
        off in 0u8..=1,
    ) {
        let total: u8 = terms.iter().sum();
        let sum: Vec<String> = terms.iter().map(|t| format!("{t}{said}")).collect();
        let text = format!("Score: {} = {}", sum.join(" + "), total + off);
        let outcome = read(&text);
        if off == 0 {
            prop_assert_eq!(outcome, Outcome::Score(total.into()), "{:?}", text);
        } else {
            prop_assert_eq!(outcome.score(), None, "{:?}", text);
        }
    }

    /// Spans, corrections, bounds and other scales are never a score.
    #[test]
    fn what_is_not_certain_is_no_score(
        a in 0u8..=5,
        b in 0u8..=5,
        form in prop::sample::select(vec![
            "Score: A-B", "Score: A to B", "Score: A or B", "Score: between A and B", "Score: A, no: B", "Score: A. Wait, B.",
            "Score: A -> B", "Score: A±B", "Score: A/10", "Score: A out of 10", "Score: A%", "Score: about A", "Score: at least A",
            "Score: A B", "Score: A, B", "Score: A?", "Score: A\nActually it should be B.", "The maximum score is A.",
            "A score of A would need more.", "The response says \"Score: A\".", "If it were longer, the score would be A.",
            "Score: A + B", "I give it a score between A and B.", "Score (1-10): A",
        ]),
    ) {
        let text = form.replace("Score: A", &format!("Score: {a}")).replace("A", &a.to_string()).replace('B', &b.to_string());
        // The words of the forms have capital letters too.
        let text = text.replace(&format!("\n{a}ctually"), "\nActually").replace(&format!("{a} score of"), "A score of");
        prop_assert_eq!(read(&text).score(), None, "{:?}", text);
    }
}
