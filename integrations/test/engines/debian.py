"""Programs of Debian's packages in a folder of their own, so that a test has them and nothing is installed into the system."""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess


class Unavailable(Exception):
    """What a test needs cannot be had on this machine."""


def cache():
    """The folder for what is slow to fetch, the same as that of `.ci/run`."""
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return pathlib.Path(os.environ.get("CUPSCALE_CI_CACHE") or home / "cupscale-ci")


def unpacked(*packages):
    """The root of a folder with these packages, and with those that they need and the system lacks."""
    if not shutil.which("apt-get"):
        raise Unavailable("no apt-get on this machine, so no packages of Debian's")
    release = pathlib.Path("/etc/os-release").read_text()
    name = hashlib.sha256("\n".join([release, *sorted(packages)]).encode()).hexdigest()[:12]
    folder = cache() / "debian" / f"{packages[0]}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            fetch(packages, folder)
            (folder / "complete").touch()
    return folder / "root"


def fetch(packages, folder):
    """Downloads and unpacks, by the system's lists of packages or, where those are missing or old, by new ones."""
    lists = folder / "lists"
    own = [
        "-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={folder / 'apt'}", "-o", "APT::Sandbox::User=root",
    ]
    error = ""
    for options in ([], own):
        archives = folder / "archives"
        for made in (archives, folder / "root"):
            shutil.rmtree(made, ignore_errors=True)
        archives.mkdir()
        if options:
            (lists / "partial").mkdir(parents=True, exist_ok=True)
            (folder / "apt" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
            # A source that is out of reach does not matter, if the others have what is needed.
            run(["apt-get", "-qq", *options, "update"])
        plan = run(["apt-get", "-s", *options, "--no-install-recommends", "install", *packages])
        needed = {line.split()[1] for line in plan.stdout.splitlines() if line.startswith("Inst ")}
        loaded = run(["apt-get", "-qq", *options, "download", *sorted(needed | set(packages))], cwd=archives)
        found = list(archives.glob("*.deb"))
        if plan.returncode == 0 and loaded.returncode == 0 and found:
            for archive in found:
                subprocess.run(["dpkg", "-x", archive, folder / "root"], check=True)
            for made in (archives, lists, folder / "apt"):
                shutil.rmtree(made, ignore_errors=True)
            return
        error = (loaded.stderr or plan.stderr).strip().splitlines()[-1:] or ["no packages came"]
    raise Unavailable(f"{' '.join(packages)}: {error[0]}")


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def environment(root):
    """The variables with which unpacked programs find each other and their libraries."""
    libraries = [it for it in (root / "usr/lib").glob("*-linux-gnu")] + [root / "usr/lib"]
    # Slurm keeps its own library beside its plug-ins.
    libraries += [it for folder in libraries for it in [folder / "slurm-wlm"] if it.is_dir()]
    old = os.environ.get("LD_LIBRARY_PATH")
    return {
        "PATH": f"{root}/usr/sbin:{root}/usr/bin:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join([*map(str, libraries), *([old] if old else [])]),
    }
