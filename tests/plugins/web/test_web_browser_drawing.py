"""What the page costs: it draws by the time that passes, never by the events that come, and rests while nobody looks."""

import time

from tests.plugins.web.browsing import needs_chromium, says
from tests.plugins.web.story import training
from tests.support import wait_for
from trainbus.bus.events import Sample, Step

pytestmark = needs_chromium

RUN = "qwen3-gsm8k"
BURSTS, BURST = 6, 150
A_SECOND, AT_ONCE = 12, 30
"""Drawings of one panel: its timers allow some a second, whatever happens; and some when something of another kind begins."""

SEEN = "() => [performance.now() / 1000, Object.fromEntries(window.trainbus.drawings)]"


def too_often(page, before):
    """Panels that were drawn more often since ``before`` than the time that the page itself saw pass allows."""
    (since, drawn), (until, now) = before, page.evaluate(SEEN)
    most = AT_ONCE + A_SECOND * (until - since)
    return {panel: (count - drawn.get(panel, 0), round(most)) for panel, count in now.items() if count - drawn.get(panel, 0) > most}


def test_panels_are_drawn_by_the_clock_and_not_by_the_event(dashboard, visit):
    """Some hundred events as fast as they go, then none: no panel is drawn for each, and none goes on drawing by itself."""
    board = dashboard()
    board.feed(*training(steps=20, now=time.time_ns()))
    page = visit(board.url)
    says(page, "#chart-loss", "at step 20")
    before = page.evaluate(SEEN)
    for burst in range(1, BURSTS + 1):
        steps = range(20 + (burst - 1) * BURST + 1, 20 + burst * BURST + 1)
        board.feed(*(Step(run=RUN, step=step, total_steps=2000, metrics={"loss": 1 / step}, time=time.time_ns()) for step in steps))
        board.feed(Sample(run=RUN, step=steps[-1], prompt="?", answer="!", correct=True, time=time.time_ns()))
        says(page, "#chart-loss", f"at step {steps[-1]}")
    assert too_often(page, before) == {}
    quiet = page.evaluate(SEEN)
    page.wait_for_function("(end) => performance.now() / 1000 > end", arg=quiet[0] + 2)
    assert too_often(page, quiet) == {}


HIDDEN = """(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_window_that_nobody_sees_takes_no_connection_and_misses_nothing(dashboard, visit):
    """A browser has six connections to a server for all its windows. What happened meanwhile is there at once when it is seen again."""
    board = dashboard()
    board.feed(*training(steps=20, now=time.time_ns()))
    page = visit(board.url)
    page.clock.install()
    page.reload()
    says(page, "#chart-loss", "at step 20")
    wait_for(lambda: board.get("/healthz")["streams"] == 1, 60)
    page.evaluate(HIDDEN, True)
    page.clock.run_for(31_000)
    wait_for(lambda: board.get("/healthz")["streams"] == 0, 60)
    page.clock.run_for(60_000)
    assert board.get("/healthz")["streams"] == 0
    steps = range(21, 321)
    board.feed(*(Step(run=RUN, step=step, total_steps=2000, metrics={"loss": 0.5}, time=time.time_ns()) for step in steps))
    page.evaluate(HIDDEN, False)
    says(page, "#chart-loss", "0.5 at step 320")
    newest = board.context.history[-1].offset
    page.wait_for_function("(o) => document.querySelector('#events .event')?.title.startsWith(`offset ${o} `)", arg=newest)
    page.click("#events-older")
    page.wait_for_function("() => document.querySelectorAll('#events .event').length > 200")
    seen = page.eval_on_selector_all("#events .event", "(all) => all.map((e) => Number(/offset (\\d+)/.exec(e.title)[1]))")
    assert seen == list(range(newest, seen[-1] - 1, -1))
    assert board.get("/healthz")["streams"] == 1
