"""Makes kendall.json and spearman.json: tau-b by scipy.stats.kendalltau and rho by scipy.stats.spearmanr, null where scipy
says nan; and quantiles.json: numpy.quantile, and the standard error of the mean by pandas.

    python tests/goldens/statistics/make.py        # scipy 1.17, numpy 2.4, pandas 3.0
"""
import json, math, pathlib, random, warnings

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, spearmanr

warnings.simplefilter("ignore")  # a ranking without variance
r = random.Random(11)
cases = [([1.0], [2.0]), ([1.0, 2.0], [2.0, 1.0]), ([3.0, 3.0], [1.0, 2.0]), ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0])]
for n in (2, 3, 4, 4, 5, 7, 12, 30):
    for levels in (2, 6, 1000):  # few levels make ties
        cases.append(tuple([float(r.randrange(levels)) / 3 for _ in range(n)] for _ in "xy"))


def finite(value):
    return None if math.isnan(value) else float(value)


def write(name, rows):
    lines = ",\n".join(json.dumps(row) for row in rows)
    (pathlib.Path(__file__).parent / name).write_text(f"[\n{lines}\n]\n")


write("kendall.json", [{"x": x, "y": y, "tau": finite(kendalltau(x, y).statistic)} for x, y in cases])
# scipy refuses lists of one.
rho = lambda x, y: finite(spearmanr(x, y).statistic) if len(x) > 1 else None
write("spearman.json", [{"x": x, "y": y, "rho": rho(x, y)} for x, y in cases])
q = [0, 0.025, 0.3, 0.5, 0.975, 1]
write(
    "quantiles.json",
    [
        {"values": x, "mean": float(np.mean(x)), "sem": finite(pd.Series(x).sem()), "q": q, "quantiles": [float(v) for v in np.quantile(x, q)]}
        for x, _ in cases
    ],
)
