"""D3, D8: every event is in the journal exactly once and in its source's order, or a gap event says what is not."""

from __future__ import annotations

import random

import pytest

from tests.broker.broker_bench import SECOND, body, step
from trainbus.bus import events, wire


def test_d3_events_are_acknowledged_once_committed_and_not_before(bench):
    """An Ack follows the transaction, not the arrival."""
    assert bench.hello("s").expected == 0
    bench.say(wire.Events(source="s", first=0, bodies=[step("s", 0), step("s", 1)]))
    assert not bench.messages(wire.Ack)
    bench.commit()
    assert bench.last(wire.Ack).expected == 2
    assert [(event.seq, event.offset) for event in bench.history()] == [(0, 0), (1, 1)]


def test_d3_a_batch_that_comes_again_is_acknowledged_and_not_journaled_again(bench):
    """The acknowledgement was lost on its way: the publisher sends once more."""
    bench.hello("s")
    for _ in range(3):
        bench.publish("s", step("s", 0), step("s", 1))
    assert bench.seqs("s") == [0, 1]
    assert [ack.expected for ack in bench.messages(wire.Ack)] == [2, 2, 2]


def test_d3_of_a_batch_that_overlaps_only_the_new_part_is_taken(bench):
    bench.hello("s")
    bench.publish("s", step("s", 0), step("s", 1))
    bench.publish("s", step("s", 1), step("s", 2), step("s", 3), first=1)
    assert bench.seqs("s") == [0, 1, 2, 3]


def test_d3_a_batch_beyond_the_expected_seq_is_refused_with_one_rewind(bench):
    """Each batch in flight behind a lost one would ask for the same resend: one question is enough."""
    bench.hello("s")
    for first in (5, 6, 7):
        bench.publish("s", step("s", first), first=first)
    assert [rewind.expected for rewind in bench.messages(wire.Rewind)] == [0]
    bench.now += 1.0
    bench.publish("s", step("s", 8), first=8)
    assert len(bench.messages(wire.Rewind)) == 2
    assert bench.seqs("s") == []


def test_d3_while_one_batch_is_committed_the_next_is_taken_in(bench):
    """Sequencing runs ahead of the journal: group commit."""
    bench.hello("s")
    bench.say(wire.Events(source="s", first=0, bodies=[step("s", 0)]))
    batch = bench.core.take_batch()
    for seq in (1, 2, 3):
        bench.say(wire.Events(source="s", first=seq, bodies=[step("s", seq)]))
    assert bench.core.take_batch() is None
    bench.journal.append(batch)
    bench.core.committed(batch)
    assert bench.commit() == 1
    assert bench.seqs("s") == [0, 1, 2, 3]
    assert not bench.messages(wire.Rewind)


def test_d3_skipped_seqs_leave_a_gap_event_in_their_place(bench):
    """The publisher had to drop events (its disk was full): the journal says which and why, and goes on."""
    bench.hello("s", run="r")
    bench.publish("s", step("s", 0))
    bench.say(wire.Skipped(source="s", first=1, last=9, reason="spool full"))
    bench.publish("s", step("s", 10), first=10)
    first, gap, last = bench.history()
    assert (first.seq, last.seq) == (0, 10)
    assert isinstance(gap, events.Gap)
    assert (gap.missing_source, gap.first_seq, gap.last_seq, gap.reason, gap.run) == ("s", 1, 9, "spool full", "r")
    assert bench.last(wire.Ack).expected == 11


def test_d3_of_skipped_seqs_only_those_that_are_missing_become_a_gap(bench):
    bench.hello("s")
    bench.publish("s", step("s", 0), step("s", 1))
    bench.say(wire.Skipped(source="s", first=0, last=3))
    bench.say(wire.Skipped(source="s", first=0, last=3))
    bench.commit()
    (gap,) = bench.history(kinds=["gap"])
    assert (gap.first_seq, gap.last_seq) == (2, 3)


