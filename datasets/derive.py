#!/usr/bin/env python3
"""Makes datasets/ranked and datasets/preferences out of datasets/eft: `python datasets/derive.py`, then import both twins."""

import hashlib
import json
import pathlib
from collections import defaultdict

here = pathlib.Path(__file__).parent
rows = [json.loads(line) for line in (here / "eft/eft.jsonl").read_text().splitlines()]


def digest(*parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


prompts = defaultdict(list)
for row in rows:
    prompts[row["prompt"]].append(row)

ranked, preferences = [], []
for prompt, answers in prompts.items():
    scores = sorted({a["score"] for a in answers}, reverse=True)
    for a in answers:
        ranked.append({
            "prompt_id": digest(prompt), "prompt": prompt, "response_id": digest(prompt, a["response"]),
            "response": a["response"], "rank": scores.index(a["score"]), "score": a["score"],
        })
    for better in answers:
        for worse in answers:
            if better["score"] - worse["score"] >= 2:
                turn = lambda role, text: [{"role": role, "content": text}]
                preferences.append({
                    "prompt": turn("user", prompt),
                    "chosen": turn("assistant", better["response"]), "rejected": turn("assistant", worse["response"]),
                    "score_chosen": better["score"], "score_rejected": worse["score"],
                })

for name, made in (("ranked", ranked), ("preferences", preferences)):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    (here / name / f"{name}.jsonl").write_text(text)
    print(name, len(made))
