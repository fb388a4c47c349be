"""kill -9 at every step of every protocol, in real processes: whole checkpoints or trash, never a half one that looks whole."""

import pytest

from tests.plugins.retention.support import actions, deleted, here, in_trash, killed_at, make, record, settle, started, wait_until, write
from trainbus.bus.events import Eval
from trainbus.plugins.retention.sweeper import empty
from trainbus.plugins.retention.trash import Trash
from trainbus.plugins.retention.verify import verify


def at_every_step(tmp_path, prepare, work, check):
    """Kill the work before its first, second, ... operation, each time in a fresh place; the number of steps that it has."""
    number, killed = 0, True
    while killed:
        number += 1
        out = tmp_path / str(number)
        prepared = prepare(out)
        killed = killed_at(number, lambda out=out, prepared=prepared: work(out, prepared))
        assert_nothing_half(out)
        check(out, prepared)
        assert_nothing_half(out)
    return number


def assert_nothing_half(out):
    """What is in its place is whole, and what can be restored is whole."""
    for path in out.glob("checkpoint-*"):
        assert verify(path).faults == ()
    for thing in Trash(out).contents():
        if not thing.emptying and not thing.thinned:
            assert verify(thing.place).faults == ()


def test_a_kill_while_trashing(tmp_path):
    """In its place or in the trash; doing it again ends it."""

    def work(out, path):
        Trash(out).put(record(path, 7), reason="old")

    def check(out, path):
        assert path.exists() != bool(in_trash(out))
        if path.exists():
            work(out, path)
        assert [thing.entry.id for thing in Trash(out).contents()] == ["r@7"]

    assert at_every_step(tmp_path, lambda out: make(out, 7), work, check) > 8


def test_a_kill_while_restoring(tmp_path):
    """The same the other way round."""

    def prepare(out):
        path = make(out, 7)
        Trash(out).put(record(path, 7), reason="old")
        return path

    def work(out, path):
        trash = Trash(out)
        trash.restore(trash.find("r@7"))

    def check(out, path):
        assert path.exists() != bool(in_trash(out))
        if not path.exists():
            work(out, path)
        assert here(out) == ["checkpoint-7"]

    assert at_every_step(tmp_path, prepare, work, check) > 5


def test_a_kill_while_emptying(tmp_path):
    """Restorable and whole, or on its way out; the next pass ends it."""

    def prepare(out):
        path = make(out, 7)
        (path / "deep").mkdir()
        (path / "deep/file").write_text("x")
        (path / "trainbus_checkpoint.json").unlink()
        Trash(out).put(record(path, 7), reason="old")

    def work(out, _):
        trash = Trash(out)
        for thing in trash.contents():
            empty(trash, thing)

    def check(out, _):
        work(out, _)
        assert in_trash(out) == []
        assert here(out) == []

    assert at_every_step(tmp_path, prepare, work, check) > 8


def test_a_kill_while_thinning(tmp_path):
    """Whole with its optimizer state or whole without; the recovery at the next start ends it."""

    def prepare(out):
        return make(out, 7, optimizer=100)

    def work(out, path):
        Trash(out).thin(record(path, 7), reason="old")

    def check(out, path):
        trash = Trash(out)
        trash.recover()
        if not trash.contents():
            work(out, path)
        assert not (path / "optimizer.pt").exists()
        trash.restore(trash.find("r@7"))
        assert (path / "optimizer.pt").stat().st_size == 100

    assert at_every_step(tmp_path, prepare, work, check) > 12


def test_a_kill_while_what_thinning_took_is_restored(tmp_path):
    """Until the last rename it is whole as a thinner one."""

    def prepare(out):
        path = make(out, 7, optimizer=100)
        Trash(out).thin(record(path, 7), reason="old")
        return path

    def work(out, path):
        trash = Trash(out)
        trash.restore(trash.find("r@7"))

    def check(out, path):
        trash = Trash(out)
        trash.recover()
        if trash.find("r@7"):
            work(out, path)
        assert (path / "optimizer.pt").stat().st_size == 100
        assert in_trash(out) == []

    assert at_every_step(tmp_path, prepare, work, check) > 8


APPLY = {
    "dry_run": False,
    "keep_newest": 1,
    "keep_best": [{"metric": "accuracy", "direction": "max"}],
    "min_age": 0,
    "trash_bytes_per_second": 1e12,
}


@pytest.mark.parametrize("grace", [0, 3600])
def test_a_kill_of_the_plugin_at_any_operation(tmp_path, grace):
    """The next start goes on: told with its reason, nothing lost, the trash emptied when its time has come."""
    config = APPLY | {"trash_grace": grace}

    def prepare(out):
        return [write(out, step) for step in (1, 2)]

    def work(out, feed):
        harness = started(out.parent / f"plugin-{out.name}", config)
        harness.feed(*feed)
        settle(harness)
        harness.stop()

    def check(out, feed):
        harness = started(out.parent / f"plugin-{out.name}", config)
        harness.feed(*feed)
        settle(harness)
        assert here(out) == ["checkpoint-2"]
        assert [identity for identity, _ in deleted(harness)] == ["r@1"]
        assert {reason for _, reason in deleted(harness)} == {"not among the newest 1, not best by accuracy"}
        if grace:
            assert len(in_trash(out)) == 1
        else:
            assert wait_until(lambda: settle(harness) and not in_trash(out))
        harness.stop()

    assert at_every_step(tmp_path, prepare, work, check) > 15


def test_a_kill_of_the_plugin_while_a_late_metric_brings_a_checkpoint_back(tmp_path):
    """The best is in its place at the end, whatever the moment."""
    config = APPLY | {"trash_grace": 3600}

    def prepare(out):
        feed = [write(out, step) for step in (1, 2)]
        Trash(out, who="retention").put(record(out / "checkpoint-1", 1), reason="old")
        return [*feed, Eval(run="r", checkpoint="r@1", metrics={"accuracy": 0.9})]

    def work(out, feed):
        harness = started(out.parent / f"plugin-{out.name}", config)
        harness.feed(*feed)
        settle(harness)
        settle(harness)
        harness.stop()

    def check(out, feed):
        harness = started(out.parent / f"plugin-{out.name}", config)
        harness.feed(*feed)
        assert wait_until(lambda: settle(harness) and here(out) == ["checkpoint-1", "checkpoint-2"])
        harness.stop()
        assert actions(out)[-1] == ("restored", "r@1") or actions(out)[-1] == ("restoring", "r@1")

    assert at_every_step(tmp_path, prepare, work, check) > 10
