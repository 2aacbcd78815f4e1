#!/usr/bin/env python3
"""A page of --report in headless Chromium: it opens without an error and without a request, the border moves by mouse and
by keys, regions show their captions, and foreign text is text. Screenshots go beside the page.

    python3 -m venv ~/report-venv && ~/report-venv/bin/pip install playwright    # with Debian's package chromium
    ~/report-venv/bin/python tools/check_report.py target/debug/cupscale-fast samples/nuthatch.jpg

It makes two pages of its own in a temporary folder, or checks one that is there: `check_report.py PAGE.html`.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

EVIL = "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 1'> {{before}} & \"quoted\""


def make(program: str, picture: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """Pages of a plain job, and of one whose prompt is meant to break them."""
    pages = []
    for name, options in [("plain", []), ("evil", ["--prompt", EVIL, "--captioner", "none"])]:
        output = folder / f"{name}.jpg"
        command = [program, picture, "-o", str(output), "--denoise-steps", "1", "--report", *options]
        subprocess.run(command, check=True)
        pages.append(folder / f"{name}.jpg.html")
    return pages


def check(browser, page_file: pathlib.Path, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    border = lambda: page.eval_on_selector("#whole", "it => it.style.getPropertyValue('--at')")
    assert border() == "50%", border()

    # By mouse: a quarter of the way, then dragged.
    box = page.locator("#whole").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 4, middle)
    page.mouse.down()
    assert abs(float(border()[:-1]) - 25) < 2, border()
    page.mouse.move(box["x"] + box["width"] * 3 / 4, middle, steps=5)
    page.mouse.up()
    assert abs(float(border()[:-1]) - 75) < 2, border()
    # What is seen follows: left of the border is the input, right of it the output.
    inset = page.eval_on_selector("#whole .after", "it => getComputedStyle(it).clipPath")
    assert "7" in inset.split("%")[0].split()[-1], inset

    # By keys.
    page.focus("#whole input")
    before = float(border()[:-1])
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert abs(before - 2 - float(border()[:-1])) < 0.1, (before, border())
    page.keyboard.press("Home")
    assert border() == "0%", border()
    page.eval_on_selector("#whole input", "it => { it.value = 50; it.dispatchEvent(new Event('input')) }")

    # Regions and their captions, by mouse and by keys.
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    page.check("#show")
    rects = page.locator("#grid rect")
    assert rects.count() == len(data["regions"]) > 0
    said = lambda: page.inner_text("#said")
    assert (data["regions"][0]["caption"] or "(the prompt)").split()[0] in said(), said()
    if rects.count() > 1:
        rects.first.focus()
        page.keyboard.press("ArrowRight")
        assert said().startswith("Row 1, column 2"), said()
        rects.last.hover()
        assert said().startswith(f"Row {data['regions'][-1]['row'] + 1}, "), said()
    page.screenshot(path=str(page_file.with_suffix(f".{scheme}.png")), full_page=True)
    page.uncheck("#show")
    assert page.locator("#grid").is_hidden() and page.locator("#said").is_hidden()

    # Tables, and captions that can be opened.
    assert page.locator("#times tr").count() == len(data["times"]) > 0
    assert page.locator("#settings tr").count() == len(data["settings"]) > 0
    page.click("#captioned summary")
    assert page.locator("#captions tr").count() == len(data["regions"])

    # All pictures are there, and nothing else was asked for.
    broken = page.evaluate("[...document.images].filter(it => !it.complete || !it.naturalWidth).length")
    assert broken == 0, f"{broken} pictures do not show"
    outside = [url for url in requests if not url.startswith(("file:", "data:"))]
    assert not outside, outside
    assert page.evaluate("window.evil") is None and not errors, errors
    # A phone: nothing is wider than the screen.
    page.set_viewport_size({"width": 380, "height": 700})
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 380, f"{wide} pixels wide on a screen of 380"
    page.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        if sys.argv[1].endswith(".html"):
            pages = [pathlib.Path(sys.argv[1]).resolve()]
        else:
            pages = make(sys.argv[1], sys.argv[2], pathlib.Path(folder))
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for page in pages:
            for scheme in ["light", "dark"]:
                check(browser, page, scheme)
                print(f"{page.name}, {scheme}: {page.stat().st_size / 2**20:.1f} MiB, all well")
        browser.close()


if __name__ == "__main__":
    main()
