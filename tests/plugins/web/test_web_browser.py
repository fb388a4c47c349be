"""The page in a real browser against the real plugin."""

import json
import time
from urllib.parse import urlsplit

from tests.plugins.web.browsing import ink, needs_chromium, says, shows
from tests.plugins.web.conftest import WEB
from tests.plugins.web.story import crowd, keeping, training
from trainbus.bus.events import (
    Alert,
    Checkpoint,
    CheckpointDisk,
    CheckpointFate,
    Command,
    CommandResult,
    Eval,
    Metric,
    Plugin,
    Retention,
    RunEnded,
    RunStarted,
    Sample,
    Step,
    checkpoint_id,
)
from trainbus.hookspecs import Panel
from trainbus.testing.context import MemoryContext

pytestmark = needs_chromium

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>&lt;b&gt;"


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
    page.fill("#events-filter", "grad_norm")
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
        Retention(
            run=HOSTILE,
            host=HOSTILE,
            time=time.time_ns(),
            checkpoints=[
                CheckpointFate(
                    id=HOSTILE, step=2, path=f"/{HOSTILE}/2", reasons=[HOSTILE], pinned=HOSTILE, leases=[HOSTILE], metrics={HOSTILE: 2.0}
                ),
                CheckpointFate(id="t", step=3, path=f"/{HOSTILE}/3", state="trashed", restorable=True, reasons=[HOSTILE]),
            ],
        ),
        Retention(host=HOSTILE, disks=[CheckpointDisk(path=HOSTILE, total=9, free=1, directories=[f"/{HOSTILE}"])]),
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


def test_no_panel_hides_anything_from_a_screen_reader_or_a_keyboard(dashboard, visit):
    """axe-core finds no serious fault: light and dark, an alert opened, the help sheet, the comparison, the API's description."""
    axe = (WEB / "node_modules" / "axe-core" / "axe.min.js").read_text()
    board = dashboard()
    board.feed(*crowd(now=time.time_ns()), *training(now=time.time_ns()), *keeping(now=time.time_ns()))
    for scheme in ("light", "dark"):
        page = visit(board.url + "#compare=lr-1e-4", color_scheme=scheme)
        page.wait_for_selector("#chart-compare canvas")
        says(page, "#chart-loss", "at step 400")
        page.click("#alerts summary >> nth=0")
        faults(page, axe)
        page.keyboard.press("?")
        page.wait_for_selector("dialog[open]")
        faults(page, axe)
        page.goto(board.url + "#page=api")
        page.wait_for_selector(".api article")
        faults(page, axe)


def faults(page, axe, *parts):
    """Serious and critical faults by axe-core's rules, of the whole page or of these parts; there must be none."""
    page.evaluate(axe)
    where = json.dumps([[part] for part in parts] or "html")
    found = page.evaluate(f"axe.run({where}).then((r) => r.violations.filter((v) => ['serious', 'critical'].includes(v.impact)))")
    assert [(fault["id"], [node["html"][:200] for node in fault["nodes"][:3]]) for fault in found] == []


def test_an_operator_steers_and_sees_what_becomes_of_it(dashboard, visit):
    """A costly command is confirmed; each is shown until its result comes; a refusal by the run says why."""
    board = dashboard()
    board.feed(*training(steps=20, now=time.time_ns()))
    page = visit(board.url)
    page.click("[data-verb=pause]")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert context_commands(board) == []
    page.click("[data-verb=set]")
    page.fill("input[name=rate]", "much")
    page.click("dialog button[type=submit]")
    shows(page, "dialog [role=alert]", "A learning rate is a number above 0")
    page.fill("input[name=rate]", "1e-5")
    page.fill("input[name=reason]", "it oscillates")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog", state="detached")
    assert context_commands(board) == [("set", {"learning_rate": 1e-5}, "it oscillates")]
    run = "qwen3-gsm8k"
    board.feed(Command(run=run, id="c1", verb="set", arguments={"learning_rate": 1e-5}, requested_by="plugin:web", time=time.time_ns()))
    shows(page, "#orders li", "on its way")
    board.feed(CommandResult(run=run, command="c1", verb="set", state="accepted", time=time.time_ns()))
    shows(page, "#orders li.accepted", "learning_rate 0.00001")
    board.feed(CommandResult(run=run, command="c1", verb="set", state="refused", reason="no optimizer yet", time=time.time_ns()))
    shows(page, "#orders li.refused", "no optimizer yet")
    page.click("[data-verb=save]")
    page.wait_for_function("() => !document.querySelector('dialog')")
    deadline = time.monotonic() + 120
    while len(context_commands(board)) < 2:
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def context_commands(board):
    return [(sent.verb, sent.arguments, sent.reason) for sent in board.context.commands]


