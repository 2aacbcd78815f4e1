#!/usr/bin/env python3
"""Makes static libraries that stand for NVIDIA's: a program linked with them starts where none of
those is installed, and loads them at the first call. Where one is missing, its functions return an
error code, which candle's `Device::new_cuda` passes on.

    python3 tools/lazylibs.py "$CUDA_HOME" OUT        # the toolkit of tools/cuda-env.sh
    cargo rustc --release --features cuda --bin cupscale-fast -- -L native=OUT

Linux on x86-64 only."""

import re
import subprocess
import sys
from pathlib import Path

# Name, what is tried at run time, and what a function returns if nothing of it is there.
LIBRARIES = [
    ("cuda", ["libcuda.so.1"], 100),  # CUDA_ERROR_NO_DEVICE
    ("cublas", ["libcublas.so.13", "libcublas.so.12"], 1),  # CUBLAS_STATUS_NOT_INITIALIZED
    ("cublasLt", ["libcublasLt.so.13", "libcublasLt.so.12"], 1),
    ("curand", ["libcurand.so.10"], 203),  # CURAND_STATUS_INITIALIZATION_FAILED
    ("nvrtc", ["libnvrtc.so.13", "libnvrtc.so.12"], 4),  # NVRTC_ERROR_INVALID_PROGRAM
]

# Registers that may hold a call's arguments.
INTEGER_REGISTERS = ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax", "rbp"]
VECTOR_REGISTERS = range(8)


def functions(toolkit, name):
    """The functions of a library; the driver's are those of cuda-env.sh's stub."""
    if name == "cuda":
        return re.findall(r"^int (cu\w+)\(", (toolkit / "lib/stubs/libcuda.c").read_text(), re.M)
    library = toolkit / f"lib/lib{name}.so"
    lines = subprocess.check_output(["nm", "-D", "--defined-only", library], text=True).splitlines()
    rows = [row for row in map(str.split, lines) if len(row) == 3 and row[1] in "TW"]
    found = sorted({symbol.split("@")[0] for _, _, symbol in rows})
    other = "cublasLt" if name == "cublas" else "\0"
    return [symbol for symbol in found if symbol.startswith(name) and not symbol.startswith(other)]


def resolver(name, names, sonames, error):
    """C: looks up the function of an index, and keeps its address in the table."""
    table, hidden = f"lazy_{name}_table", '__attribute__((visibility("hidden")))'
    quoted = lambda strings: ", ".join(f'"{string}"' for string in strings)
    return f"""#include <dlfcn.h>
#include <stddef.h>
static const char *const sonames[] = {{{quoted(sonames)}, NULL}};
static const char *const names[] = {{{quoted(names)}}};
{hidden} void *{table}[{len(names)}];
static long missing(void) {{ return {error}; }}
{hidden} void *lazy_{name}_resolve(long index) {{
    static void *library;
    for (int i = 0; !library && sonames[i]; i++) library = dlopen(sonames[i], RTLD_NOW | RTLD_GLOBAL);
    void *function = library ? dlsym(library, names[index]) : NULL;
    return {table}[index] = function ? function : (void *)missing;
}}
"""


def trampolines(name, names):
    """Assembly: every function jumps through the table, the first time by way of the resolver."""
    lines = [".text", f"lazy_{name}_slow:"]
    lines += [f" push %{register}" for register in INTEGER_REGISTERS]
    lines += [" mov %rsp, %rbp", f" sub ${16 * len(VECTOR_REGISTERS)}, %rsp", " and $-16, %rsp"]
    lines += [f" movups %xmm{i}, {16 * i}(%rsp)" for i in VECTOR_REGISTERS]
    lines += [" mov %r11, %rdi", f" call lazy_{name}_resolve@PLT", " mov %rax, %r11"]
    lines += [f" movups {16 * i}(%rsp), %xmm{i}" for i in VECTOR_REGISTERS]
    lines += [" mov %rbp, %rsp"]
    lines += [f" pop %{register}" for register in reversed(INTEGER_REGISTERS)]
    lines += [" jmp *%r11"]
    for i, function in enumerate(names):
        lines += [f".globl {function}", f".type {function}, @function", f"{function}:"]
        lines += [f" mov lazy_{name}_table+{8 * i}(%rip), %r11", " test %r11, %r11", " jz 1f"]
        lines += [" jmp *%r11", f"1: mov ${i}, %r11d", f" jmp lazy_{name}_slow"]
    lines += ['.section .note.GNU-stack,"",@progbits', ""]
    return "\n".join(lines)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: lazylibs.py CUDA_HOME OUT")
    toolkit, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name, sonames, error in LIBRARIES:
        names = functions(toolkit, name)
        if not names:
            sys.exit(f"lazylibs.py: no functions of {name} in {toolkit}")
        sources = [out / f"{name}_resolver.c", out / f"{name}_trampolines.s"]
        sources[0].write_text(resolver(name, names, sonames, error))
        sources[1].write_text(trampolines(name, names))
        objects = [source.with_suffix(".o") for source in sources]
        for source, built in zip(sources, objects):
            subprocess.check_call(["gcc", "-O1", "-fPIC", "-c", source, "-o", built])
        archive = out / f"lib{name}.a"
        archive.unlink(missing_ok=True)
        subprocess.check_call(["ar", "rcs", archive, *objects])
    # The runtime itself is there as a static library.
    runtime = out / "libcudart.a"
    runtime.unlink(missing_ok=True)
    runtime.symlink_to(toolkit / "lib/libcudart_static.a")


if __name__ == "__main__":
    main()
