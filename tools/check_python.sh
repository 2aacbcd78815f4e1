#!/usr/bin/env bash
# The Python package, as people get it: its source archive, unpacked elsewhere, becomes a wheel; the wheel's contents, tag and size
# are looked at; it is installed into an environment of its own; its tests hold it to the program's bytes, and type checkers and
# stubtest to its types.
#
#     tools/check_python.sh [PROGRAM]      # the program of the same sources; default: the release build in $CARGO_TARGET_DIR
#
# What is from PyPI lies in a folder outside the clone. Crates are compiled where the program's are.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
cache=${CUPSCALE_CI_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cupscale-ci}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
program=$(realpath "${1:-$CARGO_TARGET_DIR/release/cupscale-fast}")
[ -x "$program" ] || { echo "$program: no program; build it first: cargo build --release" >&2; exit 1; }
profile=${CUPSCALE_PYTHON_PROFILE:-release}
step() { printf '\n-- python: %s (after %d min %02d s)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

wanted=$(sha256sum python/tests/requirements.txt | cut -c1-16)
venv="$cache/python-$wanted"
if [ ! -e "$venv/complete" ]; then
    step "tools"
    rm -rf "$venv"
    mkdir -p "$cache"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r python/tests/requirements.txt
    touch "$venv/complete"
fi
export PYO3_PYTHON="$venv/bin/python"

# Each keyword, and each file, has one place.
step "versions and format"
version() { sed -n '0,/^version = "\(.*\)"/s//\1/p' "$1"; }
[ "$(version Cargo.toml)" = "$(version python/Cargo.toml)" ] || {
    echo "python/Cargo.toml: version $(version python/Cargo.toml), and the program has $(version Cargo.toml)" >&2
    exit 1
}
(cd python && cargo fmt --check)
# What both have of a crate is of one version.
python3 - <<'PY'
import re

def versions(path):
    text = open(path, encoding="utf-8").read()
    return set(re.findall(r'name = "(.*)"\nversion = "(.*)"\nsource', text))

own = {"pyo3", "pyo3-build-config", "pyo3-ffi", "pyo3-macros", "pyo3-macros-backend", "target-lexicon"}
other = {found for found in versions("python/Cargo.lock") - versions("Cargo.lock") if found[0] not in own}
if other:
    names = ", ".join(f"{name} {version}" for name, version in sorted(other))
    raise SystemExit(f"python/Cargo.lock: {names}: not what Cargo.lock has; take its version (cargo update -p NAME --precise VERSION)")
PY

step "source archive"
work="$cache/python-work"
rm -rf "$work"
mkdir -p "$work/dist"
"$venv/bin/maturin" sdist --manifest-path python/Cargo.toml --out "$work/dist"
# At one place, so that only what has changed is compiled; files get the time of now, for cargo to see that.
tar -xf "$work"/dist/cupscale-*.tar.gz -C "$work" --strip-components 1 --touch

step "wheel"
(cd "$work" && "$venv/bin/maturin" build --quiet --locked --profile "$profile" --out "$work/dist")
wheel=$(echo "$work"/dist/cupscale-*.whl)
"$venv/bin/python" "$root/tools/check_wheel.py" "$wheel" "$(version Cargo.toml)"
"$venv/bin/pip" install --quiet --disable-pip-version-check --force-reinstall --no-deps --no-index "$wheel"

# From elsewhere: the folder of the sources has no module.
cd "$work/dist"
step "types"
"$venv/bin/mypy" --strict --python-version 3.10 -p cupscale
"$venv/bin/mypy" --strict --python-version 3.10 "$root/python/tests/typed.py"
"$venv/bin/python" -m mypy.stubtest cupscale._cupscale
"$venv/bin/pyright" --pythonpath "$venv/bin/python" "$root/python/tests/typed.py"

step "tests"
CUPSCALE_FAST="$program" "$venv/bin/pytest" -q -p no:cacheprovider --rootdir "$root/python" "$root/python/tests"
step "done"
