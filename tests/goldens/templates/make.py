"""Renders templates with transformers, for tests/model/templates.rs: `python make.py > templates.jsonl`.

Needs transformers 5 and jinja2 3.1. A line has a template, and is followed by lines with variables and what transformers makes
of the template with them, or the error that it raises. `--all` adds every template that `trl` ships.
"""
import datetime, json, sys
from transformers.utils import chat_template_utils as utils

class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None): return cls(2025, 3, 9, 14, 5, 6)
utils.datetime = Fixed

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
ONE = [{"role": "user", "content": "Name a <colour> & 'more'."}]
FOUR = [{"role": "system", "content": "Be brief, caf\u00e9."}, {"role": "user", "content": "Name a boat."},
        {"role": "assistant", "content": "One."}, {"role": "user", "content": "  Name two.\n"}]
OTHER_ORDER = [{"content": "Hi \"there\"\t\\ \u2028 \U0001f389", "role": "user", "name": "Al", "n": 1, "x": None, "f": 1.5, "b": True}]
THINKS = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n2"}, {"role": "user", "content": "And 2+2?"}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds <two>.", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}}}]
CALLS = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}}]}, {"role": "tool", "content": "2", "name": "add"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "image"}, {"type": "text", "text": "b"}]}]

# Small templates: "body" for the messages m, or a whole template.
from bank import EXPRESSIONS, TEMPLATES
from real import ALL, REAL

if "--all" in sys.argv: REAL = {**REAL, **ALL}
written = set()

def one(name, template, messages, prompt=True, **more):
    if template not in written:
        written.add(template)
        print(json.dumps({"template": template}, ensure_ascii=False))
    case = {"name": name, "variables": {"messages": messages, "add_generation_prompt": prompt, **TOKENS, **more}}
    kwargs = dict(TOKENS, **{k: v for k, v in more.items() if k not in ("tools", "documents")})
    try:
        rendered = utils.render_jinja_template(conversations=[messages], tools=more.get("tools"), chat_template=template, add_generation_prompt=prompt, **kwargs)
        case["want"] = (rendered[0] if isinstance(rendered, tuple) else rendered)[0]
    except Exception as e:
        case["error"] = f"{type(e).__name__}: {e}"[:200]
    # What Python prints of functions and generators has their address in it.
    if " at 0x" in case.get("want", ""): case = {**case, "error": "an address"}; case.pop("want")
    print(json.dumps(case, ensure_ascii=False))

for i, e in enumerate(EXPRESSIONS): one(f"expression {i}", "{{ " + e + " }}", OTHER_ORDER, numbers=[3, 1, 2], text="Hello, World", d={"b": 1, "a": [1, "x"], "C": None})
for name, t in TEMPLATES.items():
    for label, m in (("one", ONE), ("four", FOUR), ("other order", OTHER_ORDER)): one(f"{name}, {label}", t, m)
for name, t in REAL.items():
    for label, m in (("one", ONE), ("four", FOUR), ("thinks", THINKS)):
        for p in (True, False): one(f"{name}, {label}, {p}", t, m, p)
    one(f"{name}, calls", t, CALLS, tools=TOOLS)
    one(f"{name}, parts", t, PARTS)
    one(f"{name}, no thinking", t, THINKS, enable_thinking=False)
