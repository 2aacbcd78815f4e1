#!/usr/bin/env bash
# Compiles every CUDA kernel to PTX for compute_80, as the build does, and that to the code of GPUs of several
# generations; prints the registers of each kernel on each. It fails on errors and warnings, and if a kernel
# keeps registers or arrays in memory on any of them.
#
#   vars=$(bash tools/cuda-env.sh DIR) && eval "$vars"
#   tools/kernels.sh                     # every kernel
#   tools/kernels.sh kernels/norm.cu     # one file
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "kernels.sh: $*" >&2; exit 1; }
for tool in nvcc ptxas; do command -v $tool >/dev/null || fail "$tool is not in PATH; see tools/cuda-env.sh"; done
[ $# -gt 0 ] || set -- kernels/*.cu
generations=(sm_80 sm_90 sm_120)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

for file in "$@"; do
    name=$(basename "$file" .cu)
    nvcc -O3 -std=c++17 -ptx -arch=compute_80 -Werror all-warnings "$file" -o "$out/$name.ptx"
    for generation in "${generations[@]}"; do
        echo "generation $generation" >>"$out/log"
        ptxas -v -arch="$generation" "$out/$name.ptx" -o "$out/$name.cubin" 2>"$out/errors" || { cat "$out/errors" >&2; exit 1; }
        grep -q 'Compiling entry function' "$out/errors" || fail "$file has no kernel"
        cat "$out/errors" >>"$out/log"
    done
done

# A line for each kernel: its name, and its registers on each generation. `ptxas -v` prints name, stack and registers in turn.
printf '%-36s%8s%8s%8s\n' kernel "${generations[@]}"
awk '
    $1 == "generation" { generation = $2 }
    /Compiling entry function/ { split($0, part, "\047"); name = part[2] }
    /bytes stack frame/ {
        if ($1 + $5 + $9 > 0) bad = bad sprintf("%s on %s: %d bytes of a stack, %d of spilled registers\n", name, generation, $1, $5)
    }
    /Used [0-9]+ registers/ {
        match($0, /Used [0-9]+/)
        if (!(name in registers)) order[++count] = name
        registers[name] = registers[name] sprintf("%8d", substr($0, RSTART + 5, RLENGTH - 5))
    }
    END {
        for (i = 1; i <= count; i++) printf "%-36s%s\n", order[i], registers[order[i]] | "sort"
        close("sort")
        if (bad) { printf "%s", bad > "/dev/stderr"; exit 1 }
    }' "$out/log" || fail "kernels keep registers or arrays in memory"
