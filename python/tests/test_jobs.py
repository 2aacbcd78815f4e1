"""Jobs while they run: progress, exceptions, signals, threads, processes."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy
import pytest

import cupscale

STAGES = ["caption", "enlarge", "encode", "denoise", "decode"]


def test_progress_is_told_in_order_and_reaches_its_end(engine, large):
    told = []
    engine.upscale(large, 3, progress=told.append)
    order = list(dict.fromkeys(progress.stage for progress in told))
    assert [stage for stage in STAGES if stage in order] == order and {"denoise", "decode"} <= set(order)
    for stage in order:
        steps = [progress for progress in told if progress.stage == stage]
        assert [progress.done for progress in steps] == sorted(progress.done for progress in steps)
        assert steps[0].done == 0 and steps[-1].done == steps[-1].total > 0
    shares = [progress.share for progress in told]
    assert all(0 <= share <= 1 for share in shares) and shares[-1] > 0.9
    assert all(progress.eta is None or progress.eta >= 0 for progress in told)
    assert repr(told[-1]).startswith("Progress(decode: ") and told[0].unit == "regions"
    with pytest.raises(AttributeError):
        told[0].done = 3


class OwnError(Exception):
    pass


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_callback_raises_ends_the_job_and_comes_out(engine, photo, stage):
    calls = 0

    def progress(it):
        nonlocal calls
        if it.stage == stage:
            calls += 1
            raise OwnError(stage)

    with pytest.raises(OwnError, match=stage):
        engine.upscale(photo, 2, progress=progress)
    # It is not called again, and the engine is as good as before.
    assert calls == 1
    assert engine.upscale(photo, 2).shape == (96, 128, 3)


def test_only_false_ends_a_job(engine, photo):
    for answer in (None, True, 0, "", numpy.bool_(True)):
        assert engine.upscale(photo, 1, progress=lambda _: answer).shape == photo.shape
    with pytest.raises(cupscale.Interrupted):
        engine.upscale(photo, 2, progress=lambda _: False)
    with pytest.raises(TypeError):
        engine.upscale(photo, 2, progress=3)


def test_a_callback_cannot_ask_its_own_engine(engine, photo):
    with pytest.raises(cupscale.Error, match="second engine"):
        engine.upscale(photo, 2, progress=lambda _: engine.upscale(photo, 1))
    other = cupscale.Engine()
    made = []
    engine.upscale(photo, 2, progress=lambda _: made.append(other.upscale(photo, 1, blend=0)))
    assert made and made[0].shape == photo.shape


def test_python_runs_while_a_job_computes(engine, large):
    ended = threading.Event()
    ticks = []

    def tick():
        while not ended.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begun = time.monotonic()
    engine.upscale(large, 3)
    seconds = time.monotonic() - begun
    ended.set()
    thread.join()
    gaps = numpy.diff([begun, *ticks])
    # With the interpreter held there would be one gap as long as the job.
    assert len(ticks) > 20 and gaps.max() < seconds / 2, (len(ticks), gaps.max(), seconds)


def test_threads_share_an_engine(engine, photo):
    expected = {seed: engine.upscale(photo, 2, seed=seed) for seed in range(4)}
    made, told = {}, []

    def job(seed):
        made[seed] = engine.upscale(photo, 2, seed=seed, progress=told.append)

    threads = [threading.Thread(target=job, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert told and all(numpy.array_equal(made[seed], expected[seed]) for seed in range(4))


WAITING = """
import os, signal, sys, threading, time
import numpy, cupscale
engine = cupscale.Engine()
array = numpy.random.default_rng(0).integers(0, 255, (96, 96, 3), numpy.uint8)
begun, go = threading.Event(), threading.Event()
def hold(progress):
    begun.set()
    go.wait(60)
worker = threading.Thread(target=lambda: engine.upscale(array, 3, progress=hold))
worker.start()
begun.wait(60)
threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    engine.upscale(array, 3)
except KeyboardInterrupt:
    print("gave up")
go.set()
worker.join()
print(engine.upscale(array[:16, :16], 1).shape)
"""


def test_ctrl_c_ends_the_wait_for_a_turn(python):
    done = python(WAITING)
    assert done.returncode == 0 and done.stdout == "gave up\n(16, 16, 3)\n", done


SIGNALLED = """
import sys
import numpy, cupscale
array = numpy.random.default_rng(0).integers(0, 255, (200, 200, 3), numpy.uint8)
def progress(it):
    if it.stage == "denoise":
        print(it.done, flush=True)
try:
    cupscale.upscale(array, 4, batch=1, steps=8, denoise_steps=8, progress=progress)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="processes have no signals there")
