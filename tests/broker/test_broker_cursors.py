"""D6: durable cursors, the state committed with them, and dead letters."""

from __future__ import annotations

import pytest

from tests.broker.broker_bench import step
from trainbus.bus import wire


@pytest.fixture
def filled(bench):
    """Ten events in the journal."""
    bench.hello("s")
    bench.publish("s", *(step("s", seq) for seq in range(10)))
    return bench


@pytest.mark.parametrize(("start", "offset"), [("beginning", -1), ("now", 9), (4, 4)])
def test_d6_a_new_consumer_begins_where_it_asks_to(filled, start, offset):
    cursor = filled.ask(wire.OpenCursor(consumer="c", start=start), wire.Cursor)
    assert (cursor.offset, cursor.head, cursor.journal) == (offset, 9, filled.core.journal)


def test_d6_where_to_start_counts_only_for_a_new_consumer(filled):
    filled.ask(wire.OpenCursor(consumer="c", start=4), wire.Cursor)
    assert filled.ask(wire.OpenCursor(consumer="c", start="now"), wire.Cursor).offset == 4


def test_d6_cursor_and_state_survive_a_restart_together(filled):
    filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    filled.ask(wire.CommitCursor(consumer="c", offset=5, state={"best": b"0.1", "old": b"x"}), None)
    filled.ask(wire.CommitCursor(consumer="c", offset=6, state={"old": None}), None)
    filled.restart()
    cursor = filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    assert (cursor.offset, cursor.state) == (6, {"best": b"0.1"})


def test_d6_a_cursor_never_moves_backwards_and_a_late_commit_writes_no_state(filled):
    """A host that was replaced may still have a commit on its way: its state belongs to an offset long passed."""
    filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    filled.ask(wire.CommitCursor(consumer="c", offset=7, state={"n": b"7"}), None)
    filled.ask(wire.CommitCursor(consumer="c", offset=3, state={"n": b"3"}), None)
    cursor = filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    assert (cursor.offset, cursor.state) == (7, {"n": b"7"})


def test_d6_state_may_change_while_the_offset_stays(filled):
    filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    for value in (b"1", b"2"):
        filled.ask(wire.CommitCursor(consumer="c", offset=3, state={"n": value}), None)
    assert filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor).state == {"n": b"2"}


def test_d6_a_cursor_moves_only_with_its_commit(filled):
    """A failed commit leaves cursor and state as they were."""
    filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    filled.say(wire.Call(id=99, request=wire.CommitCursor(consumer="c", offset=5, state={"n": b"5"})))
    filled.fail()
    filled.tick(1)
    cursor = filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    assert (cursor.offset, cursor.state) == (-1, {})


def test_d6_reset_sets_a_cursor_anywhere(filled):
    filled.ask(wire.OpenCursor(consumer="c", start="now"), wire.Cursor)
    assert filled.ask(wire.ResetCursor(consumer="c", offset=2), wire.Cursor).offset == 2
    filled.ask(wire.CommitCursor(consumer="c", offset=3), None)
    assert filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor).offset == 3


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (wire.CommitCursor(consumer="nobody", offset=1), "unknown"),
        (wire.ResetCursor(consumer="nobody", offset=1), "unknown"),
        (wire.AddDeadLetter(consumer="nobody", offset=1, attempts=3, reason="x"), "unknown"),
        (wire.CommitCursor(consumer="c", offset=10), "invalid"),
        (wire.ResetCursor(consumer="c", offset=-2), "invalid"),
        (wire.OpenCursor(consumer="d", start=2**63), "invalid"),
        (wire.OpenCursor(consumer=""), "invalid"),
    ],
)
def test_impossible_cursors_are_refused_with_what_is_possible(filled, request_, code):
    filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    failure = filled.refused(request_)
    assert failure.code == code
    assert failure.problem
    assert failure.hint


def test_d6_dead_letters_are_kept_until_the_consumer_is_dropped(filled):
    for consumer in ("c", "d"):
        filled.ask(wire.OpenCursor(consumer=consumer), wire.Cursor)
    filled.ask(wire.AddDeadLetter(consumer="c", offset=4, attempts=3, reason="SIGSEGV"), None)
    filled.ask(wire.AddDeadLetter(consumer="d", offset=2, attempts=3, reason="died"), None)
    filled.restart()
    (letter,) = filled.ask(wire.DeadLetters(consumer="c"), list[wire.DeadLetter])
    assert (letter.offset, letter.attempts, letter.reason) == (4, 3, "SIGSEGV")
    assert [letter.offset for letter in filled.ask(wire.DeadLetters(), list[wire.DeadLetter])] == [2, 4]
    filled.ask(wire.DropCursor(consumer="c"), None)
    assert [letter.consumer for letter in filled.ask(wire.DeadLetters(), list[wire.DeadLetter])] == ["d"]


def test_dropping_a_consumer_forgets_all_of_it_and_is_no_error_twice(filled):
    filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    filled.ask(wire.CommitCursor(consumer="c", offset=5, state={"n": b"5"}), None)
    for _ in range(2):
        filled.ask(wire.DropCursor(consumer="c"), None)
    assert filled.ask(wire.Consumers(), list[wire.Cursor]) == []
    cursor = filled.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    assert (cursor.offset, cursor.state) == (-1, {})


def test_consumers_are_listed_with_their_lag_and_without_their_state(filled):
    filled.ask(wire.OpenCursor(consumer="web", start="now"), wire.Cursor)
    filled.ask(wire.OpenCursor(consumer="anomaly"), wire.Cursor)
    filled.ask(wire.CommitCursor(consumer="anomaly", offset=3, state={"n": b"3"}), None)
    listed = filled.ask(wire.Consumers(), list[wire.Cursor])
    assert [(c.consumer, c.head - c.offset, c.state) for c in listed] == [("anomaly", 6, {}), ("web", 0, {})]
