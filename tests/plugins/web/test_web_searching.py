"""Searching the journal from the page: everything is found, newest first, a part at a time."""

import asyncio
import json
import math
from urllib.parse import urlencode

import pytest

from trainbus.bus.events import Alert, RunStarted, Sample, Step
from trainbus.plugins.web.searching import DENSE, FIRST_WINDOW, Query, Searcher, matches, words_of
from trainbus.testing.context import MemoryContext

COUNT = 5 * FIRST_WINDOW


@pytest.fixture
def context():
    """A journal with an alert at each 97th offset; of the odd ones each belongs to run b."""
    made = MemoryContext(name="web")
    for offset in range(COUNT):
        run = "b" if offset % 2 else "a"
        event = Step(run=run, step=offset, metrics={"loss": 0.5}) if offset % 97 else Alert(run=run, message=f"Odd thing {offset}")
        event.offset = offset
        made.history.append(event)
    return made


def search(context, clock=lambda: 0.0, **query):
    return asyncio.run(Searcher(context, clock).search(Query(**({"before": COUNT} | query))))


def test_paging_back_finds_each_match_once_and_ends():
    """Whatever the size of a page; nothing is skipped where two windows meet."""
    context = MemoryContext(name="web")
    for offset in range(COUNT):
        event = Step(run="r", step=offset, metrics={"found": 1.0} if offset % 13 == 0 else {})
        event.offset = offset
        context.history.append(event)
    wanted = [offset for offset in range(COUNT - 1, -1, -1) if offset % 13 == 0]
    for limit in (7, 200):
        seen, before = [], COUNT
        while before is not None and len(seen) < 20 * limit:
            found = search(context, words=("found",), before=before, limit=limit)
            assert len(found.events) <= limit
            seen += [event.offset for event in found.events]
            before = found.next
        assert seen == wanted[: len(seen)]
        assert before is not None or seen == wanted


def test_kinds_runs_and_words_are_all_demanded(context):
    """Each word, in any case, wherever it stands."""
    found = search(context, kinds=("alert",), runs=("b",), words=words_of("  THING odd "))
    assert found.events
    assert all(event.kind == "alert" and event.run == "b" for event in found.events)
    assert search(context, words=words_of("odd things")).events == []
    assert [event.offset for event in search(context, words=("thing", "97"), kinds=("alert",)).events][-1] == 97


def test_a_search_that_takes_long_answers_with_what_it_has_and_where_to_go_on(context):
    """The clock runs out after the first window; the next search begins there and finds the rest."""
    times = iter(range(0, 1000, 10))
    found = search(context, lambda: float(next(times)), words=("absent",))
    assert (found.events, found.next, found.looked, found.reached) == ([], COUNT - FIRST_WINDOW, FIRST_WINDOW, COUNT - FIRST_WINDOW)
    rest = search(context, words=("absent",), before=found.next)
    assert (rest.events, rest.next, rest.looked) == ([], None, COUNT - FIRST_WINDOW)


def test_rare_events_are_found_far_back_without_reading_what_lies_between():
    """A window widens while it holds little: so few questions to the journal as there are doublings."""
    context, asked = MemoryContext(name="web"), []
    first = RunStarted(run="r")
    first.offset = 3
    context.history.append(first)
    plain = context.aquery
    context.aquery = lambda **query: asked.append(query) or plain(**query)
    found = search(context, kinds=("run_started",), before=100 * DENSE)
    assert [event.offset for event in found.events] == [3]
    assert len(asked) < 12


def test_what_was_not_finite_and_what_was_answered_is_found_but_no_number_of_the_journal():
    """NaN by its name; a text deep inside; not the offset, the time or the place in the source."""
    step = Step(run="r", step=1, metrics={"loss": math.nan}, time=777_777, seq=888_888)
    step.offset = 999_999
    assert matches(step, ("nan",))
    assert not any(matches(step, (digits,)) for digits in ("777", "888", "999"))
    assert matches(Sample(run="r", prompt="Grüße 🙂", answer="ÉCOLE"), ("grüsse".casefold(), "école", "🙂"))


def test_the_journal_is_searched_over_http(dashboard):
    """Newest first, as the stream has them; NaN stays said; bad limits do no harm; a viewer may."""
    board = dashboard(token="look")
    board.feed(
        RunStarted(run="r", time=1),
        *(Step(run="r", step=step, time=2, metrics={"loss": math.nan if step == 3 else 1.0}) for step in range(1, 6)),
        Alert(run="s", message="<b>Loss</b>", time=3),
    )

    def ask(**query):
        status, _, body = board.ask(f"/api/history?{urlencode(query, doseq=True)}", Authorization="Bearer look")
        assert status == 200, body
        return json.loads(body)

    assert [event["offset"] for event in ask()["events"]] == [6, 5, 4, 3, 2, 1, 0]
    assert ask(search="nan")["events"][0]["not_finite"] == {"metrics.loss": "nan"}
    assert [event["kind"] for event in ask(search="<b>loss", kind=["alert", "eval"])["events"]] == ["alert"]
    part = ask(limit=0, run="r")
    assert ([event["offset"] for event in part["events"]], part["next"]) == ([5], 5)
    assert ask(before=0)["events"] == []
    assert ask(before=-5) == ask(before=0)
    assert board.ask("/api/history")[0] == 401
    assert board.ask("/api/history?before=x", Authorization="Bearer look")[0] == 400
