"""Makes kendall.json: tau-b by scipy.stats.kendalltau, null where scipy says nan.

    python tests/goldens/statistics/make.py        # scipy 1.17
"""
import json, math, pathlib, random

from scipy.stats import kendalltau

r = random.Random(11)
cases = [([1.0], [2.0]), ([1.0, 2.0], [2.0, 1.0]), ([3.0, 3.0], [1.0, 2.0]), ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0])]
for n in (2, 3, 4, 4, 5, 7, 12, 30):
    for levels in (2, 6, 1000):  # few levels make ties
        cases.append(tuple([float(r.randrange(levels)) / 3 for _ in range(n)] for _ in "xy"))
out = []
for x, y in cases:
    tau = float(kendalltau(x, y).statistic)
    out.append({"x": x, "y": y, "tau": None if math.isnan(tau) else tau})
lines = ",\n".join(json.dumps(case) for case in out)
(pathlib.Path(__file__).parent / "kendall.json").write_text(f"[\n{lines}\n]\n")