def test_d3_an_old_source_continues_in_a_new_journal_by_declaring_what_the_old_one_had(bench):
    """The new journal expects seq 0; the publisher has dropped what the old one acknowledged, and says so."""
    assert bench.hello("old").expected == 0
    bench.say(wire.Skipped(source="old", first=0, last=499, reason="acknowledged by another journal"))
    bench.publish("old", step("old", 500), first=500)
    assert bench.hello("old").expected == 501


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"\xc1garbage", "no event"),
        (b"", "no event"),
        (events.encode(events.Step(run="r", source="other", seq=1)), "source 'other'"),
        (events.encode(events.Step(run="r", source="s", seq=7)), "seq 7"),
        (b"\x83\xa3run\xa1r\xa6source\xa1s\xa3seq\x01", "no event"),
        (b"\x84\xa4kind\xa3a.b\xa3run\xa1r\xa6source\xa1s\xa3seq\x01", "topic"),
        (b"\x84\xa4kind\xa0\xa3run\xa0\xa6source\xa1s\xa3seq\x01", "topic"),
        (b"\x85\xa4kind\xa4step\xa3run\xa1r\xa6source\xa1s\xa3seq\x01\xa4time\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "out of range"),
    ],
    ids=["garbage", "empty", "other source", "other seq", "no kind", "kind with a dot", "empty kind", "time beyond 64 bits"],
)
def test_a_body_that_is_no_event_is_replaced_by_a_gap_and_stops_nobody(bench, bad, reason):
    """One broken event costs itself: neither the broker nor the rest of the source."""
    bench.hello("s")
    bench.publish("s", step("s", 0), bad, step("s", 2))
    first, gap, last = bench.history()
    assert (first.seq, last.seq) == (0, 2)
    assert isinstance(gap, events.Gap)
    assert (gap.first_seq, gap.last_seq) == (1, 1)
    assert reason in gap.reason
    assert bench.last(wire.Ack).expected == 3


def test_unknown_kinds_and_fields_are_journaled_unharmed(bench):
    """A newer publisher may say more than this broker knows."""
    bench.hello("s")
    strange = (
        b"\x86\xa4kind\xa8hologram\xa3run\xa1r\xa6source\xa1s\xa3seq\x00\xa4time\x07\xa5depth\xcb" + b"\x40\x09\x21\xfb\x54\x44\x2d\x18"
    )
    bench.publish("s", strange)
    (event,) = bench.history()
    assert isinstance(event, events.Other)
    assert event.fields["depth"] == pytest.approx(3.14159265)


def test_a_known_kind_with_fields_of_wrong_types_is_kept_and_does_not_disturb_the_summary(bench):
    bench.hello("s")
    wrong = b"\x86\xa4kind\xa9run_ended\xa3run\xa1r\xa6source\xa1s\xa3seq\x00\xa4time\x07\xa7outcome\x05"
    bench.publish("s", wrong, step("s", 1))
    assert bench.core.head == 1
    assert bench.run().state == "running"


def test_sources_are_independent_of_each_other(bench):
    for source in "abc":
        bench.hello(source)
    for seq in range(5):
        for source in "abc":
            bench.publish(source, step(source, seq), first=seq)
    assert all(bench.seqs(source) == [0, 1, 2, 3, 4] for source in "abc")


def test_a_source_that_the_journal_knows_goes_on_after_a_restart_without_another_hello(bench):
    """Its batch may arrive on a connection that the publisher believes to be the old one."""
    bench.hello("s")
    bench.publish("s", step("s", 0))
    bench.restart()
    bench.publish("s", step("s", 1), first=1)
    assert bench.seqs("s") == [0, 1]


def test_a_stranger_is_asked_once_to_say_hello(bench):
    """Several batches in flight are no reason to ask several times."""
    for seq in range(3):
        bench.say(wire.Events(source="stranger", first=seq, bodies=[step("stranger", seq)]))
    assert [failure.code for failure in bench.messages(wire.Failure)] == ["hello"]
    assert bench.core.take_batch() is None


# --- D8: commits that fail ------------------------------------------------------------------------------


def test_d8_when_a_commit_fails_nothing_is_acknowledged_and_publishers_are_asked_again(bench):
    bench.hello("s")
    bench.say(wire.Events(source="s", first=0, bodies=[step("s", 0), step("s", 1)]))
    bench.fail()
    assert not bench.messages(wire.Ack)
    assert not [frame for frame in bench.frames if frame.startswith(b"step.")]
    assert bench.last(wire.Rewind).expected == 0
    status = bench.ask(wire.Status(), wire.BrokerStatus)
    assert (status.commit_failures, status.head, status.events) == (1, -1, 0)
    assert "disk full" in status.last_error


def test_d8_after_a_failed_commit_the_events_come_again_and_are_there_once(bench):
    """Also those that were taken in while the failing commit was under way."""
    bench.hello("s")
    bench.say(wire.Events(source="s", first=0, bodies=[step("s", 0)]))
    batch = bench.core.take_batch()
    bench.say(wire.Events(source="s", first=1, bodies=[step("s", 1)]))
    bench.fail(batch)
    assert bench.last(wire.Rewind).expected == 0
    bench.publish("s", step("s", 0), step("s", 1))
    assert bench.seqs("s") == [], "the pause after a failure is not over"
    bench.tick(0.2, step=0.1)
    assert bench.seqs("s") == [0, 1]
    assert [event.offset for event in bench.history()] == [0, 1], "the failed batch left no hole in the offsets"


