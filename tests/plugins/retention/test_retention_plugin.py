"""Deletion on a real disk: what goes, what refuses to go, and what a kill at any moment leaves."""

import json
import os
import signal
import socket
import sys
import time

import pytest

from trainbus.bus.events import Checkpoint, Eval
from trainbus.plugins.retention.plugin import RetentionPlugin
from trainbus.testing.context import MemoryContext, PluginHarness

HERE = socket.gethostname()
APPLY = {"dry_run": False, "keep_newest": 1, "keep_best": [{"metric": "accuracy", "direction": "max"}], "min_age": 0}
WEIGHTS = b"weights" * 100


def write(out, step, *, marker=True):
    """A checkpoint on the disk, and the event that announces it."""
    path = out / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(WEIGHTS)
    (path / "trainer_state.json").write_text("{}")
    if marker:
        (path / "trainbus_checkpoint.json").write_text(json.dumps({"id": f"r@{step}"}))
    return Checkpoint(run="r", id=f"r@{step}", step=step, time=step, path=str(path), host=HERE, bytes=700)


def started(tmp_path, config=APPLY, context=None):
    context = context or MemoryContext(directory=tmp_path / "plugin")
    harness = PluginHarness(RetentionPlugin(), config=config, context=context)
    harness.start()
    return harness


def here(out):
    return sorted(path.name for path in out.iterdir() if path.name != ".trash")


