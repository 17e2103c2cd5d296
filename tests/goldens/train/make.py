"""Makes the goldens of tests/training/goldens.rs from torch, transformers and TRL themselves (f32, CPU, one thread).

    python tests/goldens/train/make.py        # torch 2.15, transformers 5.23, trl 1.16, datasets, tokenizers, safetensors

- start.safetensors, config.json: a random Llama. data.json: sequences and pairs of token ids.
- runs.json: every metric of TRL's own SFTTrainer and DPOTrainer over 3 steps of 4 rows (20 for `trajectory`), and
  RUN.safetensors: the weights after some of them.
- optimizer.json: torch.optim.AdamW over 20 steps. schedules.json: transformers' learning rates.
"""
import json, math, pathlib, random, tempfile

import torch
from datasets import Dataset
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch.utils.data import SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

OUT = pathlib.Path(__file__).parent
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
VOCAB = 64


def dump(name, what):
    (OUT / name).write_text(json.dumps(what, indent=1) + "\n")


def model(state=None):
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, pad_token_id=2, attn_implementation="eager",
    )
    m = LlamaForCausalLM(config).float()
    if state is None:
        g = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, p in m.named_parameters():
                p.copy_(torch.randn(p.shape, generator=g) * (0.1 if p.dim() == 1 else 0.25) + (1 if p.dim() == 1 else 0))
    else:
        m.load_state_dict(state)
    return m


def tokenizer():
    t = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t3"))
    return PreTrainedTokenizerFast(tokenizer_object=t, bos_token="t0", eos_token="t1", pad_token="t2", unk_token="t3")


def tokens(r, low, high):
    return [r.randrange(4, VOCAB) for _ in range(r.randint(low, high))]


r = random.Random(3)
pairs = [{"prompt_ids": tokens(r, 1, 9), "chosen_ids": tokens(r, 1, 12) + [1], "rejected_ids": tokens(r, 1, 12) + [1]} for _ in range(40)]
pairs[1]["chosen_ids"] = [9]  # a completion of one token
examples = []
for i in range(12):
    ids = tokens(r, 4, 20)
    context = 0 if i % 4 == 3 else r.randint(1, len(ids) - 1)
    examples.append({"input_ids": ids, "completion_mask": [int(j >= context) for j in range(len(ids))]})
dump("data.json", {
    "pairs": [{k.removesuffix("_ids"): v for k, v in p.items()} for p in pairs],
    "examples": [{"tokens": e["input_ids"], "context": e["completion_mask"].count(0)} for e in examples],
})
start = model()
save_file({k: v.clone() for k, v in start.state_dict().items()}, OUT / "start.safetensors")
fields = ("vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
          "max_position_embeddings rms_norm_eps tie_word_embeddings").split()
dump("config.json", {k: getattr(start.config, k) for k in fields} | {"rope_theta": 10000.0})
state = {k: v.clone() for k, v in start.state_dict().items()}
# Another model than the policy's start, so that rewards are not 0 at the first step.
g = torch.Generator().manual_seed(8)
reference = {k: v + 0.02 * torch.randn(v.shape, generator=g) for k, v in state.items()}
save_file(reference, OUT / "reference.safetensors")


class InOrder:
    """Batches in the order of the file; rows that are tokens already."""

    def _get_train_sampler(self, *a, **k):
        return SequentialSampler(self.train_dataset)


class Dpo(InOrder, DPOTrainer):
    def _prepare_dataset(self, dataset, *a, **k):
        return dataset


class Sft(InOrder, SFTTrainer):
    pass


def arguments(kind, steps, **more):
    values = dict(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=4, max_steps=steps, learning_rate=2e-3,
        lr_scheduler_type="cosine", weight_decay=0.1, max_grad_norm=1.0, logging_steps=1,
        save_strategy="no", report_to=[], use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False,
        disable_tqdm=True, seed=0, optim="adamw_torch", dataloader_num_workers=0,
    )
    return kind(**(values | more))


KEEP = ("epoch loss grad_norm learning_rate num_tokens rewards/chosen rewards/rejected rewards/margins "
        "rewards/accuracies logps/chosen logps/rejected").split()
runs = {}


def train(name, trainer, about):
    # Logged values are rounded for people; take the loss before that.
    seen = []
    original = trainer.compute_loss

    def compute_loss(*a, **k):
        loss = original(*a, **k)
        seen.append(loss.item())
        return loss

    trainer.compute_loss = compute_loss
    trainer.train()
    logged = [h for h in trainer.state.log_history if "loss" in h]
    steps = [{k: h[k] for k in KEEP if k in h} for h in logged]
    share = len(seen) // len(steps)
    for i, s in enumerate(steps):
        # SFT divides by the tokens of the whole accumulated batch, DPO by the number of batches.
        s["loss"] = sum(seen[i * share : (i + 1) * share]) / (1 if name.startswith("sft") else share)
    runs[name] = about | {"steps": steps}
    if name in ("sft", "sft-accumulated", "dpo", "dpo-nll"):
        save_file({k: v.contiguous() for k, v in trainer.model.state_dict().items()}, OUT / f"{name}.safetensors")


