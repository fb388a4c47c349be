"""The small sans-IO parts of the reading side, with a clock that the test turns."""

from __future__ import annotations

import os

import pytest

from trainbus.bus import wire
from trainbus.bus.commits import Commits
from trainbus.bus.finder import Finder
from trainbus.bus.home import Connection, connection_file, write_connection
from trainbus.bus.lease import RENEWALS, Lease
from trainbus.errors import ConfigError, RefusedError
from trainbus.testing.clock import VirtualClock

# --- commits ---


def test_one_commit_is_in_flight_and_the_rest_is_merged_behind_it():
    """The highest offset and the newest value of each key win; so no older state can be written over newer by a repetition."""
    commits = Commits("reader")
    commits.add(3, {"a": b"1", "b": b"1"})
    first = commits.next()
    assert (first.offset, first.state) == (3, {"a": b"1", "b": b"1"})
    for offset, state in ((5, {"a": b"2"}), (4, {"c": b"3"}), (6, {"a": None})):
        commits.add(offset, state)
        assert commits.next() is None
    commits.done()
    second = commits.next()
    assert (second.offset, second.state) == (6, {"a": None, "c": b"3"})
    assert not commits.settled
    commits.done()
    assert commits.settled
    assert commits.next() is None


# --- leases ---


def lease(clock, ttl=30.0):
    granted = wire.Lease(id="1", resource="ckpt", holder="reader", mode="shared", expires_in=ttl)
    return Lease(granted, ttl, clock.now(), clock)


def test_a_lease_counts_from_the_request_and_is_lost_when_its_time_is_over():
    """The answer took a while: the holder must not believe in the lease longer than the broker does."""
    clock = VirtualClock()
    held = lease(clock)
    clock.advance(29.9)
    held.check()
    clock.advance(0.1)
    assert held.lost
    with pytest.raises(RefusedError, match="lost"):
        held.check()


def test_renewals_come_several_times_a_ttl_and_closer_together_near_the_end():
    clock = VirtualClock()
    held = lease(clock)
    assert held.pause() == 30.0 / RENEWALS
    clock.advance(28.0)
    assert held.pause() == 1.0
    clock.advance(1.999)
    assert held.pause() > 0.01  # not faster and faster for ever


# --- the connection file ---


def test_a_replaced_connection_file_is_read_again_and_a_vanished_one_forgotten(home):
    """A broker's restart replaces the file; a broker stopped in order takes it away."""
    finder = Finder()
    assert finder.look() is None
    for port in (1, 2):
        write_connection(Connection(router=f"tcp://127.0.0.1:{port}", xpub="", journal="j", pid=os.getpid()))
        assert finder.look().router.endswith(f":{port}")
        assert not finder.hopeless()
    connection_file(home).unlink()
    assert finder.look() is None
    assert finder.hopeless()


def test_a_torn_connection_file_is_an_error_in_words(home):
    connection_file(home).write_text("{")
    finder = Finder()
    assert finder.look() is None
    assert "can't be read" in finder.unreachable(1.0, "asked: Status").problem


def test_a_broker_on_another_machine_is_never_taken_for_dead(home):
    """Its process id means nothing here."""
    write_connection(Connection(router="tcp://10.0.0.1:1", xpub="", journal="j", pid=2**22 + 1, host="elsewhere"))
    assert not Finder().hopeless()


def test_one_address_without_the_other_is_refused():
    with pytest.raises(ConfigError, match="without router"):
        Finder(xpub="tcp://127.0.0.1:1")
