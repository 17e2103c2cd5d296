"""Writes first inputs for the fuzz targets into corpus/: small files of every kind that the loaders read. What fuzzing adds to them and keeps is
committed; run this only to begin anew.   usage: python make_seeds.py   (needs numpy, gguf, pyarrow)"""
import json, os, struct
import gguf, numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
CUT = "\n-----\n"
rng = np.random.default_rng(1)


def put(target, name, data):
    os.makedirs(os.path.join(HERE, "corpus", target), exist_ok=True)
    with open(os.path.join(HERE, "corpus", target, name), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


# ---- gguf
Q = gguf.GGMLQuantizationType
def model(name, kind, tokenizer, rope=None):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    d, path = max(block, 4), os.path.join(HERE, "seed.gguf")
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(1); w.add_context_length(8); w.add_embedding_length(d); w.add_feed_forward_length(2); w.add_head_count(1); w.add_head_count_kv(1)
    w.add_layer_norm_rms_eps(1e-5); w.add_key_length(2); w.add_rope_dimension_count(2)
    rows = tokenizer(w)
    if rope: rope(w)
    def matrix(n, rows, columns):
        if columns == d and kind != Q.F32:
            w.add_tensor(n, rng.integers(0, 255, (rows, d // block * size), dtype=np.uint8), raw_dtype=kind)
        else:
            w.add_tensor(n, rng.standard_normal((rows, columns), dtype=np.float32))
    matrix("token_embd.weight", rows, d)
    for part, r, c in [("attn_q", 2, d), ("attn_k", 2, d), ("attn_v", 2, d), ("attn_output", d, 2), ("ffn_gate", 2, d), ("ffn_up", 2, d), ("ffn_down", d, 2)]:
        matrix(f"blk.0.{part}.weight", r, c)
    for part in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]:
        w.add_tensor(part + ".weight", np.ones(d, dtype=np.float32))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    put("gguf", name, open(path, "rb").read())
    os.remove(path)

TEMPLATE = "{% for m in messages %}{{ bos_token + m['role'] + m['content'] | trim + eos_token }}{% endfor %}"
def bytes_bpe(pre):
    def add(w):
        tokens = ["<s>", "</s>", "a", "b", "Ġ", "ab", "Ġab", "H", "i", "1", "2"]
        w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre(pre); w.add_token_list(tokens); w.add_token_types([3, 3] + [1] * 9)
        w.add_token_merges(["a b", "Ġ ab"]); w.add_bos_token_id(0); w.add_eos_token_id(1); w.add_chat_template(TEMPLATE)
        return len(tokens)
    return add
def pieces(prefix):
    def add(w):
        tokens = ["<unk>", "<s>", "</s>", "<x>", "<0x0A>", "<0xE4>", "▁", "H", "i", "▁H", "▁Hi", "12"]
        w.add_tokenizer_model("llama"); w.add_token_list(tokens); w.add_token_scores([0.0] * 6 + [-float(i) for i in range(6)])
        w.add_token_types([2, 3, 3, 4, 6, 6] + [1] * 6); w.add_unk_token_id(0); w.add_bos_token_id(1); w.add_eos_token_id(2)
        w.add_add_space_prefix(prefix); w.add_chat_template(TEMPLATE); w.add_bool("b", True); w.add_float64("f", 2.0); w.add_array("i", [1, 2])
        return len(tokens)
    return add
def linear(w):
    w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR); w.add_rope_scaling_factor(4.0)
def llama3(w):
    w.add_tensor("rope_freqs.weight", np.array([1.0], dtype=np.float32))
for kind in [Q.F32, Q.F16, Q.BF16, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K]:
    model(kind.name, kind, bytes_bpe("gpt-2"))
for pre in ["smollm", "llama-bpe", "qwen2"]:
    model(pre, Q.F32, bytes_bpe(pre))
model("pieces", Q.F32, pieces(True)); model("bare", Q.F32, pieces(False), linear); model("llama3", Q.F32, pieces(True), llama3)

# Numbers that no file lives up to: counts, lengths, shapes and offsets.
small = open(os.path.join(HERE, "corpus/gguf/pieces"), "rb").read()
def absurd(name, at, new):
    put("gguf", "absurd-" + name, small[:at] + new + small[at + len(new):])
U64 = lambda n: struct.pack("<Q", n)
absurd("tensors", 8, U64(2**64 - 1)); absurd("pairs", 16, U64(2**40)); absurd("key", 24, U64(2**62))
tokens = small.index(b"tokenizer.ggml.tokens") + 21 + 4
absurd("array", tokens + 4, U64(2**61)); absurd("array-of-arrays", tokens, struct.pack("<I", 9)); absurd("text", tokens + 12, U64(2**33))
table = small.index(b"token_embd.weight") + 17
absurd("dimensions", table, struct.pack("<I", 2**31)); absurd("columns", table + 4, U64(2**62)); absurd("rows", table + 12, U64(2**33))
absurd("type", table + 20, struct.pack("<I", 12)); absurd("offset", table + 24, U64(2**64 - 32)); absurd("overlap", table + 24, U64(256))
block = small.index(b"llama.block_count") + 17 + 4
absurd("blocks", block, struct.pack("<I", 4096))

# ---- safetensors: the model of tests/loader_inputs
SHAPES = {"model.embed_tokens": [6, 4], "model.norm": [4], "model.layers.0.input_layernorm": [4], "model.layers.0.post_attention_layernorm": [4],
          "model.layers.0.self_attn.q_proj": [4, 4], "model.layers.0.self_attn.k_proj": [2, 4], "model.layers.0.self_attn.v_proj": [2, 4],
          "model.layers.0.self_attn.o_proj": [4, 4], "model.layers.0.mlp.gate_proj": [2, 4], "model.layers.0.mlp.up_proj": [2, 4], "model.layers.0.mlp.down_proj": [4, 2]}
def safetensors(dtype, extra={}, metadata=None, change=None):
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, shape in {**SHAPES, **extra}.items():
        n = int(np.prod(shape)) * {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}[dtype]
        header[name + ".weight"] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + n]}
        data += rng.integers(0, 255, n, dtype=np.uint8).tobytes()
    if change: change(header)
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data
for dtype in ["F32", "F16", "BF16", "F64"]:
    put("safetensors", dtype, safetensors(dtype))
