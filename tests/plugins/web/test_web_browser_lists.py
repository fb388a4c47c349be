"""What the page has of the journal, of one example, of the queue, and where its panels stand: in a real browser."""

import json
import time

from tests.plugins.web.browsing import needs_chromium, says, shows
from tests.plugins.web.conftest import WEB
from tests.plugins.web.story import crowd, training
from tests.plugins.web.test_web_browser import HOSTILE, context_commands, faults
from tests.support import wait_for
from trainbus.bus.events import Alert, Command, CommandResult, Job, RunEnded, RunStarted, Sample, Step

pytestmark = needs_chromium

COUNT = "(n) => document.querySelectorAll('#events .event').length === n"


def rows(page):
    return page.eval_on_selector_all("#events .event", "(all) => all.map((e) => Number(/offset (\\d+)/.exec(e.title)[1]))")


def test_the_whole_journal_is_searched_and_paged_back_without_a_hole(dashboard, visit):
    """What the page has never seen is found by words, kind and run; what goes on happening and fits appears by itself."""
    board = dashboard()
    now = time.time_ns()
    board.feed(Alert(run="a", message=f"Needle {HOSTILE}", time=now), RunStarted(run="b", time=now), RunStarted(run="a", time=now))
    board.feed(*(Step(run="b" if step % 2 else "a", step=step, metrics={"loss": 0.5}, time=now) for step in range(1500)))
    page = visit(board.url + "#run=a")
    page.wait_for_selector("#events .event")
    page.fill("#events-filter", "NEEDLE img")
    page.wait_for_function(COUNT, arg=1)
    shows(page, "#events .event", "<script>document.title='owned'</script>&lt;b&gt;")
    shows(page, "#events .end", "events of the journal searched")
    board.feed(Alert(run="b", message="another needle <img>", time=now))
    page.wait_for_function(COUNT, arg=2)
    page.check("#events-run")
    page.wait_for_function(COUNT, arg=1)
    page.uncheck("#events-run")
    page.fill("#events-filter", "")
    page.select_option("#events-kind", "run_started")
    page.wait_for_function(COUNT, arg=2)
    assert rows(page) == [2, 1]
    page.select_option("#events-kind", "step")
    page.wait_for_function(COUNT, arg=200)
    page.click("#events-older")
    page.wait_for_function(COUNT, arg=400)
    shows(page, "#panel-events .count", "held")
    board.feed(Step(run="a", step=1500, metrics={"loss": 0.5}, time=now))
    page.click("#events-older")
    page.wait_for_function(COUNT, arg=600)
    assert rows(page) == list(range(1502, 902, -1))
    page.click("#events-hold")
    page.wait_for_function("() => document.querySelector('#events .event')?.title.startsWith('offset 1504 ')")
    page.select_option("#events-kind", "alert")
    page.wait_for_function(COUNT, arg=2)
    shows(page, "#events .end", "That is all.")
    assert page.title() != "owned"


