"""Ratings of src/eval/ratings.rs by scikit-learn: python golden.py > ratings.jsonl

A tie is a win of half the weight for each, which has the same gradient as a share of a half.
"""
import json
import random

import numpy as np
from sklearn.linear_model import LogisticRegression

random.seed(1)
for case in range(24):
    players = random.randint(2, 11)
    strength = [random.gauss(0, 1) for _ in range(players)]
    # From few battles, where somebody wins all, to a full round in both orders.
    pairs = [(i, j) for i in range(players) for j in range(players) if i != j]
    random.shuffle(pairs)
    pairs = pairs[: random.choice([1, players, len(pairs)])]
    battles = []
    for i, j in pairs:
        p = 1 / (1 + np.exp(strength[j] - strength[i]))
        share = random.choices([1.0, 0.0, 0.5], [p * 0.8, (1 - p) * 0.8, 0.2])[0]
        battles.append((i, j, share, random.choice([0.3, 0.7, 1.0])))
    if case % 6 == 0:
        battles = [(i, j, 1.0 if i < j else 0.0, w) for i, j, _, w in battles]
    l2 = random.choice([0.01, 1.0, 1.0, 10.0])
    x, y, weights = [], [], []
    for i, j, share, weight in battles:
        row = np.zeros(players)
        row[i], row[j] = np.log(10), -np.log(10)
        for won, part in ((1, share), (0, 1 - share)):
            x.append(row), y.append(won), weights.append(weight * part)
    model = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-14, max_iter=100_000, solver="newton-cholesky")
    model.fit(np.array(x), np.array(y), sample_weight=np.array(weights))
    ratings = (1000 + 400 * model.coef_[0]).tolist()
    print(json.dumps({"players": players, "l2": l2, "battles": battles, "ratings": ratings}))
