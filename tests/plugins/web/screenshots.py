"""Pictures of the page, to look at: ``python -m tests.plugins.web.screenshots FOLDER``. Desktop and phone, light and dark."""

import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.plugins.web.story import crowd, keeping, supervisor, training
from trainbus.plugins.web.plugin import WebPlugin
from trainbus.testing.context import MemoryContext
from trainbus.testing.live import LiveHarness

DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 375, "height": 800}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    context = MemoryContext(name="web", directory=Path(tempfile.mkdtemp()))
    context.supervisor = supervisor()
    with (
        LiveHarness(WebPlugin(), config={"port": 0, "inbox": tempfile.mkdtemp()}, context=context) as harness,
        sync_playwright() as playwright,
    ):
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def shoot(name: str, *, address: str = "", wait: str = "", **options) -> None:
            page = chromium.new_page(**options)
            page.goto(context.url + address)
            with contextlib.suppress(Exception):
                page.wait_for_selector(wait or ".uplot canvas", timeout=8_000)
            # What is out of sight isn't laid out, and a picture of the full page scrolls nowhere.
            page.evaluate("() => document.getElementById('events')?.style.setProperty('content-visibility', 'visible')")
            page.wait_for_timeout(700)
            page.screenshot(path=folder / f"{name}.png", full_page=True)
            page.close()

        shoot("empty", wait="#empty", viewport=DESKTOP)
        harness.feed(*crowd(now=time.time_ns()), *training(now=time.time_ns()), *keeping(now=time.time_ns()))
        for scheme in ("light", "dark"):
            shoot(f"desktop-{scheme}", viewport=DESKTOP, color_scheme=scheme)
            shoot(f"phone-{scheme}", viewport=PHONE, color_scheme=scheme, is_mobile=True, has_touch=True, device_scale_factor=2)
        shoot("compare", address="#run=qwen3-gsm8k&compare=qwen3-gsm8k&compare=lr-1e-4", wait="#chart-compare canvas", viewport=DESKTOP)
        shoot("api", address="#page=api", wait=".api article", viewport=DESKTOP)
        for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
            page = chromium.new_page(viewport=size, color_scheme="dark" if name == "phone" else "light", device_scale_factor=2)
            page.goto(context.url)
            page.wait_for_selector("#checkpoints .disk")
            page.locator("#panel-checkpoints").screenshot(path=folder / f"checkpoints-{name}.png")
            page.close()
        page = chromium.new_page(viewport=DESKTOP, device_scale_factor=2)
        page.goto(context.url)
        page.click("[aria-label='Log of inference']")
        page.wait_for_selector("#plugin-log pre:has-text('answer')")
        page.locator("#panel-plugins").screenshot(path=folder / "plugins.png")
        page.click(".chip:has-text('loss') button >> nth=0")
        page.click(".pinned button:has-text('Slope')")
        page.fill("#events-filter", "loss NaN")
        page.wait_for_selector("#events .end .meta")
        for panel in ("queue", "steptimes", "metrics", "events"):
            page.locator(f"#panel-{panel}").screenshot(path=folder / f"{panel}.png")
        for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
            page = chromium.new_page(viewport=size, color_scheme="dark" if name == "phone" else "light", device_scale_factor=2)
            page.goto(context.url + "#run=qwen3-gsm8k&example=q1")
            page.wait_for_selector("#evolution li")
            page.hover("#panel-evolution h2")
            page.locator("#panel-evolution").screenshot(path=folder / f"evolution-{name}.png")
        chromium.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
