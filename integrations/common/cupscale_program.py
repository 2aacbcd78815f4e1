# Part of the integration of cupscale-fast @version@ with @integration@.
"""Runs the program `cupscale-fast` for a plug-in: finds it, starts it with files in a private folder, follows its
progress, and ends it when the plug-in is cancelled or killed. Needs Python 3.6 and nothing else."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading

VARIABLE = "CUPSCALE_FAST"
PREFIX = "cupscale-fast: "  # of the program's errors
INSTALLED = "@program@"  # where the program was when it wrote this file

# Share of a job's time before a stage begins, and within it; denoising is nearly all of a large model's job.
STAGES = {"caption": (0.0, 0.02), "encode": (0.02, 0.1), "denoise": (0.12, 0.68), "decode": (0.8, 0.2)}
WORDS = {"caption": "describing", "encode": "reading", "denoise": "painting", "decode": "finishing"}

# A plug-in that is cancelled may be killed without a word. This shell waits for the end of its standard input, which is
# the end of the plug-in; then it interrupts the program, and removes the files when that has ended.
WATCH = """
cat >/dev/null
kill -INT "$1" 2>/dev/null
while kill -0 "$1" 2>/dev/null; do sleep 0.2; done
rm -rf "$2"
"""


class ProgramError(Exception):
    """What went wrong, in one line for the user."""


class Cancelled(ProgramError):
    """The user has stopped the job."""


def _is_sandboxed():
    """True inside a Flatpak, where programs of the system are reached by `flatpak-spawn` alone."""
    return os.path.exists("/.flatpak-info")


def command():
    """The words that start the program: `$CUPSCALE_FAST`, else what is on the path, else the one that installed this."""
    if _is_sandboxed():
        named = os.environ.get(VARIABLE) or (INSTALLED if os.path.isabs(INSTALLED) else "cupscale-fast")
        return ["flatpak-spawn", "--host", "--watch-bus", named]
    named = os.environ.get(VARIABLE)
    if named:
        if shutil.which(named) is None:
            raise ProgramError("$%s is %s, which is no program" % (VARIABLE, named))
        return [named]
    found = shutil.which("cupscale-fast")
    if found is None and os.path.isfile(INSTALLED):
        found = INSTALLED
    if found is None:
        raise ProgramError("cupscale-fast is not on the path; set $%s to the program" % VARIABLE)
    return [found]


def _hidden_window():
    """Keeps Windows from opening a console for the program."""
    return {"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {}


def models():
    """Names of the installed models that enlarge; the embedded one has none and is not listed."""
    try:
        words = command() + ["models", "list", "--json"]
        output = subprocess.check_output(words, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **_hidden_window())
        listed = json.loads(output.decode("utf-8"))["models"]
    except (ProgramError, OSError, subprocess.CalledProcessError, ValueError, KeyError):
        return []
    return [each["name"] for each in listed if each["kind"] == "diffusion" and each["state"] == "installed"]


def options(scale=None, size=None, prompt="", strength=0.0, model="", seed=0):
    """Options of a job. `size` is (width, height) and goes before `scale`; a strength of 0 and an empty model are the
    program's own choice."""
    words = ["--size", "%dx%d" % size] if size else ["--scale", repr(float(scale))]
    if prompt.strip():
        words += ["--prompt=" + prompt.strip()]
    if strength > 0:
        words += ["--strength", repr(round(float(strength), 4))]
    if model.strip():
        words += ["--model=" + model.strip()]
    return words + ["--seed", str(int(seed))]


class Folder:
    """A folder of this user alone for the files of a job; a context that removes it at its end."""

    def __init__(self):
        # The sandbox has a /tmp of its own, which the program does not see; its cache is at the same place outside.
        parent = os.environ.get("XDG_CACHE_HOME") if _is_sandboxed() else None
        self.path = tempfile.mkdtemp(prefix="cupscale-", dir=parent)

    def file(self, name):
        return os.path.join(self.path, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


class Job:
    """The program at work on one picture. `fraction` (0 to 1) and `text` say how far it is; `notes` are what it told."""

    def __init__(self, folder, source, output, words):
        self.fraction = 0.0
        self.text = "starting"
        self.notes = []
        self._error = ""
        self._is_cancelled = False
        line = command() + [source, "-o", output, "--progress", "json"] + words
        try:
            self._process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                **_hidden_window()
            )
        except OSError as error:
            raise ProgramError("%s: %s" % (line[0], error.strerror))
        self._watch = None
        if os.name == "posix":
            words = ["sh", "-c", WATCH, "sh", str(self._process.pid), folder.path]
            # In a group of its own, so that Ctrl-C in the editor's terminal does not end it.
            self._watch = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.daemon = True
        self._reader.start()

    def _read(self):
        for line in self._process.stderr:
            line = line.decode("utf-8", "replace").strip()
            if line.startswith("{"):
                try:
                    self._follow(json.loads(line))
                except (ValueError, KeyError, TypeError):
                    pass  # an event of a later version
            elif line:
                self._error = line[len(PREFIX):] if line.startswith(PREFIX) else line

    def _follow(self, event):
        kind = event["event"]
        if kind == "note":
            self.notes.append(event["text"])
        elif kind in ("stage", "progress"):
            start, share = STAGES[event["stage"]]
            fraction = start + share * event.get("done", 0) / max(event["total"] or 1, 1)
            self.text = WORDS[event["stage"]]
            gone, left = event.get("elapsed_s"), event.get("eta_s")
            if gone and left is not None:
                # The program knows better how long its stages take.
                fraction = gone / (gone + left)
                self.text += ", %d:%02d left" % divmod(round(left), 60)
            self.fraction = max(self.fraction, min(fraction, 1.0))

    def is_running(self):
        return self._process.poll() is None

    def cancel(self):
        """Asks the program to end; `finish` then raises `Cancelled`."""
        self._is_cancelled = True
        if self.is_running():
            # A program on the far side of flatpak-spawn ends with the bus connection.
            if os.name == "posix":
                self._process.send_signal(signal.SIGINT)
            else:
                self._process.terminate()

    def finish(self):
        """Waits for the end.

        Raises `Cancelled` or `ProgramError`."""
        self._process.wait()
        self._reader.join()
        self._process.stderr.close()
        if self._watch is not None:
            # First the watching shell, then its input: it must not take the end of the job for that of the plug-in.
            self._watch.kill()
            self._watch.wait()
            self._watch.stdin.close()
        if self._is_cancelled:
            raise Cancelled("cancelled")
        if self._process.returncode != 0:
            raise ProgramError(self._error or "cupscale-fast ended with code %d" % self._process.returncode)
        self.fraction = 1.0

    def follow(self, tell, pause=0.1):
        """Waits for the end, and calls `tell(fraction, text)` meanwhile; where that returns `False`, cancels.

        Raises what `finish` does."""
        while self._reader.is_alive():
            self._reader.join(pause)
            if tell(self.fraction, self.text) is False:
                self.cancel()
                break
        self.finish()