def test_ctrl_c_ends_a_job_at_its_next_batch():
    job = subprocess.Popen([sys.executable, "-c", SIGNALLED], stdout=subprocess.PIPE, text=True)
    for line in job.stdout:
        if int(line) >= 2:
            break
    job.send_signal(signal.SIGINT)
    sent = time.monotonic()
    rest = job.communicate(timeout=60)[0].split()
    assert job.returncode == 0 and rest[-1] == "interrupted", rest
    assert len(rest) <= 4 and time.monotonic() - sent < 30, rest


FORKED = """
import os, numpy, cupscale
array = numpy.zeros((16, 16, 3), numpy.uint8)
cupscale.upscale(array, 1)
child = os.fork()
if child == 0:
    try:
        cupscale.upscale(array, 1)
    except cupscale.Error as error:
        print(error, flush=True)
        os._exit(7)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

FORKED_BEFORE = FORKED.replace("cupscale.upscale(array, 1)\nchild", "child")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_fork_of_a_process_at_work_is_refused_and_one_before_is_not(python):
    done = python(FORKED)
    assert "spawn" in done.stdout and done.stdout.endswith("\n7\n"), done
    done = python(FORKED_BEFORE)
    assert done.stdout == "0\n", done


SPAWNED = """
import multiprocessing, numpy, cupscale
array = numpy.full((16, 16, 3), 100, numpy.uint8)
def job(seed):
    return cupscale.upscale(array, 1, seed=seed)
if __name__ == "__main__":
    here = [job(seed) for seed in range(3)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        there = pool.map(job, range(3))
    print(all(numpy.array_equal(a, b) for a, b in zip(here, there)))
"""


def test_processes_that_are_spawned_work(tmp_path):
    script = tmp_path / "spawned.py"
    script.write_text(SPAWNED)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "True\n", done.stderr


def test_threads_are_set_once_before_all_else(python):
    done = python(
        "import cupscale, numpy\n"
        "print(cupscale.set_threads(1))\n"
        "a = numpy.zeros((16, 16, 3), numpy.uint8)\n"
        "print(cupscale.upscale(a, 1).shape)\n"
        "try:\n    cupscale.set_threads(2)\nexcept cupscale.Error as error:\n    print(error)\n"
        "for wrong in (0, 1025, 'x'):\n"
        "    try:\n        cupscale.set_threads(wrong)\n    except (TypeError, ValueError) as error:\n        print(type(error).__name__)\n"
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["1", "(16, 16, 3)"] and "before anything else" in lines[2], done
    assert lines[3:] == ["SettingsError", "SettingsError", "TypeError"]


def test_the_number_of_threads_and_the_batch_change_no_sample(python, engine, photo, tmp_path):
    numpy.save(tmp_path / "in.npy", photo)
    script = (
        "import cupscale, numpy, sys\n"
        "cupscale.set_threads(1)\n"
        "numpy.save(sys.argv[2], cupscale.upscale(numpy.load(sys.argv[1]), 4, batch=1))\n"
    )
    done = python(script, tmp_path / "in.npy", tmp_path / "out.npy")
    assert done.returncode == 0, done
    assert numpy.array_equal(numpy.load(tmp_path / "out.npy"), engine.upscale(photo, 4, batch=4))


def test_neither_numpy_nor_pillow_is_imported(python):
    done = python("import sys, cupscale\nprint({'numpy', 'PIL'} & set(sys.modules))")
    assert done.stdout == "set()\n", done


def test_without_pillow_a_file_says_what_is_missing(python, tmp_path):
    done = python(
        "import sys\nsys.modules['PIL'] = None\nimport cupscale\n"
        "try:\n    cupscale.upscale('x.png')\nexcept ImportError as error:\n    print(error)\n"
    )
    assert "pip install pillow" in done.stdout, done


def test_errors_are_of_pythons_kinds():
    assert issubclass(cupscale.Error, RuntimeError)
    for error, kind in [
        (cupscale.InputError, ValueError),
        (cupscale.InputNotFoundError, FileNotFoundError),
        (cupscale.SettingsError, ValueError),
        (cupscale.OutOfMemoryError, MemoryError),
        (cupscale.OutputError, OSError),
        (cupscale.ModelError, cupscale.Error),
        (cupscale.DeviceError, cupscale.Error),
        (cupscale.WorkError, cupscale.Error),
        (cupscale.Interrupted, cupscale.Error),
    ]:
        assert issubclass(error, kind) and issubclass(error, cupscale.Error)
        assert str(error("said")) == "said"
