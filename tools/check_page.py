#!/usr/bin/env python3
"""The page of `serve` in headless Chromium, as a person uses it: a picture in and an enlarged picture out (the bytes of the API),
cancel, errors, captions changed, several pictures, by keyboard alone, with a token, over a restart of the server; without a request to another
host and without an error of the browser; with axe-core's checks, in dark and in light colours, on screens of 1440 to 320 pixels.

    python3 tools/check_page.py target/release/cupscale-fast              # all of it; what the page looks like goes to --output
    python3 tools/check_page.py target/release/cupscale-fast cancels      # some of it
    python3 tools/check_page.py target/release/cupscale-fast --screenshot docs/page.png

For the first time it needs a network: playwright and axe-core come from PyPI and Chromium from Debian, into ${CUPSCALE_CI_CACHE:-~/.cache/cupscale-ci}.
"""

import argparse
import functools
import io
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from page_browser import (
    CACHE, CLEAR, DROP, PASTE, ROOT, Check, add, at_home, axe, border, done, fits, newest, text, told, wait_text, zooms,
)

# --- Scenes -----------------------------------------------------------------------------------------------------------------


def enlarges(check: Check) -> None:
    """A picture in, an enlarged picture out; the border, zoom, download, the history after a reload."""
    server = check.serve("enlarges")
    with check.page(server, expected=["422"]) as page:
        axe(page, "at first")
        assert page.is_disabled("#start")
        check.shot(page, "1440-first")
        add(page, check.small)
        wait_text(page, "#plan", "128 × 96 px")
        assert "region" in text(page, "#plan"), text(page, "#plan")
        page.check("input[name=size][value='3']", force=True)
        wait_text(page, "#plan", "192 × 144 px")
        page.check("input[name=size][value=other]", force=True)
        page.select_option("#size-kind", "size")
        page.fill("#size-one", "120")
        page.fill("#size-two", "90")
        wait_text(page, "#plan", "120 × 90 px")
        page.fill("#size-one", "-1")
        wait_text(page, "#plan", "Width in pixels")
        assert page.is_disabled("#start")
        page.check("input[name=size][value='2']", force=True)
        page.fill("#prompt", "bark <b>of</b> a tree")
        page.fill("#seed", "18446744073709551615")
        page.click("#advanced summary")
        page.fill("#gsp", "0.3")
        page.click("#further-add")
        page.keyboard.type("no-such-setting")
        wait_text(page, "#plan", "no-such-setting")
        assert page.is_disabled("#start")
        page.fill("#further .row input >> nth=0", "color-fix")
        page.fill("#further .row input >> nth=1", "adain")
        page.wait_for_function("() => !document.getElementById('start').disabled")
        axe(page, "settings")
        page.click("#start")
        done(page)
        axe(page, "result")
        job = newest(server)
        assert job["settings"] == {"scale": 2, "prompt": "bark <b>of</b> a tree", "seed": job["settings"]["seed"], "gsp": 0.3, "color-fix": "adain"}, job["settings"]
        assert str(job["settings"]["seed"]) == "18446744073709551615", job["settings"]
        assert "bark <b>of</b> a tree" in text(page, "#settings")

        # What is downloaded is what the API gives, under the name of the command line.
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "small_2x.jpg", download.value.suggested_filename
        result = server.ask(f"/v1/jobs/{job['id']}/result")
        assert pathlib.Path(download.value.path()).read_bytes() == result
        sizes = page.evaluate("[...document.querySelectorAll('#paper img')].map(it => [it.className, it.naturalWidth, it.naturalHeight])")
        assert sizes == [["before", 64, 48], ["after", 128, 96]], sizes

        border(page)
        zooms(page)
        page.reload()
        done(page)
        assert text(page, "#name") == "small.jpg" and page.locator("#list .card").count() == 1
        page.click("#again")
        wait_text(page, "#plan", "128 × 96 px")
        assert page.input_value("#prompt") == "bark <b>of</b> a tree" and page.input_value("#seed") == "18446744073709551615"
        assert page.input_value("#further .row input >> nth=0") == "color-fix"
        page.click("#drop-draft")
        page.click("#list .card")
        page.click("#remove")
        page.wait_for_selector("#ask-sure[open]")
        axe(page, "a question")
        page.click("#sure-yes")
        page.wait_for_selector("#empty:visible")
        assert not server.jobs()


