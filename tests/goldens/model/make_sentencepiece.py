"""Makes sentencepiece/: a small GGUF with a SentencePiece vocabulary as llama.cpp's conversion writes it (scores, token types, byte pieces, a
piece of the user's), and what sentencepiece itself makes of texts; conversations by transformers' LlamaTokenizer from the same model file.
Needs sentencepiece, protobuf, gguf, transformers.   usage: python make_sentencepiece.py"""
import io, json, os, random, tempfile
import gguf, numpy as np
import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import normalizers
from transformers import LlamaTokenizer
import make

OUT = os.path.join(make.HERE, "sentencepiece")
os.makedirs(OUT, exist_ok=True)
TEXT = make.TEXT[:5] + ["    indented    more        spaces", "法国的首都是巴黎。法国的首都", "aaaa aaa aa a bbbbbb banana bananana"]
# As Llama 2's model was trained, but for the size.
buffer = io.BytesIO()
spm.SentencePieceTrainer.train(sentence_iterator=iter(TEXT * 4), model_writer=buffer, vocab_size=430, model_type="bpe", byte_fallback=True,
    normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True, character_coverage=0.98,
    user_defined_symbols=["<x>"], minloglevel=2, num_threads=1)
proto = pb.ModelProto()
proto.ParseFromString(buffer.getvalue())
first = spm.SentencePieceProcessor(model_proto=proto.SerializeToString())
with tempfile.TemporaryDirectory() as d:
    open(os.path.join(d, "tokenizer.model"), "wb").write(proto.SerializeToString())
    hf = LlamaTokenizer.from_pretrained(d, legacy=True, add_bos_token=False)
# As the released tokenizer.json of Llama 2 and TinyLlama: a space before every stretch between special tokens. (The class of transformers 5 by
# itself adds none where the text begins with one, which is not what sentencepiece does.)
hf.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
hf.backend_tokenizer.pre_tokenizer = None
hf.chat_template = make.LLAMA2
proto.normalizer_spec.add_dummy_prefix = False
bare = spm.SentencePieceProcessor(model_proto=proto.SerializeToString())

texts = ["", " ", "  ", "\n", "a", " a", "  the cat", "the cat sat ", "the cat\n\n\nsat\ton", "x      y" + " " * 19 + "z", "法国的首都是巴黎。", "你好，世界！ 再见", "🎉👩‍👩‍👧 ok 🏳️‍🌈",
         "naïve café “quotes” ½ µ", "def add(a, b):\n    return a + b  # 12345\n", "aaaaaaaaaaaaa bbbbbbb bananananana", "▁the▁▁cat ▁", "<s></s><unk> <0x0A><0xE4>",
         "\u0000\u00ff\u0301\U0001F3FD", "it's what they're saying 1 22 333 4444", "Zürich ΑΒΓ Сколько"]
rng = random.Random(11)
pieces = " ".join(TEXT).split(" ") + ["  ", "\n", "\t", "🎉", "世界", "é", "</s>", "▁", "a", "aa", "<", ">"]
texts += ["".join(rng.choice(pieces) + rng.choice([" ", "", "   "]) for _ in range(rng.randint(1, 14))) for _ in range(60)]
golden = {"texts": [], "chats": make.chats(hf)}
for t in texts:
    ids = first.encode(t)
    assert ids == hf(t, add_special_tokens=False, split_special_tokens=True)["input_ids"], t
    golden["texts"].append({"text": t, "ids": ids, "decoded": first.decode(ids), "bare": bare.encode(t), "bare_decoded": bare.decode(bare.encode(t))})
# A piece of the user's is found before anything is merged; what follows it has a space before it, as after a special token.
golden["users"] = [{"text": t, "ids": hf(t, add_special_tokens=False)["input_ids"], "decoded": ""} for t in ["the <x> cat", "<x>", "a<x><x>b\n<x"]]
json.dump(golden, open(os.path.join(OUT, "golden.json"), "w"), ensure_ascii=False, separators=(",", ":"))

w = gguf.GGUFWriter(os.path.join(OUT, "model.golden-gguf"), "llama")
n, d, f = first.get_piece_size(), 32, 32
w.add_block_count(1); w.add_context_length(64); w.add_embedding_length(d); w.add_feed_forward_length(f); w.add_head_count(2); w.add_head_count_kv(1)
w.add_layer_norm_rms_eps(1e-5); w.add_rope_dimension_count(16)
w.add_tokenizer_model("llama"); w.add_tokenizer_pre("default")
w.add_token_list([first.id_to_piece(i).encode() for i in range(n)])
w.add_token_scores([first.get_score(i) for i in range(n)])
w.add_token_types([int(p.type) for p in proto.pieces])
w.add_unk_token_id(0); w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_add_bos_token(True); w.add_add_eos_token(False)
w.add_add_space_prefix(True); w.add_chat_template(make.LLAMA2)
numbers = np.random.default_rng(3)
Q = gguf.GGMLQuantizationType
def tensor(name, shape, kind):
    x = numbers.standard_normal(shape, dtype=np.float32)
    w.add_tensor(name, gguf.quants.quantize(x, kind), raw_dtype=kind)
tensor("token_embd.weight", (n, d), Q.Q8_0); tensor("output_norm.weight", (d,), Q.F32)
for part, shape, kind in [("attn_norm", (d,), Q.F32), ("attn_q", (d, d), Q.Q4_0), ("attn_k", (16, d), Q.Q4_1), ("attn_v", (16, d), Q.Q5_0), ("attn_output", (d, d), Q.Q5_1),
                          ("ffn_norm", (d,), Q.F32), ("ffn_gate", (f, d), Q.F16), ("ffn_up", (f, d), Q.BF16), ("ffn_down", (d, f), Q.Q4_0)]:
    tensor(f"blk.0.{part}.weight", shape, kind)
w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
print(n, "pieces;", len(golden["texts"]), "texts;", len(golden["chats"]), "chats")
