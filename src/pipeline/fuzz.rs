//! No input makes the parser panic, hang or fill the memory.

use proptest::prelude::*;

use super::stub::KINDS;
use super::*;

/// Pieces that are nearly a pipeline file, so that mutation reaches beyond the TOML parser.
const PIECES: &[&str] = &[
    "[pipeline]\n",
    "name = \"x\"\n",
    "seed = ",
    "iterations = ",
    "[loop]\n",
    "policy = \"m1\"\n",
    "next = \"dpo\"\n",
    "[step.a]\n",
    "[step.b]\n",
    "[step.m1]\n",
    "[step.dpo]\n",
    "[model.m0]\n",
    "[engine]\n",
    "kv_memory = \"1 GiB\"\n",
    "op = \"read\"\n",
    "op = \"sft\"\n",
    "op = \"generate\"\n",
    "op = \"dpo\"\n",
    "op = \"synthesize\"\n",
    "op = \"select\"\n",
    "from = \"a\"\n",
    "from = [\"a\", \"b\"]\n",
    "from = \"dpo\"\n",
    "model = \"policy\"\n",
    "model = \"m0\"\n",
    "model = \"m1\"\n",
    "dataset = \"d\"\n",
    "hf = \"o/n\"\n",
    "keep = false\n",
    "schema = \"prompts\"\n",
    "99999999999999999999",
    "0x7fff_ffff_ffff_ffff",
    "1e999",
    "-nan",
    "1979-05-27",
    "sampling = { top_p = ",
    "}",
    "[[",
    "]]",
    "\"\"\"",
    "'",
    "é",
    "\u{85}",
    "\r\n",
    "\r",
    "\t",
    "\0",
    "#",
    "=",
    ".",
    ",",
    "\n",
    " ",
    "\u{feff}",
    "𝄞",
];

fn survives(text: &str, set: &[String]) {
    match parse_str::<dyn StepSpec>("fuzz.toml", text, set, KINDS) {
        Ok(plan) => {
            let again = parse_str::<dyn StepSpec>("again.toml", &plan.resolved, &[], KINDS).unwrap();
            assert_eq!(again.resolved, plan.resolved);
            for format in [Format::Tree, Format::Mermaid, Format::Dot] {
                explain(&plan, format);
            }
            plan.warnings.render(false);
        }
        Err(problems) => {
            assert!(problems.errors() > 0);
            let shown = problems.render(false);
            assert!(!shown.contains('\u{1b}') && !shown.contains("Failed to read contents"), "{shown}");
            for d in problems.iter() {
                assert!(d.message.chars().count() < 4000);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survives(&String::from_utf8_lossy(&bytes), &[]);
    }

    #[test]
    fn random_text_in_overrides(text in ".{0,40}", set in prop::collection::vec(".{0,40}", 0..3)) {
        survives(&text, &set);
    }

    #[test]
    fn pieces(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40),
              set in prop::collection::vec("(step|model|pipeline|loop)\\.(a|m0|m1|dpo|seed|next)(\\.(op|from|model|path))?=(a|dpo|m1|3|\\[|policy)", 0..3)) {
        survives(&pieces.concat(), &set);
    }

    #[test]
    fn a_file_with_holes(cuts in prop::collection::vec((0usize..2000, 0usize..12, prop::sample::select(PIECES)), 1..5)) {
        let mut text: Vec<char> = super::tests::PAPER.chars().collect();
        for (at, len, piece) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.splice(at..end, piece.chars());
        }
        survives(&text.into_iter().collect::<String>(), &[]);
    }
}

#[test]
fn deep_and_long() {
    // The TOML parser's own limits allow this depth by dotted keys within braces.
    let dotted = "b.".repeat(78) + "b = ";
    let deep = format!("a = {}1{}", format!("{{ {dotted}").repeat(70), " }".repeat(70));
    survives(&deep, &[]);
    survives("", &[deep]);
    for text in [
        "[".repeat(100_000),
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}{}", "[".repeat(60), "]".repeat(60)),
        format!("a = {}", "{a=".repeat(50_000)),
        format!("a{} = 1", ".a".repeat(100_000)),
        format!("[step.{}]", "x".repeat(500_000)),
        format!("x = \"{}\"\ny = \u{1b}", "é".repeat(200_000)),
        "seed = 1\n".repeat(10_000),
        (0..20_000).map(|i| format!("k{i} = 1\n")).collect(),
        (0..5_000).map(|i| format!("[step.s{i}]\nop = \"no\"\n")).collect(),
        format!("[step.a]\nop=\"sft\"\nfrom=[{}]", "\"a\",".repeat(50_000)),
        format!("[pipeline]\nseed = {}", "9".repeat(100_000)),
        " ".repeat(2 << 20),
        "\r\n[step.a]\r\nop = \"raed\"\r\n".to_owned(),
    ] {
        survives(&text, &[]);
    }
}
