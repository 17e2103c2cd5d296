"""Makes the goldens of tests/model/export.rs and of src/model/formats/export/tensor.rs from the `gguf` package (0.19) and from a file that
llama.cpp's converter made.

    python tests/goldens/export/make.py SmolLM2-135M-Instruct.Q4_1.gguf        # pipelines/get-smollm2.sh fetches it

- q8_0.json: f32 values (their bits) and what gguf's quantiser, which follows ggml's reference, makes of them (hex).
- smollm2.json: every metadata key of the file with its type; values too, but of long lists the length and the FNV-1a (64 bits)
  of their little-endian bytes or of their texts with a zero byte after each. general.* is left out where it describes where the
  model came from.
"""
import json, pathlib, sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, quants

OUT = pathlib.Path(__file__).parent


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = (h ^ b) * 0x100000001B3 % 2**64
    return f"{h:016x}"


rng = np.random.default_rng(4)
blocks = [rng.standard_normal(32) * s for s in (1, 0.02, 1e-4, 300, 1e-7, 1e-30)]
blocks.append(np.zeros(32))
blocks.append(np.where(np.arange(32) == 5, -2.5, 0))  # the largest is negative
halves = (np.arange(32) - 16) + 0.5
halves[0] = 127  # d is 1: every other value lies half-way between two numbers
blocks.append(halves)
blocks.append(np.full(32, 1e-45))
blocks += list(rng.standard_normal((20, 32)) * rng.uniform(0.001, 1, (20, 1)))
values = np.array(blocks, dtype=np.float32)
coded = quants.quantize(values, GGMLQuantizationType.Q8_0)
(OUT / "q8_0.json").write_text(json.dumps({
    "bits": values.view(np.uint32).flatten().tolist(), "bytes": coded.tobytes().hex(),
}) + "\n")

metadata = {}
skip = {"general.name", "general.organization", "general.finetune", "general.basename", "general.size_label", "general.license",
        "general.languages", "general.file_type"}
for key, field in GGUFReader(sys.argv[1]).fields.items():
    if key.startswith("GGUF.") or key in skip:
        continue
    value, kind = field.contents(), "[]".join(t.name for t in field.types[-1:])
    if field.types[0] == GGUFValueType.ARRAY:
        kind += "[]"
        texts = isinstance(value[0], str)
        data = b"".join(v.encode() + b"\0" for v in value) if texts else np.array(value, dtype="<i4").tobytes()
        value = {"length": len(value), "fnv": fnv(data)}
    metadata[key] = [kind, value]
(OUT / "smollm2.json").write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n")
