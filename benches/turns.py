"""Taking turns with PyTorch: our benches compute on request (`benches/turns.rs`), so that both programs are timed in
one run, one after the other, on a machine in one state."""

import json
import os
import pathlib
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def bench_binary(name):
    """Builds a bench and gives its program; run by itself, so that cargo's memory is not counted."""
    lines = subprocess.run(
        ["cargo", "bench", "-q", "--bench", name, "--no-run", "--message-format", "json"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout.splitlines()
    built = [json.loads(line) for line in lines if line.startswith("{")]
    # The program itself is built beside it.
    return next(it["executable"] for it in built if it.get("executable") and it["target"]["name"] == name)


class Ours:
    """A bench in a process of its own, idle until it is asked."""

    def __init__(self, command, threads):
        self.process = subprocess.Popen(
            [*map(str, command), "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "RAYON_NUM_THREADS": str(threads)},
        )

    def seconds(self, name, count):
        """Seconds of each of `count` calls, after one that is not counted."""
        self.process.stdin.write(f"{count} {name}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[0]}: ended at `{name}`")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


def timed(operation):
    """The same of a Python function: one that gives the seconds of so many calls."""
    def seconds(count):
        operation()
        times = []
        for _ in range(count):
            started = time.perf_counter()
            operation()
            times.append(time.perf_counter() - started)
        return times
    return seconds


def take_turns(theirs, ours, rounds, count):
    """Median seconds of both programs and median ratio of ours to theirs over `rounds` turns, in each of which the best
    of `count` calls counts (other work on the machine only ever adds time). Both are functions that give the seconds of so
    many calls."""
    pairs = [(min(theirs(count)), min(ours(count))) for _ in range(rounds)]
    ratio = statistics.median(b / a for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio
