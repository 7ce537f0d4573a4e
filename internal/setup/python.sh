#!/usr/bin/env bash
# Makes build/deps/venv: a Python with the system's PyTorch and the packages of
# requirements.txt. Does nothing where DND_PYTHON names a Python to use instead.
set -euo pipefail
cd "$(dirname "$0")/../.."
. internal/setup/lib.sh

[ -z "${DND_PYTHON:-}" ] || exit 0
version=$(cksum <internal/setup/requirements.txt)
stamped venv "$version" && exit 0

# The system's own Python, since it is the one that sees the system's PyTorch.
python=/usr/bin/python3
"$python" -c 'import torch' 2>/dev/null || fail "$python has no torch (Debian: apt-get install python3-torch)"
say "fetching Python packages"
rm -rf "$deps/venv"
mkdir -p "$deps"
"$python" -m venv --system-site-packages --without-pip "$deps/venv"
site=$("$deps/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
tag=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --no-warn-conflicts --root-user-action=ignore \
	--python-version "$tag" --target "$site" --requirement internal/setup/requirements.txt ||
	fail "pip could not install internal/setup/requirements.txt; is a Python package index in reach?"
"$deps/venv/bin/python" -c 'import peft, transformers, gguf' || fail "the Python packages do not fit together with this system's PyTorch"
stamp venv "$version"
