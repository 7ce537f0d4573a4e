"""Runs the programs that adapters are made for, and reports the logits they compute.

    consumers.py logits < JOBS      a JSON list of jobs; prints a JSON list of results
    consumers.py serve  < JOB       llama-server with a job's model and adapter, not applied;
                                    prints its address, ends when standard input does

A job: {"do": "make", "arch": "llama"|"qwen2"|"gemma2"|"granite", "dir": ...} writes a small random model as
DIR/hf and DIR/base.gguf. {"do": "peft"|"transformers"|"mlx"|"llama.cpp", "model": ...,
"adapter": ... or null, "prompts": [[id, ...], ...]} gives the log-probabilities of every
token behind each prompt. {"do": "adapter", "model": ..., "adapter": ...,
"settings": {...}} makes an adapter with PEFT's LoraConfig of these settings. {"do": "versions"}
gives those of the programs.
"""

import json
import os
import sys
import urllib.request
import warnings

import numpy as np

warnings.filterwarnings("ignore")

LAYERS, HIDDEN, HEADS, KV_HEADS, MLP, CONTEXT, THETA, EPS = 3, 64, 4, 2, 96, 64, 10000.0, 1e-5

# What a family of models has beside what all have.
ONLY = {
    "gemma2": {"head_dim": 20, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 4096,
               "hidden_activation": "gelu_pytorch_tanh", "attn_implementation": "eager"},
    "granite": {"attention_multiplier": 0.2, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
}


def vocabulary():
    """The bytes of ASCII as GPT-2 writes them, as many words, and special tokens. Every token
    is whole text: the server keeps the probabilities of half a character back."""
    printable = range(33, 127)
    others = [b for b in range(128) if b not in printable]
    names = {b: chr(b) for b in printable} | {b: chr(256 + i if b < 127 else 289) for i, b in enumerate(others)}
    words = ["ab"] + [f"w{i}" for i in range(127)]
    return [names[b] for b in range(128)] + words + ["<|im_start|>", "<|im_end|>", "<|pad|>", "<|end|>"]


def make(job):
    import gguf
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    arch, folder = job["arch"], os.path.join(job["dir"], "hf")
    tied, permuted, special = arch in ("qwen2", "gemma2"), arch in ("llama", "granite"), ONLY.get(arch, {})
    tokens = vocabulary()
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(
        arch, vocab_size=len(tokens), hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        intermediate_size=MLP, max_position_embeddings=CONTEXT, rope_theta=THETA, rms_norm_eps=EPS, tie_word_embeddings=tied,
        bos_token_id=257, eos_token_id=258, **special), torch_dtype=torch.float32)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.uniform_(-0.5, 0.5) if arch == "gemma2" else p.uniform_(0.5, 1.5)
            elif p.dim() == 1:
                p.normal_(0, 0.3)
            else:
                p.normal_(0, 0.15)
    model.save_pretrained(folder, max_shard_size="150KB")
    merges = ["a b"]
    with open(os.path.join(folder, "tokenizer.json"), "w") as f:
        json.dump({"model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}, "pre_tokenizer": {"type": "ByteLevel"}}, f)

    w = gguf.GGUFWriter(os.path.join(job["dir"], "base.gguf"), arch)
    ones = arch == "gemma2"  # its norms' weights are what is added to 1
    w.add_block_count(LAYERS)
    w.add_context_length(CONTEXT)
    w.add_embedding_length(HIDDEN)
    w.add_feed_forward_length(MLP)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_layer_norm_rms_eps(EPS)
    w.add_rope_freq_base(THETA)
    w.add_vocab_size(len(tokens))
    w.add_file_type(0)
    if permuted:
        w.add_rope_dimension_count(HIDDEN // HEADS)
    if arch == "gemma2":
        w.add_key_length(special["head_dim"])
        w.add_value_length(special["head_dim"])
        w.add_attn_logit_softcapping(special["attn_logit_softcapping"])
        w.add_final_logit_softcapping(special["final_logit_softcapping"])
        w.add_sliding_window(special["sliding_window"])
    if arch == "granite":
        for key, setting in (("attention.scale", "attention_multiplier"), ("embedding_scale", "embedding_multiplier"), ("residual_scale", "residual_multiplier"), ("logit_scale", "logits_scaling")):
            w.add_float32(f"granite.{key}", special[setting])
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2" if arch == "qwen2" else "smollm")
    w.add_token_list(tokens)
    w.add_token_types([1] * (len(tokens) - 4) + [3] * 4)
    w.add_token_merges(merges)
    w.add_bos_token_id(257)
    w.add_eos_token_id(258)
    names = gguf.get_tensor_name_map({"qwen2": gguf.MODEL_ARCH.QWEN2, "gemma2": gguf.MODEL_ARCH.GEMMA2}.get(arch, gguf.MODEL_ARCH.LLAMA), LAYERS)
    for name, p in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        v = p.float().numpy()
        if ones and name.endswith("norm.weight"):
            v = v + 1
        if permuted:
            for part, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
                if part in name:  # the order of rows that llama.cpp's rotary embedding expects
                    v = v.reshape(heads, 2, v.shape[0] // heads // 2, *v.shape[1:]).swapaxes(1, 2).reshape(v.shape)
        w.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(v))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return {}


def adapter(job):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(job["model"], torch_dtype=torch.float32), LoraConfig(task_type="CAUSAL_LM", **job["settings"]))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(0, 0.1)
    model.save_pretrained(job["adapter"])
    return {}


def log_softmax(x):
    x = np.asarray(x, dtype=np.float64)
    x = x - x.max()
    return (x - np.log(np.exp(x).sum())).tolist()


def transformers(job):
    import torch
    from transformers import AutoModelForCausalLM

    folder, extra = job["model"], {}
    if folder.endswith(".gguf"):
        folder, extra["gguf_file"] = os.path.split(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, **extra)
    if job.get("adapter"):
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, job["adapter"])
    with torch.no_grad():
        return [log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0, -1].numpy()) for ids in job["prompts"]]


