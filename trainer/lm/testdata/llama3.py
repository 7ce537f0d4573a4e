"""Writes llama3/: a tiny made-up model in the manner of Llama 3.2 (rotary positions scaled by
frequency, whole words before merges, its chat template), and golden.json, what transformers makes of it.

    python trainer/lm/testdata/llama3.py        # transformers 4.46.3, tokenizers 0.20.3
"""
import json
import os

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "llama3")
os.makedirs(out, exist_ok=True)

pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
t = Tokenizer(models.BPE())
t.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
])
t.decoder = decoders.ByteLevel()
text = ["What is the capital of France?", "The capital of France is Paris.", "It isn't 1234567, it's 42!", "naïve café, 日本語\n\n  indented\ttabs",
        "user assistant system", "Answer with one word: the last word of the sentence."] * 4
t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
# A word of the vocabulary that no merges lead to: only ignore_merges finds it.
made = json.loads(t.to_str())
made["model"]["ignore_merges"] = True
made["model"]["vocab"]["Ġzebra"] = t.get_vocab_size()
t = Tokenizer.from_str(json.dumps(made))
t.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
made = json.loads(t.to_str())
with open(os.path.join(out, "tokenizer.json"), "w") as f:
    json.dump(made, f, ensure_ascii=False)
template = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}")
with open(os.path.join(out, "tokenizer_config.json"), "w") as f:
    json.dump({"chat_template": template}, f)
tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(out, "tokenizer.json"), bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", chat_template=template)

torch.manual_seed(5)
config = LlamaConfig(
    vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    rms_norm_eps=1e-5, rope_theta=500000.0, max_position_embeddings=512, tie_word_embeddings=True, initializer_range=0.3,
    rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64})
config._name_or_path = "example/llama3"
model = LlamaForCausalLM(config).eval()
state = {k: v.half() for k, v in model.state_dict().items() if k != "lm_head.weight"}
save_file(state, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
model.tie_weights()
with open(os.path.join(out, "config.json"), "w") as f:
    kept = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
            "hidden_act", "rms_norm_eps", "rope_theta", "rope_scaling", "tie_word_embeddings", "attention_bias")
    json.dump({"_name_or_path": "example/llama3"} | {k: getattr(config, k) for k in kept}, f, indent=1)

texts = ["What is the capital of France?", " a zebra, 1234567 of them; it isn't\n\n  so\r\n \tHELLO'S", "日本語 naïve  café 7", "\n\nuser\n", "x'LL 12 345 6789"]
golden = {"texts": [{"text": x, "ids": tokenizer.encode(x, add_special_tokens=False)} for x in texts], "prompts": [], "nll": []}
for system, user in [("", " What is the capital of France?\n"), ("Answer with one word.", "it's 42!")]:
    messages = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": user}]
    golden["prompts"].append({"system": system, "user": user, "ids": tokenizer.apply_chat_template(messages, add_generation_prompt=True)})
generator = torch.Generator().manual_seed(1)
for n in [12, 150]:
    ids = torch.randint(0, 256, (1, n), generator=generator)
    with torch.no_grad():
        nll = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum")
    golden["nll"].append({"ids": ids[0].tolist(), "nll": nll.item()})
with open(os.path.join(out, "golden.json"), "w") as f:
    json.dump(golden, f, ensure_ascii=False)
