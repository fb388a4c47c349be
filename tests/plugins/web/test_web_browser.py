"""The page in a real browser against the real plugin."""

import shutil
import time
from urllib.parse import urlsplit

import pytest

from tests.plugins.web.story import training
from trainbus.bus.events import Alert, Checkpoint, Eval, Plugin, RunEnded, RunStarted, Sample, Step
from trainbus.testing.context import MemoryContext

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")]

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>&lt;b&gt;"


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
        context.set_default_timeout(20_000)
        contexts.append(context)
        allowed.add(urlsplit(url).netloc)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: None if urlsplit(request.url).netloc in allowed else wrong.append(f"asked {request.url}"))
        # A browser itself writes a line for each request that finds no server; that is what the test is about.
        lost = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_SOCKET_NOT_CONNECTED")
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


def test_every_panel_shows_what_the_events_say(dashboard, visit):
    """Header, progress, charts, alerts, checkpoints, evaluations, samples, memory, plugins, events."""
    board = dashboard()
    board.feed(*training(now=time.time_ns()))
    page = visit(board.url)
    shows(page, "#health .text", "Loss rose to 2.24")
    shows(page, "#figures", "400 / 600")
    shows(page, "#figures", "2 steps/s")
    assert page.get_attribute("#progress", "aria-valuenow") == "67"
    shows(page, "#eta", "left")
    says(page, "#chart-loss", "1 values not finite")
    says(page, "#chart-loss", "at step 400")
    for chart in ("loss", "lr", "norm", "speed"):
        assert ink(page, f"#chart-{chart} canvas") > 500
    assert page.locator("#loss-legend li").all_inner_texts() == ["▼ alerts", "◆ checkpoints", "● validation", "★ best"]
    assert page.locator("#alerts details").count() == 2
    page.click("#alerts summary >> nth=0")
    shows(page, "#alerts details[open]", "Look at the learning rate of this step.")
    shows(page, "#alerts details[open] dd", "12.1")
    page.click("#alerts summary >> nth=1")
    shows(page, "#alerts details[open] dd", "not finite")
    assert page.locator("#checkpoints tbody tr").count() == 8
    shows(page, "#checkpoints tbody tr", "best exact_match")
    shows(page, "#evals", "gsm8k-test")
    shows(page, "#samples", "marbles")
    shows(page, "#memory", "gpu-box")
    shows(page, "#memory", "GPU 0 H100")
    shows(page, "#memory", "trainer")
    shows(page, "#plugins tr", "The server does not answer.")
    shows(page, "#events .event", "plugin")
    page.fill("#events-filter", "loss 0")
    page.wait_for_function("() => [...document.querySelectorAll('#events .event b')].every((e) => e.textContent === 'step')")
    assert page.locator("#connection.live").count() == 1


def test_the_page_follows_live_events(dashboard, visit):
    """Empty at first; a run appears, steps, raises an alert, saves, is evaluated and ends, without a reload."""
    board = dashboard()
    page = visit(board.url)
    page.wait_for_selector("#empty:visible")
    board.feed(RunStarted(run="fresh", time=time.time_ns()))
    shows(page, "#figures", "running")
    for step in range(1, 6):
        board.feed(Step(run="fresh", step=step, total_steps=10, time=time.time_ns(), metrics={"loss": 1.0 / step}))
    says(page, "#chart-loss", "0.2 at step 5")
    shows(page, "#figures", "5 / 10")
    board.feed(
        Alert(run="fresh", id="a", message="Loss is odd", step=5, severity="critical", time=time.time_ns()),
        Checkpoint(run="fresh", id="c", step=5, path="/x/checkpoint-5", bytes=2048, time=time.time_ns()),
        Eval(run="fresh", step=5, dataset="exam", metrics={"accuracy": 0.25}, time=time.time_ns()),
        Plugin(name="anomaly", state="stuck", error="hook runs for 300 s", time=time.time_ns()),
    )
    shows(page, "#alerts .message", "Loss is odd")
    shows(page, "#health .text", "Loss is odd")
    shows(page, "#checkpoints", "2.0 KiB")
    shows(page, "#evals", "0.25")
    shows(page, "#plugins", "stuck")
    board.feed(Alert(run="fresh", id="a", message="Loss is odd", state="cleared", severity="critical", time=time.time_ns()))
    page.wait_for_selector("#alerts .alert.cleared")
    board.feed(RunEnded(run="fresh", outcome="completed", time=time.time_ns()))
    shows(page, "#health .text", "Run completed")


