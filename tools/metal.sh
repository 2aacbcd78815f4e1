#!/usr/bin/env bash
# Compiles every Metal kernel with Apple's compiler, as the program does it at its start: `common.metal` and one file as one
# text, Metal 3.0, no fast mathematics; it fails on warnings. Elsewhere than on a Mac with its developer tools it says so and
# does nothing: there `kernels/check` checks types and address spaces.
#
#   tools/metal.sh                       # every kernel
#   tools/metal.sh kernels/norm.metal    # one file
set -euo pipefail
cd "$(dirname "$0")/.."

if ! xcrun -sdk macosx -find metal >/dev/null 2>&1; then
    echo "metal.sh: Apple's Metal compiler is not here, nothing is compiled" >&2
    exit 0
fi
if [ $# -eq 0 ]; then
    for file in kernels/*.metal; do
        [ "$file" = kernels/common.metal ] || set -- "$@" "$file"
    done
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for file in "$@"; do
    { echo '#line 1 "common.metal"'; cat kernels/common.metal; echo "#line 1 \"$(basename "$file")\""; cat "$file"; } >"$out/kernel.metal"
    xcrun -sdk macosx metal -std=metal3.0 -fno-fast-math -Wall -Werror -Wno-pass-failed -c "$out/kernel.metal" -o "$out/kernel.air"
    echo "$file compiles"
done
