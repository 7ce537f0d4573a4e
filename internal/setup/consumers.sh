#!/usr/bin/env bash
# Makes build/deps/consumers: the packages of consumers.txt, a folder for PYTHONPATH. Where
# a package index has no binaries for this machine it says so, and the tests that need them
# are skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
. internal/setup/lib.sh

version=$(cksum <internal/setup/consumers.txt)
stamped consumers "$version" && exit 0
say "fetching llama.cpp and mlx-lm"
rm -rf "$deps/consumers"
mkdir -p "$deps"
tag=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if ! python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --no-warn-conflicts --root-user-action=ignore \
	--python-version "$tag" --target "$deps/consumers" --requirement internal/setup/consumers.txt; then
	say "no binaries of internal/setup/consumers.txt for this machine: tests with llama.cpp and mlx-lm will be skipped"
	rm -rf "$deps/consumers"
	exit 0
fi
stamp consumers "$version"
