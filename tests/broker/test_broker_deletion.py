"""Deleting runs, and what the journal forgets by itself: in chunks, and never behind a consumer's back."""

from __future__ import annotations

import random

import pytest

from tests.broker.broker_bench import SECOND, body, step
from trainbus.bus import events, wire
from trainbus.bus.broker import maintenance
from trainbus.bus.broker.deletion import CHUNK
from trainbus.bus.broker.trimming import trim_of


def fill(bench, source: str, count: int, run: str = "r") -> None:
    bench.hello(source, run)
    for first in range(0, count, 2_000):
        end = min(first + 2_000, count)
        bench.publish(source, *(step(source, seq, run) for seq in range(first, end)), first=first)


def end(bench, source: str, seq: int, run: str = "r") -> None:
    bench.publish(source, body(events.RunEnded(outcome="completed"), source, seq, run), first=seq)


def test_a_deleted_run_is_gone_and_others_stay(bench):
    fill(bench, "a", 5, "old")
    fill(bench, "b", 3, "kept")
    end(bench, "a", 5, "old")
    assert bench.ask(wire.DeleteRun(run="old"), dict[str, int]) == {"events": 6}
    assert [info.run for info in bench.ask(wire.Runs(), list[wire.RunInfo])] == ["kept"]
    assert bench.history(runs=["old"]) == []
    assert len(bench.history()) == 3
    status = bench.ask(wire.Status(), wire.BrokerStatus)
    assert (status.head, status.events) == (8, 3), "offsets are never given out again"
    bench.restart()
    fill(bench, "c", 1, "later")
    assert bench.history(runs=["later"])[0].offset == 9


def test_deleting_the_newest_run_does_not_give_its_offsets_out_again(bench):
    """A cursor that has seen them would skip whatever came in their place."""
    fill(bench, "a", 5)
    end(bench, "a", 5)
    bench.ask(wire.DeleteRun(run="r"), dict[str, int])
    bench.restart()
    fill(bench, "b", 1, "new")
    assert [event.offset for event in bench.history()] == [6]


def test_a_running_run_is_deleted_by_force_only(bench):
    fill(bench, "a", 3)
    assert bench.refused(wire.DeleteRun(run="r")).code == "running"
    assert bench.ask(wire.DeleteRun(run="r", force=True), dict[str, int]) == {"events": 3}


def test_an_unknown_run_can_not_be_deleted(bench):
    fill(bench, "a", 1, "night-7")
    failure = bench.refused(wire.DeleteRun(run="night-8"))
    assert (failure.code, "night-7" in failure.hint) == ("unknown", True)


def test_a_large_run_is_deleted_in_chunks_while_events_go_on_being_taken(bench):
    """No transaction is long: a publisher beside it is acknowledged between the chunks."""
    fill(bench, "a", 2 * CHUNK + 100)
    end(bench, "a", 2 * CHUNK + 100)
    bench.hello("b", "other")
    bench.say(wire.Call(id=1, request=wire.DeleteRun(run="r")))
    acknowledged = []
    for seq in range(3):
        bench.say(wire.Events(source="b", first=seq, bodies=[step("b", seq, "other")]))
        batch = bench.core.take_batch()
        deleted = bench.journal.append(batch)
        assert deleted <= CHUNK
        bench.core.committed(batch, deleted)
        bench.take_effects()
        acknowledged.append(bench.last(wire.Ack).expected)
    assert acknowledged == [1, 2, 3]
    bench.commit()
    assert bench.history(runs=["r"]) == []
    assert len(bench.history(runs=["other"])) == 3


def test_events_that_come_while_their_run_is_deleted_by_force_stay(bench):
    fill(bench, "a", CHUNK + 1)
    bench.say(wire.Call(id=1, request=wire.DeleteRun(run="r", force=True)))
    bench.say(wire.Events(source="a", first=CHUNK + 1, bodies=[step("a", CHUNK + 1)]))
    bench.commit()
    assert [event.seq for event in bench.history()] == [CHUNK + 1]
    assert bench.run().events == 1


def test_a_deletion_goes_on_after_a_failed_commit(bench):
    fill(bench, "a", 5)
    end(bench, "a", 5)
    bench.say(wire.Call(id=1, request=wire.DeleteRun(run="r")))
    bench.fail()
    bench.tick(1)
    assert bench.last(wire.Reply).id == 1
    assert bench.history() == []


