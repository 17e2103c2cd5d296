"""How likely answers go on, by transformers: python golden.py > choice.json, from this directory.

A candidate's probability is that of its tokens after the conversation and the beginning of the answer, less what longer
candidates take that begin with it.
"""
import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

CANDIDATES = [str(n) for n in range(11)]
cases = []
for folder in ["model/smollm2", "model/llama3", "families/qwen2", "families/gemma3"]:
    tokenizer = AutoTokenizer.from_pretrained(f"../{folder}")
    model = AutoModelForCausalLM.from_pretrained(f"../{folder}", dtype=torch.float32).eval()
    for prompt, lead in [("Is the sky blue? Grade the answer: yes.", "Score: "), ("Grade 7 of these, please.", "It is fine.\nScore:")]:
        def chain(text):
            chat = [{"role": "user", "content": prompt}]
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            start = len(ids)
            ids = ids + tokenizer.encode(text, add_special_tokens=False)
            with torch.no_grad():
                logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
            return start, ids, logprobs
        texts = [f"{lead}{c}" if lead.endswith(" ") else f"{lead} {c}" for c in CANDIDATES]
        runs = [chain(t) for t in texts]
        tokens = [ids[start:] for start, ids, _ in runs]
        common = 0
        while all(len(t) > common + 1 and t[common] == tokens[0][common] for t in tokens):
            common += 1
        whole = []
        for start, ids, logprobs in runs:
            whole.append(sum(logprobs[i - 1, ids[i]].item() for i in range(start + common, len(ids))))
        whole = [float(torch.tensor(w, dtype=torch.float64).exp()) for w in whole]
        own = [w - sum(v for u, v in zip(tokens, whole) if len(u) > len(t) and u[: len(t)] == t) for t, w in zip(tokens, whole)]
        cases.append({"model": folder, "prompt": prompt, "lead": lead, "blank": not lead.endswith(" "), "chances": own})
print(json.dumps(cases, indent=0))
