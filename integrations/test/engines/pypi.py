"""Programs and modules of PyPI in an environment of their own, so that a test has them and nothing is installed into the system."""

import fcntl
import hashlib
import os
import subprocess
import sys

import debian


def environment(*requirements):
    """The folder of an environment with these packages, each named with its version."""
    name = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()[:12]
    folder = debian.cache() / "pypi" / f"{requirements[0].split('==')[0]}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            for command in (
                [sys.executable, "-m", "venv", "--clear", folder / "venv"],
                [folder / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
            ):
                done = debian.run(command)
                if done.returncode != 0:
                    said = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
                    raise debian.Unavailable(f"{' '.join(requirements)}: {said[0]}")
            (folder / "complete").touch()
    return folder / "venv"


def with_packages(*requirements):
    """Goes on as the same script with these packages to import."""
    python = environment(*requirements) / "bin/python"
    if os.path.realpath(sys.prefix) != os.path.realpath(python.parent.parent):
        os.execv(python, [python, *sys.argv])
