#!/usr/bin/env python3
"""The API of `serve` against its own description: schemathesis makes requests from /openapi.json, right ones and wrong ones,
and looks whether every answer is one that is described there.

    python3 tools/check_serve.py target/debug/cupscale-fast            # some two minutes
    python3 tools/check_serve.py target/debug/cupscale-fast --seconds 600 --seed 7 -- --model DIR

schemathesis comes from PyPI, into an environment of its own in the cache folder, once. The server runs on the loopback with a
token, small limits and a folder of jobs that is removed. All checks of schemathesis run but three: that whatever fits the schema
is accepted, which no schema can say of a picture; that a job is gone after its DELETE, which cancels one that has not ended and
removes it only then; and that all of a job is there as soon as it is sent, whose captions and preview come later. Two calls are left
out that are always answered with 501.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import venv

SCHEMATHESIS = "schemathesis==4.32.5"
TOKEN = "token-of-the-check"
# What is beyond a limit of the server is as good a refusal as any.
CONFIGURATION = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 408, 409, 413, 415, 422, 428, 429]
"""
NOT_HERE = ["/sdapi/v1/txt2img", "/sdapi/v1/interrogate"]


def environment() -> pathlib.Path:
    """The programs of an environment with schemathesis."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = pathlib.Path(os.environ.get("CUPSCALE_CI_CACHE") or os.path.join(cache, "cupscale-ci"))
    folder = cache / SCHEMATHESIS.replace("==", "-")
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([programs / "python", "-m", "pip", "install", "--quiet", SCHEMATHESIS], check=True)
        (folder / "complete").touch()
    return programs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--seconds", type=int, default=120, help="time for requests")
    parser.add_argument("--seed", type=int, default=1)
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments = parser.parse_args(sys.argv[1:at])
    programs = environment()
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "schemathesis.toml").write_text(CONFIGURATION)
        command = [arguments.program, "serve", "--listen", "127.0.0.1:0", "--token", TOKEN, "--captioner", "none",
                   "--jobs-dir", os.path.join(folder, "jobs"), "--max-body", "4MiB", "--max-pixels", "1000000",
                   *sys.argv[at + 1:]]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().strip()
            if not address:
                return 1
            excluded = [word for path in NOT_HERE for word in ("--exclude-path", path)]
            result = subprocess.run(
                [programs / "schemathesis", "run", f"{address}openapi.json", "--checks", "all",
                 "--exclude-checks", "positive_data_acceptance,use_after_free,ensure_resource_availability", "--header", f"Authorization: Bearer {TOKEN}",
                 "--max-time", str(arguments.seconds), "--max-examples", "50", "--workers", "1",
                 "--seed", str(arguments.seed), "--request-timeout", "60", "--suppress-health-check", "all",
                 "--continue-on-failure", "--no-color", "--warnings", "off", *excluded],
                cwd=folder,
            )
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
        left = [path.name for path in pathlib.Path(folder, "jobs").iterdir() if path.name.startswith(("new-", "gone-"))]
    if code != 130:
        print(f"the server ended with {code} and not with 130", file=sys.stderr)
    if left:
        print(f"left behind: {', '.join(left)}", file=sys.stderr)
    return result.returncode or int(code != 130 or bool(left))


if __name__ == "__main__":
    sys.exit(main())
