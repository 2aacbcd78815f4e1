"""The lines of integrations/parallel/README.md with GNU parallel itself: shares side by side, one that is killed and tried again
by the log, and hosts that are reached through ssh (for which a shell stands here).

    python3 integrations/test/engines/parallel.py target/release/cupscale-fast
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

README = pathlib.Path(__file__).resolve().parents[2] / "parallel" / "README.md"
PICTURES, SHARES = 16, 8
# Stands for ssh: notes the host, and runs the command line here as a login there would, from another folder and with the variable
# of its shell, by which parallel begins each command: without it nothing runs, and parallel counts that as done.
SSH = """#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
    -o | -p | -l | -i | -S | -M) shift 2 ;;
    -*) shift ;;
    *) break ;;
    esac
done
host=$1
shift
[ "$1" != -- ] || shift
echo "$host" >>"$HOSTS"
cd "$HOME"
export SHELL=/bin/sh
exec sh -c "$*"
"""


def line(name):
    """One of the README's command lines, for fewer shares."""
    found = re.search(rf"^```sh {name}\n(.*?)^```$", README.read_text(), re.M | re.S)
    assert found, f"the README has no line `{name}`"
    text = found[1]
    for old, new in (("/50", f"/{SHARES}"), ("{1..50}", f"{{1..{SHARES}}}"), ("--scale 4", "--scale 2 -q")):
        assert old in text, f"`{name}` has no {old}"
        text = text.replace(old, new)
    return text


def entries(log):
    """The lines of parallel's log: of each number the exit code and the signal of its last run."""
    rows = [row.split("\t") for row in log.read_text().splitlines()[1:]]
    return {int(row[0]): (int(row[6]), int(row[7])) for row in rows}


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="cupscale-test-")).resolve()
    try:
        root = debian.unpacked("parallel")
        run(program, folder, {**os.environ, **debian.environment(root)}, root)
    except debian.Unavailable as missing:
        print(f"SKIPPED: {missing}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(program, folder, environment, root):
    commands = folder / "bin"
    commands.mkdir()
    (folder / "home").mkdir()
    (commands / "cupscale-fast").symlink_to(program)
    (commands / "ssh").write_text(SSH)
    (commands / "ssh").chmod(0o755)
    environment.update(
        PATH=f"{commands}:{environment['PATH']}", HOSTS=str(folder / "hosts"), HOME=str(folder / "home"),
        PERL5LIB=f"{root}/usr/share/perl5", LC_ALL="C.UTF-8",
    )
    for name in ("PARALLEL_SEQ", "SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"):
        environment.pop(name, None)
    pictures.cut(program, folder / "shots", PICTURES, 96, 72)
    subprocess.run(
        [program, "-q", "shots", "-o", "one", "--scale", "2", "--threads", "2"], check=True, cwd=folder,
    )
    reference = pictures.outputs(folder / "one")

    def start(name):
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", "exec " + line(name).lstrip()], env=environment, cwd=folder, stdin=subprocess.DEVNULL,
        )

    def at_work():
        """A process that is in the middle of a picture."""
        return processes.until(
            lambda: next(filter(processes.begun, processes.running(program, folder)), None), "no share is at work",
        )

    # One share is killed in the middle; the log knows, and the same line does that share again.
    process = start("local")
    os.kill(at_work(), signal.SIGKILL)
    assert process.wait(300) == 1, f"parallel counts {process.returncode} failures"
    failed = [number for number, result in entries(folder / "shares.log").items() if result != (0, 0)]
    assert len(failed) == 1, entries(folder / "shares.log")
    said, code = pictures.status(program, folder / "big")
    assert code == 3, said
    process = start("local")
    assert process.wait(300) == 0, f"the second run ends with {process.returncode}"
    assert all(result == (0, 0) for result in entries(folder / "shares.log").values())
    pictures.same(reference, folder / "big", PICTURES)
    said, code = pictures.status(program, folder / "big")
    assert code == 0, said
    print(f"local: share {failed[0]} of {SHARES} was killed, and done by the same line; the same bytes")

    # Stopped as a whole, by the signal of a shell's end, and gone on with.
    shutil.rmtree(folder / "big")
    (folder / "shares.log").unlink()
    process = start("local")
    at_work()
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.3)
    assert process.wait(300) != 0
    processes.until(lambda: not processes.running(program, folder), "the program runs on without parallel")
    assert start("local").wait(300) == 0
    pictures.same(reference, folder / "big", PICTURES)
    print("local: stopped with two signals, as by two of Ctrl-C, and gone on with by the same line")

    # Hosts that share the folder.
    shutil.rmtree(folder / "big")
    (folder / "shares.log").unlink()
    assert start("hosts").wait(300) == 0
    pictures.same(reference, folder / "big", PICTURES)
    hosts = sorted(set((folder / "hosts").read_text().split()))
    assert hosts == ["one", "two"], hosts
    version = subprocess.run(["parallel", "--version"], env=environment, stdout=subprocess.PIPE, text=True).stdout.split()[2]
    print(f"hosts: {', '.join(hosts)}, with a shell in the place of ssh; GNU parallel {version}")


if __name__ == "__main__":
    main()
