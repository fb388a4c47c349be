"""The page's queue, plugins, step times, slopes and drawings in a real browser."""

import time
import xml.etree.ElementTree as ElementTree

from tests.plugins.web.browsing import needs_chromium, says, shows
from tests.plugins.web.conftest import WEB
from tests.plugins.web.story import crowd, supervisor, training
from tests.plugins.web.test_web_browser import HOSTILE, faults
from trainbus.bus.events import Alert, Job, Plugin, RunStarted, Step
from trainbus.testing.context import MemoryContext, Supervised

pytestmark = needs_chromium

DROP = """([name, text]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([text], name));
  const event = (kind) => new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true });
  for (const kind of ["dragover", "drop"]) document.body.dispatchEvent(event(kind));
}"""


def supervised():
    context = MemoryContext(name="web")
    context.supervisor = supervisor()
    return context


def test_files_are_dropped_onto_the_page_and_the_queue_says_when_it_is_done(dashboard, visit, tmp_path):
    """Dropped anywhere or chosen; what the trainer would not take is refused at once; the forecast survives a reload."""
    board = dashboard(inbox=str(tmp_path))
    board.feed(*training(now=time.time_ns()), *crowd(now=time.time_ns()))
    page = visit(board.url)
    shows(page, "#queue-finish", "done in about 1 min")
    shows(page, "#queue-finish", "2 files")
    shows(page, "#queue td", "≈ ")
    page.evaluate(DROP, ["new data.jsonl", "{}\n"])
    shows(page, "#uploads li.done", "in the inbox as new_data.jsonl")
    assert (tmp_path / "new_data.jsonl").read_text() == "{}\n"
    page.evaluate(DROP, ["virus.exe", "MZ"])
    shows(page, "#uploads li.refused", "The trainer takes .jsonl")
    page.select_option("#queue-priority", "high")
    page.set_input_files("#queue-add", {"name": "<b>.json", "mimeType": "application/json", "buffer": b"[]"})
    shows(page, "#uploads li.done", "in the inbox as b_.json")
    assert (tmp_path / "high" / "b_.json").read_text() == "[]"
    page.reload()
    shows(page, "#queue-finish", "done in about")


def test_plugins_are_looked_after_from_the_page(dashboard, visit):
    """The log is followed and searched; each change is confirmed; what the supervisor says is shown."""
    board = dashboard(context=supervised())
    board.feed(*training(steps=20, now=time.time_ns()))
    page = visit(board.url)
    page.click("[aria-label='Log of inference']")
    shows(page, "#plugin-log pre", "05:29:00")
    board.context.supervisor["log"] = ["a line", HOSTILE]
    shows(page, "#plugin-log pre", HOSTILE)
    page.fill("#log-filter", "a LINE")
    page.wait_for_function("() => document.querySelector('#plugin-log pre').textContent === 'a line'")
    page.click("[aria-label='Restart inference']")
    page.wait_for_selector("dialog[open]")
    assert page.locator("dialog input").count() == 0
    page.click("dialog button[type=submit]")
    shows(page, "#plugin-told", "inference: restart, now running")
    page.click("[aria-label='Remove inference']")
    page.uncheck("dialog input[name=save]")
    page.click("dialog button[type=submit]")
    shows(page, "#plugin-told", "inference: remove, now stopped")
    page.select_option("#plugin-add", "notify")
    page.click("[data-plugin-verb=add]")
    page.click("dialog button[type=submit]")
    shows(page, "#plugin-told", "notify: add, now running")
    asked = [one for one in board.context.supervised if one.verb not in ("log", "installed")]
    assert asked == [
        Supervised("restart", "inference", {}),
        Supervised("remove", "inference", {"save": False}),
        Supervised("add", "notify", {"save": True}),
    ]
    page.click("[aria-label='Restart web']")
    shows(page, "dialog p", "the page comes back by itself")


def test_a_viewer_sees_plugins_and_queue_without_a_way_to_change_them(dashboard, visit, tmp_path):
    """No button, no log, nothing to drop onto; a dropped file does not replace the page."""
    board = dashboard(token="look", operator_token="steer", inbox=str(tmp_path))
    board.feed(*training(now=time.time_ns()), *crowd(now=time.time_ns()))
    page = visit(board.url + "?token=look")
    shows(page, "#queue-finish", "done in about")
    shows(page, "#plugins td", "inference")
    assert page.locator("#panel-plugins .adding, #panel-plugins .deeds, #queue-add, [data-verb], [data-plugin-verb]").count() == 0
    page.evaluate(DROP, ["a.jsonl", "{}"])
    shows(page, "#uploads li.refused", "Only an operator")
    assert list(tmp_path.glob("*.jsonl")) == []
    assert board.context.supervised == []


