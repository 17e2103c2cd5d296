"""Makes golden.json beside this file: what transformers' chat templates and tokenizers make of conversations of several turns,
with system messages, with keys in another order and with keys beside role and content.
Needs transformers.   usage: python make.py"""
import json, os
from transformers import AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
ZEPHYR = ("{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}")
# Has no place for a system message, as Gemma's first templates.
REFUSES = ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
           "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
           "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
# Wants users and assistants in turn.
TURNS = ("{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
         "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
         "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
# Shows messages as they are.
SHOWS = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m | tojson + '<|im_end|>\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
ITEMS = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for k, v in m.items() %}{{ k ~ '=' ~ v ~ ';' }}{% endfor %}"
         "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
NAMES = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + (' ' + m['name'] if 'name' in m else '') + '\n' + m['content'] + '<|im_end|>\n' }}"
         "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
CASES = [("smollm2", None), ("llama3", None), ("llama2", None), ("tinyllama", None), ("tinyllama", ZEPHYR), ("llama2", ZEPHYR), ("smollm2", REFUSES),
         ("smollm2", TURNS), ("smollm2", SHOWS), ("smollm2", ITEMS), ("smollm2", NAMES)]

m = lambda role, content, **more: {"role": role, "content": content} | more
CONVERSATIONS = [
    [m("user", "the cat")],
    [m("system", "Be brief."), m("user", "the cat")],
    [m("user", "the cat"), m("assistant", "sat."), m("user", " and? ")],
    [m("system", " naïve 🎉\n"), m("user", "a"), m("assistant", "b"), m("user", "c"), m("assistant", "d"), m("user", "def f():\n    return 1")],
    [m("assistant", "Hello."), m("user", "the cat")],
    [m("user", "a"), m("user", "b")],
    [{"content": "the cat", "role": "user"}],
    [{"content": "Be brief.", "role": "system"}, m("user", "the cat", name="Ann")],
    [m("user", "the cat", weight=1, seen=[None, True, {"b": 2, "a": 1.5}])],
    [{"id": 7, "content": "a", "lang": "en", "role": "user"}, m("assistant", "b", score=-0.25), m("user", "c", tags=[])],
]

golden = []
for name, template in CASES:
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(HERE, "..", "model", name))
    if template:
        tokenizer.chat_template = template
    rows = []
    for messages in CONVERSATIONS:
        # The file's own text, so that the order of keys is what both sides read.
        row = {"messages": json.dumps(messages, ensure_ascii=False)}
        try:
            row["text"] = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            row["ids"] = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
        except Exception as e:
            row = {"messages": row["messages"], "refused": str(e)}
        rows.append(row)
    golden.append({"tokenizer": name, "template": template, "rows": rows})
with open(os.path.join(HERE, "golden.json"), "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(g, ensure_ascii=False) for g in golden) + "\n]\n")
print(sum(len(g["rows"]) for g in golden), sum("refused" in r for g in golden for r in g["rows"]))
