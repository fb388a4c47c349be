"""Leases: many readers or one deleter, with an expiry that survives the broker."""

from __future__ import annotations

import pytest

from trainbus.bus import wire


def take(bench, mode="shared", holder="h", resource="ckpt", ttl=60.0, reason=""):
    return bench.call(wire.TakeLease(resource=resource, holder=holder, mode=mode, ttl=ttl, reason=reason))


def granted(bench, *arguments, **fields) -> bool:
    return isinstance(take(bench, *arguments, **fields), wire.Reply)


def lease(bench, **fields) -> wire.Lease:
    return bench.ask(wire.TakeLease(resource="ckpt", **{"holder": "h", **fields}), wire.Lease)


def test_any_number_may_read(bench):
    assert all(granted(bench, "shared", f"reader {number}") for number in range(3))


@pytest.mark.parametrize(("first", "second"), [("shared", "exclusive"), ("exclusive", "shared"), ("exclusive", "exclusive")])
def test_a_conflict_names_the_holder_and_how_long_to_wait(bench, first, second):
    lease(bench, mode=first, holder="inference", reason="evaluating")
    failure = take(bench, second, "retention")
    assert failure.code == "conflict"
    for word in ("ckpt", "inference", first, "evaluating", "60 s"):
        assert word in failure.problem


def test_other_resources_are_free(bench):
    assert granted(bench, "exclusive", resource="a")
    assert granted(bench, "exclusive", resource="b")


def test_of_two_that_arrive_together_one_wins(bench):
    """Both calls are in the same batch: the second sees what the first took."""
    for number, holder in ((1, "a"), (2, "b")):
        bench.say(wire.Call(id=number, request=wire.TakeLease(resource="x", holder=holder, mode="exclusive")))
    bench.commit()
    assert [type(message) for _, message in bench.sent] == [wire.Reply, wire.Failure]
    assert [held.holder for held in bench.ask(wire.Leases(), list[wire.Lease])] == ["a"]


def test_a_lease_expires_and_can_not_be_renewed_then(bench):
    held = lease(bench, mode="exclusive", ttl=5.0)
    bench.tick(4.5)
    assert not granted(bench, "shared", "other")
    bench.tick(1)
    assert bench.ask(wire.Leases(), list[wire.Lease]) == []
    assert granted(bench, "shared", "other")
    assert bench.refused(wire.RenewLease(id=held.id)).code == "unknown"


def test_renewing_keeps_a_lease_alive(bench):
    held = lease(bench, mode="exclusive", ttl=5.0)
    for _ in range(5):
        bench.tick(4)
        assert bench.ask(wire.RenewLease(id=held.id, ttl=5.0), wire.Lease).expires_in == pytest.approx(5.0)
    assert not granted(bench, "shared", "other")


def test_releasing_frees_the_resource_and_is_no_error_twice(bench):
    held = lease(bench, mode="exclusive")
    for _ in range(2):
        assert isinstance(bench.call(wire.ReleaseLease(id=held.id)), wire.Reply)
    assert granted(bench, "exclusive", "other")


def test_leases_survive_a_restart_with_their_whole_ttl(bench):
    """The holder could not renew while no broker ran."""
    held = lease(bench, mode="exclusive", ttl=5.0, reason="deleting")
    bench.tick(4)
    bench.now += 60
    bench.restart()
    (kept,) = bench.ask(wire.Leases(), list[wire.Lease])
    assert (kept.id, kept.holder, kept.reason, kept.expires_in) == (held.id, "h", "deleting", 5.0)
    bench.tick(6)
    bench.restart()
    assert bench.ask(wire.Leases(), list[wire.Lease]) == [], "and its end is durable too"


def test_a_pause_of_the_broker_expires_nothing_at_once(bench):
    lease(bench, mode="exclusive", ttl=5.0)
    bench.now += 600
    bench.tick()
    assert not granted(bench, "shared", "other")


def test_a_release_whose_commit_failed_did_not_happen(bench):
    held = lease(bench, mode="exclusive")
    bench.say(wire.Call(id=50, request=wire.ReleaseLease(id=held.id)))
    bench.fail()
    bench.tick(1)
    assert [kept.id for kept in bench.ask(wire.Leases(), list[wire.Lease])] == [held.id]


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_an_impossible_ttl_is_refused(bench, ttl):
    assert take(bench, ttl=ttl).code == "invalid"
