"""Asks the reference reader about files: their paths come as lines, a JSON list of
{"ok", "error", "tensors"} goes out. Loading reads every tensor."""
import json
import sys

import safetensors
from safetensors.numpy import load

answers = []
for path in sys.stdin.read().splitlines():
    with open(path, "rb") as f:
        raw = f.read()
    try:
        tensors = {name: [list(v.shape), v.nbytes] for name, v in load(raw).items()}
        answers.append({"ok": True, "tensors": tensors})
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, OverflowError) as e:
        answers.append({"ok": False, "error": f"{type(e).__name__}: {e}"})
json.dump({"version": safetensors.__version__, "answers": answers}, sys.stdout)
