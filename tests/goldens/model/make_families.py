"""Makes families.json: config.json of released Llama-family models with every key they have, sizes made small, and what transformers
computes with them near and far. The weights are not stored: both sides draw them from the hash below.
Needs torch, transformers.   usage: python make_families.py"""
import json, os
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)
HERE = os.path.dirname(os.path.abspath(__file__))
COMMON = {"architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "initializer_range": 0.02, "intermediate_size": 48, "model_type": "llama",
          "num_hidden_layers": 2, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 12}
LLAMA31 = {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": [1, 2, 3], "hidden_size": 128 * 4, "max_position_embeddings": 131072,
           "mlp_bias": False, "num_attention_heads": 4, "num_key_value_heads": 1, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
           "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
           "rope_theta": 500000.0, "tie_word_embeddings": False, "transformers_version": "4.42.3"}
FAMILIES = {
    "llama-7b": {"bos_token_id": 1, "eos_token_id": 2, "hidden_size": 256, "max_position_embeddings": 2048, "max_sequence_length": 2048, "num_attention_heads": 2,
                 "pad_token_id": 0, "rms_norm_eps": 1e-06, "tie_word_embeddings": False, "transformers_version": "4.28.0.dev0"},
    "Llama-2-7b": {"_name_or_path": "meta-llama/Llama-2-7b-hf", "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 256, "max_position_embeddings": 4096,
                   "num_attention_heads": 2, "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
                   "tie_word_embeddings": False, "transformers_version": "4.31.0.dev0"},
    "Llama-2-70b": {"_name_or_path": "meta-llama/Llama-2-70b-hf", "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 16 * 32, "max_position_embeddings": 4096,
                    "num_attention_heads": 32, "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
                    "tie_word_embeddings": False, "transformers_version": "4.32.0.dev0"},
    "Meta-Llama-3-8B": {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1, "hidden_size": 128 * 4, "max_position_embeddings": 8192,
                        "num_attention_heads": 4, "num_key_value_heads": 1, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
                        "rope_theta": 500000.0, "tie_word_embeddings": False, "transformers_version": "4.40.0.dev0"},
    "Llama-3.1-8B-Instruct": LLAMA31,
    "Llama-3.2-1B-Instruct": {**LLAMA31, "head_dim": 64, "hidden_size": 64 * 4, "rope_scaling": {**LLAMA31["rope_scaling"], "factor": 32.0},
                              "tie_word_embeddings": True, "transformers_version": "4.45.0.dev0"},
    "TinyLlama-1.1B-Chat": {"attention_bias": False, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 64 * 8, "max_position_embeddings": 2048,
                            "num_attention_heads": 8, "num_key_value_heads": 1, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
                            "rope_theta": 10000.0, "tie_word_embeddings": False, "transformers_version": "4.35.0"},
    "SmolLM2-135M-Instruct": {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 64 * 9, "is_llama_config": True,
                              "max_position_embeddings": 8192, "mlp_bias": False, "num_attention_heads": 9, "num_key_value_heads": 3, "pad_token_id": 2,
                              "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
                              "tie_word_embeddings": True, "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
                              "transformers_version": "4.42.3"},
    "linear, older key": {"bos_token_id": 1, "eos_token_id": 2, "hidden_size": 256, "max_position_embeddings": 16384, "num_attention_heads": 2, "num_key_value_heads": 2,
                          "pretraining_tp": 1, "rms_norm_eps": 1e-06, "rope_scaling": {"factor": 4.0, "type": "linear"}, "rope_theta": 100000,
                          "tie_word_embeddings": False, "transformers_version": "4.34.1"},
    "linear, both keys": {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 128, "hidden_size": 256,
                          "max_position_embeddings": 16384, "mlp_bias": False, "num_attention_heads": 2, "num_key_value_heads": 1, "pretraining_tp": 1,
                          "rms_norm_eps": 1e-06, "rope_scaling": {"factor": 2.5, "rope_type": "linear", "type": "linear"}, "rope_theta": 10000.0,
                          "tie_word_embeddings": False, "transformers_version": "4.46.1"},
    # Llama 3's scaling without its original length, which is then the longest; and hardly any key at all.
    "llama3, defaults": {**LLAMA31, "hidden_size": 64 * 4, "rope_scaling": {"factor": 4, "low_freq_factor": 1, "high_freq_factor": 4, "rope_type": "llama3"}},
    "all defaults": {"hidden_size": 64, "num_attention_heads": 2},
}


def draw(name, shape):
    """FNV-1a of the name, and murmur3's finaliser over it and the place: 24 bits, as a number in [-0.5, 0.5)."""
    seed = 0x811C9DC5
    for b in name.encode():
        seed = (seed ^ b) * 0x01000193 & 0xFFFFFFFF
    x = np.uint32(seed) + np.arange(int(np.prod(shape)), dtype=np.uint32) * np.uint32(0x9E3779B9)
    x ^= x >> np.uint32(16); x *= np.uint32(0x85EBCA6B); x ^= x >> np.uint32(13); x *= np.uint32(0xC2B2AE35); x ^= x >> np.uint32(16)
    u = (x >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)
    # A power of two near 5 / sqrt(fan in), so that attention is not flat; norms are between 0.5 and 1.5.
    w = u + np.float32(1) if len(shape) == 1 else u * np.float32(2.0 ** round(np.log2(5 / np.sqrt(shape[1]))))
    return torch.from_numpy(w.reshape(shape))


np.seterr(over="ignore")
out = {}
ids = [(7 * i * i + 3 * i) % 12 for i in range(20)]
for name, own in FAMILIES.items():
    text = {**COMMON, **own}
    config = LlamaConfig(**json.loads(json.dumps(text)))
    model = LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(draw(n, tuple(p.shape)))
    last = config.max_position_embeddings - 1
    places = {"near": list(range(len(ids))), "far": list(range(last - len(ids) + 1, last + 1)),
              "spread": [round(last * (i / (len(ids) - 1)) ** 3) + (i if i < len(ids) - 1 else 0) for i in range(len(ids))]}
    if original := (config.rope_parameters or {}).get("original_max_position_embeddings"):
        places["across"] = [original - 10 + i if original < last else i for i in range(len(ids))]
    logits = {}
    for which, positions in places.items():
        with torch.no_grad():
            rows = model(torch.tensor([ids]), position_ids=torch.tensor([positions])).logits[0]
        logits[which] = {"positions": positions, "rows": [[round(x, 5) for x in r] for r in rows[[len(ids) // 2, -1]].tolist()]}
    newer = json.loads(config.to_json_string(use_diff=False))
    assert "rope_parameters" in newer and "rope_theta" not in newer, newer
    out[name] = {"config": text, "newer": newer, "frequencies": model.model.rotary_emb.inv_freq.tolist(), "logits": logits}
with open(os.path.join(HERE, "families.json"), "w") as f:
    f.write('{"ids": ' + json.dumps(ids) + ', "families": {\n' + ",\n".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in out.items()) + "\n}}\n")
