"""Writes entropy.json: entropies of histograms in bits, by scipy.  python make_entropy.py > entropy.json"""
import json
import random

from scipy.stats import entropy

random.seed(3)
cases = [[4], [1, 1], [3, 1], [0, 7, 0], [1, 2, 3, 4, 5, 6]]
cases += [[random.randrange(0, 1000) for _ in range(random.randrange(2, 7))] for _ in range(10)]
print(json.dumps([{"counts": c, "bits": float(entropy(c, base=2)) + 0.0} for c in cases], indent=0))