put("safetensors", "extra", safetensors("F16", {"lm_head": [6, 4]}, {"format": "pt"}))
put("safetensors", "overlap", safetensors("F16", change=lambda h: h["model.norm.weight"].update(data_offsets=[0, 8])))
put("safetensors", "missing", safetensors("F16", change=lambda h: h.pop("model.norm.weight")))

good = safetensors("F16")
put("safetensors", "absurd-header", U64(2**63) + good[8:])
put("safetensors", "absurd-long-header", U64(99_999_999) + good[8:])
for name, more in {"shape": {"shape": [2**63, 2]}, "offsets": {"data_offsets": [2**62, 2**63]}, "backwards": {"data_offsets": [8, 0]}}.items():
    put("safetensors", "absurd-" + name, safetensors("F16", change=lambda h: h["model.norm.weight"].update(more)))
put("safetensors", "absurd-nesting", U64(9_000) + b"[" * 9_000)

# ---- tokenizers
CONFIG = {"model_type": "llama", "vocab_size": 64, "hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}
CONFIGS = [{**CONFIG, "eos_token_id": 2, "rope_scaling": {"type": "linear", "factor": 2}, "attention_bias": False, "hidden_act": "silu"},
           {**CONFIG, "eos_token_id": [1, 2], "rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "head_dim": 8, "num_key_value_heads": 1},
           {**CONFIG, "rope_theta": 10000, "rope_scaling": LLAMA3, "rms_norm_eps": 1e-6, "tie_word_embeddings": True}]
def added(*names, **more):
    return [{"id": i, "content": n, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **more} for i, n in enumerate(names)]
LETTERS = {c: i for i, c in enumerate(["<unk>", "<s>", "</s>", "a", "b", "ab", "H", "i", "Ġ", "▁", "<0x0A>", "<0xE4>", "##i", "Hi", "1", "2"])}
def bpe(**more):
    return {"type": "BPE", "vocab": LETTERS, "merges": [["a", "b"], "H i"], "unk_token": "<unk>", "fuse_unk": False, "byte_fallback": False, **more}
UNIGRAM = {"type": "Unigram", "unk_id": 0, "vocab": [[t, -float(i)] for t, i in LETTERS.items()], "byte_fallback": True}
WORDPIECE = {"type": "WordPiece", "vocab": LETTERS, "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPLIT = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)|\\s+|\\p{L}+"}, "behavior": "Isolated", "invert": False}
META = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
TEMPLATE_PROCESSING = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
TOKENIZERS = [
    dict(model=bpe(ignore_merges=True), pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]}, decoder=BYTES, post_processor=BYTES),
    dict(model=bpe(), pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, {**BYTES, "use_regex": False}]}, decoder=BYTES, normalizer={"type": "NFC"}, post_processor=TEMPLATE_PROCESSING),
    dict(model=bpe(fuse_unk=True, byte_fallback=True, dropout=None), normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
         decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
    dict(model=UNIGRAM, pre_tokenizer=META, decoder=META, normalizer={"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"}, {"type": "Strip", "strip_left": True, "strip_right": True}]}),
    dict(model={"type": "WordLevel", "vocab": LETTERS, "unk_token": "<unk>"}, pre_tokenizer={"type": "Whitespace"}, normalizer={"type": "Lowercase"}),
    dict(model=WORDPIECE, pre_tokenizer={"type": "BertPreTokenizer"}, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
         normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}, post_processor={"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}),
    dict(model=bpe(end_of_word_suffix="</w>"), pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Punctuation", "behavior": "Isolated"}, {"type": "CharDelimiterSplit", "delimiter": ","}, {"type": "UnicodeScripts"}, {"type": "FixedLength", "length": 3}, {"type": "WhitespaceSplit"}]},
         decoder={"type": "BPEDecoder", "suffix": "</w>"}, normalizer={"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "ByteLevel"}]}),
    dict(model=bpe(dropout=0.5, continuing_subword_prefix="##"), truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
         padding={"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"}, decoder={"type": "CTC", "pad_token": "<unk>", "word_delimiter_token": "|", "cleanup": True},
         normalizer={"type": "Precompiled", "precompiled_charsmap": "AAQAAAAAAAA="}),
]
SETTINGS = [{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": True}, "unk_token": "<unk>", "chat_template": TEMPLATE},
            {"chat_template": [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": ""}], "eos_token": "ab"}, {}]
for i, t in enumerate(TOKENIZERS):
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added("<unk>", "<s>", "</s>", rstrip=i % 2 == 0, single_word=i % 3 == 2, normalized=i == 4),
             "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, **t}
    files = [CONFIGS[i % 3], whole, SETTINGS[i % 3], {"eos_token_id": [2, 5] if i % 2 else 2}, {"unk_token": "<unk>"}]
    put("tokenizer", str(i), CUT.join(json.dumps(f, separators=(",", ":"), ensure_ascii=False) for f in files[:5 - i % 3]))

def absurd_tokenizer(name, **more):
    put("tokenizer", "absurd-" + name, CUT.join(json.dumps(f) for f in [CONFIGS[0], {"version": "1.0", "added_tokens": added("<unk>", "<s>", "</s>"), "model": bpe(), **more}]))
absurd_tokenizer("charsmap", normalizer={"type": "Precompiled", "precompiled_charsmap": "////////"})
absurd_tokenizer("doubling", normalizer={"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": c}, "content": "ii"} for c in "H" + "i" * 60]})
absurd_tokenizer("decoder", decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "i"}, "content": "i" * 1000}] * 9})
absurd_tokenizer("ids", model={"type": "WordLevel", "vocab": {"<unk>": 0, "a": 2**32 - 1, "b": 2**31}, "unk_token": "<unk>"})
absurd_tokenizer("padding", padding={"strategy": {"Fixed": 2**40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"})

# ---- chat templates
goldens = os.path.join(HERE, "../tests/goldens/model")
for name in ["smollm2", "llama2", "llama3", "tinyllama"]:
    put("chat_template", name, CUT.join([open(os.path.join(goldens, name, "chat_template.jinja")).read(), "  Hi </s>\n", "a<s>b"]))
for i, (template, *contents) in enumerate([
    ("{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}", "a"), ("{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('x') }}", "a"),
    ("{{ 'x' * 99999999999 }}{{ '%9999999999d' | format(1) }}", "a"), ("{{ messages | tojson(indent=2) }}{{ [1, none, {'a': 1.5}] | tojson }}", "\\u003c'\"", "b"),
    ("{% generation %}{{ messages[0].content.split(' ')[-1].strip() | upper }}{% endgeneration %}", "a b"), ("{% set ns = namespace(x=[]) %}{% for m in messages if m.role == 'user' %}{% set ns.x = ns.x + [m.content] %}{% endfor %}{{ ns.x | join('</s>') }}", "a", "b", "c"),
    ("{%- for m in messages[::-1] recursive -%}{{ loop.index0 }}{{ loop.cycle('a', 'b') }}{{ m.items() | list }}{% if loop.last %}{% break %}{% endif %}{% else %}{{ raise_exception('no') }}{% endfor %}", "a", "b"),
    ("{% filter upper %}{{ messages | map(attribute='content') | select('string') | unique | sort | list | length }}{% endfilter %}{% call f() %}{% endcall %}", "a"),
    ("{% raw %}<s>{% endraw %}{# c #}{{ messages[0]['content'][1:-1] | replace('a', 'bb') | indent(4) | title | default('x', true) }}{% do x %}", "aaa"),
    ("{% with a = 1 %}{{ a // 2 ** 3 % 5 is odd and not a in [1] or 'x'.startswith('y') }}{{ '{:>9}'.format('x') }}{% endwith %}{{ dict(a=1) | dictsort | batch(2) | list }}", "x"),
    ("{{ '\U000F1A70' }}{{ messages[0].content | trim }}0{{ '\U000F1A71' }}</s>", "\U000F1A700\U000F1A71", "</s>"),
]):
    put("chat_template", str(i), CUT.join([template, *contents]))

# ---- manifests of a run
H = "0123456789abcdef" * 4
RUN = {"kind": "run", "format": 1, "reflux": "0.1.0", "pipeline": H, "seed": 5}
def rows(step, iteration, microbatch, **more):
    place = f"data/{step}/iteration={iteration}/microbatch={microbatch:05}.parquet"
    return {"kind": "file", "step": step, "iteration": iteration, "microbatch": microbatch, "path": place, "rows": 3, "bytes": 9, "hash": H, "lineage": [H, "m0"], **more}
def errors(step, iteration, microbatch):
    return {"errors": {"path": f"data/errors/{step}/iteration-{iteration}/microbatch-{microbatch:05}.parquet", "rows": 1, "bytes": 2, "hash": H}}
MODEL = {"kind": "model", "name": "M1", "path": "models/M1", "hash": H, "step": "m1", "iteration": 0, "files": {"config.json": {"bytes": 3, "hash": H}, "adapter/a.bin": {"bytes": 0, "hash": H}}}
METRICS = {"kind": "metrics", "step": "m1", "iteration": 0, "path": "metrics/m1/iteration=0/metrics.parquet", "rows": 4, "bytes": 5, "hash": H}
DONE, STEP_DONE, DROPPED = {"kind": "finished"}, {"kind": "finished", "step": "ift", "iteration": 0}, {"kind": "dropped", "step": "ift"}
def jsonl(*lines):
    return "".join((line if isinstance(line, str) else json.dumps(line, separators=(",", ":"))) + "\n" for line in lines)
whole = [RUN, rows("ift", 0, 0), rows("ift", 0, 1, **errors("ift", 0, 1)), METRICS, MODEL, rows("m1", 0, 0), rows("pairs", 1, 0, lineage=[]), STEP_DONE, DONE, DROPPED]
for i, text in enumerate([
    "", jsonl(RUN), jsonl(*whole), jsonl(*whole)[:-20], jsonl(*whole[1:]), jsonl(RUN, RUN), jsonl(RUN, rows("a", 0, 0), rows("a", 0, 0)), jsonl(RUN, "", DONE),
    jsonl(RUN, "{}", rows("a", 0, 0)), jsonl("?", *whole[1:]), jsonl({**RUN, "format": 2}), jsonl(RUN, rows("../a", 0, 0)), jsonl(RUN, {**rows("a", 0, 0), "path": "../x"}),
    jsonl(RUN, rows("a", 4294967295, 4294967295)), jsonl(RUN, {**rows("a", 0, 0), "rows": 2**64 - 1, "bytes": 2**64 - 1}), jsonl(RUN, {**rows("a", 0, 0), "microbatch": 2**32}), jsonl(RUN, {**MODEL, "files": {"../x": {"bytes": 1, "hash": ""}}}),
    jsonl(RUN, {**MODEL, "files": {}}), jsonl(RUN, {**MODEL, "path": "models/../x"}), jsonl(RUN, DONE, rows("a", 1, 0), rows("a", 1, 2), rows("a", 1, 4294967295)), jsonl(RUN, *[rows("a", i, 0, lineage=[H[i:] + H[:i]]) for i in range(9)]),
    jsonl(RUN, {"kind": "shard"}), "[" * 200 + "\n", jsonl(RUN, rows("é\U0001f600", 0, 0)), jsonl(RUN, {**rows("a", 0, 0), "lineagf": []}), jsonl(RUN, DROPPED, DONE, rows("ift", 0, 0)),
]):
    put("manifest", str(i), text)

# ---- Parquet files
import io, pyarrow as pa, pyarrow.parquet as pq
def parquet(name, table, **how):
    to = io.BytesIO()
    pq.write_table(table, to, **how)
    put("parquet", name, to.getvalue())
    return to.getvalue()
text, nothing = ["a", "", "世界\n", "x" * 40], [None, "a", None, "b"]
message = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TABLES = {
    "ift": pa.table({"prompt": text, "response": text}), "nulls": pa.table({"prompt": nothing, "response": nothing}), "empty": pa.table({"prompt": pa.array([], pa.string())}),
    "prompts": pa.table({"prompt_id": text, "prompt": text, "origin": text, "parents": [["a"], [], ["b", "c"], []], "model": nothing}),
    "messages": pa.table({"prompt_id": text, "prompt": pa.array([[{"role": "user", "content": t}] for t in text], message), "chosen": pa.array([[]] * 4, message), "rejected": pa.array([[{"role": "a", "content": "b"}] * 3] * 4, message), "chosen_id": text, "rejected_id": text}),
    "numbers": pa.table({"a": pa.array([1, None, 3, 4], pa.uint32()), "b": pa.array([1.5, float("nan"), float("inf"), None], pa.float32()), "c": pa.array([-1, 2**62, 0, None], pa.int64()), "d": [True, None, False, True], "e": pa.array([1, 2, 3, 4], pa.int8())}),
    "lists": pa.table({"a": pa.array([[1, 2], [], None, [None]], pa.list_(pa.uint32())), "b": pa.array([[[1.0]], [[], [2.0, 3.0]], [], None], pa.list_(pa.list_(pa.float32()))), "c": pa.array([[1, 2]] * 4, pa.list_(pa.int16(), 2))}),
    "structs": pa.table({"a": [{"b": {"c": [1, 2], "d": "x"}, "e": None}, None, {"b": None, "e": 1.0}, {"b": {"c": None, "d": None}, "e": 2.0}]}),
    "dictionary": pa.table({"prompt": pa.array(text * 20).dictionary_encode(), "response": text * 20}),
    "others": pa.table({"a": pa.array([1, 2], pa.timestamp("us", tz="UTC")), "b": pa.array([1, None], pa.date32()), "c": pa.array([b"a", b"\xff"], pa.binary()), "d": pa.array([b"ab", None], pa.binary(2)), "e": pa.array([1, 2], pa.decimal128(9, 2)), "f": pa.array([1, 2], pa.time64("us")), "g": pa.nulls(2), "h": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int32())), "i": pa.array(["a", "b"], pa.large_string()), "j": pa.array([1, 2], pa.float16())}),
    "wide": pa.table({f"c{i}": [i] for i in range(60)}), "same": pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]), "rows": pa.table({"iteration": pa.array(list(range(3000)), pa.uint32()), "text": ["a"] * 3000}),
}
for name, table in TABLES.items():
    whole = parquet(name, table, compression=["none", "snappy", "zstd"][len(name) % 3])
    parquet(name + "-2", table, data_page_version="2.0", version="2.6", compression=["zstd", "none", "snappy"][len(name) % 3], use_dictionary=len(name) % 2 == 0, row_group_size=2 if len(table) < 99 else None, write_statistics=False)
    put("parquet", name + "-cut", whole[: len(whole) * 2 // 3])
    put("parquet", name + "-tail", whole[len(whole) // 3:])
parquet("gzip", TABLES["ift"], compression="gzip")
deep = pa.array([1])
for _ in range(20):
    deep = pa.array([deep.to_pylist()], pa.list_(deep.type))
parquet("deep", pa.table({"a": deep}))
for i, data in enumerate([b"", b"PAR1", b"PAR1" + b"\0" * 4 + b"PAR1", b"PAR1" + b"\xff" * 4 + b"PAR1", b"PAR1\x15\x02\x19\xfc\xff\xff\xff\x0f\x0a\0\0\0PAR1"]):
    put("parquet", str(i), data)
# ---- pipeline files: the ready ones, with files that tests/text_inputs has put there, and every operator's keys in small ones with overrides
import glob, re
FILES = {"path": "m", "init": "m", "script": "m", "config": "m", "dataset": "a.jsonl", "rubric": "t.jinja", "template": "t.jinja", "reference": "m0"}
for path in sorted(glob.glob(os.path.join(HERE, "..", "pipelines", "*.toml"))):
    text = "".join(line for line in open(path) if not line.lstrip().startswith("#"))
    text = re.sub(r"\s+#[^\"\n]*$", "", text, flags=re.M)
    text = re.sub(r'(\w+)( *= *)"[^"\n]*/[^"\n]*"', lambda m: f'{m[1]}{m[2]}"{FILES.get(m[1], "org/name")}"', text)
    put("pipeline", os.path.basename(path), text)
LOOP = """[pipeline]
name = "x"
seed = 1
iterations = 2
microbatch = 8
[model.m0]
init = "m"
[model.s]
script = "m"
[step.ift]
op = "listworld"
data = "ift"
rows = 9
[step.m1]
op = "sft"
from = "ift"
model = "m0"
[loop]
policy = "m1"
next = "dpo"
[step.w]
op = "synthesize"
from = "ift"
model = "s"
per_iteration = 9
[step.r]
op = "generate"
from = "w"
model = "policy"
samples = 3
[step.j]
op = "judge"
from = "r"
model = "policy"
[step.p]
op = "select"
from = "j"
[step.dpo]
op = "dpo"
from = "p"
model = "policy"
"""
for i, (text, *sets) in enumerate([
    (LOOP,), (LOOP, "step.p.strategy=all-pairs", "step.p.max_pairs=2", "step.dpo.beta=0.5"), (LOOP, 'step.dpo.lora={ rank = 4, targets = ["q_proj"] }', "step.dpo.data_schedule=streaming"),
    (LOOP, 'step.j.mode="pairwise"', "step.j.samples=5"), (LOOP, 'step.j.mode="expected"', "step.j.min=1", "step.j.max=10", 'step.j.pattern="([0-9]+)"'), (LOOP, "step.j.max_samples=9", "step.j.z=1.0"),
    (LOOP.replace('from = "w"', 'from = "dpo"'),), (LOOP, "pipeline.iterations=4294967295"), (LOOP, "step.w.per_iteration=9223372036854775807"), (LOOP, "pipeline.microbatch=1", "pipeline.window=4294967295"),
    (LOOP + "[health]\npair_yield = { warn = 0.5, stop = 0.1 }\nlength_gap = { warn = 2 }\n",), (LOOP + '[study]\nseeds = [1, 2]\nvariants = { a = "", b = "step.p.min_margin = 1" }\nmeasures = ["j"]\n',),
    (LOOP + '[engine]\nkv_memory = "1 GiB"\nthreads = 2\n',), (LOOP, 'engine.kv_memory="99999999999 TiB"'), (LOOP, "step.dpo.data=cumulative", "step.dpo.epochs=3"), (LOOP, "pipeline.iterations=1000", "step.dpo.validation=0.1"), (LOOP, "pipeline.iterations=1000", "step.w.per_iteration=1000000"),
    ('[step.a]\nop = "read"\ndataset = "a.jsonl"\nlimit = 5\nrename = { prompt = "prompt" }\nschema = "ift"\n',), ('[step.a]\nop = "read"\ndataset = "b.jsonl"\n',), ('[step.a]\nop = "read"\ndataset = "a.jsonl"\nkeep = false\n[step.b]\nop = "concat"\nfrom = ["a", "a"]\n',),
    ('[step."é 𝄞"]\r\nop = "raed"\r\n', 'step."é 𝄞".op=read', 'step."é 𝄞".dataset=a.jsonl'), ("a = " + "[" * 60 + "]" * 60,), ("", "a.b.c.d.e.f = {", "x", "=", "step.=3"), ("\ufeff[pipeline]\nname = '''x\n'''\nseed = 0x7fff_ffff_ffff_ffff\n",),
]):
    put("pipeline", str(i), CUT.join([text, *sets]))

# ---- what judges write
for i, text in enumerate([
    "", "Score: 4", "**Score:** 4/5\n", "Score (0-5): four", "the score is **3** out of 5.", "Score: 1 + 1 + 1 = 3", "Score: 4-5", "Score: 3 or 4", "Score: 80/100", "Score: 1,000", "Score: 4,5 / 5", "Score: −1", "Score: ٤", "Score: ４/５",
    "Score: 5\nScore: 5/10", "Score: 2\nNo: Score: 4", "Score:\n\n4", "SCORE is [[ 5 ]] of 5", "Rating: 7", "rating = infinity", "Rating: 1e9", "Score: " + "9" * 400, "score (" * 40, "Score: 1", "3/4 5/ 6 /7", "Score: \"`*4*`\"", "Final score = <2.50> out of 5.0 or more", "Score: 0x4", "Score: nan", "underscore: 4",
]):
    put("score", str(i), text)
