#!/usr/bin/env python3
"""Asks a running `reflux serve` through OpenAI's client and, if a tokenizer is named, lm-evaluation-harness.

    reflux serve model.gguf --port 8000 --name smol &
    .ci/serve_openai.py http://127.0.0.1:8000/v1 smol [tokenizer/]

The last argument is a folder with the tokenizer of this very model, which must know the capital of France. Needs `pip
install openai`, and with a tokenizer `pip install 'lm-eval[api]'`. The script exits with an error when an answer is not
as it must be.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from openai import BadRequestError, NotFoundError, OpenAI

url, name, *tokenizer = sys.argv[1:]
client = OpenAI(base_url=url, api_key="none")

model = client.models.list().data[0]
assert (model.id, model.owned_by) == (name, "reflux"), model
asked = dict(model=name, prompt="The capital of France is", max_tokens=8, seed=1, n=2)
first, second = client.completions.create(**asked), client.completions.create(**asked)
assert first == second and len(first.choices) == 2, (first, second)
print("completion:", [choice.text for choice in first.choices])

messages = [{"role": "user", "content": "Name a colour."}]
asked = dict(model=name, messages=messages, max_completion_tokens=12, temperature=0)
whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3)
content = whole.choices[0].logprobs.content
assert all(len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token for token in content)
streamed = dict(stream=True, stream_options={"include_usage": True}, logprobs=True)
parts = list(client.chat.completions.create(**asked, **streamed))
text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
assert text == whole.choices[0].message.content, (text, whole)
assert parts[-1].usage == whole.usage
of_parts = [choice.logprobs.content for part in parts for choice in part.choices if choice.logprobs]
assert [token.logprob for part in of_parts for token in part] == [token.logprob for token in content]
print("chat:", text)

for wrong, kind in [({"extra_body": {"top_kk": 1}}, BadRequestError), ({"model": "other"}, NotFoundError)]:
    try:
        client.chat.completions.create(**{**asked, **wrong})
        sys.exit(f"{wrong} is not refused")
    except kind as e:
        print("refused:", e.body["message"])

if not tokenizer:
    print("all is well; lm-evaluation-harness was not asked: no tokenizer is named")
    sys.exit()

# A task of multiple choice and one of generation, each of two questions.
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    rows = [
        {"q": "The capital of France is", "choices": [" Paris", " a banana"], "gold": 0},
        {"q": "Two and two make", "choices": [" green", " four"], "gold": 1},
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\ntest_split: test\n"
    (folder / "choice.yaml").write_text(
        f"task: tiny_choice\n{data}output_type: multiple_choice\ndoc_to_text: '{{{{q}}}}'\n"
        "doc_to_choice: choices\ndoc_to_target: gold\ntarget_delimiter: ''\nmetric_list: [{metric: acc}]\n"
    )
    (folder / "generation.yaml").write_text(
        f"task: tiny_generation\n{data}output_type: generate_until\ndoc_to_text: '{{{{q}}}}'\n"
        "doc_to_target: '{{choices[gold]}}'\ngeneration_kwargs: {until: ['.'], max_gen_toks: 8}\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    arguments = f"model={name},base_url={url}/completions,tokenizer={tokenizer[0]},num_concurrent=2,max_length=512"
    command = [
        sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments,
        "--tasks", "tiny_choice,tiny_generation", "--include_path", str(folder), "--output_path", str(folder / "out"),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    results = json.loads(next((folder / "out").rglob("results_*.json")).read_text())["results"]
    assert results["tiny_choice"]["acc,none"] == 1.0, results
print("all is well")
