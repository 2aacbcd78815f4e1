"""`serve` under load: small jobs from several clients at once, with cancels, clients that go away, and bad input.

    python3 benches/serve_load.py target/release/cupscale-fast --jobs 200 --clients 8 -- --captioner none

What is behind `--` are options of the server. It prints how the jobs ended, the latency of `/health` and of a job's status
while jobs run, and memory, open files and folders before and after. Exit code 1: a job ended in an unknown state, an answer
was another than it should be, something was left behind, or the median of a latency is above 50 ms. Needs Linux, and nothing
but Python.
"""

import argparse
import base64
import collections
import http.client
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE = 600
ENDED = ("done", "failed", "cancelled")
BOUNDARY = "load-0f9c7d"


def ppm(width, height, shade):
    """A picture file that needs no library."""
    pixels = bytes((x * 5 + y * 3 + shade * c) % 256 for y in range(height) for x in range(width) for c in (1, 2, 3))
    return b"P6 %d %d 255\n" % (width, height) + pixels


def form(parts):
    """A form of files (bytes) and texts."""
    body = b""
    for name, value in parts.items():
        file = f'; filename="{name}.ppm"' if isinstance(value, bytes) else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


class Server:
    """The program, and what the system says of it."""

    def __init__(self, program, folder, options):
        self.jobs = folder / "jobs"
        command = [program, "serve", "--listen", "127.0.0.1:0", "--jobs-dir", str(self.jobs), *options]
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
        (folder / "tmp").mkdir()
        self.temporary = folder / "tmp"
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        self.host = self.process.stdout.readline().strip().removeprefix("http://").rstrip("/")
        if not self.host:
            raise SystemExit("the server did not start")

    def ask(self, method, path, body=None, kind=None, timeout=PATIENCE):
        """Status, headers and body of an answer, over a connection of its own."""
        connection = http.client.HTTPConnection(self.host, timeout=timeout)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if kind else {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method, path, body=None):
        kind = "application/json" if body is not None else None
        status, _, answer = self.ask(method, path, json.dumps(body) if body is not None else None, kind)
        return status, json.loads(answer or b"null")

    def half(self, path, body, kind, share):
        """A client that goes away while it sends."""
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", kind)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        connection.send(body[: int(len(body) * share)])
        connection.close()

    def memory(self):
        """Resident MiB."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def left(self):
        """Names in the folder of the jobs and in that of temporary files."""
        names = [path.name for path in self.jobs.iterdir() if path.name != "lock"]
        return names + [str(path.relative_to(self.temporary)) for path in self.temporary.rglob("*") if path.is_file()]


class Load:
    """Clients, and what they have seen."""

    def __init__(self, server, arguments):
        self.server = server
        self.seed, self.count = arguments.seed, arguments.jobs
        self.next = 0
        self.lock = threading.Lock()
        self.seen = collections.Counter()
        self.faults = []
        self.latency = {"health": [], "status": []}
        self.is_over = threading.Event()
        self.alive = arguments.clients

    def tell(self, what):
        with self.lock:
            self.seen[what] += 1

    def fault(self, what):
        with self.lock:
            self.faults.append(what)

    def client(self):
        try:
            while True:
                with self.lock:
                    number, self.next = self.next, self.next + 1
                if number >= self.count:
                    return
                chance = random.Random(self.seed * 100_000 + number)
                kinds = {self.plain: 11, self.cancelled: 4, self.watched: 2, self.broken: 3, self.bad: 3, self.plug_in: 3}
                kind = chance.choices(list(kinds), list(kinds.values()))[0]
                try:
                    kind(chance, number)
                except Exception as error:  # A client that fails is a finding, and the others go on.
                    self.fault(f"{kind.__name__} {number}: {type(error).__name__} {error}")
        finally:
            with self.lock:
                self.alive -= 1

    def send(self, chance, number, **parts):
        """The id of a job that is taken, after as many tries as it needs."""
        settings = {"scale": chance.choice([1.5, 2, 3]), "denoise-steps": 1, "seed": number, "captioner": "none"}
        picture = ppm(chance.randrange(16, 64), chance.randrange(16, 64), number)
        body = form({"picture": picture, "settings": json.dumps(settings), **parts})
        begun = time.monotonic()
        while time.monotonic() - begun < PATIENCE:
            status, headers, answer = self.server.ask("POST", "/v1/jobs", body, f"multipart/form-data; boundary={BOUNDARY}")
            if status == 202:
                job = json.loads(answer)
                assert headers["Location"] == f"/v1/jobs/{job['id']}", headers
                return job["id"]
            assert status == 429 and int(headers["Retry-After"]) > 0, f"{status} {answer[:200]}"
            self.tell("429, sent again")
            time.sleep(chance.uniform(0.1, 0.5))
        raise TimeoutError("the queue stays full")

    def end(self, job):
        """The job when it has ended."""
        begun = time.monotonic()
        while time.monotonic() - begun < PATIENCE:
            status, view = self.server.json("GET", f"/v1/jobs/{job}")
            assert status == 200, f"{status} {view}"
            if view["state"] in ENDED:
                return view
            assert view["state"] in ("waiting", "running"), view
            time.sleep(0.05)
        raise TimeoutError(f"{job} does not end")

    def remove(self, job):
        status, _, answer = self.server.ask("DELETE", f"/v1/jobs/{job}")
        assert status == 204, f"{status} {answer[:200]}"
        assert self.server.ask("GET", f"/v1/jobs/{job}")[0] == 404

    def plain(self, chance, number):
        job = self.send(chance, number)
        view = self.end(job)
        assert view["state"] == "done", view
        status, _, result = self.server.ask("GET", f"/v1/jobs/{job}/result")
        assert status == 200 and len(result) == view["bytes"] and result.startswith(b"P6"), status
        self.remove(job)
        self.tell("done")

    def cancelled(self, chance, number):
        job = self.send(chance, number)
        time.sleep(chance.choice([0, 0, 0.05, 0.5, 2]))
        status, _, answer = self.server.ask("DELETE", f"/v1/jobs/{job}")
        if status == 204:
            self.tell("done before its cancel")
            return
        assert status == 202, f"{status} {answer[:200]}"
        state = self.end(job)["state"]
        assert state in ("cancelled", "done"), state
        self.remove(job)
        self.tell(f"cancelled, then {state}")

    def watched(self, chance, number):
        """Follows the events, and goes away in the middle of them or at their end."""
        job = self.send(chance, number)
        connection = http.client.HTTPConnection(self.server.host, timeout=PATIENCE)
        connection.request("GET", f"/v1/jobs/{job}/events")
        answer = connection.getresponse()
        assert answer.status == 200, answer.status
        goes_away = chance.random() < 0.5
        if goes_away:
            answer.readline()
        else:
            events = answer.read().decode()
            assert '"state":"done"' in events.split("event: job")[-1], events[-400:]
        connection.close()
        assert self.end(job)["state"] == "done"
        self.remove(job)
        self.tell("watched, then gone" if goes_away else "watched to its end")

    def broken(self, chance, number):
        """Goes away while it sends."""
        body = form({"picture": ppm(64, 64, number), "settings": "{}"})
        self.server.half("/v1/jobs", body, f"multipart/form-data; boundary={BOUNDARY}", chance.uniform(0, 0.99))
        self.tell("gone while it sent")

    def bad(self, chance, number):
        multipart = f"multipart/form-data; boundary={BOUNDARY}"
        picture = ppm(16, 16, number)
        body, kind, path, wanted = chance.choice([
            (form({"picture": b"no picture at all"}), multipart, "/v1/jobs", (422, 429)),
            (form({"picture": picture[:40]}), multipart, "/v1/jobs", (202, 422, 429)),
            (form({"picture": picture, "settings": '{"promt": "x"}'}), multipart, "/v1/jobs", (422, 429)),
            (form({"picture": picture, "settings": '{"mask": "/etc/passwd"}'}), multipart, "/v1/jobs", (422, 429)),
            (form({"picture": picture, "settings": "[}"}), multipart, "/v1/jobs", (400, 429)),
            (form({"settings": "{}"}), multipart, "/v1/jobs", (400, 429)),
            (b"\0" * 100, multipart, "/v1/jobs", (400, 429)),
            (b"{}", "application/json", "/v1/jobs", (415, 429)),
            (b"{", "application/json", "/sdapi/v1/img2img", (422,)),
            (b'{"image": "~"}', "application/json", "/sdapi/v1/extra-single-image", (422,)),
            (b'{"init_images": []}', "application/json", "/sdapi/v1/img2img", (404,)),
        ])
        status, _, answer = self.server.ask("POST", path, body, kind)
        assert status in wanted, f"{status}, not of {wanted}: {answer[:200]}"
        assert b"/tmp" not in answer, answer[:200]
        if status == 202:
            job = json.loads(answer)["id"]
            view = self.end(job)
            assert view["state"] == "failed" and view["error"]["kind"] == "input", view
            self.remove(job)
        self.tell("refused")

    def plug_in(self, chance, number):
        """A client of A1111's API, which waits for its job, or goes away."""
        picture = base64.b64encode(ppm(chance.randrange(16, 64), 32, number)).decode()
        body = json.dumps({"image": picture, "upscaling_resize": 2})
        connection = http.client.HTTPConnection(self.server.host, timeout=PATIENCE)
        connection.request("POST", "/sdapi/v1/extra-single-image", body, {"Content-Type": "application/json"})
        if chance.random() < 0.5:
            time.sleep(chance.uniform(0, 1))
            connection.close()
            self.tell("plug-in, gone while it waited")
            return
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status == 429:
            self.tell("plug-in, told that the queue is full")
            return
        assert answer.status == 200, f"{answer.status} {content[:200]}"
        assert base64.b64decode(json.loads(content)["image"]).startswith(b"\x89PNG")
        self.tell("plug-in, done")

    def measure(self):
        """Latencies while a job runs."""
        while not self.is_over.is_set():
            _, info = self.server.json("GET", "/v1/info")
            job = info["running"]
            if job:
                for what, path in [("health", "/health"), ("status", f"/v1/jobs/{job}")]:
                    begun = time.perf_counter()
                    status, _, _ = self.server.ask("GET", path)
                    took = time.perf_counter() - begun
                    if status == 200:
                        self.latency[what].append(took * 1000)
            time.sleep(0.02)

    def run(self, clients):
        threads = [threading.Thread(target=self.client) for _ in range(clients)]
        watcher = threading.Thread(target=self.measure)
        for thread in [watcher, *threads]:
            thread.start()
        for thread in threads:
            thread.join()
        self.is_over.set()
        watcher.join()


