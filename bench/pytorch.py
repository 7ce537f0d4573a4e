#!/usr/bin/env python3
"""The generator's two networks in PyTorch, eager, with made-up weights: what `dndgen bench` is measured against.

    bench/pytorch.py --shape 0.5b --device cpu --dtype f32 --json
    bench/pytorch.py --check internal/golden/testdata/decoders

Prints what `dndgen bench` prints, with the same keys. Needs torch, and transformers for --stage encode.
"""
import argparse
import json
import math
import os
import resource
import sys
import time

import torch
from torch.nn import functional as F

FULL, LARGE = "HyperConvDecoderModel_FullCond", "HyperConvDecoderModel_SuperLarge"
SEVEN = [(16, 1000, 384), (64, 500, 384), (256, 125, 400), (512, 64, 400), (1024, 64, 400), (2048, 32, 400), (4928, 18, 514)]


def config(features, kernel, long=0, short=0):
    return {"class": LARGE if long else FULL, "features": features, "kernel_size": kernel, "max_length": long, "modified_length": short}


# Keep in step with graph/generator/madeup.go.
SHAPES = {
    "mini": config([(4, 16, 384), (16, 12, 24), (358, 10, 10)], 3),
    "0.5b": config([(128, 384, 384), (128, 200, 300), (128, 100, 256), (256, 50, 200), (512, 50, 200), (1024, 25, 200),
                    (1024, 10, 200), (2048, 10, 200), (4296, 10, 130)], 9),
    "1.5b-coding": config([(16, 1000, 384), (64, 500, 300), (256, 125, 300), (512, 64, 300), (1024, 64, 256), (2048, 32, 256),
                           (4508, 18, 258)], 11, 26624, 1000),
    "1.5b-math": config([(32, 1000, 384), (64, 500, 300), (256, 500, 300), (512, 125, 300), (1024, 64, 256), (2048, 32, 256),
                         (4508, 18, 258)], 11, 4608, 1000),
    "7b-coding": config(SEVEN, 11, 26624, 1000),
    "7b-math": config(SEVEN, 11, 4608, 1000),
    "3b-vl": config([(16, 1536, 384), (64, 500, 300), (256, 125, 300), (1024, 64, 300), (2048, 16, 256), (7308, 18, 258)], 11),
}

# For each convolution of a layer: the axes of (B,N,H,W) that are its channels, rows and columns.
AXES = {"conv1w": (3, 2, 1), "conv1h": (2, 1, 3), "conv2h": (2, 1, 3), "conv2w": (3, 2, 1)}


def tensors(c):
    """Shape and fan-in of every weight; fan-in 0 is a bias, -1 a norm's weight."""
    k, list_ = c["kernel_size"], {}
    for i, ((n, h, w), (no, ho, wo)) in enumerate(zip(c["features"], c["features"][1:])):
        p = f"model.decoder.module_list.{i}."
        list_[p + "linear1.norm.weight"] = (h, w), -1
        list_[p + "linear1.norm.bias"] = (h, w), 0
        for name, out, in_ in (("conv1w", wo, w), ("conv1h", ho, h), ("conv2h", ho, h), ("conv2w", wo, w)):
            list_[p + f"linear1.{name}.weight"] = (out, in_, k, k), in_ * k * k
        list_[p + "linear1.bias"] = (ho, wo), 0
        list_[p + "linear2.weight"] = (no, n, k, k), n * k * k
        list_[p + "linear2.bias"] = (no,), 0
    if c["class"] == LARGE:
        long, short = c["max_length"], c["modified_length"]
        for name, n in (("down_proj", long), ("gate_proj", short)):
            list_[name + ".weight"] = (short, n), n
            list_[name + ".bias"] = (short,), 0
    return list_


def made_up(c, device, dtype):
    weights = {}
    for name, (shape, fan_in) in tensors(c).items():
        w = torch.empty(shape, device=device)
        if fan_in > 0:
            bound = math.sqrt(3 / fan_in)
            w.uniform_(-bound, bound)
        else:
            w.fill_(-fan_in)
        weights[name] = w.to(dtype)
    return weights


class Clock:
    """Times named pieces of work; a device is waited for at both ends."""

    def __init__(self, device):
        self.device, self.kernels = device, []

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def __call__(self, name, macs, work):
        self.wait()
        begin = time.perf_counter()
        result = work()
        self.wait()
        self.kernels.append({"name": name, "seconds": time.perf_counter() - begin, "macs": macs})
        return result


def convolve(x, weight, axes, name, clock):
    """x (B,N,H,W) with weight (out,in,k,k) along the axes (channels, rows, columns); "same" padding, the odd zero after."""
    order = (0,) + axes
    back = [order.index(i) for i in range(4)]
    k = int(weight.shape[2])
    before, after = (k - 1) // 2, k // 2
    macs = x.numel() // x.shape[axes[0]] * weight.numel()

    def work():
        t = x.permute(order)
        if before == after:
            y = F.conv2d(t, weight, padding=before)
        else:
            y = F.conv2d(F.pad(t, (before, after, before, after)), weight)
        return y.permute(back)

    return clock(name, macs, work)