def test_hostile_text_is_shown_as_text(dashboard, visit):
    """A sample, an alert, a run's name: whatever says it, it is not run."""
    board = dashboard()
    board.feed(
        RunStarted(run=HOSTILE, time=time.time_ns()),
        Step(run=HOSTILE, step=1, metrics={HOSTILE: 1.0, "loss": 1.0}, time=time.time_ns()),
        Sample(run=HOSTILE, step=1, prompt=HOSTILE, answer=HOSTILE, expected=HOSTILE, dataset=HOSTILE, time=time.time_ns()),
        Alert(run=HOSTILE, id=HOSTILE, message=HOSTILE, evidence={HOSTILE: HOSTILE}, advice=HOSTILE, time=time.time_ns()),
        Checkpoint(run=HOSTILE, id="c", path=HOSTILE, metrics={HOSTILE: 1.0}, reason=HOSTILE, time=time.time_ns()),
        Eval(run=HOSTILE, dataset=HOSTILE, metrics={HOSTILE: 1.0}, time=time.time_ns()),
        Plugin(name=HOSTILE, error=HOSTILE, time=time.time_ns()),
    )
    page = visit(board.url)
    for panel in ("samples", "alerts", "checkpoints", "evals", "plugins", "events", "health"):
        shows(page, f"#{panel}", "<script>document.title='owned'</script>&lt;b&gt;")
    assert page.locator("main script, main img[src=x]").count() == 0
    assert page.title() != "owned"


def test_the_page_says_when_it_is_stale_and_comes_back_without_a_reload(dashboard, visit):
    """The server ends, the banner appears; a new server on the same port has all that happened meanwhile."""
    context = MemoryContext(name="web")
    first = dashboard(context=context)
    first.feed(*training(steps=50, now=time.time_ns()))
    page = visit(first.url, may_lose_server=True)
    shows(page, "#figures", "50 / 600")
    page.evaluate("window.sameDocument = true")
    first.close()
    page.wait_for_selector("#banner:visible")
    shows(page, "#banner", "Trying again")
    assert page.locator(".is-stale").count() == 1
    context.history.append(Step(run="qwen3-gsm8k", step=51, total_steps=600, time=time.time_ns(), offset=context.history[-1].offset + 1,
                                metrics={"loss": 1.5}))  # fmt: skip
    second = dashboard(context=context, port=urlsplit(first.url).port)
    page.wait_for_selector("#banner", state="hidden")
    shows(page, "#figures", "51 / 600")
    second.feed(Step(run="qwen3-gsm8k", step=52, total_steps=600, time=time.time_ns(), metrics={"loss": 1.25}))
    says(page, "#chart-loss", "1.25 at step 52")
    assert page.evaluate("window.sameDocument")


def test_a_run_is_picked_and_kept_in_the_address(dashboard, visit):
    """The link to a run is the page's address."""
    board = dashboard()
    board.feed(*training("one", steps=10, now=time.time_ns()), *training("two", steps=20, now=time.time_ns()))
    page = visit(board.url)
    shows(page, "#figures", "20 / 600")
    page.click("#runs .open:has-text('one')")
    shows(page, "#figures", "10 / 600")
    assert page.url.endswith("#run=one")
    page.reload()
    shows(page, "#figures", "10 / 600")


def test_the_chart_is_read_and_zoomed_by_mouse_and_keyboard(dashboard, visit):
    """A crosshair with values; dragging selects steps, which are fetched again in full detail."""
    board = dashboard()
    board.feed(*training(now=time.time_ns()))
    page = visit(board.url)
    says(page, "#chart-loss", "step 400")
    page.focus("#chart-loss [role=img]")
    page.keyboard.press("End")
    shows(page, "#chart-loss .tip", "step 400")
    page.keyboard.press("ArrowLeft")
    shows(page, "#chart-loss .tip", "step 399")
    shows(page, "#chart-loss .tip", "smoothed")
    box = page.locator("#chart-loss canvas").first.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 100)
    page.mouse.up()
    page.wait_for_selector("#unzoom:visible")
    page.wait_for_function("() => !document.querySelector('#chart-loss [role=img]').ariaLabel.includes('step 400')")
    page.click("#unzoom")
    says(page, "#chart-loss", "step 400")
    page.check("#log")
    page.wait_for_function("() => localStorage.getItem('trainbus-log') === 'true'")


def test_the_theme_follows_the_system_until_one_is_chosen(dashboard, visit):
    """A chosen theme outlives a reload."""
    board = dashboard()
    page = visit(board.url, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(15, 17, 23)"
    page.click("#theme")
    assert page.evaluate(ground) == "rgb(243, 244, 248)"
    page.reload()
    assert page.evaluate(ground) == "rgb(243, 244, 248)"


def test_a_phone_needs_no_sideways_scrolling(dashboard, visit):
    """375 pixels wide, also with long names."""
    board = dashboard()
    board.feed(*training("a-run-with-a-very-long-name-that-goes-on-and-on-and-on-2026-11-20", now=time.time_ns()))
    page = visit(board.url, viewport={"width": 375, "height": 700}, has_touch=True, is_mobile=True)
    shows(page, "#figures", "400 / 600")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    hidden = page.evaluate("[...document.querySelectorAll('.card')].filter((e) => e.getBoundingClientRect().right > 375).length")
    assert hidden == 0
