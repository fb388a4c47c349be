"""The virtual clock."""

from __future__ import annotations

import pytest

from trainbus.bus.clock import Clock
from trainbus.testing.clock import VirtualClock


def test_it_stands_still_until_it_is_told_to_go_on():
    clock: Clock = VirtualClock(now=5.0, wall=1_000)
    assert (clock.now(), clock.wall()) == (5.0, 1_000)
    clock.advance(1.5)
    assert (clock.now(), clock.wall()) == (6.5, 1_500_001_000)


def test_the_wall_clock_may_be_set_back_and_monotonic_time_may_not():
    clock = VirtualClock()
    clock.set_wall(7)
    assert (clock.now(), clock.wall()) == (0.0, 7)
    with pytest.raises(ValueError, match="set back"):
        clock.advance(-1)
