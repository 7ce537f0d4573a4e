"""Loads an adapter onto SmolLM2 with the real PEFT and reports what PEFT says of it.

Usage: load.py BASE.gguf ADAPTER_DIR. Prints one JSON object.
"""

import json
import os
import sys
import warnings

import torch
from peft import PeftModel
from peft import __version__ as peft_version
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

warnings.filterwarnings("ignore")
gguf, adapter = sys.argv[1:]
torch.set_num_threads(2)
folder, file = os.path.split(gguf)
base = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, torch_dtype=torch.float32)
ids = torch.tensor([[1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47]])
with torch.no_grad():
    before = base(ids).logits
model = PeftModel.from_pretrained(base, adapter)
with torch.no_grad():
    after = model(ids).logits

# Once more under another name, for what PEFT makes of the keys.
loaded = model.load_adapter(adapter, adapter_name="again")
missing = [k for k in loaded.missing_keys if "again" in k]

written = load_file(os.path.join(adapter, "adapter_model.safetensors"))
state = model.state_dict()
differing = []
for name, value in written.items():
    key = name.replace(".weight", ".default.weight")
    if key not in state or not torch.equal(state[key].float(), value.float()):
        differing.append(name)
held = sum(1 for k in state if ".default.weight" in k and ".lora_" in k)
config = model.peft_config["default"]
json.dump({
    "peft": peft_version,
    "missing": missing,
    "unexpected": list(loaded.unexpected_keys),
    "differing": differing,
    "tensors": len(written),
    "held": held,
    "rank": config.r,
    "alpha": config.lora_alpha,
    "change": (after - before).abs().max().item(),
}, sys.stdout)
