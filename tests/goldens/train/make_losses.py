"""Makes losses.json: value and gradient of every loss of src/train/losses at fixed points, from torch's automatic
differentiation in float64. Where TRL 1.16 has the loss, the expression is that of its DPOTrainer (simpo: its CPOTrainer); the
reward-aware ones are written from their definition as divergences of torch.distributions.

    python tests/goldens/train/make_losses.py        # torch
"""
import json, pathlib

import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, kl_divergence

T = lambda *x: torch.tensor(x, dtype=torch.float64)
# The second pair sits on the reference, the last two are far out.
inputs = {
    "chosen": T(-11.0, -20.0, -1.5, -33.3, -10.0, -400.0), "rejected": T(-9.0, -20.0, -6.0, -71.0, -500.0, -10.0),
    "ref_chosen": T(-10.0, -20.0, -3.0, -35.1, -90.0, -10.0), "ref_rejected": T(-12.0, -20.0, -4.0, -60.2, -10.0, -12.0),
    "chosen_tokens": T(3.0, 7.0, 1.0, 12.0, 30.0, 41.0), "rejected_tokens": T(4.0, 7.0, 2.0, 30.0, 3.0, 5.0),
    "margin": T(1.0, 0.25, 4.0, 1.0 / 3.0, 2.0, 5.0), "consistency": T(1.0, 0.5, 2.0 / 3.0, 0.0, 0.25, 5.0 / 6.0),
}


def kl(p, q):
    """KL between Bernoullis of these logits; torch.distributions has it too, but only near 0."""
    part = lambda p, q: torch.sigmoid(p) * (F.logsigmoid(p) - F.logsigmoid(q))
    both = part(p, q) + part(-p, -q)
    near = (p.abs() < 10) & (q.abs() < 10)
    want = kl_divergence(Bernoulli(logits=p[near]), Bernoulli(logits=q[near]))
    assert torch.allclose(both[near], want, rtol=1e-9, atol=1e-12), (both, want)
    return both


def loss(name, c, r, k):
    beta, e = k["beta"], k["label_smoothing"]
    chosen_logratios, rejected_logratios = c - inputs["ref_chosen"], r - inputs["ref_rejected"]
    delta_score = chosen_logratios - rejected_logratios
    norm = chosen_logratios / inputs["chosen_tokens"] - rejected_logratios / inputs["rejected_tokens"]
    policy, judge = beta * delta_score, k["margin_scale"] * inputs["margin"]
    if name == "sigmoid":
        return -(1 - e) * F.logsigmoid(beta * delta_score) - e * F.logsigmoid(-beta * delta_score)
    if name == "ipo":
        return (norm - 1 / (2 * beta)) ** 2
    if name == "hinge":
        return torch.relu(1 - beta * delta_score)
    if name == "robust":
        clean, flipped = -(1 - e) * F.logsigmoid(beta * delta_score), -e * F.logsigmoid(-beta * delta_score)
        return (clean - flipped) / (1 - 2 * e)
    if name == "sigmoid_norm":
        return -F.logsigmoid(beta * norm)
    if name == "simpo":
        logits = c / inputs["chosen_tokens"] - r / inputs["rejected_tokens"] - k["simpo_gamma"] / beta
        return -F.logsigmoid(beta * logits) * (1 - e) - F.logsigmoid(-beta * logits) * e
    if name == "apo_zero":
        return 1 - torch.sigmoid(beta * chosen_logratios) + torch.sigmoid(beta * rejected_logratios)
    if name == "apo_down":
        return torch.sigmoid(beta * chosen_logratios) + 1 - torch.sigmoid(beta * (chosen_logratios - rejected_logratios))
    if name == "rpo_sq":
        return (beta * delta_score - k["margin_scale"] * inputs["margin"]) ** 2
    if name == "rpo_bwd_kl":
        return kl(judge, policy)
    if name == "rpo_fwd_kl":
        return kl(policy, judge)
    if name == "cream":
        c = inputs["consistency"]
        return c * -F.logsigmoid(beta * delta_score) + (1 - c) * -F.logsigmoid(-beta * delta_score)
    raise KeyError(name)


cases = []
names = "sigmoid ipo hinge robust sigmoid_norm simpo apo_zero apo_down rpo_sq rpo_bwd_kl rpo_fwd_kl cream".split()
for name in names:
    for knobs in (dict(beta=0.1, label_smoothing=0.0, simpo_gamma=0.5, margin_scale=1.0), dict(beta=0.7, label_smoothing=0.2, simpo_gamma=0.9, margin_scale=0.3)):
        c, r = (inputs[n].clone().requires_grad_() for n in ("chosen", "rejected"))
        each = loss(name, c, r, knobs)
        each.sum().backward()
        case = {"loss": name, **knobs, "each": each.tolist(), "chosen": c.grad.tolist(), "rejected": r.grad.tolist()}
        assert all(map(lambda x: x == x and abs(x) < 1e300, case["each"] + case["chosen"] + case["rejected"])), case
        cases.append(case)
out = {"inputs": {n: v.tolist() for n, v in inputs.items()}, "cases": cases}
(pathlib.Path(__file__).parent / "losses.json").write_text(json.dumps(out, indent=1) + "\n")
