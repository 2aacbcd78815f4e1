"""Many tiny pictures in shares, by a Slurm array on a cluster of two nodes on this machine: with processes that are killed by
chance and begin again, every output once and with one process's bytes; and how fast some workers of one thread each are,
beside one process with all threads.

    python3 benches/shares.py target/release/cupscale-fast                       # 2,000 pictures, 50 shares, 4 workers, 20 kills, 3 rounds
    python3 benches/shares.py target/release/cupscale-fast --pictures 60 --shares 6 --kills 2 --rounds 1

The cluster is that of the tests (`integrations/test/engines`), from Debian's packages, and the script that of
`integrations/slurm`. Whole times count: from the array's submission to the end of its last task, and from the start of one process to
its end, in turn.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "integrations/test/engines"))

import pictures  # noqa: E402
import slurm  # noqa: E402
import slurm_cluster  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(description="A folder in shares, killed at random, and how fast it is.")
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--shares", type=int, default=50)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="of timing, after the one with kills")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the one process")
    parser.add_argument("--options", default="--scale 1 --rap 0 -q", help="of both")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


class Bench:
    def __init__(self, asked, cluster, folder):
        self.asked, self.cluster, self.folder = asked, cluster, folder
        self.program = asked.program.resolve()

    def one(self):
        """Seconds of one process; its outputs are what the others are held against."""
        shutil.rmtree(self.folder / "one", ignore_errors=True)
        started = time.monotonic()
        subprocess.run(
            [self.program, "shots", "-o", "one", *self.asked.options.split(), "--threads", str(self.asked.threads)],
            check=True, cwd=self.folder,
        )
        seconds = time.monotonic() - started
        self.reference = pictures.outputs(self.folder / "one")
        return seconds

    def array(self, kills=0):
        """Seconds of an array, with processes that are killed while they work; everything is there and right."""
        shutil.rmtree(self.folder / "many", ignore_errors=True)
        for log in self.folder.glob("cupscale-*.log"):
            log.unlink()
        script = self.folder / "edited.sbatch"
        script.write_text(slurm.edited(
            array=f"1-{self.asked.shares}%{self.asked.workers}", cpus_per_task=1, mem="2G", time="600", shares=self.asked.shares,
            input="shots", output="many", options=f"({self.asked.options})",
        ))
        started = time.monotonic()
        job = self.cluster.submit(script, cwd=self.folder, variables={"CUPSCALE_FAST": str(self.program)})
        killed = self.kill(job, kills) if kills else []
        tasks = self.cluster.finished(job, 4 * 3600)
        seconds = time.monotonic() - started
        bad = {task: (it["JobState"], it["ExitCode"]) for task, it in tasks.items() if it["JobState"] != "COMPLETED"}
        assert not bad and len(tasks) == self.asked.shares, f"tasks that did not complete: {bad}"
        restarts = {task: int(it["Restarts"]) for task, it in tasks.items()}
        assert sum(restarts.values()) == len(killed), f"{len(killed)} kills, and tasks began again {restarts}"
        pictures.same(self.reference, self.folder / "many", self.asked.pictures)
        said, code = pictures.status(self.program, self.folder / "many")
        assert code == 0, said
        return seconds

    def kill(self, job, count):
        """Kills processes in the middle of a picture, by chance: at random times, a random one of those at work."""
        chance, killed = random.Random(self.asked.seed), []
        while len(killed) < count:
            time.sleep(chance.uniform(0, self.pause))
            # A task is put back three times at most.
            at_work = slurm.at_work(self.program, self.folder)
            choice = [task for task in sorted(at_work) if killed.count(task) < 3]
            if choice:
                task = chance.choice(choice)
                os.kill(at_work[task], signal.SIGKILL)
                killed.append(task)
            ended = self.cluster.state(job)
            assert set(ended) & slurm_cluster.UNFINISHED, f"the array ended after {len(killed)} kills: {ended}"
        return killed

    def run(self):
        asked = self.asked
        pictures.cut(self.program, self.folder / "shots", asked.pictures, 32, 24)
        seconds = self.one()
        print(f"one process, {asked.threads} threads: {asked.pictures} pictures in {seconds:.1f} s", flush=True)
        if asked.kills:
            # Over the first quarter of the time or so, so that as many find a process at work.
            self.pause = seconds / asked.kills / 2
            seconds = self.array(asked.kills)
            print(
                f"array 1-{asked.shares}%{asked.workers}, {asked.kills} processes killed: {seconds:.1f} s; "
                f"{asked.pictures} outputs, each once, the bytes of one process", flush=True,
            )
        ratios = []
        for _ in range(asked.rounds):
            one, many = self.one(), self.array()
            ratios.append(one / many)
            print(f"one process {one:.1f} s, array of {asked.workers} workers {many:.1f} s: {one / many:.2f}", flush=True)
        if ratios:
            print(
                f"throughput of {asked.workers} workers of one thread each / of one process with {asked.threads} threads: "
                f"{statistics.median(ratios):.2f} (median of {len(ratios)})",
            )


def main():
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cupscale-bench-")).resolve()
    try:
        with slurm_cluster.Cluster(nodes=2, cpus=max(1, -(-asked.workers // 2))) as cluster:
            Bench(asked, cluster, folder).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