def test_a_viewer_has_no_buttons(dashboard, visit):
    """With a token for reading and another for steering, the page is what its token allows."""
    board = dashboard(token="look", operator_token="steer")
    board.feed(*training(steps=20, now=time.time_ns()), *keeping(now=time.time_ns()))
    page = visit(board.url + "?token=look")
    shows(page, ".role", "viewer")
    shows(page, "#figures", "20 / 600")
    shows(page, "#checkpoints td", "one of the newest 3")
    assert page.locator("[data-verb], [data-deed]").count() == 0
    page.goto(board.url + "?token=steer")
    page.wait_for_selector("[data-verb=stop]")
    page.wait_for_selector("[data-deed=restore]")
    assert "token" not in page.url


def test_checkpoints_are_seen_over_steps_and_pinned_and_restored(dashboard, visit):
    """On a phone too: lanes, disk and forecast; a button is gone while what it asked for is on its way; the answer and the change come."""
    board = dashboard()
    now = time.time_ns()
    run = "qwen3-gsm8k"
    board.feed(*training(now=now), *keeping(now=now))
    page = visit(board.url, viewport={"width": 375, "height": 800})
    shows(page, "#checkpoints .disk", "full in about 25 h")
    assert [page.locator(f"#strip .{lane} .mark").count() for lane in ("kept", "goes", "trashed", "gone")] == [4, 1, 2, 1]
    shows(page, "#checkpoints .disk", "floor: 20 GiB stay free")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.click("#strip .trashed button")
    page.wait_for_function("() => document.querySelectorAll('#checkpoints tbody tr').length === 2")
    shows(page, "#checkpoints td", "no policy keeps it · can be restored until")
    page.click("[aria-label='Restore the checkpoint of step 200']")
    page.uncheck("dialog input[name=pin]")
    page.fill("dialog input[name=reason]", "a second look")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog", state="detached")
    identity = checkpoint_id(run, 200, f"{200:016x}")
    assert context_commands(board) == [("restore", {"checkpoint": identity, "pin": False}, "a second look")]
    assert board.context.commands[0].plugin == "retention"
    asked = Command(run=run, id="c1", verb="restore", plugin="retention", arguments={"checkpoint": identity}, time=time.time_ns())
    board.feed(asked)
    shows(page, "#checkpoints .told.sent", "on its way")
    assert page.locator("[data-deed=restore]").count() == 1
    assert page.locator("#orders").count() == 0
    board.feed(CommandResult(run=run, command="c1", verb="restore", state="refused", reason=f"not whole {HOSTILE}", time=time.time_ns()))
    shows(page, "#checkpoints .told.refused", "not whole <img")
    page.wait_for_selector("[aria-label='Restore the checkpoint of step 200']")
    back = CheckpointFate(id=identity, step=200, path="/runs/x", pinned="mine", reasons=["pinned: mine"])
    board.feed(Retention(run=run, host="gpu-box", checkpoints=[back], time=time.time_ns()))
    page.wait_for_function("() => document.querySelectorAll('#strip .kept .mark').length === 5")
    page.click("#strip .trashed button")
    page.wait_for_selector("[aria-label='Unpin the checkpoint of step 200']")
    page.locator("#strip .goes .mark").dispatch_event("click")
    shows(page, "#checkpoints tr.picked", "150")
    assert page.title() != "owned"


def test_metrics_are_pinned_panels_folded_and_moved_and_all_that_outlives_a_reload(dashboard, visit):
    """The visitor's layout is kept by the browser."""
    board = dashboard()
    board.feed(*training(steps=60, now=time.time_ns()))
    page = visit(board.url)
    says(page, "#chart-loss", "at step 60")
    # At the beginning, while both stand on the screen: a browser doesn't scroll while it drags.
    page.hover("#panel-lr")
    page.drag_and_drop("#panel-lr .grip", "#panel-loss .legend")
    first = "[...document.querySelectorAll('#content > section[id]')].map((e) => e.id)[1]"
    page.wait_for_function(f"() => {first} === 'panel-lr'")
    page.click(".chip button:has-text('grad_norm')")
    says(page, "#chart-pin-0", "grad_norm: 0.")
    page.click("[aria-label='Combine loss with another metric']")
    page.click("[aria-label='loss and learning_rate on one chart']")
    says(page, "#chart-pin-1", "learning_rate")
    page.click("#panel-samples .fold")
    page.wait_for_selector("#samples", state="detached")
    page.focus("#panel-lr .fold")
    page.keyboard.press("Alt+ArrowDown")
    page.wait_for_function(f"() => {first} === 'panel-loss'")
    page.reload()
    says(page, "#chart-pin-1", "learning_rate")
    assert page.evaluate(first) == "panel-loss"
    assert page.locator("#panel-samples.folded").count() == 1


def test_keys_do_what_the_help_sheet_says(dashboard, visit):
    """Runs, comparison, scale, search, theme; not while typing."""
    board = dashboard()
    board.feed(*crowd(now=time.time_ns()), *training(steps=30, now=time.time_ns()))
    page = visit(board.url)
    shows(page, "#figures", "30 / 600")
    page.keyboard.press("j")
    shows(page, "#figures", "300 / 300")
    page.keyboard.press("c")
    page.wait_for_selector("#panel-compare")
    page.keyboard.press("k")
    shows(page, "#figures", "30 / 600")
    page.keyboard.press("l")
    page.wait_for_selector("#log:checked")
    page.keyboard.press("/")
    page.keyboard.type("cat l")
    assert page.input_value("#samples-search") == "cat l"
    assert page.locator("#log:checked").count() == 1