def test_d8_the_pause_between_retries_grows_and_a_success_ends_it(bench):
    bench.hello("s")
    pauses = []
    for _ in range(8):
        bench.say(wire.Events(source="s", first=0, bodies=[step("s", 0)]))
        began = bench.now
        while (batch := bench.core.take_batch()) is None:
            bench.now += 0.05
            bench.core.tick(bench.now)
        pauses.append(bench.now - began)
        bench.fail(batch)
    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert pauses[-1] <= 5.1
    bench.tick(6)
    bench.publish("s", step("s", 0))
    bench.publish("s", step("s", 1), first=1)
    assert bench.seqs("s") == [0, 1]


def test_d8_calls_whose_commit_failed_are_told_so_and_changed_nothing(bench):
    bench.say(wire.Call(id=7, request=wire.OpenCursor(consumer="c")))
    bench.say(wire.Call(id=8, request=wire.TakeLease(resource="x", holder="h", mode="exclusive")))
    bench.fail()
    assert [(failure.id, failure.code) for failure in bench.messages(wire.Failure)] == [(7, "journal"), (8, "journal")]
    bench.tick(1)
    assert bench.ask(wire.Consumers(), list[wire.Cursor]) == []
    assert bench.ask(wire.TakeLease(resource="x", holder="other", mode="exclusive"), wire.Lease).holder == "other"


def test_d8_what_the_broker_itself_has_to_say_survives_a_failed_commit(bench):
    """A lost run is noticed once; its event must not be lost with the commit."""
    bench.hello("s", owner=True)
    bench.publish("s", step("s", 0))
    for _ in range(62):
        bench.now += 0.25
        bench.core.tick(bench.now)
    bench.fail()
    assert bench.history(kinds=["run_ended"]) == []
    bench.tick(1)
    (ended,) = bench.history(kinds=["run_ended"])
    (alert,) = bench.history(kinds=["alert"])
    assert (ended.outcome, alert.rule) == ("lost", "lost_run")


def test_d8_ids_given_out_in_a_failed_batch_are_written_with_the_next(bench):
    """A new run, kind and source are rows of the failed transaction too."""
    bench.hello("s", run="fresh")
    bench.say(wire.Events(source="s", first=0, bodies=[body(events.Metric(name="m", value=1.0), "s", 0, "fresh")]))
    bench.fail()
    bench.tick(1)
    bench.publish("s", body(events.Metric(name="m", value=1.0), "s", 0, "fresh"))
    bench.restart()
    assert [event.kind for event in bench.history(runs=["fresh"], kinds=["metric"])] == ["metric"]


@pytest.mark.parametrize("seed", range(25))
def test_d3_under_random_loss_duplication_reordering_failure_and_restart_each_source_is_whole(bench, seed):
    """A model of careless networks and disks: what arrives is any old or new batch, in any order; commits fail; brokers die."""
    dice = random.Random(seed)
    total, sources = 40, ["a", "b", "c"]
    dropped = {source: set(dice.sample(range(total), 6)) for source in sources}
    for source in sources:
        bench.hello(source)
    for _ in range(5_000):
        if all(bench.expected(source) >= total for source in sources):
            break
        source = dice.choice(sources)
        # Mostly what the broker waits for, sometimes far off: late copies, batches that overtook others.
        first = min(max(bench.expected(source) + dice.choice([0, 0, 0, 0, -7, -2, 1, 5]), 0), total - 1)
        if first in dropped[source]:
            bench.say(wire.Skipped(source=source, first=first, last=first, reason="dice"))
        else:
            last = next((seq for seq in range(first, min(first + dice.randint(1, 6), total)) if seq in dropped[source]), None)
            end = last if last is not None else min(first + dice.randint(1, 6), total)
            bench.say(wire.Events(source=source, first=first, bodies=[step(source, seq) for seq in range(first, end)]))
        bench.now += 0.3
        match dice.randrange(8):
            case 0 if (batch := bench.core.take_batch()) is not None:
                bench.fail(batch)
                bench.now += 6
            case 1 if dice.random() < 0.2:
                bench.restart()
            case 2 | 3 | 4:
                bench.commit()
    bench.now += 6
    bench.commit()
    history = bench.history()
    assert [event.offset for event in history] == list(range(len(history)))
    for source in sources:
        there = [event.seq for event in history if event.source == source]
        gone = [
            seq
            for gap in history
            if isinstance(gap, events.Gap) and gap.missing_source == source
            for seq in range(gap.first_seq, gap.last_seq + 1)
        ]
        assert there == sorted(set(there)), "in order and once"
        assert sorted(there + gone) == list(range(total)), "each is there or declared missing, never both"


def test_stamps_of_the_broker_are_wall_clock_nanoseconds(bench):
    bench.hello("s")
    bench.say(wire.Skipped(source="s", first=0, last=0))
    bench.commit()
    assert bench.history()[0].time == 1_700_000_000 * SECOND