def test_step_times_and_slopes_are_drawn(dashboard, visit):
    """A histogram of all steps with its percentiles; the slope of a metric beside the metric."""
    board = dashboard()
    now = time.time_ns()
    board.feed(RunStarted(run="r", time=now))
    for step in range(1, 301):
        at = now + step * 200_000_000 + (step >= 150) * 3_000_000_000
        board.feed(Step(run="r", step=step, time=at, metrics={"loss": 5.0 + step * 0.5}))
    page = visit(board.url)
    shows(page, "#panel-steptimes .count", "299 steps")
    shows(page, "#steptimes .figure", "3.2 s")
    label = page.get_attribute("#steptimes svg", "aria-label")
    assert "half within 0.2" in label.replace("220 ms", "0.2") or "half within 2" in label
    page.click("#metrics .chip:has-text('loss') button >> nth=0")
    page.click(".pinned button:has-text('Slope')")
    says(page, "#chart-pin-0", "slope of loss: 0.5 at step 300")
    page.reload()
    says(page, "#chart-pin-0", "slope of loss: 0.5 at step 300")
    page.click(".pinned button:has-text('Slope')")
    says(page, "#chart-pin-0", "loss: 155 at step 300")


def test_a_chart_is_saved_as_a_drawing(dashboard, visit):
    """Lines that break where values were not finite, marks with their texts, axes; nothing hostile in it is markup."""
    board = dashboard()
    board.feed(*training(now=time.time_ns()))
    board.feed(Alert(run="qwen3-gsm8k", id="h", step=200, message=HOSTILE + "\x01", severity="critical", time=time.time_ns()))
    page = visit(board.url)
    says(page, "#chart-loss", "at step 400")
    shows(page, "#alerts .message", "<script>")
    page.click("#panel-loss .menu summary")
    with page.expect_download() as download:
        page.click("#panel-loss button:has-text('SVG')")
    assert download.value.suggested_filename == "qwen3-gsm8k-loss.svg"
    name = "{http://www.w3.org/2000/svg}"
    drawing = ElementTree.fromstring(download.value.path().read_text())
    assert drawing.find(f"{name}script") is None
    lines = drawing.findall(f".//{name}polyline")
    assert len(lines) == 5  # loss and its smoothed form, each broken by the NaN, and the validation
    assert max(len(line.get("points").split()) for line in lines) > 250
    titles = [title.text for title in drawing.iter(f"{name}title")]
    assert any("<script>" in title for title in titles)
    assert any(title.startswith("lowest loss") for title in titles)
    assert {"2.5", "400"} <= {text.text for text in drawing.iter(f"{name}text")}


def test_skipping_a_file_is_offered_where_there_are_files(dashboard, visit):
    """Asked before it is sent, as what costs something."""
    board = dashboard()
    board.feed(RunStarted(run="r", time=time.time_ns()), Step(run="r", step=1, metrics={"loss": 1.0}, time=time.time_ns()))
    page = visit(board.url)
    page.wait_for_selector("[data-verb=pause]")
    assert page.locator("[data-verb=skip]").count() == 0
    board.feed(Job(run="r", id="j", file="a.jsonl", state="processing", time=time.time_ns()))
    page.click("[data-verb=skip]")
    page.fill("dialog input[name=reason]", "bad data")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog", state="detached")
    assert [(sent.verb, sent.reason) for sent in board.context.commands] == [("skip", "bad data")]


def test_the_new_panels_hide_nothing_from_a_screen_reader(dashboard, visit, tmp_path):
    """axe-core finds no serious fault: log open, a file refused, slope pinned, a plugin about to be removed; light and dark, narrow too."""
    axe = (WEB / "node_modules" / "axe-core" / "axe.min.js").read_text()
    board = dashboard(context=supervised(), inbox=str(tmp_path))
    board.feed(*training(now=time.time_ns()), *crowd(now=time.time_ns()))
    for scheme, width in (("light", 1280), ("dark", 375)):
        page = visit(board.url, color_scheme=scheme, viewport={"width": width, "height": 900})
        says(page, "#chart-loss", "at step 400")
        page.click("[aria-label='Log of inference']")
        shows(page, "#plugin-log pre", "05:29:00")
        page.evaluate(DROP, ["virus.exe", "MZ"])
        page.wait_for_selector("#uploads li.refused")
        page.click("#metrics .chip:has-text('loss') button >> nth=0")
        page.click(".pinned button:has-text('Slope')")
        page.wait_for_selector("#steptimes svg")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click("[aria-label='Remove inference']")
        page.wait_for_selector("dialog[open]")
        faults(page, axe, "dialog")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        faults(page, axe, "#panel-plugins", "#panel-queue", "#panel-steptimes", "#panel-metrics")


def test_hostile_names_of_files_and_plugins_are_text(dashboard, visit, tmp_path):
    """Whatever is dropped, installed or queued."""
    context = supervised()
    context.supervisor["installed"] = [{"name": HOSTILE + "!", "version": HOSTILE}]
    board = dashboard(context=context, inbox=str(tmp_path))
    board.feed(
        RunStarted(run="r", time=time.time_ns()),
        Job(run="r", id="j", file=HOSTILE, state="failed", reason=HOSTILE, time=time.time_ns()),
        Plugin(name=HOSTILE, state="failed", error=HOSTILE, time=time.time_ns()),
    )
    page = visit(board.url)
    page.evaluate(DROP, [HOSTILE, "x"])
    for place in ("#uploads li", "#queue td", "#plugins td", "#plugin-add option"):
        shows(page, place, "<script>document.title='owned'<")
    assert page.locator("main script, main img[src=x]").count() == 0
    assert page.title() != "owned"
