"""D2, D3, D5, D6, D8: seeded histories of the real parts under kills, cuts, torn tails, full disks and failing commits; and mutants."""

from __future__ import annotations

from functools import partial

import pytest

from trainbus.bus.broker import schema
from trainbus.bus.broker.intake import Intake
from trainbus.bus.link import Link
from trainbus.testing.simulation.scenario import simulate

BLOCK = 50


@pytest.mark.parametrize("first", range(0, 100, BLOCK))
def test_nothing_is_lost_repeated_or_disordered_under_faults(first):
    """Every published event is in the journal once and in order, or a gap event says why not; every reader gets all that it asked for."""
    for seed in range(first, first + BLOCK):
        outcome = simulate(seed)
        assert not outcome.problems, f"seed {seed}: " + "\n".join(outcome.problems)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("first", range(100, 2_100, 500))
def test_two_thousand_more_seeds(first):
    """The same with 2,000 other seeds."""
    for seed in range(first, first + 500):
        outcome = simulate(seed)
        assert not outcome.problems, f"seed {seed}: " + "\n".join(outcome.problems)


def test_the_same_seed_gives_the_same_history():
    """A failure can be replayed from its seed alone."""
    assert simulate(3) == simulate(3)


def test_the_faults_do_happen():
    """A simulation in which nothing goes wrong would prove nothing."""
    outcomes = [simulate(seed) for seed in range(12)]
    assert sum(outcome.broker_deaths for outcome in outcomes) > 10
    assert sum(outcome.trainer_deaths for outcome in outcomes) > 10
    assert sum(outcome.host_deaths for outcome in outcomes) > 10
    assert sum(outcome.failed_commits for outcome in outcomes) > 10
    assert sum(outcome.gaps for outcome in outcomes) > 0
    assert sum(outcome.buried for outcome in outcomes) > 0


def caught(play) -> list[str]:
    """The problems of the first seed that shows any."""
    for seed in range(20):
        problems = play(seed).problems
        if problems:
            return problems
    return []


def test_a_link_that_never_sends_again_is_caught():
    """Mutant of D3: what the network lost stays lost."""

    class NoResend(Link):
        def _rewind(self, expected: int) -> None: ...

    assert any("lost in journal" in problem for problem in caught(partial(simulate, link=NoResend)))


def takes_twice(self, feed, message, now):
    """`Intake.events` without its look at what it has already."""
    if message.first > feed.taken:
        return self._rewind(feed, now)
    feed.taken = message.first
    self._check(feed, message.bodies)
    return []


def test_a_broker_that_takes_events_twice_is_caught(monkeypatch):
    """Mutant of D3: a resent batch is taken again, and the journal has lost the unique index that would refuse it."""
    monkeypatch.setattr(Intake, "events", takes_twice)
    monkeypatch.setattr(schema, "_TABLES", schema._TABLES.replace("CREATE UNIQUE INDEX", "CREATE INDEX"))
    assert any("duplicated in journal" in problem for problem in caught(simulate))


def test_the_journal_refuses_what_a_broken_broker_takes_twice(monkeypatch):
    """The unique index alone keeps each event single: the broker's commit fails, and it finds its way back."""
    monkeypatch.setattr(Intake, "events", takes_twice)
    assert not caught(simulate)


def test_a_cursor_that_moves_before_the_hook_is_caught():
    """Mutant of D6: a plugin that dies in its hook never sees that event again."""
    assert any("in plugin" in problem for problem in caught(partial(simulate, commit_first=True)))
