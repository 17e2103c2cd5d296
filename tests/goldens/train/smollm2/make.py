"""Makes steps.json: 3 steps of TRL's own DPOTrainer on SmolLM2-135M-Instruct, batch 4, f32, learning rate 1e-6 with linear decay, beta 0.1.

    python make.py MODEL_DIR PAIRS.jsonl        # torch 2.15, transformers 5.23, trl 1.16; 8 GB and about 2 minutes

MODEL_DIR is the GGUF's weights in f32 as a Hugging Face directory: AutoModelForCausalLM.from_pretrained(folder, gguf_file=file,
dtype=torch.float32) and save_pretrained. PAIRS.jsonl has rows of prompt, chosen and rejected messages, of which the first 12 are taken.
TRL is given token ids, so that both sides see the same: the rendered prompt, and what follows it up to and with the token that ends the turn.
"""
import json, pathlib, sys, tempfile

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

BATCH, STEPS = 4, 3
KEEP = ("loss grad_norm learning_rate num_tokens rewards/chosen rewards/rejected rewards/margins "
        "rewards/accuracies logps/chosen logps/rejected").split()
torch.set_num_threads(2)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])


def ids(row):
    render = lambda turns, generate: tokenizer.apply_chat_template(turns, add_generation_prompt=generate, tokenize=True, return_dict=False)
    prompt = render(row["prompt"], True)

    def completion(turns):
        whole = render(row["prompt"] + turns, False)
        assert whole[: len(prompt)] == prompt
        end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)
        return whole[len(prompt) : end]

    return {"prompt_ids": prompt, "chosen_ids": completion(row["chosen"]), "rejected_ids": completion(row["rejected"])}


rows = [ids(json.loads(line)) for line in open(sys.argv[2])][: BATCH * STEPS]


class Dpo(DPOTrainer):
    def _prepare_dataset(self, dataset, *a, **k):
        return dataset

    def _get_train_sampler(self, *a, **k):
        return SequentialSampler(self.train_dataset)


model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
args = DPOConfig(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=BATCH, max_steps=STEPS, learning_rate=1e-6, beta=0.1, logging_steps=1,
    lr_scheduler_type="linear", save_strategy="no", report_to=[], use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False,
    disable_tqdm=True, max_length=1024, seed=0, optim="adamw_torch", dataloader_num_workers=0,
)
trainer = Dpo(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
losses = []
original = trainer.compute_loss
# Logged losses are rounded for people; each pair's log-probabilities under the reference are seen nowhere else.
trainer.compute_loss = lambda *a, **k: losses.append(original(*a, **k)) or losses[-1]
reference = []
log_ratios = trainer.ref_model.forward


def forward(*a, **k):
    out = log_ratios(*a, **k)
    reference.append(out.log_probs.sum(dim=1).tolist())
    return out


trainer.ref_model.forward = forward
trainer.train()
logged = [h for h in trainer.state.log_history if "loss" in h]
steps = [{k: h[k] for k in KEEP} | {"loss": loss.item()} for h, loss in zip(logged, losses)]
pairs = [{k.removesuffix("_ids"): v for k, v in row.items()} for row in rows]
for i, both in enumerate(reference):
    for j in range(BATCH):
        pairs[i * BATCH + j] |= {"ref_chosen": both[j], "ref_rejected": both[BATCH + j]}
assert len(steps) == len(reference) == STEPS


def exact_norm():
    """The first step's gradient norm in float64, sequence by sequence. torch's embedding drops what reaches the pad token from the
    input side, and SmolLM2 pads with the token that ends every turn: TRL's norm lacks that share (2e-4), this one has it."""
    exact = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float64)
    exact.model.embed_tokens.padding_idx = None
    for row in rows[:BATCH]:
        sums = []
        for side in ("chosen_ids", "rejected_ids"):
            tokens, n = torch.tensor([row["prompt_ids"] + row[side]]), len(row[side])
            log_probs = exact(tokens).logits[0, -n - 1 : -1].log_softmax(-1)
            sums.append(log_probs.gather(1, tokens[0, -n:, None]).sum())
        ratio = sums[0] - sums[1]  # the reference is the policy, so the logit is 0
        (-torch.nn.functional.logsigmoid(0.1 * (ratio - ratio.detach())) / BATCH).backward()
    return sum((p.grad**2).sum() for p in exact.parameters()).sqrt().item()


compact = lambda what: json.dumps(what, separators=(",", ":"))
text = '{"pairs":[\n' + ",\n".join(map(compact, pairs)) + '\n],"steps":[\n' + ",\n".join(map(compact, steps)) + f'\n],"first_grad_norm_f64":{exact_norm()}}}\n'
(pathlib.Path(__file__).parent / "steps.json").write_text(text)
print(json.dumps(steps, indent=1))
