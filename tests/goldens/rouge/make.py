"""ROUGE-L of the rouge-score package (0.1.2), without its stemmer, as Self-Instruct uses it, and its tokens of `a`.

    pip install rouge-score && python tests/goldens/rouge/make.py > tests/goldens/rouge/pairs.jsonl
"""

import json
import random

from rouge_score import rouge_scorer, tokenize

HAND = [
    ("The quick brown fox", "the slow brown fox jumps"),
    ("a b c d", "d c b a"),
    ("same words here", "Same words, here!"),
    ("", "x"),
    ("", ""),
    ("!!!", "???"),
    ("Name three rivers.", "Name three rivers."),
    ("Name three rivers in Europe.", "Name three lakes in Europe."),
    ("What is 2+2?", "What is 2 + 2 ?"),
    ("3.14 is pi", "3 14 is pi"),
    ("don't stop", "dont stop"),
    ("e-mail me", "email me"),
    ("snake_case_name", "snake case name"),
    ("caf\u00e9 au lait", "cafe au lait"),
    ("cafe\u0301 au lait", "caf\u00e9 au lait"),
    ("na\u00efve r\u00e9sum\u00e9", "naive resume"),
    ("Stra\u00dfe", "STRASSE"),
    ("\u0130stanbul is large", "istanbul is large"),
    ("I\u0307stanbul", "istanbul"),
    ("\u212aelvin scale", "kelvin scale"),
    ("5 \u212b wide", "5 \u00e5 wide"),
    ("\ufb01le the \ufb02oor", "file the floor"),
    ("x\u00b2 + y\u00b2", "x2 + y2"),
    ("\u0661\u0662\u0663 apples", "123 apples"),
    ("\uff21\uff22\uff23 wide", "abc wide"),
    ("\u65e5\u672c\u8a9e\u306e\u6587", "\u65e5\u672c\u8a9e\u306e\u6587"),
    ("\u65e5\u672c\u8a9e abc", "abc"),
    ("\u041f\u0440\u0438\u0432\u0435\u0442 world", "hello world"),
    ("\u0395\u03bb\u03bb\u03ac\u03c2 and \u039f\u0394\u039f\u03a3", "and"),
    ("emoji \U0001f600 here", "emoji here"),
    ("zero\u200bwidth", "zero width"),
    ("no\u00a0break", "no break"),
    ("tab\tand\nline", "tab and line"),
    ("a\x00b", "a b"),
    ("UPPER lower MiXeD", "upper LOWER mixed"),
    ("the the the", "the"),
    ("a a b b", "b b a a"),
    ("running runs ran", "run run run"),
    ("1st 2nd 3rd", "1 2 3"),
    ("C++ and C#", "c and c"),
]

WORDS = "list write explain the a of in three five best ways to for my dog cat Caf\u00e9 trip, story. poem? 7 42 don't re-use".split()


def main():
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    rng = random.Random(7)
    pairs = list(HAND)
    while len(pairs) < 110:
        a = [rng.choice(WORDS) for _ in range(rng.randint(1, 16))]
        # Some are edited copies, as near copies are; some share words by chance.
        b = list(a) if rng.random() < 0.6 else [rng.choice(WORDS) for _ in range(rng.randint(1, 16))]
        for _ in range(rng.randint(0, 5)):
            at = rng.randrange(len(b) + 1)
            b[at : at + rng.randint(0, 1)] = [rng.choice(WORDS)]
        pairs.append((" ".join(a), " ".join(b)))
    for a, b in pairs:
        score = scorer.score(a, b)["rougeL"].fmeasure
        print(json.dumps({"a": a, "b": b, "rouge_l": score, "tokens": tokenize.tokenize(a, None)}))


if __name__ == "__main__":
    main()
