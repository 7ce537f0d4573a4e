#!/usr/bin/env bash
# Fetches what web is built with, web/node_modules, as package-lock.json pins it.
set -euo pipefail
cd "$(dirname "$0")/../.."
. internal/setup/lib.sh

version=$(cksum <web/package-lock.json)
[ -d web/node_modules ] && [ "$(cat "$deps/npm.version" 2>/dev/null)" = "$version" ] && exit 0
command -v npm >/dev/null || fail "npm is missing: install Node.js 20 or newer"
say "fetching npm packages"
npm ci --prefix web --silent --no-audit --no-fund || fail "npm could not install web/package-lock.json; is an npm registry in reach?"
mkdir -p "$deps"
stamp npm "$version"
