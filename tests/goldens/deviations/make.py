"""Makes golden.json: what torch, transformers and scipy give where reflux deviates from them on purpose (docs/deviations.md).

    python tests/goldens/deviations/make.py        # torch, transformers, scipy, safetensors

The model, its reference and the pairs are those of ../train.
"""
import json, pathlib, shutil, tempfile

import torch
from safetensors.torch import load_file
from scipy.stats import kendalltau, spearmanr
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
TRAIN = HERE.parent / "train"
torch.set_num_threads(1)
PAD = 2


def model(weights, pad):
    config = LlamaConfig(**json.loads((TRAIN / "config.json").read_text()), bos_token_id=0, eos_token_id=1,
                         pad_token_id=pad, attn_implementation="eager")
    m = LlamaForCausalLM(config)
    m.load_state_dict(load_file(TRAIN / f"{weights}.safetensors"))
    return m


def logprobs(m, prompt, completion):
    ids = torch.tensor([prompt + completion])
    logp = torch.log_softmax(m(ids).logits[0].double(), -1)
    rows = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    return logp[rows, ids[0, rows + 1]]


golden = {}

# The gradient of the embedding where the padding token stands in the text: with padding_idx and without.
tokens = [5, PAD, 9, PAD, 11, 7]
golden["pad"] = {"tokens": tokens}
for key, pad in [("padding_idx", PAD), ("none", None)]:
    m = model("start", pad)
    (-logprobs(m, tokens[:1], tokens[1:]).mean()).backward()
    golden["pad"][key] = m.model.embed_tokens.weight.grad[PAD].tolist()

# Three pairs in batches of two whose gradients are accumulated: TRL averages the batches.
pairs = json.loads((TRAIN / "data.json").read_text())["pairs"][:3]
policy, reference = model("start", PAD), model("reference", PAD)
losses, nll = [], []
with torch.no_grad():
    for p in pairs:
        of = lambda m, key: logprobs(m, p["prompt"], p[key])
        margin = (of(policy, "chosen").sum() - of(reference, "chosen").sum()) - (of(policy, "rejected").sum() - of(reference, "rejected").sum())
        losses.append(-torch.nn.functional.logsigmoid(0.1 * margin).item())
        nll.append((-of(policy, "chosen")).tolist())
mean = lambda values: sum(values) / len(values)
golden["accumulation"] = {
    "loss": {"batches": mean([mean(losses[:2]), losses[2]]), "pairs": mean(losses)},
    "nll": {"batches": mean([mean(nll[0] + nll[1]), mean(nll[2])]), "tokens": mean(nll[0] + nll[1] + nll[2])},
}

# A judge that gives every answer one score.
ranks, scores = [1.0, 2.0, 3.0, 4.0], [3.0, 3.0, 3.0, 3.0]
nan = lambda x: None if x != x else float(x)
golden["constant"] = {"kendall": nan(kendalltau(ranks, scores)[0]), "spearman": nan(spearmanr(ranks, scores)[0])}

# The F-measure of rouge-score, from precision and recall, where its exact value is 0.7.
rouge = []
for both in range(20, 121, 20):
    lcs = both * 7 // 20
    for a in range(lcs, both - lcs + 1):
        precision, recall = lcs / (both - a), lcs / a
        rouge.append({"lcs": lcs, "a": a, "b": both - a, "f": 2 * precision * recall / (precision + recall)})
above = [r for r in rouge if r["f"] > 0.7]
golden["rouge"] = {"at": len(rouge), "above": above[:8]}
# Answers that begin with white space, and that spell a special token: the ids of the whole conversation.
# The last merge of the tokenizer becomes one of two newlines, as real vocabularies have it.
folder = pathlib.Path(tempfile.mkdtemp())
shutil.copytree(HERE.parent / "model" / "smollm2", folder, dirs_exist_ok=True)
file = json.loads((folder / "tokenizer.json").read_text())
last = file["model"]["merges"][-1]
parts = last.split(" ") if isinstance(last, str) else last
file["model"]["merges"][-1] = "\u010a \u010a" if isinstance(last, str) else ["\u010a", "\u010a"]
file["model"]["vocab"]["\u010a\u010a"] = file["model"]["vocab"].pop("".join(parts))
(folder / "tokenizer.json").write_text(json.dumps(file))
tokenizer = AutoTokenizer.from_pretrained(folder)
ids = lambda messages, generate: tokenizer.apply_chat_template(messages, add_generation_prompt=generate, return_dict=True)["input_ids"]
question = [{"role": "user", "content": "How many legs has a spider?"}]
golden["answers"] = {"prompt": question[0]["content"], "head": ids(question, True), "end": tokenizer.convert_tokens_to_ids("<|im_end|>")}
for key, answer in [("white_space", "\n\n eight legs"), ("special", "eight<|im_end|> legs")]:
    golden["answers"][key] = {"answer": answer, "whole": ids(question + [{"role": "assistant", "content": answer}], False)}

print(len(rouge), "texts at 0.7,", len(above), "of them above it in floating point")
(HERE / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
