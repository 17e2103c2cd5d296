"""Makes the goldens of tests/training/half_precision.rs from torch and transformers (CPU, one thread).

    python tests/goldens/half/make.py        # torch 2.15, transformers 5.24, safetensors

The model is small, but it has what makes half precision hard in a real one: a first token with an activation whose square
is beyond f16, sequences of a hundred tokens, and a vocabulary whose softmax has hundreds of terms.

- start.safetensors, config.json: the model, its weights exact in bf16 and in f16. data.json: sequences and pairs of ids.
- golden.json: by type, the log-probability of every completion, and three steps of SFT and of DPO. In bf16 and f16 the
  forward and the backward are torch's in that type, and the optimizer is torch.optim.AdamW on f32 copies of the weights.
  The reference of DPO is the model with its last norm scaled by 0.9, in the same type.
- sft-gradients.safetensors, dpo-gradients.safetensors: torch's f32 gradients of the first step, kept in bf16.
"""
import json, pathlib, random

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).parent
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
VOCAB, WIDTH, BETA, RATE = 512, 64, 0.1, 1e-3
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def dump(name, what):
    (OUT / name).write_text(json.dumps(what, indent=1) + "\n")


def start_weights(config):
    g = torch.Generator().manual_seed(11)
    weights = {}
    for name, p in LlamaForCausalLM(config).named_parameters():
        if p.dim() == 1:
            w = 1 + 0.1 * torch.randn(p.shape, generator=g)
        elif "embed" in name:
            w = 0.5 * torch.randn(p.shape, generator=g)
            w[0, 5] = 600.0  # its square is beyond f16; every sequence begins with this token
        else:
            w = torch.randn(p.shape, generator=g) * 1.5 / p.shape[1] ** 0.5
        # Eight bits of mantissa are exact in bf16, and in f16 where the number is not tiny.
        weights[name] = torch.where(w.abs() < 2**-12, torch.zeros_like(w), w).bfloat16().float()
        assert torch.equal(weights[name], weights[name].half().float()), name
    return weights


config = LlamaConfig(
    vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=10000.0,
    tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, attn_implementation="eager",
)
START = start_weights(config)


def model(dtype, masters=START):
    m = LlamaForCausalLM(config)
    m.load_state_dict(masters)
    return m.to(dtype)


r = random.Random(5)
tokens = lambda low, high: [r.randrange(4, VOCAB) for _ in range(r.randint(low, high))]
pairs = [{"prompt": [0] + tokens(20, 90), "chosen": tokens(5, 40) + [1], "rejected": tokens(5, 40) + [1]} for _ in range(12)]
examples = [{"tokens": [0] + tokens(60, 120), "context": r.randint(1, 40)} for _ in range(12)]


def sums(m, prompt, completions):
    """Summed log-probability of each completion; the logits are the model's, what follows is f32."""
    out = []
    for completion in completions:
        ids = torch.tensor([prompt + completion])
        logp = torch.log_softmax(m(ids, use_cache=False).logits[0].float(), -1)
        rows = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
        out.append(logp[rows, ids[0, rows + 1]].sum())
    return out


def sft_loss(m, batch):
    learnt = sum(len(e["tokens"]) - e["context"] for e in batch)
    return -sum(sums(m, e["tokens"][: e["context"]], [e["tokens"][e["context"] :]])[0] for e in batch) / learnt


def dpo_loss(reference):
    def loss(m, batch):
        total = 0
        for p in batch:
            chosen, rejected = sums(m, p["prompt"], [p["chosen"], p["rejected"]])
            with torch.no_grad():
                ref_chosen, ref_rejected = sums(reference, p["prompt"], [p["chosen"], p["rejected"]])
            total = total - torch.nn.functional.logsigmoid(BETA * ((chosen - ref_chosen) - (rejected - ref_rejected)))
        return total / len(batch)

    return loss


def backward(m, loss, dtype):
    """The gradients in f32; in f16 the loss is scaled, so that small derivatives are not zero."""
    scale = 256.0 if dtype == torch.float16 else 1.0
    m.zero_grad()
    (loss * scale).backward()
    return {name: p.grad.float() / scale for name, p in m.named_parameters()}


def train(dtype, loss_of, rows):
    masters = {k: torch.nn.Parameter(v.clone()) for k, v in START.items()}
    matrices = [p for p in masters.values() if p.dim() > 1]
    norms = [p for p in masters.values() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8)
    steps, first = [], None
    for step in range(3):
        m = model(dtype, {k: p.detach() for k, p in masters.items()})
        loss = loss_of(m, rows[4 * step : 4 * step + 4])
        gradients = backward(m, loss, dtype)
        first = first or {k: g.clone() for k, g in gradients.items()}
        for k, p in masters.items():
            p.grad = gradients[k]
        norm = torch.nn.utils.clip_grad_norm_(masters.values(), 1.0)
        optimizer.step()
        steps.append({"loss": loss.item(), "grad_norm": norm.item()})
    return steps, first


def flat(gradients):
    return torch.cat([g.flatten().double() for _, g in sorted(gradients.items())])


golden, f32 = {}, {}
for name, dtype in TYPES.items():
    m = model(dtype)
    with torch.no_grad():
        logprobs = [[s.item() for s in sums(m, p["prompt"], [p["chosen"], p["rejected"]])] for p in pairs]
    reference = model(dtype)
    with torch.no_grad():
        reference.model.norm.weight.mul_(0.9)
    golden[name] = {"logprobs": logprobs}
    for run, loss_of, rows in [("sft", sft_loss, examples), ("dpo", dpo_loss(reference), pairs)]:
        steps, gradients = train(dtype, loss_of, rows)
        if name == "f32":
            f32[run] = gradients
            save_file({k: g.bfloat16() for k, g in gradients.items()}, OUT / f"{run}-gradients.safetensors")
        a, b = flat(gradients), flat(f32[run])
        golden[name][run] = {"steps": steps, "gradient_cosine": (a @ b / a.norm() / b.norm()).item(),
                             "gradient_norm_ratio": (a.norm() / b.norm()).item()}
    off = max(abs(a - b) for x, y in zip(logprobs, golden["f32"]["logprobs"]) for a, b in zip(x, y))
    print(name, "log-probabilities off by", off, {k: v for k, v in golden[name].items() if k != "logprobs"})

save_file({k: w.bfloat16() for k, w in START.items()}, OUT / "start.safetensors")
fields = ("vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
          "max_position_embeddings rms_norm_eps tie_word_embeddings").split()
dump("config.json", {k: getattr(config, k) for k in fields} | {"rope_theta": 10000.0})
(OUT / "data.json").write_text(json.dumps({"pairs": pairs, "examples": examples}) + "\n")
dump("golden.json", golden)
for f in OUT.glob("*.safetensors"):
    f.chmod(0o644)