def test_one_example_is_followed_over_the_steps_from_a_sample(dashboard, visit):
    """Same answers are one line, changes are marked as such, the address is the view, hostile answers are text."""
    board = dashboard()
    board.feed(RunStarted(run="r", time=time.time_ns()), Step(run="r", step=1, metrics={"loss": 1.0}, time=time.time_ns()))
    answers = [("It is five.", False, 1.2), ("It is five.", False, 1.0), (f"It is four {HOSTILE}", True, 0.4), ("It is four.", True, 0.1)]
    for step, (answer, correct, loss) in enumerate(answers, 1):
        board.feed(
            Sample(
                run="r", step=step * 100, prompt="2+2?", expected="four", answer=answer, correct=correct, loss=loss, example="sum", time=1
            )
        )
    board.feed(Sample(run="r", step=100, prompt="3+3?", answer="six", correct=True, example="other", time=1))
    page = visit(board.url)
    page.fill("#samples-search", "2+2")
    page.wait_for_function("() => document.querySelectorAll('#samples .sample').length === 4")
    page.click("#samples summary >> nth=0")
    page.click("button:has-text('All 4 answers')")
    page.wait_for_function("() => document.querySelectorAll('#evolution li').length === 3")
    shows(page, "#panel-evolution .count", "4 answers, 2 of 4 right")
    shows(page, "#evolution li", "step 100 to 200, 2 times")
    assert page.locator("#evolution li >> nth=1").locator("del").first.inner_text() == "five"
    assert page.locator("#evolution li >> nth=1").locator("ins").first.inner_text().startswith("four <img")
    shows(page, "#evolution li", "<script>document.title='owned'</script>")
    says(page, "#chart-evolution", "at step 400")
    axe = (WEB / "node_modules" / "axe-core" / "axe.min.js").read_text()
    faults(page, axe, "#panel-evolution", "#panel-events")
    assert "example=sum" in page.url
    again = visit(page.url)
    again.wait_for_selector("#evolution li")
    again.click("[aria-label='Next example']")
    shows(again, "#evolution dd", "3+3?")
    again.click("#evolution-close")
    again.wait_for_selector("#panel-evolution", state="detached")
    assert page.title() != "owned"


def first(page):
    return page.evaluate("[...document.querySelectorAll('#content > section[id]')].map((e) => e.id)[1]")


def test_the_layout_is_the_visitors_in_every_browser(dashboard, visit):
    """Order, widths, folded panels and pins come from the server where the browser has none; keys do what the mouse does."""
    board = dashboard(token="look", operator_token="steer")
    board.feed(*training(steps=60, now=time.time_ns()))
    page = visit(board.url + "?token=look")
    says(page, "#chart-loss", "at step 60")
    wide = "(e) => Math.round(12 * e.clientWidth / e.parentElement.clientWidth)"
    assert page.eval_on_selector("#panel-loss", wide) == 8
    page.focus("#panel-loss .fold")
    page.keyboard.press("Alt+ArrowRight")
    page.wait_for_selector("#panel-loss.columns-3")
    assert page.eval_on_selector("#panel-loss", wide) == 12
    page.keyboard.press("Alt+ArrowRight")
    page.keyboard.press("Alt+ArrowLeft")
    page.wait_for_selector("#panel-loss.columns-2")
    page.keyboard.press("Alt+ArrowDown")
    page.click("#panel-lr .width")
    page.wait_for_selector("#panel-lr.columns-2")
    page.click("#panel-samples .fold")
    page.click(".chip button:has-text('grad_norm')")
    layout = wait_for(lambda: arranged(board, "look"), 60)
    assert (layout["order"][:2], layout["widths"], layout["folded"]) == (["alerts", "loss"], {"loss": 2, "lr": 2}, ["samples"])
    other = visit(board.url + "?token=look")
    says(other, "#chart-pin-0", "grad_norm")
    other.wait_for_selector("#panel-samples.folded")
    assert first(other) == "panel-alerts"
    operator = visit(board.url + "?token=steer")
    says(operator, "#chart-loss", "at step 60")
    assert first(operator) == "panel-loss"
    other.keyboard.press("?")
    other.click("#reset-layout")
    other.keyboard.press("Escape")
    wait_for(lambda: json.loads(ask(board, "look")).get("order") == [], 60)
    page.reload()
    says(page, "#chart-loss", "at step 60")
    page.wait_for_selector("#panel-samples:not(.folded)")
    assert first(page) == "panel-loss"


def ask(board, token):
    return board.ask("/api/layout", Cookie=f"trainbus_token={token}")[2]


def arranged(board, token):
    found = json.loads(ask(board, token))
    return found if found and found["pinned"] else None


def test_the_browser_keeps_the_layout_where_the_server_can_not(dashboard, visit, tmp_path):
    """A folder that can't be written: it still outlives a reload."""
    (tmp_path / "layouts").write_text("in the way")
    board = dashboard()
    board.feed(*training(steps=20, now=time.time_ns()))
    page = visit(board.url, may_lose_server=True)
    says(page, "#chart-loss", "at step 20")
    page.click("#panel-lr .width")
    page.wait_for_selector("#panel-lr.columns-2")
    page.reload()
    page.wait_for_selector("#panel-lr.columns-2")


