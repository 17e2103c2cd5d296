"""What `reflux bench dpo` and `bench sft` are compared with: TRL's DPOTrainer and transformers' Trainer on the same rows.

    python benches/peers/train.py dpo|sft MODEL_DIR PAIRS.jsonl BATCH STEPS [THREADS]

MODEL_DIR is a Hugging Face directory in f32; PAIRS has prompt, chosen, rejected. SFT learns the chosen completions, the
prompt masked. Prints one JSON line. Needs torch, transformers, trl, datasets.
"""
import json, resource, sys, tempfile, time

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

kind, path, pairs, batch, steps = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
torch.set_num_threads(int(sys.argv[6]) if len(sys.argv) > 6 else 2)
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
rows = [json.loads(line) for line in open(pairs)]
rows = (rows * (1 + batch * steps // len(rows)))[: batch * steps]
common = dict(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch, max_steps=steps, learning_rate=1e-6, logging_steps=1,
    save_strategy="no", report_to=[], use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False,
    dataloader_num_workers=0, disable_tqdm=True, seed=0,
)


class Clock(TrainerCallback):
    times = []

    def on_step_begin(self, *args, **kwargs):
        self.began = time.time()

    def on_step_end(self, *args, **kwargs):
        self.times.append(time.time() - self.began)


def text(content):
    """A plain text, or the messages of a conversation as their text."""
    return content if isinstance(content, str) else "".join(m["content"] for m in content)


def example(row):
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": text(row["prompt"])}], add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(prompt, add_special_tokens=False).input_ids
    answer = tokenizer(text(row["chosen"]), add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def collate(features):
    longest = max(len(f["input_ids"]) for f in features)
    pad = lambda key, value: torch.tensor([f[key] + [value] * (longest - len(f[key])) for f in features])
    mask = [[1] * len(f["input_ids"]) + [0] * (longest - len(f["input_ids"])) for f in features]
    return {"input_ids": pad("input_ids", 0), "labels": pad("labels", -100), "attention_mask": torch.tensor(mask)}


if kind == "dpo":
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        model=model, args=DPOConfig(beta=0.1, max_length=1024, **common), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    tokens = None
else:
    examples = [example(row) for row in rows]
    tokens = sum(len(e["input_ids"]) for e in examples)
    trainer = Trainer(
        model=model, args=TrainingArguments(**common), train_dataset=Dataset.from_list(examples), data_collator=collate,
    )
clock = Clock()
trainer.add_callback(clock)
trainer.train()
median = sorted(clock.times)[len(clock.times) // 2]
print(json.dumps({
    "peer": "trl" if kind == "dpo" else "transformers", "batch": batch, "steps": steps, "median_step_s": round(median, 2),
    **({"pairs_per_s": round(batch * len(clock.times) / sum(clock.times), 3)} if kind == "dpo" else {"tokens_per_s": round(tokens / sum(clock.times), 1)}),
    "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    "log": [{k: v for k, v in h.items() if k in ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected")} for h in trainer.state.log_history[:2]],
}))