def captions(check: Check) -> None:
    """Regions are described only, their captions changed, and the picture enlarged with them; then again from the result."""
    server = check.serve("captions")
    with check.page(server) as page:
        add(page, check.small)
        page.check("input[name=size][value='4']", force=True)
        wait_text(page, "#plan", "256 × 192 px")
        page.click("#describe")
        page.wait_for_selector("#grid rect.cell")
        job = newest(server)
        assert job["kind"] == "captions", job
        first = json.loads(server.ask(f"/v1/jobs/{job['id']}/captions"))
        cells = page.locator("#grid rect.cell")
        assert cells.count() == len(first["regions"]) > 0
        box = page.locator("#paper").bounding_box()
        page.mouse.click(box["x"] + 20, box["y"] + 20)
        assert page.input_value("#caption") == first["regions"][0]["caption"]
        axe(page, "captions")
        page.fill("#caption", "a caption of mine")
        wait_text(page, "#changed", "1 caption changed")
        assert "a caption of mine" in cells.first.get_attribute("aria-label")
        check.shot(page, "1440-captions")
        page.click("#rerun")
        done(page)
        job = newest(server)
        assert job["kind"] == "upscale" and job["settings"]["scale"] == 4, job
        second = json.loads(server.ask(f"/v1/jobs/{job['id']}/captions"))
        assert second["regions"][0]["caption"] == "a caption of mine", second["regions"][0]
        assert page.is_hidden("#grid")
        page.click("#regions")
        page.wait_for_selector("#grid rect.cell")
        assert page.is_disabled("#rerun")
        # Among regions one moves by arrows, and Enter goes to the caption.
        cells.first.focus()
        if cells.count() > 1:
            page.keyboard.press("ArrowRight")
            assert text(page, "#caption-label") == "Row 1, column 2", text(page, "#caption-label")
            page.keyboard.press("ArrowLeft")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "caption"
        page.keyboard.press("End")
        page.keyboard.type(", changed")
        page.click("#caption-back")
        assert page.input_value("#caption") == "a caption of mine" and page.is_disabled("#rerun")
        page.fill("#caption", "")
        page.click("#rerun")
        done(page)
        third = json.loads(server.ask(f"/v1/jobs/{newest(server)['id']}/captions"))
        assert third["regions"][0]["caption"] == "", third["regions"][0]
        assert len(server.jobs()) == 3


def cancels(check: Check) -> None:
    """A job that runs and one that waits are cancelled; the picture can be tried again."""
    server = check.serve("cancels")
    with check.page(server) as page:
        add(page, check.large)
        page.check("input[name=size][value='4']", force=True)
        wait_text(page, "#plan", "1024 × 768 px")
        page.click("#start")
        page.wait_for_function("() => document.getElementById('doing').textContent.startsWith('Repainting')")
        axe(page, "progress")
        assert "%" in text(page, "#left") and page.title() != "cupscale-fast"
        share = int(page.get_attribute("#meter", "aria-valuenow"))
        page.wait_for_function(f"() => document.getElementById('meter').getAttribute('aria-valuenow') > {share}")
        check.shot(page, "1440-progress")
        page.wait_for_selector("#paper .after")  # The preview, in its place.
        add(page, check.small)
        wait_text(page, "#plan", "256 × 192 px")
        page.click("#start")
        wait_text(page, "#doing", "Next in turn")
        page.click("#cancel")
        told(page, "Cancelled")
        page.click("#list .card >> nth=1")
        page.click("#cancel")
        told(page, "Cancelled")
        assert [job["state"] for job in server.jobs()] == ["cancelled", "cancelled"]
        axe(page, "cancelled")
        page.click("#again")
        page.check("input[name=size][value=other]", force=True)
        page.select_option("#size-kind", "long-edge")
        page.fill("#size-one", "600")
        wait_text(page, "#plan", "600 × 450 px")


