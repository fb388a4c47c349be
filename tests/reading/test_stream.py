"""D5: out of frames that may be lost and a history that may be asked, every wanted event once, in offset order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from trainbus.bus import wire
from trainbus.bus.filter import Filter
from trainbus.bus.stream import Stream
from trainbus.errors import JournalError, ProtocolError

TOPICS = ["step.a", "step.b", "alert.a", "novelty.b"]


class World:
    """A journal, the frames of its commits on their way, and the answers to a stream's questions on theirs."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.journal: list[tuple[int, str, bytes]] = []
        self.frames: deque[bytes] = deque()
        self.asked: deque[wire.Status | wire.History] = deque()
        self.answers: deque[tuple[wire.Status | wire.History, wire.BrokerStatus | wire.Page]] = deque()
        self.delivered: list[tuple[int, bytes]] = []
        self.now: int | None = None

    @property
    def head(self) -> int:
        return len(self.journal) - 1

    def commit(self, topics: list[str]) -> None:
        previous = self.head
        parts: dict[str, list[tuple[int, bytes]]] = {}
        for topic in topics:
            offset = self.head + 1
            self.journal.append((offset, topic, b"%d" % offset))
            parts.setdefault(topic, []).append((offset, b"%d" % offset))
        self.frames += [wire.pack_frame(topic.encode(), wire.Fanout(previous=-1, events=part)) for topic, part in parts.items()]
        self.mark(previous, list(parts))

    def mark(self, previous: int, topics: list[str]) -> None:
        self.frames.append(wire.pack_frame(wire.COMMIT_TOPIC, wire.Commit(journal="j", previous=previous, head=self.head, topics=topics)))

    def deliver(self, frame: bytes) -> None:
        self.stream.frame(frame)
        self.delivered += self.stream.take()

    def serve(self, limit: int) -> None:
        """The broker answers the oldest question: with what it knows now, though the answer may arrive later."""
        if not self.asked:
            return
        question = self.asked.popleft()
        if isinstance(question, wire.Status):
            self.answers.append((question, status(head=self.head)))
            return
        upto = self.head if question.upto is None else min(question.upto, self.head)
        found, place = [], question.after
        for offset, topic, body in self.journal[question.after + 1 : upto + 1]:
            if len(found) == limit:
                break
            place = offset
            if self.stream.choice.matches(topic):
                found.append((offset, body))
        self.answers.append((question, wire.Page(events=found, next=place, head=self.head, done=place >= upto)))

    def act(self, action: tuple[str, int]) -> None:
        name, number = action
        match name:
            case "commit":
                self.commit([TOPICS[(number >> shift) % len(TOPICS)] for shift in range(0, 2 * (1 + number % 5), 2)])
            case "idle":
                self.mark(self.head, [])
            case "deliver" if self.frames:
                for _ in range(min(len(self.frames), 1 + number % 8)):
                    self.deliver(self.frames.popleft())
            case "drop" if self.frames:
                del self.frames[number % len(self.frames)]
            case "repeat" if self.frames:
                self.frames.insert(number % (len(self.frames) + 1), self.frames[0])
            case "delay" if self.frames:
                self.frames.insert(number % len(self.frames), self.frames.popleft())
            case "reconnect":
                self.frames = deque(list(self.frames)[: number % 4])
                self.stream.reconnected()
            case "ask":
                self.ask()
            case "serve":
                self.serve(1 + number % 7)
            case "answer" if self.answers:
                self.receive()

    def ask(self) -> bool:
        question = self.stream.wanted()
        if question is not None:
            self.asked.append(question)
        return question is not None

    def receive(self) -> None:
        question, answer = self.answers.popleft()
        fixed = self.stream.position is not None
        self.stream.answered(question, answer)
        if not fixed and isinstance(answer, wire.BrokerStatus):
            self.now = self.stream.position if self.stream.position is None else answer.head
        self.delivered += self.stream.take()

    def come_to_rest(self) -> None:
        self.stream.reconnected()
        while self.ask():
            while self.asked:
                self.serve(3)
            while self.answers:
                self.receive()

    def expected(self, start: int) -> list[tuple[int, bytes]]:
        return [(offset, body) for offset, topic, body in self.journal if offset > start and self.stream.choice.matches(topic)]


def status(*, head: int, journal: str = "j") -> wire.BrokerStatus:
    return wire.BrokerStatus(
        pid=1, host="", version="", journal=journal, journal_path="", router="", xpub="", head=head, events=head + 1, journal_bytes=0,
        uptime=0.0, commit_failures=0, last_error="", supervisor=None, sources=[], consumers=[], leases=0,
    )  # fmt: skip


ACTIONS = st.tuples(
    st.sampled_from(
        ["commit", "commit", "deliver", "deliver", "deliver", "drop", "repeat", "delay", "idle", "reconnect", "ask", "serve", "answer"]
    ),
    st.integers(0, 1023),
)
FILTERS = st.tuples(st.sampled_from([(), ("step",), ("step", "novelty"), ("alert",)]), st.sampled_from([(), ("a",), ("a", "b")]))


