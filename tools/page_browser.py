#!/usr/bin/env python3
"""Headless Chromium and servers for the checks of the page of `serve` (check_page.py), with all that they need in the cache."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = pathlib.Path(os.environ.get("CUPSCALE_CI_CACHE") or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "cupscale-ci")
PACKAGES = ["playwright==1.65.2", "axe-playwright-python==0.1.8", "pillow==12.0.0"]
# What a job of these tests takes: seconds, where the machine is slow some minutes.
PATIENCE = 180_000


def at_home(script: str) -> None:
    """Goes on within an environment of its own, which has the packages."""
    folder = CACHE / "page-venv"
    stamp = folder / "packages"
    if not stamp.exists() or stamp.read_text() != "\n".join(PACKAGES):
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "-q", "--disable-pip-version-check", *PACKAGES], check=True)
        stamp.write_text("\n".join(PACKAGES))
    if pathlib.Path(sys.prefix) != folder:
        os.execv(folder / "bin/python", [folder / "bin/python", script, *sys.argv[1:]])

# Files dropped on an element, as [names, contents, selector].
DROP = """([names, contents, selector]) => {
    const transfer = new DataTransfer();
    names.forEach((name, at) => transfer.items.add(new File([Uint8Array.from(contents[at])], name)));
    for (const type of ['dragenter', 'dragover', 'drop']) {
        document.querySelector(selector).dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }
}"""
# A file pasted into the page, as its content.
PASTE = """(content) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(content)], "pasted.jpg"));
    document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true }));
}"""
# The content of a PNG that can be seen through.
CLEAR = """async () => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 48, height: 32 });
    const context = canvas.getContext('2d');
    context.fillStyle = '#b35';
    context.fillRect(8, 8, 24, 16);
    return [...new Uint8Array(await (await new Promise((done) => canvas.toBlob(done))).arrayBuffer())];
}"""


class Server:
    """The program's `serve` on a free port, with jobs in a folder of its own."""

    def __init__(self, program: str, folder: pathlib.Path, *options: str, address: str = "127.0.0.1:0"):
        self.given = (program, folder, *options)
        folder.mkdir(exist_ok=True)
        self.log = (folder.parent / f"{folder.name}.log").open("a")
        command = [program, "serve", "--listen", address, "--jobs-dir", str(folder), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.url = self.process.stdout.readline().strip()
        if not self.url.startswith("http://"):
            said = pathlib.Path(self.log.name).read_text().strip()
            raise RuntimeError(f"{' '.join(command)} printed {self.url!r} and not its address; it said: {said}")

    def ask(self, path: str, token: str = "") -> bytes:
        request = urllib.request.Request(self.url.rstrip("/") + path, headers={"Authorization": f"Bearer {token}"} if token else {})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def jobs(self) -> list[dict]:
        return json.loads(self.ask("/v1/jobs"))["jobs"]

    def again(self) -> "Server":
        """The same server once more, at the same address, after this one was killed."""
        program, folder, *options = self.given
        return Server(program, folder, *options, address=self.url.removeprefix("http://").rstrip("/"))

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


class Check:
    """What every scene has: pictures, servers, pages that are watched."""

    def __init__(self, program: str, browser, folder: pathlib.Path, output: pathlib.Path):
        self.program, self.browser, self.folder, self.output = program, browser, folder, output
        self.servers: list[Server] = []
        self.small = self.crop("small.jpg", (150, 130, 214, 178))
        self.other = self.crop("other.jpg", (20, 20, 84, 68))
        # One that takes a while: 20 regions at four times its size.
        self.large = self.crop("large.jpg", (130, 60, 386, 252))

    def crop(self, name: str, box: tuple[int, int, int, int]) -> pathlib.Path:
        from PIL import Image

        path = self.folder / name
        with Image.open(ROOT / "samples/nuthatch.jpg") as picture:
            picture.crop(box).save(path, quality=95)
        return path

    def serve(self, name: str, *options: str) -> Server:
        server = Server(self.program, self.folder / name, *options)
        self.servers.append(server)
        return server

    @contextlib.contextmanager
    def page(self, server: Server, width=1440, height=900, scheme="dark", fragment="", expected=()):
        """A page that may neither ask another host nor report an error, but those whose text has a part in `expected`; and that a
        preview which was told of is gone, because its job has ended meanwhile, is none."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        faults, asked = [], []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(f"{line.text}: {line.location['url']}") if line.type in ("error", "warning") else None)
        page.on("request", lambda request: asked.append(request.url))
        page.on("crash", lambda _: faults.append("the page has crashed"))
        # Listening is what has the browser hand its file choosers over, and nothing waits until it does: a listener that is made
        # just before a key is pressed comes too late one time in five.
        page.on("filechooser", lambda _: None)
        page.goto(server.url + fragment)
        page.wait_for_function("() => document.getElementById('machine').textContent || document.querySelector('dialog[open]')")
        yield page
        outside = [url for url in asked if not url.startswith((server.url, f"blob:{server.url}", "data:"))]
        assert not outside, outside
        faults = [fault for fault in faults if not any(part in fault for part in expected) and not ("404" in fault and fault.endswith("/preview"))]
        assert not faults, faults
        context.close()

    def shot(self, page, name: str) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=self.output / f"{name}.png")


def axe(page, what: str) -> None:
    """axe-core finds nothing at this moment of the page."""
    import axe_playwright_python

    # Its script is evaluated by the test, and so is not held by the page's policy.
    page.evaluate(pathlib.Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    told = [f"{what}: {one['id']}: {node['target']}: {node['failureSummary']}" for one in found for node in one["nodes"]]
    assert not told, "\n".join(told)


def fits(page, width: int) -> None:
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width, f"{wide} pixels wide on a screen of {width}"


def text(page, selector: str) -> str:
    return page.inner_text(selector).replace("\u2009", "")


def wait_text(page, selector: str, part: str) -> None:
    page.wait_for_function("([selector, part]) => document.querySelector(selector).innerText.includes(part)", arg=[selector, part])


def told(page, part: str) -> None:
    """The message over the picture says so, and is seen."""
    page.locator("#message-title:visible", has_text=part).wait_for()


def add(page, *pictures: pathlib.Path) -> None:
    page.set_input_files("#files", [str(picture) for picture in pictures])


def done(page) -> None:
    page.wait_for_selector("#download:visible")
    page.wait_for_selector("#handle:visible")


def newest(server: Server) -> dict:
    return server.jobs()[0]


def border(page) -> None:
    """The border between before and after follows mouse and keys, and what is seen follows it."""
    at = lambda: float(page.get_attribute("#handle", "aria-valuenow"))
    assert at() == 50
    box = page.locator("#paper").bounding_box()
    middle = box["y"] + box["height"] / 3
    page.mouse.click(box["x"] + box["width"] / 4, middle)
    assert abs(at() - 25) <= 1, at()
    handle = page.locator("#handle").bounding_box()
    page.mouse.move(handle["x"] + 22, handle["y"] + 22)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 3 / 4, handle["y"] + 22, steps=5)
    page.mouse.up()
    assert abs(at() - 75) <= 1, at()
    cut = page.eval_on_selector("#paper .after", "it => parseFloat(it.style.clipPath.split(' ').pop())")
    assert abs(cut - 96) < 3, cut
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("PageDown")
    assert abs(at() - 64) <= 1, at()
    page.keyboard.press("Home")
    assert at() == 0
    page.keyboard.press("End")
    assert at() == 100 and page.get_attribute("#handle", "aria-valuetext") == "100 percent before, 0 percent after"


def zooms(page) -> None:
    """A picture is zoomed by buttons, keys and the wheel, and moved by keys and by dragging; afterwards it fits again."""
    scale = lambda: float(text(page, "#scale").rstrip("%"))
    at_first = scale()
    page.click("#one")
    assert scale() == 100
    page.click("#larger")
    assert scale() == 150
    page.focus("#view")
    for _ in range(12):
        page.keyboard.press("+")
    assert scale() == 1600 and page.eval_on_selector("#view", "it => it.classList.contains('zoomed')")
    place = lambda: page.eval_on_selector("#paper", "it => it.style.transform")
    before = place()
    page.keyboard.press("ArrowRight")
    assert place() != before
    before = place()
    box = page.locator("#view").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 140, box["y"] + 90, steps=4)
    page.mouse.up()
    assert place() != before, "dragging does not move an enlarged picture"
    page.mouse.wheel(0, 400)
    page.wait_for_function("() => parseFloat(document.getElementById('scale').textContent) < 1600")
    page.click("#fit")
    assert scale() == at_first
