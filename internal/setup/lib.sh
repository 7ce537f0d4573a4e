# What the set-up scripts share. Sourced, not run; the scripts run in the repository's root.

deps=build/deps

say() { printf 'set-up: %s\n' "$*" >&2; }

# fail ends the script with one line that says what to do.
fail() {
	say "$*"
	exit 1
}

# stamped NAME VERSION: is this version of NAME in place?
stamped() { [ -d "$deps/$1" ] && [ "$(cat "$deps/$1.version" 2>/dev/null)" = "$2" ]; }

stamp() { printf '%s\n' "$2" >"$deps/$1.version"; }

python() {
	command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1 ||
		fail "install Python 3 with pip (Debian: apt-get install python3-pip)"
	python3 "$@"
}
