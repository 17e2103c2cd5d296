//! What the fuzz targets `pipeline`, `score` and `template` of fuzz/ do with an input, and what tests/corpus/text.rs does with the inputs that
//! are kept: a pipeline file becomes a plan that can be explained and costed, or problems that can be shown; a judge's text becomes
//! a score on the scale, or none.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use reflux::dataflow::Operator;
use reflux::error::ErrorKind;
use reflux::jinja::{RenderOptions, Template, Value, Whitespace};
use reflux::operators::ALL;
use reflux::operators::judging::score::{GRAMMAR, Outcome, PATTERN, Reader, Several};
use reflux::pipeline::{CostAssumptions, Plan, PlanFormat, explain, parse_str};
use reflux::report::{Cost, Hardware, ModelShape};

/// Stands between a pipeline file and each of its overrides.
const CUT: &str = "\n-----\n";

/// Files that an input may name, in a directory of their own that becomes the working directory.
static FILES: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file in the directory");
    put("m", "");
    put("a.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    put("b.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\"\n");
    put("t.jinja", "{{ prompt }} {{ response }}");
    std::env::set_current_dir(dir.path()).expect("the directory");
    dir
});

/// A pipeline file, and overrides after lines `-----`. Says whether it is a plan.
pub fn pipeline(bytes: &[u8]) -> bool {
    LazyLock::force(&FILES);
    let text = String::from_utf8_lossy(bytes);
    // What else lies on the disk, be it large, is not the input's doing.
    if ["\"/", "'/", ".."].iter().any(|elsewhere| text.contains(elsewhere)) {
        return false;
    }
    let mut parts = text.split(CUT).map(String::from);
    let file = parts.next().unwrap_or_default();
    let set: Vec<String> = parts.take(4).collect();
    let plan = match parse_str("fuzz.toml", &file, &set, ALL) {
        Ok(plan) => plan,
        Err(problems) => {
            assert!(problems.errors() > 0 && problems.iter().all(|p| p.message.chars().count() < 4000));
            let shown = problems.render(false);
            assert!(!shown.contains('\u{1b}') && !shown.contains("Failed to read contents"), "{shown}");
            return false;
        }
    };
    plan.warnings.render(false);
    // What a run's directory keeps is the same plan.
    let again = parse_str("again.toml", &plan.resolved, &[], ALL)
        .unwrap_or_else(|d| panic!("the resolved file is refused:\n{}\n{}", d.render(false), plan.resolved));
    assert_eq!(again.resolved, plan.resolved);
    for format in [PlanFormat::Tree, PlanFormat::Mermaid, PlanFormat::Dot] {
        // A study is not part of any of its runs.
        let same = explain(&again, format) == explain(&plan, format);
        assert!(same || plan.study.is_some(), "{}", plan.resolved);
    }
    for variant in plan.study.iter().flat_map(|s| &s.variants) {
        let set: Vec<String> = set.iter().chain(&variant.set).cloned().collect();
        if let Err(problems) = parse_str("variant.toml", &file, &set, ALL) {
            problems.render(false);
        }
    }
    cost(&plan);
    true
}

fn cost(plan: &Plan<dyn Operator>) {
    let (size, tied) = (64., true);
    let (layers, hidden, intermediate, attention, kv, vocabulary) = (2., size, size, size, size, size);
    let shape = ModelShape { layers, hidden, intermediate, attention, kv, vocabulary, tied };
    let shapes: BTreeMap<_, _> = plan.models.iter().map(|m| (m.name.clone(), shape)).collect();
    let hardware = Hardware::parse("8xH100").expect("known by name");
    match Cost::of(plan, &shapes, &BTreeMap::new(), &CostAssumptions::default(), hardware) {
        Ok(cost) => {
            assert!(cost.hours() >= 0. && cost.flops() >= 0.);
            assert!(!cost.table().is_empty() && cost.json().is_object());
        }
        Err(e) => assert_eq!(e.kind(), ErrorKind::User, "{e}"),
    }
}

