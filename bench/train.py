#!/usr/bin/env python3
"""Training steps in PyTorch, eager, with made-up weights: what the trainer's steps are measured against.

    bench/train.py --what tune --dtype bf16 --json    a LoRA step of dndtrain collect: go test ./trainer/lm -bench TunerStep
    bench/train.py --what fit --json                  a step of dndtrain fit: go test ./trainer/fit -bench Step/small

Prints seconds and processor seconds a step, the shortest and the mean of several. Needs torch, and for tune transformers
and peft.
"""
import argparse
import json
import time

import torch
from torch.nn import functional as F

import pytorch


def tune(dtype):
    """SmolLM2-135M with rank-8 LoRA on all linear layers, A frozen: 8 examples of 54 tokens, 7 of them the answer's.
    Logits are computed for answers only, which transformers does not do by itself."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaForCausalLM(LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, rope_theta=1e5, rms_norm_eps=1e-5, tie_word_embeddings=True)).to(dtype)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=modules))
    for name, p in model.named_parameters():
        p.requires_grad = "lora_B" in name
    ids = torch.randint(0, 49000, (8, 54))
    answers = torch.arange(47, 54)
    labels = torch.randint(0, 49000, (8 * 7,))
    inner = model.base_model.model

    def loss():
        hidden = inner.model(input_ids=ids).last_hidden_state
        return F.cross_entropy(inner.lm_head(hidden[:, answers].reshape(56, -1)).float(), labels)

    return [p for p in model.parameters() if p.requires_grad], loss, 0.0


def fit(dtype):
    """The decoder of models/layout.json, four pairs."""
    c = pytorch.config([(16, 64, 384), (16, 16, 128), (32, 10, 128), (64, 10, 128), (1590, 10, 194)], 3)
    weights = pytorch.made_up(c, torch.device("cpu"), torch.float32)
    for w in weights.values():
        w.requires_grad = True
    x, target = torch.rand(4, 16, 64, 384) - 0.5, torch.rand(4, 1590, 10, 194) - 0.5

    def run(name, macs, work):
        return work()

    def loss():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            return F.mse_loss(pytorch.decode(c, weights, x, run).float(), target)

    return list(weights.values()), loss, 0.01


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=["tune", "fit"], required=True)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    params, loss, decay = {"tune": tune, "fit": fit}[args.what](torch.bfloat16 if args.dtype == "bf16" else torch.float32)
    optimizer = torch.optim.AdamW(params, lr=1e-3, weight_decay=decay)
    seconds, processor = [], []
    for _ in range(args.steps + 1):
        begin, cpu = time.perf_counter(), pytorch.cpu_seconds()
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
        processor.append(pytorch.cpu_seconds() - cpu)
    seconds, processor = seconds[1:], processor[1:]  # the first step allocates
    result = {"what": args.what, "dtype": args.dtype, "threads": args.threads, "torch": torch.__version__,
              "step_seconds": min(seconds), "step_cpu_seconds": min(processor), "mean_cpu_seconds": sum(processor) / len(processor)}
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
