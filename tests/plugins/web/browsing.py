"""A browser for tests of the page: fixtures, and waiting for what it shows."""

import shutil
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, page):
    """Opens a page; afterwards nothing may have gone wrong in it, and no other host was asked."""
    contexts, wrong, allowed = [], [], set()

    def make(url, *, may_lose_server=False, **options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        context.set_default_timeout(120_000)
        contexts.append(context)
        allowed.add(urlsplit(url).netloc)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: None if urlsplit(request.url).netloc in allowed else wrong.append(f"asked {request.url}"))
        # A browser itself writes a line for each request that finds no server or is refused by it; that is what the test is about.
        lost = (
            "ERR_CONNECTION_REFUSED",
            "ERR_INCOMPLETE_CHUNKED_ENCODING",
            "ERR_CONNECTION_RESET",
            "ERR_EMPTY_RESPONSE",
            "ERR_SOCKET_NOT_CONNECTED",
            "status of 507",
        )
        page.on(
            "console",
            lambda message: (
                wrong.append(f"console: {message.text}")
                if message.type in ("error", "warning") and not (may_lose_server and any(word in message.text for word in lost))
                else None
            ),
        )
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


def shows(page, selector, text):
    """Wait until an element contains a text."""
    page.wait_for_function("([s, t]) => [...document.querySelectorAll(s)].some((e) => e.textContent.includes(t))", arg=[selector, text])


def ink(page, selector):
    """How many pixels of a canvas are painted."""
    return page.eval_on_selector(
        selector, "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v > 0).length"
    )


def says(page, chart, text):
    """Wait until a chart's description for people who can't see it contains a text."""
    page.wait_for_function("([c, t]) => document.querySelector(`${c} [role=img]`)?.ariaLabel.includes(t)", arg=[chart, text])
