"""Makes golden.json: win rates and length-controlled win rates by the alpaca_eval package of annotations made up here.

    python tests/goldens/alpaca/make.py        # alpaca_eval 0.6.6, scikit-learn 1.9

The package downloads the annotations of two baselines that play with length, with each instruction's difficulty (df_gamed.csv);
gamed.csv, made here in its form, stands for it. `exact` is the package with its solver run to the end (tol = 1e-12), `as_is` with the tolerance
that it ships with.
"""
import json, math, pathlib, sys, types, warnings

warnings.simplefilter("ignore")
sys.modules.setdefault("pkg_resources", types.ModuleType("pkg_resources"))  # gone from setuptools; not used here
import numpy as np
import pandas as pd
from alpaca_eval.metrics import glm_winrate as glm

here = pathlib.Path(__file__).parent
N = 60
r = np.random.default_rng(7)
logistic = lambda x: 1 / (1 + math.exp(-x))
difficulty = r.normal(0, 1.2, N).round(4)
gamed = []
for model, sign in (("concise", -1), ("verbose", 1)):
    for i in range(N):
        gamed.append({
            "model": model, "index": i, "preference": round(logistic(0.9 * sign + r.normal(0, 0.4)), 4),
            "std_delta_len": round(sign * abs(r.normal(1, 0.4)), 4), "instruction_difficulty": difficulty[i], "not_gamed_baseline": False,
        })
pd.DataFrame(gamed).to_csv(here / "gamed.csv", index=False)
glm.hf_hub_download = lambda **_: here / "gamed.csv"


def annotations(name, n, skill, length, discrete, nulls):
    rows = []
    for i in range(n):
        one, other = int(r.integers(4, 60)), int(r.integers(4, 60) * length)
        p = logistic(skill - 0.5 * difficulty[i] + 0.05 * (other - one) + r.normal(0, 0.3))
        # 0 is an old way to write a draw.
        preference = float(r.choice([1.0, 2.0, 2.0 if p > 0.5 else 1.0, 0.0, 1.5])) if discrete else round(1 + p, 6)
        rows.append({
            "instruction": f"Instruction {i}", "output_1": "é" * one, "generator_1": "baseline", "dataset": "made_up",
            "output_2": "x" * other, "generator_2": name, "annotator": "made_up",
            "preference": None if i in nulls else preference,
        })
    return rows


def plain(figures):
    return {k: None if pd.isna(v) else int(v) if k.startswith("n_") else float(v) for k, v in figures.items()}


cases = []
for name, args in {
    "weighted": (N, -0.5, 1.3, False, ()),
    "with_nulls": (N, 0.4, 0.8, False, (3, 17, 18)),
    "discrete": (N, 0.2, 1.5, True, (5,)),
    "part": (34, 1.0, 1.0, False, ()),
}.items():
    rows = annotations(name, *args)
    by_glm = {}
    for which, info in glm.GLM_INFO.items():
        exact = {**info, "kwargs": {"n_splits": 5, "tol": 1e-12, "max_iter": 1_000_000}}
        of = lambda info: plain(glm.get_length_controlled_winrate(rows, save_weights_dir=None, glm_info=info))
        by_glm[which] = {"exact": of(exact), "as_is": of(info)}
    cases.append({"name": name, "annotations": rows, "glm": by_glm})
lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
(here / "golden.json").write_text(f"[\n{lines}\n]\n")
for case in cases:
    for which, figures in case["glm"].items():
        print(case["name"], which, *[f"{k} {v['win_rate']:.4f} {v['length_controlled_winrate']:.6f}" for k, v in figures.items()])
