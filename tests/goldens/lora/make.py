"""Makes the goldens of tests/training/lora.rs from PEFT and TRL themselves (f32, CPU, one thread).

    python tests/goldens/lora/make.py        # torch 2.15, transformers 5.24, peft 0.21, trl 1.16, datasets, safetensors

The base model, its config and the pairs are those of ../train (start.safetensors, config.json, data.json).

- all/, qv/: adapters as PEFT saves them, on all linear layers (rank 4, alpha 6) and on q_proj and v_proj (rank 3, alpha 3);
  their B is not zero, so that every gradient shows.
- golden.json: of each adapter the logits of a sequence, its mean cross-entropy, and three steps of TRL's DPOTrainer with the
  base model (the adapter switched off) as reference.
- ADAPTER-gradients.safetensors: what that cross-entropy sends back to A and B. ADAPTER-dpo.safetensors: the adapter after DPO.
"""
import json, pathlib, tempfile

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch.utils.data import SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

OUT = pathlib.Path(__file__).parent
TRAIN = OUT.parent / "train"
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
VOCAB = 64
KEEP = ("epoch loss grad_norm learning_rate num_tokens rewards/chosen rewards/rejected rewards/margins "
        "rewards/accuracies logps/chosen logps/rejected").split()
data = json.loads((TRAIN / "data.json").read_text())
pairs = [{f"{k}_ids": p[k] for k in ("prompt", "chosen", "rejected")} for p in data["pairs"]]
IDS = data["pairs"][0]["prompt"] + data["pairs"][0]["chosen"] + data["pairs"][2]["prompt"]


def base():
    c = json.loads((TRAIN / "config.json").read_text())
    m = LlamaForCausalLM(LlamaConfig(**c, bos_token_id=0, eos_token_id=1, pad_token_id=2, attn_implementation="eager")).float()
    m.load_state_dict(load_file(TRAIN / "start.safetensors"))
    return m


def tokenizer():
    t = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCAB)}, unk_token="t3"))
    return PreTrainedTokenizerFast(tokenizer_object=t, bos_token="t0", eos_token="t1", pad_token="t2", unk_token="t3")


def draw(model, seed):
    """The same adapter each time: A as PEFT draws it but from one generator, B small and not zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "lora_A" in name:
                p.copy_((torch.rand(p.shape, generator=g) * 2 - 1) / p.shape[1] ** 0.5)
            elif "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=g) * 0.1)


def plain(name):
    return name.removeprefix("base_model.model.").replace(".default.", ".")


def adapter(model):
    return {plain(n): p.detach().clone().contiguous() for n, p in model.named_parameters() if "lora_" in n}


class Dpo(DPOTrainer):
    """Batches in the order of the file; rows that are tokens already."""

    def _get_train_sampler(self, *a, **k):
        return SequentialSampler(self.train_dataset)

    def _prepare_dataset(self, dataset, *a, **k):
        return dataset


golden = {"ids": IDS}
for name, seed, config in [
    ("all", 5, LoraConfig(r=4, lora_alpha=6, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")),
    ("qv", 6, LoraConfig(r=3, lora_alpha=3, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")),
]:
    model = get_peft_model(base(), config)
    draw(model, seed)
    model.save_pretrained(OUT / name)
    (OUT / name / "README.md").unlink(missing_ok=True)
    ids = torch.tensor([IDS])
    out = model(ids, labels=ids)
    out.loss.backward()
    frozen = [n for n, p in model.named_parameters() if "lora_" not in n and p.grad is not None]
    assert not frozen, frozen
    save_file({plain(n): p.grad.clone().contiguous() for n, p in model.named_parameters() if p.grad is not None}, OUT / f"{name}-gradients.safetensors")
    golden[name] = {"logits": out.logits[0, -3:].tolist(), "loss": out.loss.item()}

    args = DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=4, max_steps=3, learning_rate=2e-3, lr_scheduler_type="cosine",
        weight_decay=0.1, max_grad_norm=1.0, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False, fp16=False,
        gradient_checkpointing=False, disable_tqdm=True, seed=0, optim="adamw_torch", dataloader_num_workers=0, loss_type=["sigmoid"],
        max_length=64, beta=0.1,
    )
    trainer = Dpo(model=base(), args=args, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer(), peft_config=config)
    draw(trainer.model, seed)
    seen, original = [], trainer.compute_loss

    def compute_loss(*a, **k):
        loss = original(*a, **k)
        seen.append(loss.item())  # logged values are rounded for people
        return loss

    trainer.compute_loss = compute_loss
    trainer.train()
    steps = [{k: h[k] for k in KEEP if k in h} for h in trainer.state.log_history if "loss" in h]
    for step, loss in zip(steps, seen, strict=True):
        step["loss"] = loss
    golden[name]["dpo"] = steps
    save_file(adapter(trainer.model), OUT / f"{name}-dpo.safetensors")
(OUT / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
