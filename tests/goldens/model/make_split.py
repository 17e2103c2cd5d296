"""Writes sentencepiece/model.golden-gguf again, split over three files as llama.cpp's gguf-split does.
Needs gguf.   usage: python make_split.py"""
import gguf, os
HERE = os.path.dirname(os.path.abspath(__file__))
source = gguf.GGUFReader(os.path.join(HERE, "sentencepiece", "model.golden-gguf"))
out = os.path.join(HERE, "split")
os.makedirs(out, exist_ok=True)
w = gguf.GGUFWriter(os.path.join(out, "model.gguf"), "llama", split_max_tensors=-(-len(source.tensors) // 3))
for field in source.fields.values():
    if field.name.startswith("GGUF.") or field.name == "general.architecture": continue
    w.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
for t in source.tensors: w.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