def test_deleting_gives_disk_space_back(bench):
    fill(bench, "a", 20_000)
    end(bench, "a", 20_000)
    bench.journal.close()
    before = bench.path.stat().st_size
    bench.open()
    bench.ask(wire.DeleteRun(run="r"), dict[str, int])
    bench.journal.close()
    assert bench.path.stat().st_size < before / 2
    bench.open()


# --- retention ------------------------------------------------------------------------------------------


def retain(bench, **settings) -> None:
    """Restart with limits, and let one look at the journal pass."""
    bench.restart(**settings)
    bench.tick(11)


def test_without_limits_nothing_is_ever_deleted(bench):
    fill(bench, "a", 10)
    bench.tick(30)
    assert len(bench.history()) == 10


def test_events_older_than_the_limit_go_and_the_summary_stays(bench):
    fill(bench, "a", 10)
    bench.wall = 100 * SECOND  # events are stamped with seconds 1 to 10
    retain(bench, journal_max_age=94.5)
    assert [event.seq for event in bench.history()] == [5, 6, 7, 8, 9]
    assert (bench.run().last_step, bench.run().events) == (9, 10)


def test_a_consumer_that_had_not_read_them_gets_a_gap_event(bench):
    """It says whose they were and which offsets are gone; consumers that had read them get none."""
    fill(bench, "a", 10)
    for consumer, offset in (("slow", 1), ("fast", 8)):
        bench.ask(wire.OpenCursor(consumer=consumer, start=offset), wire.Cursor)
    bench.wall = 100 * SECOND
    retain(bench, journal_max_age=94.5)
    (gap,) = bench.history(kinds=["gap"])
    assert (gap.missing_source, gap.first_seq, gap.last_seq) == ("", 2, 4)
    assert "slow" in gap.reason
    assert "journal_max_age" in gap.reason
    assert gap.offset == 10


def test_the_next_gap_goes_on_where_the_last_one_ended(bench):
    fill(bench, "a", 10)
    bench.ask(wire.OpenCursor(consumer="slow"), wire.Cursor)
    bench.wall = 100 * SECOND
    retain(bench, journal_max_age=94.5)
    bench.wall = 102 * SECOND
    bench.tick(11)
    assert [(gap.first_seq, gap.last_seq) for gap in bench.history(kinds=["gap"])] == [(0, 4), (5, 6)]


def test_the_gap_event_and_the_first_deletion_are_one_transaction(bench):
    """If the commit fails, neither happened."""
    fill(bench, "a", 10)
    bench.ask(wire.OpenCursor(consumer="slow"), wire.Cursor)
    bench.wall = 100 * SECOND
    bench.restart(journal_max_age=94.5)
    bench.now += 11
    bench.core.tick(bench.now)
    bench.take_effects()
    bench.fail()
    assert (len(bench.history()), len(bench.history(kinds=["gap"]))) == (10, 0)
    bench.tick(1)
    assert (len(bench.history(kinds=["step"])), len(bench.history(kinds=["gap"]))) == (5, 1)


def test_a_journal_that_is_too_large_loses_its_oldest_events(bench):
    noise = random.Random(1)
    bench.hello("a")
    for first in range(0, 4_000, 500):
        bodies = [step("a", seq, metrics={f"m{k}": noise.random() for k in range(10)}) for seq in range(first, first + 500)]
        bench.publish("a", *bodies, first=first)
    limit = 600_000
    retain(bench, journal_max_bytes=limit)
    left = bench.history()
    assert 500 < len(left) < 3_000
    assert left[-1].seq == 3_999
    bench.journal.close()
    assert bench.path.stat().st_size <= limit * 1.1
    bench.open()


@pytest.mark.parametrize("count", [0, 1])
def test_a_journal_with_nothing_to_delete_is_left_alone(bench, count):
    fill(bench, "a", count)
    bench.wall = 100 * SECOND
    retain(bench, journal_max_age=1e6, journal_max_bytes=1 << 30)
    assert len(bench.history()) == count


# --- by hand --------------------------------------------------------------------------------------------


def trimmed(bench, **what) -> int:
    """Plan on the file and let the broker carry it out, as `trainbus journal trim` does; how many events went."""
    trim = trim_of(bench.path, **what)
    assert trim is not None
    found = bench.ask(wire.TrimJournal(first=trim.first, upto=trim.upto, run=trim.run), dict[str, int])
    assert found == {"events": trim.events}
    return trim.events


def test_a_person_can_have_old_events_deleted_and_the_summary_stays(bench):
    fill(bench, "a", 10)
    assert trimmed(bench, before=int(5.5 * SECOND)) == 5
    assert [event.seq for event in bench.history()] == [5, 6, 7, 8, 9]
    assert (bench.run().last_step, bench.run().events) == (9, 10)
    assert trim_of(bench.path, before=int(5.5 * SECOND)) is None
    bench.restart()
    assert bench.expected("a") == 10, "what is deleted is not asked for again"


