"""Makes student.json: two-sided quantiles of Student's t by scipy.

    python tests/goldens/statistics/make_student.py        # scipy 1.17
"""
import json, pathlib

from scipy.stats import t

rows = [{"df": df, "probability": p, "t": float(t.ppf((1 + p) / 2, df))} for df in (*range(1, 16), 29, 30, 99, 500) for p in (0.8, 0.95)]
lines = ",\n".join(json.dumps(row) for row in rows)
(pathlib.Path(__file__).parent / "student.json").write_text(f"[\n{lines}\n]\n")