/// Readers of every kind: the built-in pattern on two scales, one whose numbers may be any words, one with an optional group.
static READERS: LazyLock<Vec<[Reader; 3]>> = LazyLock::new(|| {
    let patterns =
        [(PATTERN, 0., 5.), (PATTERN, -10., 1e6), (r"(?i)rating\W+(\S+)", 1., 10.), (r"(\d+)?(?P<of>/\d+)?", 0., 9.)];
    let reader =
        |(pattern, min, max), several| Reader::new(pattern, min, max, several).expect("a pattern with a group");
    patterns.map(|p| [Several::Agree, Several::First, Several::Last].map(|several| reader(p, several))).into()
});

/// A judge's own text. Says whether any reader finds a score.
pub fn score(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut scored = false;
    for readers in READERS.iter() {
        let [whole, cut] = [false, true].map(|cut| {
            readers.each_ref().map(|reader| {
                let (outcome, place) = reader.locate(&text, cut);
                let found = place.as_ref().map(|p| text.get(p.clone()).expect("a place in the text"));
                if let Outcome::Score(score) = outcome {
                    assert!((reader.min..=reader.max).contains(&score), "{score}");
                    // The score is at its place, and nowhere else is looked.
                    assert!(found.is_some_and(|f| !f.trim().is_empty()), "{found:?}");
                }
                assert!(cut || outcome != Outcome::Truncated);
                outcome
            })
        });
        // Where all agree, the last is what they agree on; the first may leave unsaid what it is out of.
        let [agree, first, last] = whole;
        scored |= whole.iter().any(|outcome| matches!(outcome, Outcome::Score(_)));
        if let (Outcome::Score(agreed), Outcome::Score(score)) = (agree, first) {
            assert_eq!(agreed, score);
        }
        assert!(matches!(agree, Outcome::Ambiguous) || agree == last, "{agree:?} {last:?}");
        // Cutting a text makes no score and changes none.
        for (cut, whole) in cut.into_iter().zip(whole) {
            assert!(cut == whole || cut == Outcome::Truncated, "{cut:?} {whole:?}");
        }
    }
    let grammar = Reader::new(GRAMMAR, 0., 5., Several::Agree).expect("the grammar has a scale");
    let [whole, cut] = [false, true].map(|cut| grammar.locate(&text, cut));
    for (outcome, place) in [&whole, &cut] {
        assert!(outcome.score().is_none_or(|score| (0. ..=5.).contains(&score)), "{outcome:?}");
        assert!(place.as_ref().is_none_or(|p| text.get(p.clone()).is_some()), "{place:?}");
    }
    // Cutting a text makes no score and changes none.
    assert!(cut.0.score().is_none() || cut.0 == whole.0, "{cut:?} {whole:?}");
    scored || whole.0.score().is_some()
}

/// A template, rendered for two messages with the limits of chat templates. Says whether it gives a text.
pub fn template(bytes: &[u8]) -> bool {
    let Ok(source) = std::str::from_utf8(bytes) else { return false };
    let turn = |role: &str, content: &str| Value::dict([("role", role.into()), ("content", content.into())]);
    let messages =
        Value::list(vec![turn("system", "Be brief, é.").unwrap(), turn("user", "  Hi <x>\n").unwrap()]).unwrap();
    let now = Some("2025-03-09T14:05:06".parse().expect("a date"));
    let settings = RenderOptions { work: 1_000_000, output: 1 << 20, strict: false, now };
    let variables =
        [("messages", messages), ("text", "Hello, World".into()), ("add_generation_prompt", Value::Bool(true))];
    let rendered = Template::parse(source, Whitespace::Trimmed).and_then(|t| t.render(&variables, settings));
    match rendered {
        Ok(text) => {
            assert!(text.len() <= settings.output);
            true
        }
        Err(e) => {
            assert!(!e.message.is_empty());
            false
        }
    }
}