def decode(c, weights, x, clock, steps=None):
    """condition (B,N,L,C) -> weight tokens (B,T,h,w)."""
    if c["class"] == LARGE:
        b, n, long, width = x.shape
        x = x.reshape(b, n, width, long)
        for name in ("down_proj", "gate_proj"):
            w, rows = weights[name + ".weight"], x
            x = clock(name, x.numel() // x.shape[-1] * w.numel(), lambda: F.linear(rows, w, weights[name + ".bias"]))
        x = x.reshape(b, n, c["modified_length"], width)
    for i in range(len(c["features"]) - 1):
        p = f"model.decoder.module_list.{i}."

        def conv(x, name, axes):
            return convolve(x, weights[p + name + ".weight"], axes, f"layer.{i}.{name}", clock)

        norm = F.layer_norm(x.float(), x.shape[2:], weights[p + "linear1.norm.weight"].float(), weights[p + "linear1.norm.bias"].float(), 1e-5).to(x.dtype)
        wide = conv(conv(norm, "linear1.conv1w", AXES["conv1w"]), "linear1.conv1h", AXES["conv1h"])
        high = conv(conv(norm, "linear1.conv2h", AXES["conv2h"]), "linear1.conv2w", AXES["conv2w"])
        z = (wide + torch.tanh(high) + weights[p + "linear1.bias"]) / 3
        y = conv(z, "linear2", (1, 2, 3)) + weights[p + "linear2.bias"][:, None, None]
        x = x + y if x.shape == y.shape else y
    return x


def encoder(device, dtype):
    from transformers import BertConfig, BertModel

    # all-MiniLM-L12-v2
    sizes = BertConfig(hidden_size=384, num_hidden_layers=12, num_attention_heads=12, intermediate_size=1536)
    return BertModel(sizes, add_pooling_layer=False).eval().to(device, dtype)


def encode(model, texts, length, device):
    chunk = min(length, 512)
    ids = torch.randint(0, 30000, (texts * length // chunk, chunk), device=device)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cpu_seconds():
    u = resource.getrusage(resource.RUSAGE_SELF)
    return u.ru_utime + u.ru_stime


def check(root):
    """Holds decode to the official code's outputs, in folders of config.json, model.safetensors and io.safetensors."""
    from safetensors.torch import load_file

    failed = False
    names = sorted(n for n in os.listdir(root) if os.path.exists(os.path.join(root, n, "config.json")))
    for name in names:
        with open(os.path.join(root, name, "config.json")) as f:
            c = json.load(f)
        weights = load_file(os.path.join(root, name, "model.safetensors"))
        io = load_file(os.path.join(root, name, "io.safetensors"))
        with torch.no_grad():
            worst = (decode(c, weights, io["condition"], Clock(torch.device("cpu"))) - io["output"]).abs().max().item()
        failed |= not worst < 2e-5
        print(f"{name}: largest difference {worst:.1e}")
    return 1 if failed or not names else 0


def probe(device, dtype):
    """What the device reaches: a product of matrices, and adding up two vectors."""
    clock, best = Clock(device), {}
    size, count = (8192, 1 << 28) if device.type == "cuda" else (1024, 1 << 24)
    a, b = torch.randn(size, size, device=device, dtype=dtype), torch.randn(size, size, device=device, dtype=dtype)
    u, v = torch.ones(count, device=device), torch.ones(count, device=device)
    for _ in range(3):
        clock("product", 0, lambda: a @ b)
        clock("sum", 0, lambda: u.add_(v))
    for k in clock.kernels:
        best[k["name"]] = min(best.get(k["name"], math.inf), k["seconds"])
    return {"flops_per_second": 2 * size**3 / best["product"], "bytes_per_second": 12 * count / best["sum"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=("f32", "tf32", "bf16"), default="f32")
    parser.add_argument("--stage", choices=("all", "encode", "decode"), default="all")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", metavar="FOLDER", help="hold the decoder to golden outputs instead")
    parser.add_argument("--list", action="store_true", help="print the shapes as JSON instead")
    args = parser.parse_args()
    if args.check:
        return check(args.check)
    if args.list:
        print(json.dumps(SHAPES))
        return 0

    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.dtype == "tf32"
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    c = SHAPES[args.shape]
    clock = Clock(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {args.threads} threads"
    result = {"tool": "pytorch", "version": torch.__version__, "shape": args.shape, "backend": "pytorch", "device": name,
              "dtype": args.dtype, "batch": args.batch}
    n, length, width = c["features"][0]
    length = c["max_length"] or length
    with torch.no_grad():
        if args.stage != "decode":
            model = encoder(device, dtype)
            encode(model, 1, min(length, 512), device)
            begin = len(clock.kernels), cpu_seconds()
            clock("encode", 0, lambda: encode(model, n, length, device))
            result["encode_seconds"] = clock.kernels.pop()["seconds"]
            result["encode_cpu_seconds"] = cpu_seconds() - begin[1]
            del model
        if args.stage != "encode":
            weights = made_up(c, device, dtype)
            x = torch.empty(args.batch, n, length, width, device=device, dtype=dtype).uniform_(-math.sqrt(3), math.sqrt(3))
            if device.type == "cuda":
                # Algorithms are chosen and memory is reserved in the first run.
                decode(c, weights, x, Clock(device))
            used, begin = cpu_seconds(), time.perf_counter()
            decode(c, weights, x, clock)
            clock.wait()
            result["decode_seconds"] = time.perf_counter() - begin
            result["decode_cpu_seconds"] = cpu_seconds() - used
            result["decode_macs"] = sum(k["macs"] for k in clock.kernels)
            result["decode_flops_per_second"] = 2 * result["decode_macs"] / result["decode_seconds"]
            result["parameters"] = sum(w.numel() for w in weights.values())
        result["peak_bytes"] = peak_bytes()
        result["device_bytes"] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        result["probe"] = probe(device, dtype)
    result["kernels"] = clock.kernels
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    for key, value in result.items():
        if key not in ("kernels", "probe"):
            print(f"{key:26}{value}")
    for k in clock.kernels:
        print(f"{k['name']:26}{k['seconds']:9.3f} s {2e-9 * k['macs'] / k['seconds']:9.1f} GFLOPS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
