"""Checks that PEFT loads an adapter that reflux wrote: base model and adapter together give the logits of the merged model.

    python tests/goldens/lora/check.py BASE runs/NAME/models/M2        # transformers 5.24, peft 0.21
"""
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, merged = sys.argv[1:]
ids = torch.arange(3, 35).reshape(2, 16)
load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
with torch.no_grad():
    plain = load(base)(ids).logits
    want = load(merged)(ids).logits
    model = PeftModel.from_pretrained(load(base), f"{merged}/adapter")
    got = model(ids).logits
off, moved = (got - want).abs().max().item(), (want - plain).abs().max().item()
print(f"logits differ by {off:.1e}; the adapter moved them by {moved:.1e}")
assert moved > 1e-3 and off < 1e-4 * max(1.0, want.abs().max().item())
