#!/usr/bin/env bash
# Puts a CUDA 13.0 toolkit into DIR, without root and without a GPU, and prints the variables that
# make cargo and nvcc use it:
#
#   vars=$(bash tools/cuda-env.sh DIR) && eval "$vars"
#
# The toolkit comes from NVIDIA's packages on PyPI, through pip: 1.2 GB, once. Linux only.
set -euo pipefail

# Requirements of candle's `cuda` feature: nvcc with its headers, cuBLAS, cuRAND, NVRTC.
packages=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-runtime==13.0.96
    nvidia-cuda-cccl==13.0.85
    nvidia-cublas==13.0.2.14
    nvidia-curand==10.4.0.35
    nvidia-cuda-nvrtc==13.0.88
)

fail() { echo "cuda-env.sh: $*" >&2; exit 1; }
[ $# = 1 ] || fail "usage: cuda-env.sh DIR"
[ "$(uname -s)" = Linux ] || fail "there is no CUDA toolkit for $(uname -s)"
for compiler in gcc g++; do command -v $compiler >/dev/null || fail "$compiler is needed"; done
mkdir -p "$1"
dir=$(cd "$1" && pwd)
root=$dir/wheels/nvidia/cu13

# The stamp says what is there: an interrupted install has none, other versions have another.
if [ "$(cat "$dir/stamp" 2>/dev/null)" != "${packages[*]}" ]; then
    rm -rf "$dir/stamp" "$dir/wheels"
    python3 -m pip install --quiet --no-deps --only-binary=:all: --no-compile --no-cache-dir \
        --disable-pip-version-check --target "$dir/wheels" "${packages[@]}" >&2 \
        || fail "pip could not install the CUDA toolkit (is there a network?)"
    cd "$root"
    # Build scripts look into lib64, and the linker for libX.so, where the packages have libX.so.N.
    ln -s lib lib64
    for file in lib/*.so.*; do
        name=${file%%.so.*}.so
        [ -e "$name" ] || ln -s "$(basename "$file")" "$name"
    done
    chmod +x bin/* nvvm/bin/*
    # The packages have no driver to link with; at run time NVIDIA's libcuda.so.1 is loaded. Every
    # name in the header, as it stands and after its macros, becomes an empty function.
    mkdir -p lib/stubs
    { cat include/cuda.h; gcc -E -x c -Iinclude include/cuda.h; } \
        | grep -oE '\bcu[A-Z][A-Za-z0-9_]* *\(' | tr -d ' (' | sort -u \
        | sed 's/.*/int &(void){return 100;}/' > lib/stubs/libcuda.c
    gcc -shared -fPIC -w -Wl,-soname,libcuda.so.1 lib/stubs/libcuda.c -o lib/stubs/libcuda.so
    echo "${packages[*]}" > "$dir/stamp"
fi

# 80 is the oldest GPU that has bf16; its PTX is compiled by the driver for every later one.
cat <<END
export CUDA_PATH="$root" CUDA_HOME="$root" CUDA_ROOT="$root" CUDA_TOOLKIT_ROOT_DIR="$root"
export PATH="$root/bin:$root/nvvm/bin:\$PATH"
export LIBRARY_PATH="$root/lib:$root/lib/stubs\${LIBRARY_PATH:+:\$LIBRARY_PATH}"
export LD_LIBRARY_PATH="$root/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
export CUDA_COMPUTE_CAP="\${CUDA_COMPUTE_CAP:-80}" NVCC_CCBIN="\${NVCC_CCBIN:-$(command -v g++)}"
END