def emptied(out, deadline=10.0):
    """Whether the trash gets empty before the deadline."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if not (out / ".trash").exists() or not list((out / ".trash").iterdir()):
            return True
        time.sleep(0.01)
    return False


def deleted(harness):
    return [(event.id, event.reason) for event in harness.published if event.kind == "checkpoint"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_what_no_policy_keeps_is_deleted_told_and_written_into_the_ledger(tmp_path, out):
    """The event carries the reason; the disk is free again soon after."""
    harness = started(tmp_path)
    harness.feed(*(write(out, step) for step in (1, 2, 3)), Eval(run="r", checkpoint="r@1", metrics={"accuracy": 0.9}))
    assert harness.every() == 10.0
    assert here(out) == ["checkpoint-1", "checkpoint-3"]
    reason = "not among the newest 1, not best by accuracy"
    assert deleted(harness) == [("r@2", reason)]
    assert emptied(out)
    harness.stop()
    lines = [json.loads(line) for line in (tmp_path / "plugin/ledger.jsonl").read_text().splitlines()]
    assert [(line["action"], line.get("id"), line.get("reason")) for line in lines] == [
        ("trashing", "r@2", reason),
        ("emptied", None, None),
    ]


def test_a_dry_run_touches_nothing_and_tells_its_plan_once_until_it_changes(tmp_path, out):
    """Each entry with its reason."""
    harness = started(tmp_path, APPLY | {"dry_run": True})
    harness.feed(write(out, 1), write(out, 2))
    harness.every()
    harness.every()
    (plan,) = harness.published
    assert (plan.rule, plan.severity, plan.state, plan.run) == ("retention_plan", "info", "raised", "r")
    assert [(line["id"], line["reason"]) for line in plan.evidence["delete"]] == [("r@1", "not among the newest 1, not best by accuracy")]
    harness.feed(write(out, 3))
    harness.every()
    assert [(alert.state, len(alert.evidence["delete"])) for alert in harness.published] == [("raised", 1), ("updated", 2)]
    assert here(out) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_nothing_is_deleted_before_all_history_has_been_seen(tmp_path, out):
    """An event that is still to come may be the reason to keep: a plugin that catches up waits."""
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    harness.context.history.append(Eval(run="r", checkpoint="r@1", metrics={"accuracy": 1.0}, offset=2))
    assert harness.every() == 1.0
    assert here(out) == ["checkpoint-1", "checkpoint-2"]


def test_a_leased_checkpoint_is_kept_for_now_and_deleted_when_it_is_free(tmp_path, out):
    """The deletion takes the opposite side of the same lock."""
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    harness.context.leases["r@1"] = ["shared"]
    harness.every()
    assert here(out) == ["checkpoint-1", "checkpoint-2"]
    harness.context.leases["r@1"] = []
    harness.every()
    assert here(out) == ["checkpoint-2"]


def test_a_metric_that_arrives_while_the_lease_is_asked_for_still_saves_its_checkpoint(tmp_path, out):
    """The decision is made again under the lease."""
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    plugin = next(iter(harness.manager.get_plugins()))

    class Slow(MemoryContext):
        def lease(self, *arguments, **named):
            plugin.book.evaluation(Eval(run="r", checkpoint="r@1", metrics={"accuracy": 1.0}))
            return super().lease(*arguments, **named)

    harness.context.__class__ = Slow
    harness.every()
    assert here(out) == ["checkpoint-1", "checkpoint-2"]


def test_a_checkpoint_of_another_trainer_is_recognised_by_its_files(tmp_path, out):
    """Hugging Face writes no marker."""
    harness = started(tmp_path)
    harness.feed(write(out, 1, marker=False), write(out, 2, marker=False))
    harness.every()
    assert here(out) == ["checkpoint-2"]


def another_marker(out, path):
    (path / "trainbus_checkpoint.json").write_text('{"id": "other"}')


def broken_marker(out, path):
    (path / "trainbus_checkpoint.json").write_text("{")


def linked_marker(out, path):
    (path / "trainbus_checkpoint.json").rename(out / "marker.json")
    (path / "trainbus_checkpoint.json").symlink_to(out / "marker.json")


def no_checkpoint(out, path):
    (path / "trainbus_checkpoint.json").unlink()
    (path / "model.safetensors").unlink()


def linked_directory(out, path):
    path.rename(out / "elsewhere")
    path.symlink_to(out / "elsewhere")


def linked_parent(out, path):
    out.rename(out.parent / "moved")
    out.symlink_to(out.parent / "moved")


def a_file(out, path):
    path.rename(out / "elsewhere")
    path.write_text("not a directory")


def trash_is_a_link(out, path):
    (out / "elsewhere").mkdir()
    (out / ".trash").symlink_to(out / "elsewhere")


@pytest.mark.parametrize(
    "change", [another_marker, broken_marker, linked_marker, no_checkpoint, linked_directory, linked_parent, a_file, trash_is_a_link]
)
def test_what_is_not_the_announced_checkpoint_is_left_alone(tmp_path, out, change, caplog):
    """The disk decides, not the event; a person is told once."""
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    change(out, out / "checkpoint-1")
    before = sorted(path for path in tmp_path.rglob("*") if "plugin" not in path.parts)
    harness.every()
    harness.every()
    after = sorted(path for path in tmp_path.rglob("*") if "plugin" not in path.parts and path.name != ".trash")
    assert [path for path in before if path.name != ".trash"] == after
    assert deleted(harness) == []
    assert caplog.text.count("r@1 is kept") == 1


def test_nothing_outside_the_configured_roots_is_touched(tmp_path, out):
    """A sibling whose name begins alike is outside."""
    harness = started(tmp_path, APPLY | {"roots": [str(tmp_path / "ou")]})
    harness.feed(write(out, 1), write(out, 2))
    harness.every()
    assert here(out) == ["checkpoint-1", "checkpoint-2"]


def test_other_things_in_a_trash_folder_are_not_ours_to_delete(tmp_path, out):
    """Only what the ledger names is emptied."""
    (out / ".trash" / "holiday-photos").mkdir(parents=True)
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    harness.every()
    harness.stop()
    assert [path.name for path in (out / ".trash").iterdir()] == ["holiday-photos"]


def test_a_checkpoint_that_somebody_else_deleted_is_told_as_such(tmp_path, out):
    """It neither counts as the newest nor is asked for again."""
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    (out / "checkpoint-2").rename(tmp_path / "gone")
    harness.every()
    assert [identity for identity, reason in deleted(harness) if "did not delete" in reason] == ["r@2"]
    assert here(out) == ["checkpoint-1"]


def test_an_unmounted_disk_is_not_taken_for_deleted_checkpoints(tmp_path, out):
    """Where the parent is missing too, nothing is concluded."""
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    out.rename(tmp_path / "unmounted")
    harness.every()
    assert deleted(harness) == []


WATCHED = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree"})


def killed_at(tmp_path, number, feed):
    """Run one deletion in a child that is killed with SIGKILL before its ``number``-th file operation; True when it was."""
    child = os.fork()
    if child == 0:
        harness = started(tmp_path)
        harness.feed(*feed)
        left = number

        def kill(event, _):
            nonlocal left
            if event in WATCHED:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        harness.every()
        harness.stop()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_before_any_file_operation_leaves_whole_checkpoints_or_trash_and_the_next_start_ends_it(tmp_path):
    """No half checkpoint ever looks whole, the deletion is told with its reason, and the trash gets empty."""
    number, killed = 0, True
    while killed:
        number += 1
        place = tmp_path / str(number)
        feed = [write(place / "out", step) for step in (1, 2)]
        killed = killed_at(place, number, feed)
        for path in (place / "out").glob("checkpoint-*"):
            assert (path / "model.safetensors").read_bytes() == WEIGHTS
            assert (path / "trainbus_checkpoint.json").exists()
        harness = started(place)
        harness.feed(*feed)
        harness.every()
        assert here(place / "out") == ["checkpoint-2"]
        assert deleted(harness) == [("r@1", "not among the newest 1, not best by accuracy")]
        assert emptied(place / "out")
        harness.stop()
    assert number > 8


def test_a_symbolic_link_further_up_is_refused_too(tmp_path):
    """What a path leads to can be changed at every link on the way."""
    harness = started(tmp_path)
    harness.feed(write(tmp_path / "disk/out", 1), write(tmp_path / "disk/out", 2))
    (tmp_path / "disk").rename(tmp_path / "moved")
    (tmp_path / "disk").symlink_to(tmp_path / "moved")
    harness.every()
    assert here(tmp_path / "moved/out") == ["checkpoint-1", "checkpoint-2"]