def errors(check: Check) -> None:
    """No picture, too many pictures, too large a picture, a server that is gone: plain words, and what can go on goes on."""
    server = check.serve("errors", "--queue", "1", "--max-body", "1MiB", "--max-pixels", "4000000")
    broken = check.folder / "no picture.png"
    broken.write_text("This is no picture.")
    huge = check.folder / "huge.png"
    huge.write_bytes(bytes(1_200_000))
    with check.page(server, expected=["422", "429", "400", "ERR_CONNECTION_REFUSED", "413"]) as page:
        add(page, broken)
        wait_text(page, "#unseen", "cannot show")
        page.click("#start")
        told(page, "This picture cannot be read")
        assert len(text(page, "#message-text")) > 10, text(page, "#message-text")
        axe(page, "an error")
        check.shot(page, "1440-error")
        page.click("#remove")
        add(page, huge)
        wait_text(page, "#plan", "1.2 MB")
        assert page.is_disabled("#start")
        page.click("#drop-draft")

        add(page, check.large)
        page.check("input[name=size][value='4']", force=True)
        wait_text(page, "#plan", "1024 × 768 px")
        page.check("input[name=size][value=other]", force=True)
        page.select_option("#size-kind", "scale")
        page.fill("#size-one", "20")
        page.wait_for_function("() => document.getElementById('plan').classList.contains('wrong')")
        page.check("input[name=size][value='4']", force=True)
        page.wait_for_function("() => !document.getElementById('start').disabled && document.getElementById('plan').textContent.includes('1024')")
        page.click("#start")
        page.wait_for_function("() => document.getElementById('doing').textContent.includes('of')")
        # One waits; the next finds the queue full, is held here, and goes when there is room.
        add(page, check.small, check.other)
        page.check("input[name=size][value='2']", force=True)
        wait_text(page, "#plan", "128 × 96 px")
        page.click("#start")
        page.click("#list .card >> nth=1")
        told(page, "queue is full")
        assert text(page, "#doing") == "Waiting to be sent", text(page, "#doing")
        page.click("#list .card >> nth=2")
        page.click("#cancel")
        page.click("#list .card >> nth=1")
        done(page)
        assert text(page, "#name") == "other.jpg"
        assert sorted(job["state"] for job in server.jobs() if job["name"] != broken.name) == ["cancelled", "done", "done"]

        server.end()
        wait_text(page, "#trouble", "does not answer")


def token(check: Check) -> None:
    """A token is asked for, a wrong one refused; one in the address is taken out of it and kept."""
    server = check.serve("token", "--token", "a-secret-of-this-test")
    with check.page(server, expected=["401"]) as page:
        page.wait_for_selector("#ask-token[open]")
        axe(page, "the token")
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        wait_text(page, "#token-wrong", "not this server")
        page.fill("#token", "a-secret-of-this-test")
        page.keyboard.press("Enter")
        page.wait_for_selector("#ask-token", state="hidden")
        add(page, check.small)
        wait_text(page, "#plan", "128 × 96 px")
        page.click("#start")
        done(page)
        page.reload()
        done(page)
    with check.page(server, fragment="#token=a-secret-of-this-test") as page:
        done(page)
        assert "secret" not in page.url, page.url


