"""Asks the tokenizers library what it makes of every Unicode character (characters.json)
and of the texts in wordpiece.json, and writes its answers there.

    pip install tokenizers==0.23.3
    python reference.py build/deps/minilm/tokenizer.json

characters.json holds inclusive ranges of characters:
  dropped      the normaliser removes them
  space        it makes a space of them
  spaced       it puts spaces around them (CJK ideographs)
  punctuation  words of their own
  ordered      marks that NFD sorts
  lower        ranges [first, last, distance to the lower-case letter]
  normalized_sha256 is of "a", the character, "b" for all of them, normalised, a line each
"""

import hashlib
import json
import pathlib
import sys

from tokenizers import Tokenizer, normalizers, pre_tokenizers

HERE = pathlib.Path(__file__).parent
ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def ranges(values):
    """Runs of characters with equal values; values maps a character to a tuple."""
    runs = []
    for c, value in sorted(values.items()):
        if runs and runs[-1][1] == c - 1 and tuple(runs[-1][2:]) == value:
            runs[-1][1] = c
        else:
            runs.append([c, c, *value])
    return runs


def characters():
    bert = normalizers.BertNormalizer(strip_accents=True, lowercase=False)
    lower = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=True)
    full = normalizers.BertNormalizer(lowercase=True)
    nfd = normalizers.NFD()
    split = pre_tokenizers.BertPreTokenizer()
    table = {name: {} for name in ("dropped", "space", "spaced", "punctuation", "ordered", "lower")}
    for c in ALL:
        ch = chr(c)
        clean = bert.normalize_str("a" + ch + "b")
        if clean == "ab":
            table["dropped"][c] = ()
        elif clean == "a b":
            table["space"][c] = ()
        elif clean.startswith("a ") and clean.endswith(" b"):
            table["spaced"][c] = ()
        if len(split.pre_tokenize_str("a" + ch + "b")) == 3:
            table["punctuation"][c] = ()
        small = lower.normalize_str("a" + ch + "b")[1:-1]
        if len(small) == 1 and small != ch:
            table["lower"][c] = (ord(small) - c,)
        if nfd.normalize_str(ch) == ch:
            low, high = "\u0334", "\u0345"
            if nfd.normalize_str("a" + ch + low) != "a" + ch + low or nfd.normalize_str("a" + high + ch) != "a" + high + ch:
                table["ordered"][c] = ()
    digest = hashlib.sha256("".join(full.normalize_str("a" + chr(c) + "b") + "\n" for c in ALL).encode()).hexdigest()
    return {name: ranges(values) for name, values in table.items()} | {"normalized_sha256": digest}


def answers(tokenizer, texts):
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False).ids} for t in texts]


if __name__ == "__main__":
    corpus = HERE / "wordpiece.json"
    texts = [case["text"] for case in json.loads(corpus.read_text())]
    corpus.write_text(json.dumps(answers(Tokenizer.from_file(sys.argv[1]), texts)))
    lines = [f'  "{name}": {json.dumps(value, separators=(",", ":"))}' for name, value in characters().items()]
    (HERE / "characters.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
