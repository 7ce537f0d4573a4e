#!/usr/bin/env python3
"""A generator package's decoder as ONNX, for runtimes that dndgen is measured beside.

    bench/onnx.py --generator models/default --out build/bench/decoder.onnx

Weights are float32: what the package stores smaller is expanded. Input "condition"
(1,N,L,C), output "output" (1,T,h,w). Needs torch.
"""
import argparse
import json
import os
import struct
import sys

import torch

from pytorch import Clock, FULL, LARGE, decode, tensors

VALUE = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SHARD = "decoder"


def read(path):
    """The tensors of a safetensors file, Q8 blocks (36 bytes: a float32 scale, 32 signed bytes) as flat values."""
    out = {}
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        table = json.loads(f.read(n))
        table.pop("__metadata__", None)
        for name, t in table.items():
            begin, end = t["data_offsets"]
            f.seek(8 + n + begin)
            raw = torch.frombuffer(bytearray(f.read(end - begin)), dtype=torch.uint8)
            if t["dtype"] == "U8":
                blocks = raw.reshape(-1, 36)
                scale = blocks[:, :4].contiguous().view(torch.float32)
                out[name] = (blocks[:, 4:].contiguous().view(torch.int8).float() * scale).flatten()
            else:
                out[name] = raw.view(VALUE[t["dtype"]]).float().reshape(t["shape"])
    return out


class Decoder(torch.nn.Module):
    def __init__(self, config, weights):
        super().__init__()
        self.config, self.names = config, sorted(weights)
        for i, name in enumerate(self.names):
            self.register_buffer(f"w{i}", weights[name])

    def forward(self, condition):
        weights = {name: getattr(self, f"w{i}") for i, name in enumerate(self.names)}
        y = decode(self.config, weights, condition, Clock(condition.device))
        if "output.scale" in weights:
            y = y * weights["output.scale"][:, None, None] + weights["output.offset"]
        return y


def load(folder):
    with open(os.path.join(folder, "generator.json")) as f:
        config = json.load(f)["decoder"]
    files = [n for n in sorted(os.listdir(folder)) if n.startswith(SHARD) and n.endswith(".safetensors")]
    weights = {name: t for n in files for name, t in read(os.path.join(folder, n)).items()}
    for name, (shape, _) in tensors(config).items():
        count = 1
        for d in shape:
            count *= d
        weights[name] = weights[name].flatten()[:count].reshape(shape)
    return config, weights


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generator", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    config, weights = load(args.generator)
    if config["class"] not in (FULL, LARGE):
        sys.exit(f"{args.generator}: decoder class {config['class']}, expected {FULL} or {LARGE}")
    n, length, width = config["features"][0]
    x = torch.zeros(1, n, config.get("max_length") or length, width)
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    with torch.no_grad():
        torch.onnx.export(Decoder(config, weights).eval(), x, args.out, input_names=["condition"], output_names=["output"], opset_version=17)
    return 0


if __name__ == "__main__":
    sys.exit(main())