def mlx(job):
    from pathlib import Path

    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(job["model"]))
    if job.get("adapter"):
        model = load_adapters(model, job["adapter"])
    model.eval()
    return [log_softmax(np.array(model(mx.array([ids]))[0, -1].astype(mx.float32))) for ids in job["prompts"]]


def llama_server(job, apply):
    import xllamacpp as x

    p = x.CommonParams()
    p.model.path = job["model"]
    p.n_ctx, p.n_parallel, p.warmup, p.port = 256, 1, False, 0
    p.cpuparams.n_threads = 2
    p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
    p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if job.get("adapter"):
        p.lora_adapters = [x.CommonAdapterLoraInfo(job["adapter"], 1.0)]
        p.lora_init_without_apply = not apply
    return x.Server(p)


def ask(address, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, data, {"content-type": "application/json"})) as r:
        return json.load(r)


def llama_cpp(job):
    server = llama_server(job, True)
    out = []
    for ids in job["prompts"]:
        r = ask(server.listening_address, "/completion", {"prompt": ids, "n_predict": 1, "n_probs": 1 << 20, "temperature": -1, "cache_prompt": False})
        row = {t["id"]: t["logprob"] for t in r["completion_probabilities"][0]["top_logprobs"]}
        out.append([row[i] for i in range(len(row))])
    return out


def versions(_):
    from importlib.metadata import version

    import torch

    return {name: version(name) for name in ("transformers", "peft", "gguf", "mlx-lm", "mlx", "xllamacpp")} | {"torch": torch.__version__}


def main():
    # The programs' own words go to stderr, results to stdout.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(2)
    if sys.argv[1] == "serve":
        server = llama_server(json.loads(sys.stdin.readline()), False)
        print(server.listening_address, file=out, flush=True)
        sys.stdin.read()
        return
    do = {"make": make, "adapter": adapter, "peft": transformers, "transformers": transformers, "mlx": mlx, "llama.cpp": llama_cpp, "versions": versions}
    json.dump([do[job["do"]](job) for job in json.load(sys.stdin)], out)
    out.close()


main()
