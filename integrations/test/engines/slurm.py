"""The Slurm array of integrations/slurm on a cluster of two nodes: shares whose processes are killed, stopped, preempted,
cancelled and moved to another node go on, and every output is there once with the bytes of one process's.

    python3 integrations/test/engines/slurm.py target/release/cupscale-fast
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import debian
import pictures
import processes
import slurm_cluster

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "slurm" / "cupscale.sbatch"
PICTURES, SHARES = 24, 8
# Of the script; what else is edited are options of sbatch.
VARIABLES = {"shares", "input", "output", "options"}

# Stands for a share that takes longer than its time, and the second time no longer.
WAITING = """#!/bin/bash
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exit 0
trap 'echo stopped; exit 130' TERM
while :; do sleep 0.2; done
"""


def edited(**values):
    """The script as a user has it after editing: lines as they are in the file, with other values."""
    text = SCRIPT.read_text()
    for name, value in values.items():
        start = f"{name}=" if name in VARIABLES else f"#SBATCH --{name.replace('_', '-')}="
        text, count = re.subn(f"^{start}.*$", lambda _: start + str(value), text, flags=re.M)
        assert count == 1, f"the script has {count} lines that begin with {start}"
    return text


def at_work(program, folder):
    """The processes that are in the middle of a picture, by the number of their task."""
    found = {}
    for process in processes.running(program, folder):
        task = processes.variable(process, "SLURM_ARRAY_TASK_ID")
        if task and processes.begun(process):
            found[int(task)] = process
    return found


class Test:
    def __init__(self, program, cluster, folder):
        self.program, self.cluster, self.folder = program, cluster, folder

    def prepare(self):
        pictures.cut(self.program, self.folder / "shots", PICTURES, 96, 72)
        started = time.monotonic()
        subprocess.run(
            [self.program, "-q", "shots", "-o", "one", "--scale", "2", "--threads", "2"], check=True, cwd=self.folder,
        )
        self.reference = pictures.outputs(self.folder / "one")
        print(f"one process: {PICTURES} pictures in {time.monotonic() - started:.1f} s", flush=True)

    def submit(self, *options, program=None, **values):
        values = dict(dict(
            array=f"1-{SHARES}%4", cpus_per_task=1, mem="2G", time="10", shares=SHARES, input="shots", options="(--scale 2 -q)",
        ), **values)
        script = self.folder / "edited.sbatch"
        script.write_text(edited(**values))
        return self.cluster.submit(*options, script, cwd=self.folder, variables={"CUPSCALE_FAST": str(program or self.program)})

    def at_work(self, wanted=lambda task: True):
        """Waits for a task that is wanted and works on a picture, and gives it with its process."""
        return self.cluster.until(
            lambda: next((it for it in sorted(at_work(self.program, self.folder).items()) if wanted(it[0])), None),
            "no task that is wanted is at work",
        )

    def log(self, job, task):
        return (self.folder / f"cupscale-{job}_{task}.log").read_text()

    def done(self, job, output, tasks=None):
        tasks = self.cluster.finished(job) if tasks is None else tasks
        bad = {task: (it["JobState"], it["ExitCode"]) for task, it in tasks.items() if it["JobState"] != "COMPLETED"}
        assert not bad, f"tasks that did not complete: {bad}\n" + "\n".join(self.log(job, task) for task in bad)
        pictures.same(self.reference, self.folder / output, PICTURES)
        return tasks

    def linted(self):
        """The script as it is, by shellcheck."""
        root = debian.unpacked("shellcheck")
        done = debian.run([root / "usr/bin/shellcheck", SCRIPT], env={**os.environ, **debian.environment(root)})
        assert done.returncode == 0, done.stdout
        # What stands below the first command Slurm passes over.
        lines = SCRIPT.read_text().splitlines()
        first = next(number for number, text in enumerate(lines) if text and not text.startswith("#"))
        late = [text for text in lines[first:] if text.startswith("#SBATCH")]
        assert not late, f"Slurm does not see {late}"

    def out_of_time(self):
        """A task whose time ends is stopped before that, and put back. Slurm looks every half minute: the others run meanwhile."""
        waiting = self.folder / "waiting.sh"
        waiting.write_text(WAITING)
        waiting.chmod(0o755)
        self.timed = self.submit("--signal=B:USR1@50", program=waiting, time="1", array="1-1", shares=1, output="none")

    def came_back(self):
        tasks = self.cluster.finished(self.timed)
        log = self.log(self.timed, 1)
        assert tasks[1]["JobState"] == "COMPLETED" and tasks[1]["Restarts"] == "1", f"{tasks[1]}\n{log}"
        assert "goes back into the queue (exit code 130)" in log and log.count("stopped") == 1, log
        print("time: a task whose time was nearly over was stopped once, and began again")

    def with_gpus(self):
        """The line that asks for a GPU, switched on, is right by itself: Slurm refuses it for what this cluster has not, and no more."""
        script = self.folder / "edited.sbatch"
        text = edited(array="1-2", mem="2G", cpus_per_task=1)
        assert "\n##SBATCH --gpus" in text
        script.write_text(text.replace("\n##SBATCH --gpus", "\n#SBATCH --gpus"))
        said = self.cluster.sbatch(script, cwd=self.folder).stderr
        assert "Requested node configuration is not available" in said and "not allowed" not in said, said
        print("GPUs: the line for them is understood")

    def interrupted(self):
        """An array over all pictures, while its tasks are killed and stopped in every way that puts them back."""
        job = self.submit(output="big")
        used = {}
        for way in ("killed", "asked", "stopped", "requeued"):
            task, process = self.at_work(lambda task: task not in used)
            used[task] = way
            if way == "killed":
                os.kill(process, signal.SIGKILL)
            elif way == "asked":
                # What the script gets two minutes before the time is over, and anybody may send.
                os.kill(processes.parent(process), signal.SIGUSR1)
            elif way == "stopped":
                # What Slurm sends first to a task that is preempted with a time of grace.
                # scancel sends it again as long as it finds the task in transition, to the task's second run too: no more than once.
                try:
                    self.cluster.call("scancel", "--full", "--signal=TERM", f"{job}_{task}", timeout=0.5)
                except subprocess.TimeoutExpired:
                    pass
            else:
                self.cluster.call("scontrol", "requeue", f"{job}_{task}")
        tasks = self.done(job, "big")
        for task, way in used.items():
            assert int(tasks[task]["Restarts"]) == 1, f"task {task}, {way}, began {tasks[task]['Restarts']} times again"
            again = "goes back into the queue" in self.log(job, task)
            assert again == (way != "requeued"), f"task {task}, {way}: {self.log(job, task)}"
            expected = {"killed": "exit code 137", "asked": "exit code 130", "stopped": "exit code 130"}.get(way, "")
            assert expected in self.log(job, task), f"task {task}, {way}: {self.log(job, task)}"
        others = [task for task, it in tasks.items() if task not in used and it["Restarts"] != "0"]
        assert not others, f"tasks {others} began again without a cause"
        nodes = {it["NodeList"] for it in tasks.values()}
        assert nodes == set(self.cluster.names), f"it ran on {nodes}"
        said, code = pictures.status(self.program, self.folder / "big")
        assert code == 0 and said["done"] == said["pictures"] == PICTURES, f"status ends with {code}: {said}"
        twice = {it["share"] for it in said["shares"] if it["runs"] == 2}
        assert twice == set(used) and len(said["shares"]) == SHARES, said
        print(f"array: {PICTURES} pictures, {SHARES} shares; {', '.join(f'{task} {way}' for task, way in used.items())}")

    def cancelled(self):
        """What a user cancels stays so; its share, handed in again by itself, goes on where it was."""
        job = self.submit(output="again")
        task, _ = self.at_work()
        self.cluster.call("scancel", f"{job}_{task}")
        tasks = self.cluster.finished(job)
        assert tasks[task]["JobState"] == "CANCELLED", tasks[task]
        assert tasks[task]["Restarts"] == "0", "a task that a user had cancelled began again"
        assert "goes back" not in self.log(job, task), self.log(job, task)
        said, code = pictures.status(self.program, self.folder / "again")
        assert code == 3 and said["left"] > 0 and said["failed"] == 0, f"status ends with {code}: {said}"
        self.done(self.submit(output="again", array=task), "again")
        print(f"cancel: share {task} stayed cancelled, and was done by an array of it alone")

    def preempted(self):
        """A more important job takes the place of tasks; a node goes down. Slurm itself puts the tasks back."""
        job = self.submit(output="moved")
        task, _ = self.at_work()
        node = self.cluster.tasks(job)[task]["NodeList"]
        self.cluster.submit(
            "--partition=urgent", f"--nodelist={node}", f"--cpus-per-task={self.cluster.cpus}", "--output=/dev/null", "--wrap=sleep 3",
            cwd=self.folder,
        )
        self.cluster.until(
            lambda: int(self.cluster.tasks(job)[task].get("Restarts", 0)) == 1, f"task {task} is not preempted",
        )
        other = next(name for name in self.cluster.names if name != node)
        moved, _ = self.at_work(lambda number: self.cluster.tasks(job)[number].get("NodeList") == other)
        self.cluster.call("scontrol", "update", f"nodename={other}", "state=down", "reason=test")
        self.cluster.until(
            lambda: int(self.cluster.tasks(job)[moved].get("Restarts", 0)) == 1, f"task {moved} is not put back",
        )
        self.cluster.call("scontrol", "update", f"nodename={other}", "state=resume")
        tasks = self.done(job, "moved")
        for number in (task, moved):
            assert tasks[number]["Restarts"] == "1", f"task {number} began {tasks[number]['Restarts']} times again"
            assert "goes back" not in self.log(job, number), "the script put back what Slurm puts back"
        print(f"preemption: task {task} began again after it; task {moved} after its node {other} was down")

    def failed(self):
        """A picture that cannot be read fails its share and is named, and nobody tries it again."""
        broken = self.folder / "shots" / "broken.ppm"
        broken.write_bytes(b"P6\n64 48\n255\ntoo short")
        try:
            job = self.submit(output="big")
            tasks = self.cluster.finished(job)
            bad = [task for task, it in tasks.items() if it["JobState"] != "COMPLETED"]
            assert len(bad) == 1 and tasks[bad[0]]["ExitCode"] == "1:0", {n: it["ExitCode"] for n, it in tasks.items()}
            assert tasks[bad[0]]["Restarts"] == "0" and "broken.ppm" in self.log(job, bad[0]), self.log(job, bad[0])
            said, code = pictures.status(self.program, self.folder / "big")
            assert code == 1 and said["done"] == PICTURES and "broken.ppm" in said["failures"][0]["picture"], said
            print(f"failure: share {bad[0]} fails with its name, and is not begun again")
        finally:
            broken.unlink()


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    # Whatever ends the test, the cluster ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cupscale-test-")).resolve()
    started = time.monotonic()
    try:
        with slurm_cluster.Cluster() as cluster:
            test = Test(program, cluster, folder)
            test.prepare()
            for part in (test.linted, test.out_of_time, test.with_gpus, test.interrupted, test.cancelled, test.came_back, test.preempted, test.failed):
                try:
                    part()
                except BaseException:
                    for log in sorted(folder.glob("cupscale-*.log")):
                        print(f"-- {log.name}\n{log.read_text()}", file=sys.stderr)
                    raise
            version = cluster.version()
        print(f"{version}, two nodes: {time.monotonic() - started:.0f} s")
    except debian.Unavailable as missing:
        print(f"SKIPPED: {missing}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
