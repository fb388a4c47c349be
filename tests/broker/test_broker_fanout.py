"""D5: what is committed is fanned out, one frame a topic and a marker behind, so that a subscriber can tell what it missed."""

from __future__ import annotations

import msgspec

from tests.broker.broker_bench import body, step
from trainbus.bus import events, wire


def fanned(bench) -> list[tuple[bytes, wire.Fanout | wire.Commit]]:
    found = []
    for frame in bench.frames:
        topic, payload = wire.split_frame(frame)
        found.append((topic, msgspec.msgpack.decode(payload, type=wire.Commit if topic == wire.COMMIT_TOPIC else wire.Fanout)))
    bench.frames.clear()
    return found


def test_d5_a_commit_is_one_frame_for_each_topic_and_then_its_marker(bench):
    bench.hello("s")
    metric = body(events.Metric(name="m", value=1.0), "s", 1)
    bench.publish("s", step("s", 0), metric, step("s", 2), step("s", 3, run="other"))
    frames = fanned(bench)
    assert [topic for topic, _ in frames] == [b"step.r", b"metric.r", b"step.other", wire.COMMIT_TOPIC]
    steps, metrics, _, marker = (payload for _, payload in frames)
    assert steps.events == [(0, step("s", 0)), (2, step("s", 2))]
    assert metrics.events == [(1, metric)]
    assert (marker.journal, marker.previous, marker.head) == (bench.core.journal, -1, 3)
    assert marker.topics == ["step.r", "metric.r", "step.other"]


def test_d5_frames_name_the_previous_offset_of_their_topic_also_after_a_restart(bench):
    """That is how a subscriber notices that a frame was dropped."""
    bench.hello("s")
    bench.publish("s", step("s", 0), body(events.Metric(name="m"), "s", 1))
    bench.publish("s", step("s", 2), first=2)
    previous = [(topic, payload.previous) for topic, payload in fanned(bench) if topic != wire.COMMIT_TOPIC]
    assert previous == [(b"step.r", -1), (b"metric.r", -1), (b"step.r", 0)]
    bench.restart()
    bench.publish("s", step("s", 3), first=3)
    assert [(topic, payload.previous) for topic, payload in fanned(bench)] == [(b"step.r", 2), (wire.COMMIT_TOPIC, 2)]


def test_d5_nothing_is_fanned_out_before_it_is_committed(bench):
    bench.hello("s")
    bench.say(wire.Events(source="s", first=0, bodies=[step("s", 0)]))
    batch = bench.core.take_batch()
    bench.take_effects()
    assert bench.frames == []
    bench.journal.append(batch)
    bench.core.committed(batch)
    bench.take_effects()
    assert len(bench.frames) == 2


def test_d5_after_a_failed_commit_the_previous_offsets_are_those_of_the_journal(bench):
    bench.hello("s")
    bench.publish("s", step("s", 0))
    bench.say(wire.Events(source="s", first=1, bodies=[step("s", 1)]))
    bench.fail()
    bench.frames.clear()
    bench.tick(1)
    bench.frames.clear()
    bench.publish("s", step("s", 1), first=1)
    (_, steps), (_, marker) = fanned(bench)
    assert (steps.previous, steps.events[0][0], marker.previous, marker.head) == (0, 1, 0, 1)


def test_d5_while_nothing_happens_the_head_is_repeated_each_heartbeat_interval(bench):
    """A subscriber whose last frame was dropped notices within one interval."""
    bench.hello("s")
    bench.publish("s", step("s", 0))
    bench.frames.clear()
    bench.tick(3.0)
    markers = fanned(bench)
    assert 2 <= len(markers) <= 3
    assert all((topic, m.previous, m.head, m.topics) == (wire.COMMIT_TOPIC, 0, 0, []) for topic, m in markers)


def test_d5_a_new_subscriber_is_told_the_head_at_once(bench):
    bench.core.subscribed()
    bench.take_effects()
    ((topic, marker),) = fanned(bench)
    assert (topic, marker.head) == (wire.COMMIT_TOPIC, -1)


def test_d5_a_change_without_events_fans_nothing_out(bench):
    bench.ask(wire.OpenCursor(consumer="c"), wire.Cursor)
    assert bench.frames == []


def test_d5_one_topic_of_a_large_commit_is_still_one_frame_of_bounded_size(bench):
    """Transactions are bounded, because a second frame of a topic in the same commit could be lost unnoticed."""
    bench.hello("s")
    for first in range(0, 24_000, 2_000):
        bench.say(wire.Events(source="s", first=first, bodies=[step("s", seq) for seq in range(first, first + 2_000)]))
    assert bench.commit() >= 2
    frames = [(topic, payload) for topic, payload in fanned(bench) if topic != wire.COMMIT_TOPIC]
    assert sum(len(payload.events) for _, payload in frames) == 24_000
    assert max(len(payload.events) for _, payload in frames) <= 12_000


def test_heartbeats_are_fanned_out_at_once_and_never_journaled(bench):
    """They have no offset and no marker behind them."""
    bench.hello("s", owner=True)
    bench.say(wire.Beat(source="s", step=7, rss=1 << 30, state="training"))
    ((topic, fanout),) = fanned(bench)
    ((offset, payload),) = fanout.events
    beat = events.decode(payload)
    assert (topic, offset, fanout.previous) == (b"heartbeat.r", -1, -1)
    assert isinstance(beat, events.Heartbeat)
    assert (beat.run, beat.source, beat.step, beat.rss, beat.state) == ("r", "s", 7, 1 << 30, "training")
    assert bench.core.take_batch() is None
