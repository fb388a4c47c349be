"""D6: at least once by a durable cursor, and dead letters for what a plugin keeps dying on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainbus.bus.hosting.delivery import Delivery
from trainbus.bus.hosting.inflight import InflightFile, Mark
from trainbus.errors import PluginError


class MemoryMarks:
    """Marks that survive because the test keeps the object."""

    def __init__(self):
        self.at_work = None
        self.counts = {}

    def mark(self, offset, hook):
        self.at_work = None if offset < 0 else Mark(offset, hook.decode())

    def clear(self):
        self.at_work = None

    def marked(self):
        return self.at_work

    def load_attempts(self):
        return dict(self.counts)

    def save_attempts(self, attempts):
        self.counts = dict(attempts)


@pytest.fixture(params=["memory", "file"])
def marks(request, tmp_path):
    """The fake and the real thing pass the same tests."""
    if request.param == "memory":
        yield MemoryMarks()
    else:
        file = InflightFile(tmp_path / "p" / "inflight", "p")
        yield file
        file.close()


def test_the_cursor_moves_after_the_hook_and_not_before(marks):
    """What was begun and not ended is not finished."""
    delivery = Delivery(3, marks, max_deliver=3)
    assert delivery.admit(4) == "handle"
    delivery.begin(4, b"on_step")
    assert delivery.finished == 3
    delivery.end(4)
    assert (delivery.finished, delivery.uncommitted) == (4, True)
    delivery.committed(4)
    assert not delivery.uncommitted


def test_an_event_that_was_finished_is_skipped_when_it_comes_again(marks):
    """A subscriber may repeat; the plugin does not see it."""
    delivery = Delivery(3, marks, max_deliver=3)
    assert [delivery.admit(offset) for offset in (2, 3, 4)] == ["skip", "skip", "handle"]


def test_an_event_on_which_the_plugin_died_max_deliver_times_is_buried(marks):
    """Two deaths: it gets its third try. Three: it is set aside, and the plugin goes on behind it."""
    for death in range(3):
        delivery = Delivery(0, marks, max_deliver=3)
        assert delivery.attempts(1) == death
        assert delivery.admit(1) == "handle"
        delivery.begin(1, b"on_step")  # and dies
    delivery = Delivery(0, marks, max_deliver=3)
    assert delivery.died_on == Mark(1, "on_step")
    assert delivery.admit(1) == "bury"
    delivery.bury(1)
    assert (delivery.finished, delivery.stats().buried) == (1, 1)
    assert delivery.admit(2) == "handle"


def test_a_death_between_events_counts_against_none(marks):
    """Killed while waiting: nobody is to blame."""
    delivery = Delivery(0, marks, max_deliver=1)
    delivery.begin(1, b"on_step")
    delivery.end(1)
    assert Delivery(0, marks, max_deliver=1).admit(1) == "handle"


def test_a_hook_cut_off_by_an_orderly_stop_does_not_count(marks):
    """Restarting a plugin in a long hook again and again must not lose the event."""
    for _ in range(5):
        delivery = Delivery(0, marks, max_deliver=2)
        assert delivery.admit(1) == "handle"
        delivery.begin(1, b"on_checkpoint")
        delivery.abandon()
    assert Delivery(0, marks, max_deliver=2).attempts(1) == 0


def test_attempts_are_forgotten_when_the_cursor_has_passed(marks):
    """A later host finds a clean record."""
    Delivery(0, marks, max_deliver=3).begin(1, b"on_step")
    delivery = Delivery(0, marks, max_deliver=3)
    delivery.begin(1, b"on_step")
    delivery.end(1)
    assert marks.load_attempts() == {1: 1}
    delivery.committed(1)
    assert marks.load_attempts() == {}


def test_a_buried_event_is_buried_again_when_its_commit_was_lost(marks):
    """Death between burying and committing: not one more try."""
    for _ in range(2):
        Delivery(0, marks, max_deliver=2).begin(1, b"on_step")
    Delivery(0, marks, max_deliver=2).bury(1)
    assert Delivery(0, marks, max_deliver=2).admit(1) == "bury"


def test_heartbeats_are_handled_and_never_move_the_cursor(marks):
    """They have no offset."""
    delivery = Delivery(5, marks, max_deliver=1)
    assert delivery.admit(-1) == "handle"
    delivery.begin(-1, b"on_heartbeat")
    assert Delivery(5, marks, max_deliver=1).died_on is None
    delivery.end(-1)
    assert delivery.finished == 5


@given(
    poison=st.sets(st.integers(0, 19)),
    kills=st.lists(st.integers(1, 30), max_size=8),
    commits=st.lists(st.booleans(), min_size=200, max_size=200),
    max_deliver=st.integers(1, 4),
)
def test_every_event_is_handled_or_buried_whatever_dies_when(poison, kills, commits, max_deliver):
    """Twenty events, some of them deadly, the host killed at random moments, commits lost at random: none is missed, the deadly
    ones are buried after exactly max_deliver deaths, and no healthy one is unless random kills alone reached its limit."""
    marks, cursor, handled, buried = MemoryMarks(), -1, set(), set()
    commit, deaths = iter(commits), dict.fromkeys(range(20), 0)
    patience = iter([*kills, *[10_000] * 200])
    while cursor < 19:
        delivery, left = Delivery(cursor, marks, max_deliver), next(patience)
        for offset in range(cursor + 1, 20):
            verdict = delivery.admit(offset)
            assert verdict != "skip"
            if verdict == "bury":
                assert deaths[offset] >= max_deliver
                buried.add(offset)
                delivery.bury(offset)
            else:
                delivery.begin(offset, b"on_step")
                left -= 1
                if offset in poison or left == 0:
                    deaths[offset] += 1
                    break
                delivery.end(offset)
                handled.add(offset)
            if next(commit, True):
                cursor = delivery.finished
                delivery.committed(cursor)
        else:
            cursor = delivery.finished
    assert handled | buried == set(range(20))
    assert poison <= buried
    assert all(deaths[offset] == max_deliver for offset in poison)


def test_the_file_survives_being_dropped_without_a_word(tmp_path):
    """A new mapping of the same file sees what the dead one wrote."""
    first = InflightFile(tmp_path / "inflight", "p")
    first.bind("journal-1")
    first.mark(7, b"on_step")
    first.save_attempts({7: 2})
    first.close()
    second = InflightFile(tmp_path / "inflight", "p")
    second.bind("journal-1")
    assert (second.marked(), second.load_attempts()) == (Mark(7, "on_step"), {7: 2})
    second.close()


def test_marks_of_another_journal_are_forgotten(tmp_path):
    """Its offsets name other events here: an innocent one must not be buried."""
    marks = InflightFile(tmp_path / "inflight", "p")
    marks.bind("journal-1")
    marks.mark(7, b"on_step")
    marks.save_attempts({7: 2})
    marks.bind("journal-2")
    assert (marks.marked(), marks.load_attempts()) == (None, {})
    marks.close()


def test_a_plugin_does_not_run_twice_on_one_home(tmp_path):
    """Two hosts would share one cursor."""
    marks = InflightFile(tmp_path / "inflight", "p")
    with pytest.raises(PluginError, match="already runs here"):
        InflightFile(tmp_path / "inflight", "p")
    marks.close()
    InflightFile(tmp_path / "inflight", "p").close()
