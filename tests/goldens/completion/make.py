"""Makes golden.json beside this file: what transformers' chat templates and tokenizers give for a prompt and the answer
that follows it, cut as TRL's DPO trainer cuts it (two renderings, parted where they differ) and ended by the token that
ends the turn. Tokenizers are those of ../model; templates are of the kinds that models come with.
Needs transformers.   usage: python make.py"""
import json, os
from transformers import AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
ZEPHYR = ("{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}")
# The answer follows a special token directly, as with Mistral's later tokenizers or Command R.
BARE = ("{% for m in messages %}{{ (bos_token if m['role'] == 'user' else '') + m['content'] + (eos_token if m['role'] == 'assistant' else bos_token) }}"
        "{% endfor %}")
VICUNA = ("{% for m in messages %}{{ ('USER: ' if m['role'] == 'user' else ' ASSISTANT: ') + m['content'] + ('' if m['role'] == 'user' else eos_token) }}"
          "{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}")
TRIMS = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
# Opens a thought for sampling only, and takes thoughts out of given answers, as DeepSeek-R1's distilled models do.
THINKS = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + (m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content']) "
          "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}")
# Opens one for sampling, and leaves given answers as they are.
KEEPS = THINKS.replace(".split('</think>')[-1]", "")
# Writes an empty thought before a given answer, as Qwen3 does.
EMPTY = TRIMS.replace("'\n' + m['content'] | trim", "'\n' + ('<think>\n\n</think>\n\n' if m['role'] == 'assistant' else '') + m['content']")
NO_END = ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
QUOTES = TRIMS.replace("m['content'] | trim", "(m['content'] | tojson if m['role'] == 'assistant' else m['content'])")
LAST = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + ('!' if loop.last else '') + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
DROPS = ("{% for m in messages if m['role'] == 'user' %}{{ '<|im_start|>user\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
         "{{ '<|im_start|>assistant\n' }}")

ANSWERS = ["Paris.", "the cat sat", "It is 22.", " two words", "def f():\n    return 1\n", "naïve 🎉", "巴黎", "\n\nthe cat", "    return a + b", "a<|im_end|></s>b"]
PROMPT = [{"role": "user", "content": "What is the capital of France?"}]
LONGER = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat."}, {"role": "user", "content": " and? "}]
CASES = [("tinyllama", None), ("tinyllama", ZEPHYR), ("llama2", None), ("llama2", ZEPHYR), ("smollm2", None), ("llama3", None),
         ("tinyllama", BARE), ("llama2", BARE), ("tinyllama", VICUNA), ("llama2", VICUNA), ("smollm2", TRIMS), ("smollm2", KEEPS),
         ("smollm2", EMPTY), ("smollm2", THINKS), ("smollm2", LAST), ("smollm2", DROPS), ("smollm2", QUOTES), ("tinyllama", NO_END)]


def parted(tokenizer, prompt, answer):
    """TRL's: the two renderings, parted where they differ."""
    ids = lambda messages, generate: tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=generate, return_dict=False)
    opened = ids(prompt, True)
    whole = ids(prompt + [{"role": "assistant", "content": answer}], False)
    same = next((i for i, (a, b) in enumerate(zip(opened, whole)) if a != b), min(len(opened), len(whole)))
    return opened, whole[:same], whole[same:]


def one(tokenizer, prompt, answer):
    render = lambda messages, generate: tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
    opened = render(prompt, True)
    whole = render(prompt + [{"role": "assistant", "content": answer}], False)
    row = {"answer": answer}
    if not whole.startswith(opened):
        return row | {"refused": True}
    # Text that spells special tokens is letters here and tokens there; only what is refused can be compared.
    if any(str(t) in answer for t in tokenizer.added_tokens_decoder.values() if t.special):
        return row | {"spells": True}
    prompt_ids, shared, rest = parted(tokenizer, prompt, answer)
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.convert_tokens_to_ids("<|eot_id|>")}
    end = next((i + 1 for i, t in enumerate(rest) if t in ends), None)
    row |= {"prompt_ids": prompt_ids, "text": whole[len(opened):]}
    if end is None:
        return row | {"no_end": True}
    # Where the first letters merge with the prompt's last token, TRL moves the boundary, and we do not.
    assert shared == prompt_ids, (answer, prompt_ids)
    return row | {"ids": rest[:end]}


golden = []
for name, template in CASES:
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(HERE, "..", "model", name))
    if template:
        tokenizer.chat_template = template
    prompts = [PROMPT] if template in (BARE, THINKS, KEEPS, LAST, DROPS) else [PROMPT, LONGER]
    answers = ANSWERS + (["<think>\nwhy\n</think>\n\nParis."] if template in (THINKS, KEEPS) else [])
    for prompt in prompts:
        golden.append({"tokenizer": name, "template": template, "prompt": prompt, "rows": [one(tokenizer, prompt, a) for a in answers]})
with open(os.path.join(HERE, "golden.json"), "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(g, ensure_ascii=False) for g in golden) + "\n]\n")
