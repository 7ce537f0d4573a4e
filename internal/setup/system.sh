#!/usr/bin/env bash
# Installs what comes from the system's package manager.
#
#	system.sh vulkan        Vulkan loader and Mesa's drivers, the software one included
#	system.sh chromium      a browser for the page's tests; it brings SwiftShader, a second
#	                        software Vulkan device
#	system.sh torch         PyTorch for CPUs, for the test that loads adapters with PEFT
#
# Debian and its descendants only, with root rights. Elsewhere it says what to install, and
# ends with an error only if that is not in place.
set -euo pipefail
cd "$(dirname "$0")/../.."
. internal/setup/lib.sh

case "${1:-}" in
vulkan)
	packages=(libvulkan1 mesa-vulkan-drivers)
	advice="a Vulkan driver and loader"
	present() { [ "$(uname -s)" != Linux ] || ldconfig -p 2>/dev/null | grep -q libvulkan.so.1; }
	;;
chromium)
	packages=(chromium)
	advice="Chromium, and name it in the variable CHROMIUM and the manifest of its SwiftShader driver in SWIFTSHADER_ICD"
	present() { [ -x "${CHROMIUM:-/usr/bin/chromium}" ] && [ -f "${SWIFTSHADER_ICD:-/usr/lib/chromium/vk_swiftshader_icd.json}" ]; }
	;;
torch)
	packages=(python3 python3-torch)
	advice="torch, transformers, gguf and peft in a Python, and name it in the variable DND_PYTHON"
	present() { [ -n "${DND_PYTHON:-}" ]; }
	;;
*)
	fail "usage: system.sh vulkan|chromium|torch"
	;;
esac

missing=()
if command -v dpkg-query >/dev/null; then
	for p in "${packages[@]}"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || exit 0
fi

root=()
[ "$(id -u)" = 0 ] || root=(sudo -n)
if [ ${#missing[@]} -gt 0 ] && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
	say "installing ${missing[*]}"
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	{ "${root[@]}" apt-get update || true; } >"$log" 2>&1
	if "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
		exit 0
	fi
	tail -n 3 "$log" >&2
	fail "apt-get could not install ${missing[*]}; install them by hand"
fi
present && exit 0
if [ ${#missing[@]} -gt 0 ]; then
	fail "no root rights: run 'apt-get install ${missing[*]}' as root, or install $advice"
fi
fail "install $advice"