def survives_everything(stream_class: type[Stream], examples: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        actions=st.lists(ACTIONS, min_size=10, max_size=80),
        choice=FILTERS,
        start=st.sampled_from([-1, -1, 2, "now"]),
        buffer_bytes=st.sampled_from([900, 3_000, 1_000_000]),
        before=st.integers(3, 8),
    )
    def check(actions, choice, start, buffer_bytes, before) -> None:
        world = World(stream_class(Filter(*choice), start=start, journal="j", buffer_bytes=buffer_bytes))
        world.commit([TOPICS[number % 4] for number in range(before)])
        if start != "now":
            world.frames.clear()
        for action in actions:
            world.act(action)
            if start != "now":
                assert world.delivered == world.expected(start)[: len(world.delivered)], "nothing twice, nothing skipped, in order"
        world.come_to_rest()
        begin = start if start != "now" else world.now
        assert world.delivered == world.expected(begin)

    check()


def test_whatever_is_dropped_repeated_delayed_or_cut_the_matching_history_is_delivered_exactly_once_in_order():
    """Any mixture of lost, repeated and late frames, reconnections, small pages and overflows, against a filter of the journal."""
    survives_everything(Stream, examples=1_000)


class IgnoresMissingTopics(Stream):
    """Takes the frames that came for those that were sent."""

    def _merge(self, live):
        live.marker.topics = [topic for topic in live.marker.topics if topic in live.frames]
        return super()._merge(live)


class IgnoresMissingMarkers(Stream):
    """Believes that every commit follows the one it saw last."""

    def _marker(self, marker):
        marker.previous = -1
        super()._marker(marker)


class ForgetsWhatItDropped(Stream):
    """Loses buffered commits on overflow, and goes on behind them."""

    def _marker(self, marker):
        overflows = self._overflows
        super()._marker(marker)
        if self._overflows > overflows and self.position is not None:
            self.position = self._target


@pytest.mark.parametrize("mutant", [IgnoresMissingTopics, IgnoresMissingMarkers, ForgetsWhatItDropped])
def test_the_property_catches_a_stream_that_cheats(mutant):
    """Each mutant leaves out one check of the real stream; the property above must fail for it."""
    with pytest.raises(AssertionError):
        survives_everything(mutant, examples=3_000, phases=[Phase.generate])


# --- single behaviours, readable one by one ---


def live(**options) -> World:
    """A world whose stream has caught up with an empty journal and lives."""
    world = World(Stream(Filter(options.pop("kinds", ()), options.pop("runs", ())), **options))
    world.come_to_rest()
    return world


def deliver_all(world: World) -> None:
    while world.frames:
        world.deliver(world.frames.popleft())


def offsets(world: World) -> list[int]:
    return [offset for offset, _ in world.delivered]


def test_topics_of_one_commit_are_merged_by_offset():
    """Frames come topic by topic; events are delivered in the order of their offsets."""
    world = live()
    world.commit(["step.a", "alert.a", "step.b", "step.a"])
    deliver_all(world)
    assert offsets(world) == [0, 1, 2, 3]
    assert not world.ask()


def test_a_missing_frame_is_fetched_from_history():
    world = live()
    world.commit(["step.a", "alert.a"])
    world.frames.popleft()
    deliver_all(world)
    assert world.delivered == []
    assert world.stream.wanted() == wire.History(after=-1, upto=1)
    assert world.stream.stats().losses == 1


def test_a_frame_left_from_an_earlier_commit_is_not_taken_for_this_ones():
    """The earlier marker was dropped and history told its events; this commit's own frame of that topic was dropped too."""
    world = live()
    world.stream.reconnected()
    assert world.ask()
    world.commit(["step.a"])
    world.deliver(world.frames.popleft())
    world.frames.clear()
    for _ in range(2):  # the head, told late, and the history up to it
        world.serve(10)
        world.receive()
        world.ask()
    assert offsets(world) == [0]
    world.commit(["step.a"])
    world.frames.popleft()
    deliver_all(world)
    assert world.stream.wanted() == wire.History(after=0, upto=1)


def test_frames_that_the_filter_does_not_want_may_be_missing():
    """Somebody who reads alerts alone never gets step frames: their absence is no loss, and the position moves over them."""
    world = live(kinds=["alert"])
    world.commit(["step.a"])
    world.commit(["step.a", "alert.a"])
    world.frames = deque(frame for frame in world.frames if not frame.startswith(b"step"))
    deliver_all(world)
    assert offsets(world) == [2]
    assert world.stream.wanted() is None


def test_an_idle_marker_reveals_a_loss_at_the_tail():
    """Everything of the last commit was dropped: the head that the broker repeats while nothing happens tells."""
    world = live()
    world.commit(["step.a"])
    world.frames.clear()
    world.mark(0, [])
    deliver_all(world)
    assert world.stream.wanted() == wire.History(after=-1, upto=0)


def test_live_commits_wait_while_history_is_fetched():
    world = live()
    world.commit(["step.a"])
    world.frames.clear()
    world.commit(["step.b"])
    deliver_all(world)
    world.commit(["alert.a"])
    deliver_all(world)
    assert world.delivered == []
    assert world.ask()
    world.serve(10)
    world.receive()
    assert offsets(world) == [0, 1, 2]
    assert world.stream.stats().live_events == 1


