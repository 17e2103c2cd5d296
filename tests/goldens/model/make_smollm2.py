"""Makes smollm2-135m.json: token ids, logits and greedy continuations of SmolLM2-135M-Instruct by transformers, in f32 on the weights that the
GGUF file dequantises to.   usage: python make_smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf [ALL.safetensors]
The golden has a few logits of each prompt, and the log-sum-exp of all logits at every position. ALL.safetensors gets every logit at every
position (500 MB, not to be committed): tests/model/goldens.rs compares with them all where REFLUX_SMOLLM2_LOGITS names that file."""
import json, os, sys
import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer
import make

torch.set_num_threads(1)

folder, file = os.path.split(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
# transformers' GGUF reader knows nothing of `tokenizer.ggml.pre`: it loses that SmolLM2 cuts digits one by one
# (HuggingFaceTB/SmolLM2-135M-Instruct's tokenizer.json has exactly this sequence).
tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
QUESTIONS = [
    "What is the capital of France?", "Explain photosynthesis to a child in two sentences.", "Write a haiku about the sea.", "What is 12345 + 6789?",
    "法国的首都是哪里？", "请用一句话介绍长城。", "Translate 'good morning' to Spanish, German and Japanese.", "What does 🎉 mean? And 👩‍👩‍👧?",
    "def fib(n):\n    # complete this function\n", "Fix this SQL: SELECT * FORM users WHERE id == 3;", "naïve café — “quotes” … ½ µ", "Hi",
    "List three uses of a paperclip.", "Why is the sky blue?", "    indented\n\ttabs\n\n\nand newlines   ", "Give me a JSON object with keys a, b and c.",
    "Wie spät ist es?", "Сколько будет два плюс два?", "Summarise: " + "The quick brown fox jumps over the lazy dog. " * 12, "Is <|im_end|> a special token?",
    # Longer ones, and what a tokenizer stumbles over.
    "Who wrote each of these? " + " ".join(f"{i}. The {a} {n} {v} over the {b} river at dawn, {i * 37} times, and nobody asked why." for i, (a, n, v, b) in
        enumerate([("old", "fox", "jumped", "quiet"), ("green", "heron", "flew", "wide"), ("second", "engineer", "leaned", "muddy")] * 6)),
    "Review this:\n```rust\n" + "\n".join(f"fn f{i}(x: &[u{8 << i % 4}]) -> Option<usize> {{\n    x.iter().position(|&y| y == {i}) // {'=' * i}\n}}" for i in range(12)) + "\n```",
    "请把下面的段落翻译成英文：" + "长城是中国古代的军事防御工程，始建于春秋战国时期，至今已有两千多年的历史。" * 5,
    "🎉🎊🥳👩‍👩‍👧🏳️‍🌈👍🏽 " * 6 + "how many emoji?",
    "a" * 200 + " " * 50 + "\n" * 20 + "\t\tb" + "0123456789" * 5,
]
picks = [0, 1, 2, 17, 100, 198, 504, 1000, 4093, 9690, 20000, 33333, 49151]
out, everything = [], {}
for question in QUESTIONS:
    text, ids = make.chat_ids(tokenizer, [{"role": "user", "content": question}], True)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
        tokens = model.generate(torch.tensor([ids]), max_new_tokens=64, min_new_tokens=64, do_sample=False)[0, len(ids):].tolist()
    everything[str(len(out))] = logits.clone()
    top = logits[-1].topk(10)
    r = lambda t: [round(x, 4) for x in t.tolist()]
    out.append({"question": question, "ids": ids, "top": [[i, round(x, 4)] for i, x in zip(top.indices.tolist(), top.values.tolist())],
                "last": r(logits[-1, picks]), "middle": r(logits[len(ids) // 2, picks]), "log_sum_exp": r(logits.double().logsumexp(-1)), "greedy": tokens})
golden = {"picks": picks, "chats": make.chats(tokenizer), "texts": make.texts(tokenizer), "prompts": out}
json.dump(golden, open(os.path.join(make.HERE, "smollm2-135m.json"), "w"), ensure_ascii=False, separators=(",", ":"))
if len(sys.argv) > 2:
    save_file(everything, sys.argv[2])