def test_one_run_can_be_trimmed_while_it_and_others_go_on(bench):
    """Its summary stays, unlike with a deleted run."""
    fill(bench, "a", 5, "long")
    fill(bench, "b", 3, "other")
    bench.publish("a", step("a", 5, "long"), first=5)
    assert trim_of(bench.path, run="nobody") is None
    assert trimmed(bench, run="long", before=3 * SECOND) == 2
    assert trimmed(bench, run="long") == 4
    assert [event.run for event in bench.history()] == ["other"] * 3
    assert bench.run("long").last_step == 5
    bench.publish("a", step("a", 6, "long"), first=6)
    assert [event.seq for event in bench.history(runs=["long"])] == [6]


def test_a_trim_below_a_cursor_is_announced_in_its_first_transaction(bench):
    """Each consumer that had not read what goes is named, with the offsets; a failed commit does neither."""
    fill(bench, "a", CHUNK + 10)
    for consumer, offset in (("slow", 1), ("middle", CHUNK), ("fast", CHUNK + 9)):
        bench.ask(wire.OpenCursor(consumer=consumer, start=offset), wire.Cursor)
    trim = trim_of(bench.path, before=(CHUNK + 6) * SECOND)
    assert trim.behind == ["middle", "slow"]
    bench.say(wire.Call(id=1, request=wire.TrimJournal(first=trim.first, upto=trim.upto)))
    bench.fail()
    assert (len(bench.history()), bench.messages(wire.Failure)) == (CHUNK + 10, [])
    bench.tick(1)
    gaps = {gap.reason.split()[1]: gap for gap in bench.history(kinds=["gap"])}
    assert {name: (gap.first_seq, gap.last_seq) for name, gap in gaps.items()} == {"slow": (2, CHUNK + 4), "middle": (CHUNK + 1, CHUNK + 4)}
    assert "trainbus journal trim" in gaps["slow"].reason
    assert len(bench.history(kinds=["step"])) == 5
    assert bench.last(wire.Reply).id == 1


def test_a_trimmed_run_is_named_in_the_gap(bench):
    fill(bench, "a", 3, "old")
    fill(bench, "b", 3, "kept")
    bench.ask(wire.OpenCursor(consumer="slow"), wire.Cursor)
    trimmed(bench, run="old")
    (gap,) = bench.history(kinds=["gap"])
    assert "what run old has at offsets 0 to 2" in gap.reason


def test_a_trim_by_size_reaches_it_and_gives_the_room_back_at_once(bench):
    """L-35: also where old events are small and new ones large, and where bodies fill many pages: the file is as small as was asked for."""
    bench.hello("a")
    for first in range(0, 6_000, 500):
        note = "x" * (40 if first < 3_000 else 7_000)
        bench.publish("a", *(step("a", seq, metrics={note: 1.0}) for seq in range(first, first + 500)), first=first)
    limit = 2_000_000
    assert trimmed(bench, max_bytes=limit) > 3_000
    assert bench.path.stat().st_size <= limit, "without closing it first"
    assert bench.path.with_name("journal.db-wal").stat().st_size == 0
    assert 100 < len(bench.history()) < 400
    assert maintenance.faults(bench.path, thorough=True) == []
    assert trim_of(bench.path, max_bytes=limit) is None


def test_offsets_that_are_not_in_the_journal_are_refused(bench):
    """They may be those of another journal. A run that nobody knows is refused with the nearest name."""
    fill(bench, "a", 3, "night-7")
    for first, upto in ((0, 3), (-1, 2), (2, 1)):
        assert bench.refused(wire.TrimJournal(first=first, upto=upto)).code == "invalid"
    failure = bench.refused(wire.TrimJournal(upto=2, run="night-8"))
    assert (failure.code, "night-7" in failure.hint) == ("unknown", True)
    assert len(bench.history()) == 3


def test_a_trim_and_what_the_settings_delete_do_not_disturb_each_other(bench):
    fill(bench, "a", 10)
    bench.wall = 100 * SECOND
    bench.restart(journal_max_age=94.5)
    bench.now += 11
    bench.core.tick(bench.now)
    bench.take_effects()
    assert bench.ask(wire.TrimJournal(upto=7), dict[str, int]) == {"events": 3}, "the settings had deleted five before"
    assert [event.seq for event in bench.history()] == [8, 9]
