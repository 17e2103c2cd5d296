"""Makes the goldens of src/eval: bootstrap.json by scipy.stats.bootstrap over clusters; reward.json, Table 4 of the paper by its
definitions with scipy's rho and tau; agreement.json by scipy's rho over prompts drawn with numpy; texts.json in plain Python; drift.json by scipy.stats.wasserstein_distance.

    python tests/goldens/eval/make.py        # scipy 1.17, numpy 2.4
"""
import itertools, json, math, pathlib, random, warnings

import numpy as np
from scipy.stats import bootstrap, kendalltau, norm, spearmanr, wasserstein_distance

warnings.simplefilter("ignore")
here = pathlib.Path(__file__).parent


def write(name, rows):
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (here / name).write_text(f"[\n{lines}\n]\n")


# Clusters of a sum and a weight: prompts with several comparisons each.
r = np.random.default_rng(5)
cases = []
for n, most, confidence in ((20, 1, 0.95), (50, 3, 0.9), (120, 4, 0.95), (253, 1, 0.99)):
    weights = r.integers(1, most + 1, n)
    sums = [float(r.binomial(2 * w, r.beta(2, 1.5)) / 2) for w in weights]
    ratio = lambda s, w, axis: np.sum(s, axis=axis) / np.sum(w, axis=axis)
    made = bootstrap(
        (np.array(sums), weights.astype(float)), ratio, paired=True, vectorized=True, n_resamples=40_000,
        confidence_level=confidence, method="percentile", rng=np.random.default_rng(1),
    )
    # Standard error of a sample quantile, sqrt(q (1 - q) / B) / density, of both sides; the density as of a normal.
    sigma, q = float(made.standard_error), (1 - confidence) / 2
    error = math.sqrt(2 * q * (1 - q) / 40_000) / (norm.pdf(norm.ppf(q)) / sigma)
    # The ratio has few values, hence steps, where all weights are 1.
    within = 5 * error + (0.5 / n if most == 1 else 0)
    low, high = made.confidence_interval
    cases.append({
        "clusters": [[s, float(w)] for s, w in zip(sums, weights)], "confidence": confidence,
        "value": sum(sums) / float(weights.sum()), "low": float(low), "high": float(high), "within": within,
    })
write("bootstrap.json", cases)


# Table 4: an answer is (rank, score), rank 0 the best, score None where the judge said nothing readable.
def table(prompts):
    alike = tied = pairs = 0
    perfect, exact, rho, tau = [], [], [], []
    for answers in prompts:
        top = min((rank for rank, _ in answers), default=None)
        known = [(rank, score) for rank, score in answers if score is not None]
        perfect += [rank == top for rank, score in known if score >= 5]
        ordered = [(a, b) for a, b in itertools.combinations(known, 2) if a[0] != b[0]]
        if not ordered:
            continue
        right = [(a[0] < b[0]) == (a[1] > b[1]) and a[1] != b[1] for a, b in ordered]
        alike, pairs = alike + sum(right), pairs + len(ordered)
        tied += sum(a[1] == b[1] for a, b in ordered)
        exact.append(all(right))
        ranks, scores = [-rank for rank, _ in known], [score for _, score in known]
        for out, of in ((rho, spearmanr), (tau, kendalltau)):
            value = float(of(ranks, scores).statistic)
            out.append(0.0 if math.isnan(value) else value)
    mean = lambda of: {"value": float(np.mean(of)) if of else None, "n": len(of)}
    share = lambda count: {"value": count / pairs if pairs else None, "n": pairs}
    return {
        "nulls": sum(score is None for answers in prompts for _, score in answers),
        "pairwise_accuracy": share(alike), "pairwise_tied": share(tied),
        "five_best": mean(perfect), "exact_match": mean(exact), "spearman": mean(rho), "kendall": mean(tau),
    }


d = random.Random(2)


def ranked(n, levels, ties, missing):
    prompts = []
    for _ in range(n):
        size = d.choice([1, 2, 3, 3, 4, 5])
        ranks = [float(d.randrange(size)) if d.random() < ties else float(i) for i in range(size)]
        score = lambda rank: min(5.0, max(0.0, round((5 - rank + d.gauss(0, 1.5)) * levels) / levels))
        prompts.append([(rank, None if d.random() < missing else score(rank)) for rank in ranks])
    return prompts


sets = [ranked(40, 1, 0, 0), ranked(40, 3, 0.3, 0), ranked(30, 3, 0.1, 0.2), ranked(3, 1, 1, 0.9), [[(0.0, 4.0), (1.0, 4.0)]], []]
write("reward.json", [{"prompts": prompts, **table(prompts)} for prompts in sets])

# Texts.
texts = ["the cat and the dog and the cat", "", "  two  words\n", "naïve café — 日本 語", "e\u0301 is two", "the cat and", "\u00a0a\u2003b\tc"]
grams = lambda n: [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
(here / "texts.json").write_text(json.dumps({
    "texts": texts, "lengths": [[len(t), len(t.split())] for t in texts],
    "distinct": [[len(set(grams(n))) / len(grams(n)), len(grams(n))] for n in range(1, 5)],
}, ensure_ascii=False, indent=1) + "\n")

# Drift. Scores are means of three whole ones, in bins of a third or a half.
cases = []
for n, m in ((1, 1), (1, 5), (4, 4), (10, 30), (60, 60), (60, 7)):
    for shift in (0, 0.8):
        score = lambda shift: float(np.mean([min(5, max(0, round(d.gauss(3 + shift, 1)))) for _ in range(3)]))
        x, y, width = [score(0) for _ in range(n)], [score(shift) for _ in range(m)], 1 / 3
        # The nearest bin of each, halves away from zero.
        bin_ = lambda v: math.floor(v / width + 0.5)
        share = lambda values, b: sum(bin_(v) == b for v in values) / len(values)
        tv = sum(abs(share(x, b) - share(y, b)) for b in range(17)) / 2
        cases.append({"x": x, "y": y, "width": width, "wasserstein": float(wasserstein_distance(x, y)), "total_variation": tv})
write("drift.json", cases)


# Given and judged scores, by prompt: rho over all answers, the prompts drawn anew.
def agreement(case, prompts, confidence=0.95, resamples=40_000):
    rho = lambda drawn: spearmanr(*np.array([a for p in drawn for a in p]).T).statistic
    g = np.random.default_rng(case)
    figures = [rho([prompts[i] for i in g.integers(0, len(prompts), len(prompts))]) for _ in range(resamples)]
    figures = [f for f in figures if not math.isnan(f)]
    q = (1 - confidence) / 2
    error = math.sqrt(2 * q * (1 - q) / resamples) / (norm.pdf(norm.ppf(q)) / np.std(figures))
    low, high = np.quantile(figures, [q, 1 - q])
    return {
        "prompts": prompts, "value": float(rho(prompts)), "low": float(low), "high": float(high),
        "within": 5 * error, "n": sum(map(len, prompts)),
    }


g = np.random.default_rng(11)
cases = []
for case, (count, most, noise) in enumerate(((30, 4, 1.0), (55, 1, 3.0), (20, 3, 0.3))):
    prompts = []
    for _ in range(count):
        given = g.integers(0, 6, g.integers(1, most + 1)).astype(float)
        prompts.append([[a, round(float(a + g.normal(0, noise)), 3)] for a in given])
    cases.append(agreement(case, prompts))
write("agreement.json", cases)
