#!/usr/bin/env python3
"""Looks at a wheel of the Python package: files, tag, metadata, size.

    python3 tools/check_wheel.py WHEEL VERSION

Fails with one line where something is not as it should be."""

import pathlib
import re
import sys
import zipfile

# The embedded model is 21.6 MiB of it.
LARGEST = 48 << 20

MODULES = ["__init__.py", "_cupscale.pyi", "_engine.py", "_errors.py", "_pictures.py", "_types.py", "py.typed"]


def check(wheel: pathlib.Path, version: str) -> str:
    """What is wrong with the wheel; empty if nothing is."""
    found = re.fullmatch(r"cupscale-(.+)-cp310-abi3-(.+)\.whl", wheel.name)
    if found is None:
        return "its name does not say cp310-abi3"
    if found[1] != version:
        return f"its version is not {version}"
    # A tag of a bare Linux would mean that it needs libraries that others may not have.
    if found[2].startswith("linux_"):
        return f"its platform {found[2]} fits no manylinux: which libraries does it need? (auditwheel show)"
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
        info = f"cupscale-{version}.dist-info"
        metadata = files.read(f"{info}/METADATA").decode()
        module = [name for name in names if re.fullmatch(r"cupscale/_cupscale\.(abi3\.so|pyd)", name)]
        if len(module) != 1:
            return "it has not one module of the stable interface"
        wanted = {f"cupscale/{name}" for name in MODULES}
        missing = wanted - names
        if missing:
            return f"{', '.join(sorted(missing))} missing"
        other = [name for name in names - wanted - set(module) if not name.startswith((f"{info}/", "cupscale.libs/"))]
        if other:
            return f"{', '.join(sorted(other))} should not be in it"
        licences = [name for name in names if name.startswith(f"{info}/licenses/LICENSE-") and files.getinfo(name).file_size > 1000]
        if len(licences) != 3:
            return "it has not all licences"
    for line in ("Name: cupscale", f"Version: {version}", "License-Expression: MIT OR Apache-2.0", "Requires-Python: >=3.10"):
        if line not in metadata.splitlines():
            return f"its metadata have no line `{line}`"
    if "# cupscale for Python" not in metadata:
        return "its description is not the README"
    size = wheel.stat().st_size
    if size > LARGEST:
        return f"it has {size / 2**20:.1f} MiB, more than {LARGEST >> 20}"
    print(f"{wheel.name}: {size / 2**20:.1f} MiB, {len(names)} files")
    return ""


if __name__ == "__main__":
    path = pathlib.Path(sys.argv[1])
    wrong = check(path, sys.argv[2])
    if wrong:
        raise SystemExit(f"{path.name}: {wrong}")