def keyboard(check: Check) -> None:
    """Everything without a mouse: choose, set, start, watch, compare, download; the focus is never lost and never caught."""
    server = check.serve("keyboard")
    with check.page(server) as page:
        focus = lambda: page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.tagName")

        def tab_to(name: str) -> None:
            for _ in range(60):
                page.keyboard.press("Tab")
                if focus() == name:
                    return
            raise AssertionError(f"no way to {name} by the tab key; last at {focus()}")

        tab_to("choose")
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(str(check.small))
        wait_text(page, "#plan", "128 × 96 px")
        tab_to("strength")
        page.keyboard.press("ArrowRight")
        assert text(page, "#strength-said") == "0.50"
        tab_to("start")
        page.wait_for_function("() => !document.getElementById('start').disabled")
        page.keyboard.press("Enter")
        done(page)
        page.wait_for_function("() => document.activeElement.id === 'download'")
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        assert download.value.suggested_filename == "small_2x.jpg"
        assert newest(server)["settings"]["strength"] == 0.5
        tab_to("handle")
        page.keyboard.press("ArrowRight")
        assert page.get_attribute("#handle", "aria-valuenow") == "51"
        # Once around: every element has a visible ring, and the way leads out of the page again.
        seen = []
        for _ in range(60):
            page.keyboard.press("Tab")
            seen.append(focus())
            if focus() == "BODY":
                break
            ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth")
            assert not ring.startswith("none") and not ring.endswith("0px"), f"{focus()} shows no focus: {ring}"
        assert "BODY" in seen, f"the tab key never leaves the page: {seen}"
        wait_text(page, "#said", "")


def several(check: Check) -> None:
    """Pictures that are dropped and pasted, with transparency, and in kinds that a browser does not show."""
    server = check.serve("several")
    with check.page(server) as page:
        contents = [list(check.small.read_bytes()), list(check.other.read_bytes())]
        page.evaluate(DROP, [["small.jpg", "other.jpg"], contents, "#stage"])
        assert page.locator("#list .card").count() == 2 and not page.eval_on_selector("body", "it => it.classList.contains('dragging')")
        page.evaluate(PASTE, contents[0])
        wait_text(page, "#start", "Enlarge 3 pictures")
        wait_text(page, "#plan", "128 × 96 px")
        page.click("#start")
        page.wait_for_function("() => document.querySelectorAll('.card[data-state=done]').length === 3")
        assert sorted(job["name"] for job in server.jobs()) == ["other.jpg", "pasted.jpg", "small.jpg"]

        clear = check.folder / "clear.png"
        clear.write_bytes(bytes(page.evaluate(CLEAR)))
        add(page, clear)
        wait_text(page, "#plan", "96 × 64 px")
        page.select_option("#format", "tiff")
        page.click("#start")
        page.wait_for_selector("#download:visible")
        # A job that is done before anyone looked has made no preview; then words stand in its place.
        page.wait_for_function("() => document.getElementById('facts').textContent.includes('shown as a preview') || !document.getElementById('unseen').hidden")
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "clear_2x.tif", download.value.suggested_filename
        tiff = check.folder / "clear_2x.tif"
        tiff.write_bytes(pathlib.Path(download.value.path()).read_bytes())
        check.shot(page, "1440-transparent")
        # The browser cannot show a TIFF before either: there is no border then, and no error.
        add(page, tiff)
        wait_text(page, "#unseen", "cannot show")
        page.select_option("#format", "png")
        page.click("#start")
        page.wait_for_selector("#download:visible")
        page.wait_for_selector("#paper .after")
        assert page.is_hidden("#handle") and newest(server)["format"] == "png"
        axe(page, "without a before")
        # What is finished leaves the server.
        page.click("#clear")
        page.click("#sure-yes")
        page.wait_for_selector("#strip", state="hidden")
        assert not server.jobs()


def restarts(check: Check) -> None:
    """The server is killed while a job runs: the page says so, waits, and follows the job on when the server is back."""
    server = check.serve("restarts")
    with check.page(server, expected=["ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY", "network error"]) as page:
        add(page, check.large)
        page.check("input[name=size][value='4']", force=True)
        wait_text(page, "#plan", "1024 × 768 px")
        page.click("#start")
        page.wait_for_function("() => document.getElementById('doing').textContent.startsWith('Repainting')")
        server.end(signal.SIGKILL)
        wait_text(page, "#trouble", "does not answer")
        axe(page, "without the server")
        server = server.again()
        check.servers.append(server)
        page.wait_for_function("() => !document.getElementById('trouble').textContent")
        done(page)
        assert len(server.jobs()) == 1 and newest(server)["state"] == "done"


