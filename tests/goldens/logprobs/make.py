"""Makes golden.json: log-probabilities of the answers in rows.jsonl by transformers, in f32, on the small random models of ../model;
and half.json: the same with the weights rounded to bf16 and to f16, computed in f32 ("exact") and in that type ("torch").
Answers are tokenised as TRL's DPOTrainer does: what the chat template writes after the prompt; but only up to the token that ends the
turn, which is where sampled answers end too.   usage: python make.py        (torch, transformers)"""
import json, pathlib
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = pathlib.Path(__file__).parent
torch.set_num_threads(1)


def turns(value, role):
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def model_in(folder, dtype, compute):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(compute).eval()


golden, half = {}, {}
for name, end in [("smollm2", "<|im_end|>"), ("llama3", "<|eot_id|>")]:
    folder = HERE.parent / "model" / name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = model_in(folder, torch.float32, torch.float32)
    halves = {key: (model_in(folder, dtype, torch.float32), model_in(folder, dtype, dtype))
              for key, dtype in [("bf16", torch.bfloat16), ("f16", torch.float16)]}
    ids = lambda messages, generate: tokenizer.apply_chat_template(messages, add_generation_prompt=generate, return_dict=True)["input_ids"]
    golden[name] = []
    for line in (HERE / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = turns(row["prompt"], "user")
        head = ids(prompt, True)
        out = {"prompt_tokens": len(head)}
        for key in ("chosen", "rejected", "completion"):
            if key not in row:
                continue
            whole = ids(prompt + turns(row[key], "assistant"), False)
            assert whole[: len(head)] == head, "the prompt's tokens change when an answer follows"
            while whole[-1] != tokenizer.convert_tokens_to_ids(end):
                whole.pop()
            def logprob(model):
                with torch.no_grad():
                    logprobs = torch.log_softmax(model(torch.tensor([whole])).logits[0].double(), -1)
                return sum(logprobs[i - 1, whole[i]].item() for i in range(len(head), len(whole)))

            out[key + "_tokens"] = len(whole) - len(head)
            out[key + "_logprob"] = logprob(model)
            for dtype, (exact, torchs) in halves.items():
                kept = half.setdefault(name, {}).setdefault(dtype, [{} for _ in range(99)])[len(golden[name])]
                kept[key + "_logprob"] = {"exact": logprob(exact), "torch": logprob(torchs)}
        golden[name].append(out)
half = {name: {dtype: [r for r in rows if r] for dtype, rows in types.items()} for name, types in half.items()}
(HERE / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
(HERE / "half.json").write_text(json.dumps(half, indent=1) + "\n")