def test_runs_are_laid_over_each_other_and_told_apart(dashboard, visit):
    """By step and by time; the table shows what their configurations differ in; the address is the view."""
    board = dashboard()
    board.feed(*crowd(now=time.time_ns()))
    page = visit(board.url)
    page.check("[aria-label='Compare lr-1e-4']")
    page.check("[aria-label='Compare lr-5e-4-diverged']")
    says(page, "#chart-compare", "lr-5e-4-diverged")
    shows(page, "#panel-compare td", "0.0005")
    assert "method" not in page.inner_text("#panel-compare table")
    page.select_option("#compare-axis", "examples")
    says(page, "#chart-compare", "at step 2400")
    address = page.url
    again = visit(address)
    says(again, "#chart-compare", "lr-5e-4-diverged")


def test_samples_are_searched_filtered_and_followed(dashboard, visit):
    """Search asks the server, flagged ones say why, one example is shown over the checkpoints."""
    board = dashboard()
    board.feed(RunStarted(run="r", time=time.time_ns()), Step(run="r", step=1, metrics={"loss": 1.0}, time=time.time_ns()))
    for step, answer, correct in ((1, "five", False), (2, "four", True), (3, "cinq", False)):
        board.feed(
            Sample(run="r", step=step, prompt="2+2? 🙂", answer=answer, expected="four", correct=correct, example="sum", loss=0.2, time=1)
        )
    board.feed(Sample(run="r", step=3, prompt="Capital of France?", answer="Paris", correct=True, time=1))
    page = visit(board.url)
    page.wait_for_function("() => document.querySelectorAll('#samples .sample').length === 4")
    page.fill("#samples-search", "capital")
    page.wait_for_function("() => document.querySelectorAll('#samples .sample').length === 1")
    page.fill("#samples-search", "")
    page.select_option("#samples-filter", "flagged")
    page.wait_for_function("() => document.querySelectorAll('#samples .sample').length === 2")
    page.click("#samples summary >> nth=0")
    shows(page, "#samples details[open] dd", "wrong, wrong though confident, was right before")
    page.wait_for_function("() => document.querySelectorAll('#samples .evolution li').length === 3")
    assert "🙂" in page.inner_text("#samples")


def test_a_silent_machine_makes_its_own_panel_stale_and_no_other(dashboard, visit):
    """The memory panel says for how long it has no reading; the loss goes on."""
    board = dashboard()
    now = time.time_ns()
    board.feed(*training(steps=20, now=now - 120_000_000_000))
    page = visit(board.url)
    shows(page, "#panel-memory .stale-mark", "no reading for 2 min")
    board.feed(Step(run="qwen3-gsm8k", step=21, total_steps=600, time=time.time_ns(), metrics={"loss": 1.125}))
    says(page, "#chart-loss", "1.125 at step 21")
    assert page.locator(".stale-mark").count() == 1
    assert page.locator("#banner").count() == 0


def test_panels_of_plugins_are_drawn_without_their_javascript(dashboard, visit):
    """Chart, table, text and gauge, from the events that they name."""
    kinds = [("c", "chart", ("value",)), ("t", "table", ("name", "value")), ("x", "text", ("name",)), ("g", "gauge", ("value",))]
    board = dashboard()
    board.declare("mine", *(Panel(id=key, title=f"Panel {key}", kind=kind, events="metric", fields=fields) for key, kind, fields in kinds))
    board.feed(RunStarted(run="r", time=1), Step(run="r", step=1, metrics={"loss": 1.0}, time=2), Plugin(name="mine", state="running"))
    board.feed(*(Metric(run="r", name="entropy", value=number / 4, step=number, time=time.time_ns()) for number in range(1, 9)))
    page = visit(board.url)
    says(page, "#chart-mine-c", "2 at step 8")
    shows(page, "#panel-mine-t td", "1.75")
    shows(page, "#panel-mine-x .value", "entropy")
    shows(page, "#panel-mine-g .value", "2")
    board.feed(Metric(run="r", name=HOSTILE, value=3.0, step=9, time=time.time_ns()))
    says(page, "#chart-mine-c", "3 at step 9")
    shows(page, "#panel-mine-t td", "<script>")


def test_series_are_saved_as_csv_and_a_chart_as_a_picture(dashboard, visit):
    """From the menu of a chart."""
    board = dashboard()
    board.feed(*training(steps=20, now=time.time_ns()))
    page = visit(board.url)
    says(page, "#chart-loss", "at step 20")
    page.click("#panel-loss .menu summary")
    with page.expect_download() as download:
        page.click("#panel-loss a:has-text('CSV')")
    assert "loss,step,20," in download.value.path().read_text()
    with page.expect_download() as download:
        page.click("#panel-loss button:has-text('PNG')")
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
