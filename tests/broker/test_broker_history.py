"""Pages of history: every matching event once, in offset order, whatever the filter and however the pages fall."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.broker.broker_bench import body, step
from trainbus.bus import events, wire
from trainbus.bus.broker import replay
from trainbus.bus.broker.replay import HistoryReader, read_events

RUNS = ["a", "b", "rare"]
KINDS = ["step", "metric", "checkpoint"]


@pytest.fixture
def mixed(bench):
    """3,000 events: runs and kinds in a random mixture, with rare ones."""
    dice = random.Random(7)
    bench.hello("s")
    bodies = []
    for seq in range(3_000):
        run = "rare" if dice.random() < 0.01 else dice.choice("ab")
        kind = dice.choices(["step", "metric", "checkpoint"], [80, 19, 1])[0]
        event = {"step": events.Step(step=seq), "metric": events.Metric(name="m", value=1.0), "checkpoint": events.Checkpoint(id=str(seq))}[
            kind
        ]
        bodies.append(body(event, "s", seq, run))
    for first in range(0, 3_000, 1_000):
        bench.publish("s", *bodies[first : first + 1_000], first=first)
    return bench


@pytest.mark.parametrize("limit", [1, 7, 10_000])
@pytest.mark.parametrize("window", [50, replay.SCAN_WINDOW])
@pytest.mark.parametrize("merged", [0, replay.MERGED_TOPICS])
def test_every_filter_gives_the_same_as_a_full_read(mixed, monkeypatch, limit, window, merged):
    """Both ways of reading (along the journal, along the index) and every page size."""
    monkeypatch.setattr(replay, "SCAN_WINDOW", window)
    monkeypatch.setattr(replay, "MERGED_TOPICS", merged)
    everything = mixed.history()
    assert [event.offset for event in everything] == list(range(3_000))
    choices = [([], []), (["checkpoint"], []), ([], ["rare"]), (["step"], ["a"]), (["metric", "checkpoint"], ["a", "rare"]), (["x"], [])]
    for kinds, runs in choices if limit > 1 else choices[1:3]:
        wanted = [e.offset for e in everything if (not kinds or e.kind in kinds) and (not runs or e.run in runs)]
        assert [event.offset for event in mixed.history(kinds=kinds, runs=runs, limit=limit)] == wanted


def page(bench, **request) -> wire.Page:
    return bench.ask(wire.History(**request), wire.Page)


def test_after_is_exclusive_and_upto_inclusive(mixed):
    assert [offset for offset, _ in page(mixed, after=4, upto=7).events] == [5, 6, 7]


def test_a_page_says_where_the_next_one_goes_on_and_when_all_is_read(mixed):
    first = page(mixed, limit=2_000)
    assert (len(first.events), first.next, first.head, first.done) == (2_000, 1_999, 2_999, False)
    last = page(mixed, after=first.next, limit=2_000)
    assert (len(last.events), last.next, last.done) == (1_000, 2_999, True)
    assert page(mixed, after=2_999) == wire.Page(events=[], next=2_999, head=2_999, done=True)
    assert page(mixed, after=5_000).done, "beyond the head there is nothing yet"


def test_a_page_without_matches_goes_on_behind_what_it_looked_through(mixed):
    nothing = page(mixed, kinds=["alert"])
    assert (nothing.events, nothing.next, nothing.done) == ([], 2_999, True)


def test_a_page_is_bounded_in_bytes_but_holds_at_least_one_event(bench):
    bench.hello("s")
    sample = [body(events.Sample(prompt="x" * 400_000), "s", seq) for seq in range(6)]
    bench.publish("s", *sample)
    huge = body(events.Sample(prompt="y" * 3_000_000), "s", 6)
    bench.publish("s", huge, first=6)
    pages, after = [], -1
    while not pages or not pages[-1].done:
        pages.append(page(bench, after=after))
        after = pages[-1].next
    assert [len(p.events) for p in pages] == [2, 2, 2, 1]
    assert pages[-1].events[0][1] == huge


def test_history_never_reaches_beyond_the_committed_head(bench):
    """What is being committed is not there yet, even if the reader could see it already."""
    bench.hello("s")
    bench.publish("s", step("s", 0))
    bench.say(wire.Events(source="s", first=1, bodies=[step("s", 1)]))
    batch = bench.core.take_batch()
    bench.journal.append(batch)
    bench.say(wire.Call(id=1, request=wire.History()))
    bench.core.committed(batch)
    import msgspec

    answer = msgspec.msgpack.decode(bench.last(wire.Reply).result, type=wire.Page)
    assert (len(answer.events), answer.head) == (1, 0)


@pytest.mark.parametrize("request_", [wire.History(limit=0), wire.History(limit=-5), wire.History(limit=10**9), wire.History(after=-99)])
def test_limits_out_of_range_are_brought_into_range(mixed, request_):
    found = mixed.ask(request_, wire.Page)
    assert 1 <= len(found.events) <= replay.MAX_PAGE_EVENTS


def test_run_summaries_follow_the_events(bench):
    bench.hello("s", owner=True)
    started = events.RunStarted(name="my run", host="node7", pid=3)
    bench.publish("s", body(started, "s", 0), step("s", 1), step("s", 2, total_steps=100))
    info = bench.run()
    assert (info.name, info.host, info.state, info.last_step, info.total_steps, info.events) == ("my run", "node7", "running", 2, 100, 3)
    bench.publish("s", body(events.RunEnded(outcome="failed", reason="NaN"), "s", 3), first=3)
    bench.restart()
    assert (bench.run().state, bench.run().reason, bench.run().events) == ("failed", "NaN", 4)


def test_runs_are_listed_newest_first_and_events_of_no_run_are_no_run(bench):
    for number, run in enumerate(["one", "two", "", "three"]):
        bench.hello(f"s{number}", run)
        event = events.RunStarted(name=run, time=1_000 + number)
        bench.publish(f"s{number}", body(event, f"s{number}", 0, run))
    assert [info.run for info in bench.ask(wire.Runs(), list[wire.RunInfo])] == ["three", "two", "one"]


def test_a_journal_can_be_read_without_a_broker(mixed):
    """For exports of a bus that is down."""
    found = read_events(mixed.path, runs=["rare"])
    assert all(event.run == "rare" for event in itertools.islice(found, 5))
    assert len(list(read_events(mixed.path))) == 3_000


def test_a_reader_sees_a_journal_that_was_never_written(bench):
    reader = HistoryReader(bench.path)
    assert (reader.newest(), reader.oldest(), reader.count()) == (-1, None, 0)
    reader.close()