def test_an_operator_edits_the_queue_and_sees_what_becomes_of_it(dashboard, visit):
    """Priority and retry at once, removal and holding after a question; a viewer has none of the buttons."""
    board = dashboard(token="look", operator_token="steer")
    run, now = "qwen3-gsm8k", time.time_ns()
    board.feed(*training(now=now), *crowd(now=now))
    board.feed(Job(run=run, id="bad", file="/inbox/bad.jsonl", state="failed", reason="no JSON", time=now))
    page = visit(board.url + "?token=steer")
    page.click("[data-queue=higher]")
    page.click("[data-queue=retry]")
    page.click("[data-queue=remove]")
    page.fill("dialog input[name=reason]", "a mistake")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog", state="detached")
    page.click("[data-queue=hold]")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog", state="detached")
    asked = "asked on the dashboard"
    wait_for(lambda: len(board.context.commands) == 4, 60)
    assert context_commands(board) == [
        ("queue_priority", {"job": "j3", "priority": "high"}, asked),
        ("queue_retry", {"job": "bad"}, asked),
        ("queue_remove", {"job": "j3"}, "a mistake"),
        ("queue_hold", {}, asked),
    ]
    board.feed(Command(run=run, id="c1", verb="queue_remove", arguments={"job": "j3"}, time=time.time_ns()))
    shows(page, "#queue-orders li.sent", "remove part-3.jsonl")
    page.wait_for_selector("[data-queue=remove]", state="detached")
    board.feed(CommandResult(run=run, command="c1", verb="queue_remove", state="refused", reason=f"gone {HOSTILE}", time=time.time_ns()))
    shows(page, "#queue-orders li.refused", "gone <img")
    page.wait_for_selector("[data-queue=remove]")
    board.feed(
        Command(run=run, id="c2", verb="queue_hold", time=time.time_ns()),
        CommandResult(run=run, command="c2", verb="queue_hold", state="done", result={"held": True}, time=time.time_ns()),
    )
    page.wait_for_selector("[data-queue=release]")
    shows(page, "#panel-queue .pill", "held")
    assert page.locator("#orders").count() == 0
    viewer = visit(board.url + "?token=look")
    shows(viewer, "#queue td", "bad.jsonl")
    assert viewer.locator("[data-queue]").count() == 0


def test_what_has_just_happened_is_told_in_a_corner(dashboard, visit):
    """A raised alert and an ended run, once each and as text; what was there before is no news; a press leads to the run."""
    board = dashboard()
    board.feed(
        *training(steps=20, now=time.time_ns()), RunStarted(run="other", time=1), Step(run="other", step=1, metrics={"loss": 1.0}, time=1)
    )
    page = visit(board.url + "#run=qwen3-gsm8k")
    says(page, "#chart-loss", "at step 20")
    assert page.locator(".toast").count() == 0
    later = time.time_ns() + 3600 * 10**9  # whatever the clocks of server and browser think of "before"
    alert = {"run": "other", "rule": "nan", "severity": "critical", "state": "raised"}
    board.feed(Alert(**alert, id="a", message=f"Loss is NaN {HOSTILE}", time=later), Alert(**alert, id="b", message="again", time=later))
    board.feed(RunEnded(run="other", outcome="failed", reason="gone", time=later))
    shows(page, ".toast.critical b", "<script>document.title='owned'</script>")
    shows(page, ".toast.critical b", "Run failed: gone")
    assert page.locator(".toast").count() == 2
    page.click(".toast .open >> nth=0")
    page.wait_for_function("() => location.hash.includes('run=other')")
    page.click(".toast [aria-label=Close] >> nth=0")
    page.keyboard.press("b")
    page.wait_for_function("() => localStorage.getItem('trainbus-sound') === 'true'")
    assert page.title() != "owned"