def run_dpo(name, steps=3, accumulation=1, ref=reference, loss=("sigmoid",), weights=None, **more):
    args = arguments(DPOConfig, steps, loss_type=list(loss), loss_weights=weights, gradient_accumulation_steps=accumulation,
                     max_length=64, beta=more.pop("beta", 0.1), **more)
    ref_model = model(ref)
    t = Dpo(model=model(state), ref_model=ref_model, args=args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer())
    train(name, t, {"loss": loss[0], "beta": args.beta, "nll_weight": weights[1] if weights else 0.0,
                    "label_smoothing": args.label_smoothing, "ld_alpha": args.ld_alpha, "accumulation": accumulation, "reference": "start" if ref is state else "reference"})


def run_sft(name, accumulation=1):
    args = arguments(SFTConfig, 3, gradient_accumulation_steps=accumulation, max_length=64, completion_only_loss=True,
                     per_device_train_batch_size=4 // accumulation)
    t = Sft(model=model(state), args=args, train_dataset=Dataset.from_list(examples), processing_class=tokenizer())
    train(name, t, {"accumulation": accumulation})


run_sft("sft")
run_sft("sft-accumulated", accumulation=2)
run_dpo("dpo")
run_dpo("dpo-from-start", ref=state)
run_dpo("dpo-nll", loss=("sigmoid", "sft"), weights=[1.0, 0.5])
run_dpo("dpo-accumulated", accumulation=2)
run_dpo("dpo-ipo", loss=("ipo",), beta=0.5)
run_dpo("dpo-hinge", loss=("hinge",), beta=0.3)
run_dpo("dpo-robust", loss=("robust",), beta=0.3, label_smoothing=0.2)
run_dpo("dpo-sigmoid-norm", loss=("sigmoid_norm",), beta=2.0)
run_dpo("dpo-apo-zero", loss=("apo_zero",), beta=0.3)
run_dpo("dpo-apo-down", loss=("apo_down",), beta=0.3)
run_dpo("dpo-ld", ld_alpha=0.5)
run_dpo("dpo-ld-nll", ld_alpha=0.5, loss=("ipo", "sft"), weights=[1.0, 0.5], beta=0.5)
run_dpo("trajectory", steps=20, warmup_steps=2, loss=("sigmoid", "sft"), weights=[1.0, 0.2])
dump("runs.json", runs)

# AdamW on random tensors: the gradient of step t is drawn, so only the optimizer is compared.
g = torch.Generator().manual_seed(5)
p = {"matrix": torch.nn.Parameter(torch.randn(3, 5, generator=g)), "norm": torch.nn.Parameter(torch.randn(4, generator=g))}
first = {k: v.detach().flatten().tolist() for k, v in p.items()}
optimizer = torch.optim.AdamW(
    [{"params": [p["matrix"]], "weight_decay": 0.1}, {"params": [p["norm"]], "weight_decay": 0.0}], lr=1e-2, betas=(0.9, 0.95), eps=1e-8
)
gradients, norms, after = [], [], []
for t in range(20):
    for v in p.values():
        v.grad = torch.randn(v.shape, generator=g) * (3.0 if t % 2 else 0.1)
    gradients.append({k: v.grad.flatten().tolist() for k, v in p.items()})
    norms.append(torch.nn.utils.clip_grad_norm_(p.values(), 1.0).item())
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1e-2 * (20 - t) / 20
    optimizer.step()
    after.append({k: v.detach().flatten().tolist() for k, v in p.items()})
dump("optimizer.json", {"first": first, "gradients": gradients, "norms": norms, "after": after})

schedules = []


def schedule(decay, rate, final, warmup, total, make):
    o = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    s = make(o)
    values = []
    for _ in range(total):
        values.append(s.get_last_lr()[0])
        o.step()
        s.step()
    schedules.append({"decay": decay, "rate": rate, "final": final, "warmup": warmup, "total": total, "values": values})


schedule("cosine", 1e-3, 0.0, 3, 15, lambda o: get_cosine_schedule_with_warmup(o, 3, 15))
schedule("cosine", 5.5e-6, 1.1e-6, 0, 10, lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, 0, 10, min_lr=1.1e-6))
schedule("linear", 1e-3, 0.0, 2, 9, lambda o: get_linear_schedule_with_warmup(o, 2, 9))
schedule("linear", 1e-3, 1e-4, 2, 9, lambda o: get_polynomial_decay_schedule_with_warmup(o, 2, 9, lr_end=1e-4, power=1.0))
schedule("constant", 1e-3, 0.0, 4, 9, lambda o: get_constant_schedule_with_warmup(o, 4))
dump("schedules.json", schedules)
for f in OUT.glob("*.safetensors"):
    f.chmod(0o644)