def looks(check: Check) -> None:
    """What the page looks like on wide and narrow screens, in dark and in light colours; nothing is wider than the screen."""
    server = check.serve("looks")
    picture = check.crop("nuthatch.jpg", (130, 60, 386, 252))
    for width, height, scheme in [(1440, 900, "dark"), (1440, 900, "light"), (390, 844, "dark"), (320, 640, "light")]:
        name = f"{width}-{scheme}"
        with check.page(server, width, height, scheme) as page:
            fits(page, width)
            if not server.jobs():
                add(page, picture)
                wait_text(page, "#plan", "512 × 384 px")
                fits(page, width)
                check.shot(page, f"{name}-settings")
                page.click("#start")
            done(page)
            fits(page, width)
            axe(page, name)
            check.shot(page, f"{name}-result")
            page.click("#regions")
            page.wait_for_selector("#grid rect.cell")
            page.locator("#grid rect.cell").nth(1).focus()
            fits(page, width)
            axe(page, f"{name}, regions")
            check.shot(page, f"{name}-regions")
            page.click("#again")
            page.click("#advanced summary")
            fits(page, width)
            axe(page, f"{name}, settings")
            check.shot(page, f"{name}-advanced")


SCENES = [enlarges, captions, cancels, errors, token, keyboard, several, restarts, looks]


def screenshot(check: Check, path: pathlib.Path) -> None:
    """The README's picture of the page, in few colours so that it is small."""
    from PIL import Image

    server = check.serve("screenshot")
    with check.page(server, 1200, 720) as page:
        add(page, ROOT / "samples/nuthatch.jpg")
        wait_text(page, "#plan", "1024 × 768 px")
        page.click("#start")
        done(page)
        page.mouse.move(5, 5)
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        # The first call chooses the colours; only the second, with a palette, spreads what they leave.
        palette = shot.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=3)
        shot.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="cupscale-fast, built with `serve`")
    parser.add_argument("scenes", nargs="*", help=f"some of: {', '.join(scene.__name__ for scene in SCENES)}")
    parser.add_argument("--output", type=pathlib.Path, default=CACHE / "page", help="folder of the screenshots (default: %(default)s)")
    parser.add_argument("--browser", help="another Chromium than Debian's")
    parser.add_argument("--screenshot", type=pathlib.Path, metavar="FILE.png", help="only make the README's picture of the page")
    given = parser.parse_args()
    unknown = set(given.scenes) - {scene.__name__ for scene in SCENES}
    if unknown:
        parser.error(f"no such scene: {', '.join(sorted(unknown))}")
    at_home(__file__)
    from playwright.sync_api import sync_playwright

    browser_path = given.browser or subprocess.run(["bash", ROOT / "tools/chromium.sh", CACHE / "chromium"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="check-page-") as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        check = Check(str(pathlib.Path(given.program).resolve()), browser, pathlib.Path(folder), given.output)
        if given.screenshot:
            scenes = [functools.partial(screenshot, path=given.screenshot)]
        else:
            scenes = [scene for scene in SCENES if not given.scenes or scene.__name__ in given.scenes]
        for scene in scenes:
            begun, name = time.monotonic(), getattr(scene, "__name__", "screenshot")
            try:
                scene(check)
                print(f"{name}: well, {time.monotonic() - begun:.0f} s", flush=True)
            except Exception as error:
                failed += 1
                print(f"{name}: FAILED after {time.monotonic() - begun:.0f} s: {type(error).__name__}: {error}", flush=True)
                traceback.print_exc()
                for page in [page for context in browser.contexts for page in context.pages]:
                    check.shot(page, f"failed-{name}")
            finally:
                for context in browser.contexts:
                    context.close()
                for server in check.servers:
                    if server.process.poll() is None:
                        server.end()
                check.servers.clear()
        browser.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