def settled(server):
    """What is left once nothing is at work any more."""
    begun = time.monotonic()
    while time.monotonic() - begun < 60:
        _, info = server.json("GET", "/v1/info")
        if info["running"] is None and info["waiting"] == 0 and not server.left():
            break
        time.sleep(0.2)
    return server.left()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1, help="of what the clients do")
    parser.add_argument("--queue", type=int, default=6, help="jobs that may wait: fewer than clients, so that some are refused")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments = parser.parse_args(sys.argv[1:at])
    with tempfile.TemporaryDirectory() as folder:
        options = ["--queue", str(arguments.queue), *sys.argv[at + 1:]]
        server = Server(arguments.program, pathlib.Path(folder), options)
        try:
            # The model and the threads are there before anything is measured.
            warm = Load(server, argparse.Namespace(seed=0, jobs=0, clients=0))
            for number in range(3):
                warm.plain(random.Random(number), number)
            memory, files = server.memory(), server.open_files()
            load = Load(server, arguments)
            begun = time.monotonic()
            load.run(arguments.clients)
            took = time.monotonic() - begun
            left = settled(server)
            after, files_after = server.memory(), server.open_files()
            _, jobs = server.json("GET", "/v1/jobs")
        finally:
            server.process.send_signal(signal.SIGTERM)
            code = server.process.wait(60)
        faults = load.faults
        print(f"{arguments.jobs} requests of {arguments.clients} clients in {took:.0f} s")
        for what, count in sorted(load.seen.items()):
            print(f"  {what}: {count}")
        for what, times in load.latency.items():
            if len(times) < 10:
                faults.append(f"{what}: measured {len(times)} times")
                continue
            median, late = statistics.median(times), statistics.quantiles(times, n=100)[98]
            print(f"{what}: median {median:.1f} ms, p99 {late:.1f} ms, longest {max(times):.1f} ms ({len(times)} times)")
            if median > 50:
                faults.append(f"{what}: a median of {median:.1f} ms")
        print(f"memory: {memory:.0f} MiB before, {after:.0f} MiB after; open files: {files}, {files_after}")
        if after > memory * 1.25 + 32:
            faults.append(f"memory grew from {memory:.0f} to {after:.0f} MiB")
        if files_after > files + 4:
            faults.append(f"open files grew from {files} to {files_after}")
        if left or jobs["jobs"]:
            faults.append(f"left behind: {left[:10]} {[(job['id'], job['state']) for job in jobs['jobs']][:10]}")
        if code != 130:
            faults.append(f"the server ended with {code} and not with 130")
    for fault in faults:
        print(f"FAULT {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