def test_a_buffer_that_overflows_is_dropped_and_made_good_from_history():
    """Memory stays bounded whatever the publishers do while a slow page is on its way."""
    world = live(buffer_bytes=10_000)
    world.commit(["step.a"])
    world.frames.clear()
    for _ in range(200):
        world.commit(["step.a"])
        deliver_all(world)
        assert world.stream.stats().buffered_bytes <= 10_000
    world.come_to_rest()
    assert offsets(world) == list(range(201))
    assert world.stream.stats().overflows > 0


def test_frames_without_any_marker_do_not_pile_up():
    """The fan-out drops every marker: frames that nothing can vouch for are bounded as well."""
    world = live(buffer_bytes=10_000)
    for number in range(500):
        world.deliver(wire.pack_frame(b"step.run-%d" % number, wire.Fanout(previous=-1, events=[(number, b"x" * 100)])))
    assert world.stream.stats().buffered_bytes <= 10_000


def test_a_page_without_matching_events_moves_the_position():
    """History of a rare kind: pages full of nothing must lead on all the same."""
    world = World(Stream(Filter(["alert"])))
    for _ in range(5):
        world.commit(["step.a"] * 10)
    world.frames.clear()
    world.come_to_rest()
    assert world.stream.position == 49
    assert world.delivered == []


def test_an_answer_from_before_a_reconnection_is_ignored():
    world = World(Stream(Filter()))
    assert world.ask()
    world.stream.reconnected()
    world.serve(1)
    world.receive()
    assert not world.stream.settled


def test_no_more_than_two_pages_are_held():
    """A reader that doesn't take its events is not asked for more: `wanted` rests."""
    stream = Stream(Filter(), page_events=10)
    world = World(stream)
    world.commit(["step.a"] * 100)
    world.frames.clear()
    while (question := stream.wanted()) is not None:
        world.asked.append(question)
        world.serve(10)
        stream.answered(*world.answers.popleft())
    assert len(stream.take()) == 20


def test_heartbeats_pass_only_when_asked_for():
    """They are not journaled, so no marker lists them and they don't move the position."""
    frame = wire.pack_frame(b"heartbeat.a", wire.Fanout(previous=-1, events=[(-1, b"beat")]))
    for kinds, expected in (((), []), (("heartbeat",), [(-1, b"beat")]), (("heartbeat", "step"), [(-1, b"beat")])):
        world = live(kinds=kinds)
        world.deliver(frame)
        assert world.delivered == expected
        assert world.stream.position == -1


def test_another_journal_fails_loudly_in_a_marker_and_in_an_answer():
    """Offsets of one journal mean nothing in another: both ids are named, and what to do."""
    world = live()
    with pytest.raises(JournalError, match=r"journal other.*in journal j") as caught:
        world.deliver(wire.pack_frame(wire.COMMIT_TOPIC, wire.Commit(journal="other", previous=-1, head=5, topics=[])))
    assert caught.value.facts["found"] == "other"
    world.stream.reconnected()
    question = world.stream.wanted()
    with pytest.raises(JournalError, match="start anew"):
        world.stream.answered(question, status(head=5, journal="other"))


def test_a_journal_that_ends_before_the_readers_place_fails_loudly():
    """A place behind the end means that the journal was truncated, or that the place is one of another journal."""
    stream = Stream(Filter(), start=100, journal="j")
    with pytest.raises(JournalError, match="ends at offset 7"):
        stream.answered(stream.wanted(), status(head=7))


def test_live_commits_may_overtake_the_answer_that_tells_the_head():
    """The broker answered, then committed; the commit arrives first. That is no journal that lost its end."""
    world = live()
    world.stream.reconnected()
    assert world.ask()
    world.serve(1)
    world.commit(["step.a"])
    deliver_all(world)
    world.receive()
    world.come_to_rest()
    assert offsets(world) == [0]


def test_a_page_that_leads_nowhere_is_a_protocol_error():
    """Better than asking for the same page for ever."""
    stream = Stream(Filter())
    stream.answered(stream.wanted(), status(head=7))
    with pytest.raises(ProtocolError, match="after -1"):
        stream.answered(stream.wanted(), wire.Page(events=[], next=-1, head=7, done=False))


def test_bytes_that_are_no_frame_are_a_protocol_error():
    with pytest.raises(ProtocolError, match="can't be read"):
        Stream(Filter()).frame(wire.COMMIT_TOPIC + b"\0garbage")


@pytest.mark.parametrize(
    ("kinds", "runs", "prefixes"),
    [
        ((), (), [b""]),
        ((), ("a",), [b""]),
        (("step",), (), [b"~commit\0", b"step."]),
        (("step", "alert"), ("a",), [b"~commit\0", b"step.a\0", b"alert.a\0"]),
    ],
)
def test_a_filter_subscribes_to_what_it_needs(kinds, runs, prefixes):
    """Runs alone can't be told by a prefix, since unknown kinds must pass as well."""
    assert Filter(kinds, runs).subscriptions() == prefixes
