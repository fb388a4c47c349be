"""Deletion on a real disk: what goes, what refuses to go, and what a kill at any moment leaves."""

import json
import os

import pytest

from tests.plugins.retention.support import actions, complete, deleted, here, in_trash, make, plugin_of, record, settle, wait_until, write
from tests.plugins.retention.support import started as start
from trainbus.bus.events import Eval
from trainbus.plugins.retention import backups
from trainbus.plugins.retention.pins import Pin, pin, unpin
from trainbus.plugins.retention.recognition import NotACheckpoint
from trainbus.plugins.retention.trash import Trash
from trainbus.plugins.retention.verify import verify
from trainbus.plugins.retention.versions import promote
from trainbus.testing.context import MemoryContext

APPLY = {
    "dry_run": False,
    "keep_newest": 1,
    "keep_best": [{"metric": "accuracy", "direction": "max"}],
    "min_age": 0,
    "trash_grace": 0,
    "trash_bytes_per_second": 1e12,
}


def started(tmp_path, config=APPLY, context=None):
    return start(tmp_path, config, context)


def alerts(harness):
    return [event for event in harness.published if event.kind == "alert"]


def emptied(out):
    """Whether the trash gets empty before the deadline."""
    return wait_until(lambda: not in_trash(out))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_what_no_policy_keeps_is_deleted_told_and_written_into_the_ledger(tmp_path, out):
    """The event carries the reason; the disk is free again soon after."""
    harness = started(tmp_path)
    harness.feed(*(write(out, step) for step in (1, 2, 3)), Eval(run="r", checkpoint="r@1", metrics={"accuracy": 0.9}))
    assert settle(harness) == 10.0
    assert here(out) == ["checkpoint-1", "checkpoint-3"]
    reason = "not among the newest 1, not best by accuracy"
    assert deleted(harness) == [("r@2", reason)]
    assert emptied(out)
    assert actions(out) == [("trashing", "r@2"), ("emptying", "r@2"), ("emptied", "r@2")]
    harness.stop()
    line = json.loads((out / ".trash/ledger.jsonl").read_text().splitlines()[0])
    assert (line["who"], line["reason"], line["path"], line["bytes"]) == ("retention", reason, str(out / "checkpoint-2"), 175)


def test_a_dry_run_touches_nothing_and_tells_its_plan_once_until_it_changes(tmp_path, out):
    """Each entry with its reason."""
    harness = started(tmp_path, APPLY | {"dry_run": True})
    harness.feed(write(out, 1), write(out, 2))
    settle(harness)
    settle(harness)
    (plan,) = alerts(harness)
    assert (plan.rule, plan.severity, plan.state, plan.run) == ("retention_plan", "info", "raised", "r")
    assert [(line["id"], line["reason"]) for line in plan.evidence["delete"]] == [("r@1", "not among the newest 1, not best by accuracy")]
    harness.feed(write(out, 3))
    settle(harness)
    assert [(alert.state, len(alert.evidence["delete"])) for alert in alerts(harness)] == [("raised", 1), ("updated", 2)]
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
    settle(harness)
    assert here(out) == ["checkpoint-1", "checkpoint-2"]
    harness.context.leases["r@1"] = []
    settle(harness)
    assert here(out) == ["checkpoint-2"]


def test_a_metric_that_arrives_while_the_lease_is_asked_for_still_saves_its_checkpoint(tmp_path, out):
    """The decision is made again under the lease."""
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    plugin = plugin_of(harness)

    class Slow(MemoryContext):
        def lease(self, *arguments, **named):
            plugin.book.evaluation(Eval(run="r", checkpoint="r@1", metrics={"accuracy": 1.0}))
            return super().lease(*arguments, **named)

    harness.context.__class__ = Slow
    settle(harness)
    assert here(out) == ["checkpoint-1", "checkpoint-2"]


def test_a_checkpoint_of_another_trainer_is_recognised_by_its_files(tmp_path, out):
    """Hugging Face writes no marker."""
    harness = started(tmp_path)
    harness.feed(write(out, 1, marker=False), write(out, 2, marker=False))
    settle(harness)
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


def pinned(out, path):
    (path / "trainbus_pin.json").write_text("not even JSON")


@pytest.mark.parametrize(
    "change", [another_marker, broken_marker, linked_marker, no_checkpoint, linked_directory, linked_parent, a_file, trash_is_a_link]
)
def test_what_is_not_the_announced_checkpoint_is_left_alone(tmp_path, out, change, caplog):
    """The disk decides, not the event; a person is told once."""
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    change(out, out / "checkpoint-1")
    before = sorted(path for path in tmp_path.rglob("*") if "plugin" not in path.parts)
    settle(harness)
    settle(harness)
    after = sorted(path for path in tmp_path.rglob("*") if "plugin" not in path.parts and ".trash" not in path.parts)
    assert [path for path in before if ".trash" not in path.parts] == after
    assert deleted(harness) == []
    assert caplog.text.count("r@1 is kept") == 1


def test_nothing_outside_the_configured_roots_is_touched(tmp_path, out):
    """A sibling whose name begins alike is outside."""
    harness = started(tmp_path, APPLY | {"roots": [str(tmp_path / "ou")]})
    harness.feed(write(out, 1), write(out, 2))
    settle(harness)
    assert here(out) == ["checkpoint-1", "checkpoint-2"]


def test_other_things_in_a_trash_folder_are_not_ours_to_delete(tmp_path, out):
    """Only what the ledger names is emptied."""
    (out / ".trash" / "holiday-photos").mkdir(parents=True)
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    settle(harness)
    assert wait_until(lambda: in_trash(out) == ["holiday-photos"])
    harness.stop()


def test_a_checkpoint_that_somebody_else_deleted_is_told_as_such(tmp_path, out):
    """It neither counts as the newest nor is asked for again."""
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    (out / "checkpoint-2").rename(tmp_path / "gone")
    settle(harness)
    assert [identity for identity, reason in deleted(harness) if "did not delete" in reason] == ["r@2"]
    assert here(out) == ["checkpoint-1"]


def test_an_unmounted_disk_is_not_taken_for_deleted_checkpoints(tmp_path, out):
    """Where the parent is missing too, nothing is concluded."""
    harness = started(tmp_path)
    harness.feed(write(out, 1), write(out, 2))
    out.rename(tmp_path / "unmounted")
    settle(harness)
    assert deleted(harness) == []


def test_a_symbolic_link_further_up_is_refused_too(tmp_path):
    """What a path leads to can be changed at every link on the way."""
    harness = started(tmp_path)
    harness.feed(write(tmp_path / "disk/out", 1), write(tmp_path / "disk/out", 2))
    (tmp_path / "disk").rename(tmp_path / "moved")
    (tmp_path / "disk").symlink_to(tmp_path / "moved")
    settle(harness)
    assert here(tmp_path / "moved/out") == ["checkpoint-1", "checkpoint-2"]


LONG = APPLY | {"trash_grace": 3600}


def test_a_metric_that_arrives_after_its_checkpoint_was_trashed_and_makes_it_the_best_brings_it_back(tmp_path, out):
    """The former best goes in its place, and both are told."""
    harness = started(tmp_path, LONG)
    harness.feed(*(write(out, step) for step in (1, 2, 3)), Eval(run="r", checkpoint="r@1", metrics={"accuracy": 0.5}))
    settle(harness)
    assert here(out) == ["checkpoint-1", "checkpoint-3"]
    harness.feed(Eval(run="r", checkpoint="r@2", metrics={"accuracy": 0.9}))
    settle(harness)
    assert here(out) == ["checkpoint-2", "checkpoint-3"]
    back = [event for event in harness.published if event.kind == "checkpoint" and event.state == "complete"]
    assert [(event.id, event.path) for event in back] == [("r@2", str(out / "checkpoint-2"))]
    assert back[0].reason == "restored from the trash: one of the best by accuracy after all (0.9)"
    assert [identity for identity, _ in deleted(harness)] == ["r@2", "r@1"]


def test_the_late_metric_also_counts_when_the_plugin_was_restarted_in_between(tmp_path, out):
    """What lies in the trash is in the durable state."""
    first = started(tmp_path, LONG)
    first.feed(*(write(out, step) for step in (1, 2)))
    settle(first)
    first.stop()
    second = started(tmp_path, LONG, first.context)
    second.feed(Eval(run="r", checkpoint="r@1", metrics={"accuracy": 0.9}))
    settle(second)
    assert here(out) == ["checkpoint-1", "checkpoint-2"]


def test_what_a_person_trashed_stays_there_whatever_metrics_say(tmp_path, out):
    """It was a decision."""
    harness = started(tmp_path, LONG | {"keep_newest": 5})
    harness.feed(write(out, 1), write(out, 2))
    Trash(out, who="ann").put(record(out / "checkpoint-1", 1), reason="bad data")
    harness.feed(Eval(run="r", checkpoint="r@1", metrics={"accuracy": 0.9}))
    settle(harness)
    assert here(out) == ["checkpoint-2"]
    assert deleted(harness) == [("r@1", "bad data")]


def test_a_damaged_newest_checkpoint_stops_all_deletion_below_it_until_another_is_whole(tmp_path, out):
    """An alert says what is wrong; the one before it is verified in its stead and kept."""
    harness = started(tmp_path, LONG)
    harness.feed(write(out, 1), write(out, 2), write(out, 3))
    with (out / "checkpoint-3/model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    settle(harness)
    assert here(out) == ["checkpoint-2", "checkpoint-3"]
    (alert,) = alerts(harness)
    assert (alert.rule, alert.severity) == ("retention_damaged", "critical")
    assert "model.safetensors has changed" in alert.message


def test_what_is_only_kept_as_the_last_verified_copy_goes_once_the_newest_is_verified(tmp_path, out):
    """Also when nothing else is to go, so that nobody else asks for the newest to be read."""
    harness = started(tmp_path, LONG)
    harness.feed(write(out, 1), write(out, 2))
    settle(harness)
    assert here(out) == ["checkpoint-2"]
    harness.feed(write(out, 3))
    settle(harness)
    assert here(out) == ["checkpoint-3"]


def test_nothing_goes_when_no_checkpoint_at_all_is_whole(tmp_path, out):
    """The last hope may be any of them."""
    harness = started(tmp_path, LONG)
    harness.feed(*(write(out, step) for step in (1, 2, 3)))
    for path in out.glob("checkpoint-*/model.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    settle(harness)
    assert here(out) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_a_pinned_checkpoint_stays_and_goes_when_it_is_unpinned(tmp_path, out):
    """The pin is a file in the checkpoint."""
    harness = started(tmp_path, LONG)
    harness.feed(write(out, 1), write(out, 2))
    pin(out / "checkpoint-1", Pin(who="ann", why="for the paper"))
    settle(harness)
    assert here(out) == ["checkpoint-1", "checkpoint-2"]
    assert unpin(out / "checkpoint-1")
    settle(harness)
    assert here(out) == ["checkpoint-2"]


def test_the_trash_waits_for_its_grace_time(tmp_path, out):
    """By the clock of the machine: it was moved by that clock, too."""
    now = [1_000 * 10**9]
    harness = start(tmp_path, LONG, wall=lambda: now[0])
    harness.feed(write(out, 1), write(out, 2))
    settle(harness)
    assert in_trash(out) == ["checkpoint-1.1000000000000"]
    now[0] += 3_601 * 10**9
    settle(harness)
    assert emptied(out)


def test_the_disk_floor_empties_the_trash_at_once_and_the_oldest_first(tmp_path, out):
    """Only as much as is needed."""
    free = [10_000]
    settings = LONG | {"min_free_bytes": 1_000, "keep_newest": 1}
    harness = start(tmp_path, settings, space=lambda path: (10_000, free[0]))
    harness.feed(*(write(out, step) for step in (1, 2, 3)))
    settle(harness)
    assert len(in_trash(out)) == 2
    free[0] = 900
    settle(harness)
    assert wait_until(lambda: [name.split(".")[0] for name in in_trash(out)] == ["checkpoint-2"])


def test_a_limit_that_the_protected_stand_in_the_way_of_raises_an_alert_and_clears_it(tmp_path, out):
    """It names them."""
    free = [0]
    harness = start(tmp_path, LONG | {"min_free_bytes": 5_000}, space=lambda path: (10_000, free[0]))
    harness.feed(write(out, 1))
    settle(harness)
    settle(harness)
    (alert,) = alerts(harness)
    assert (alert.rule, alert.state, alert.severity) == ("retention_blocked", "raised", "critical")
    assert alert.evidence["in_the_way"][0]["protected"] == {"newest complete checkpoint": 175}
    free[0] = 9_000
    settle(harness)
    assert [alert.state for alert in alerts(harness)] == ["raised", "cleared"]


def test_a_disk_that_gets_full_is_a_warning_long_before_anything_goes(tmp_path, out):
    """With the time that is left at the present rate."""
    harness = start(tmp_path, LONG | {"keep_newest": 9, "warn_free_bytes": 50 * 10**9}, space=lambda path: (10**12, 40 * 10**9))
    harness.feed(*(write(out, step) for step in (1, 2, 3)))
    settle(harness)
    (alert,) = alerts(harness)
    assert (alert.rule, alert.severity) == ("disk_low", "warning")
    assert "less than 41 GB free. At the present rate it is full in" in alert.message


def test_optimizer_states_are_dropped_and_the_checkpoint_is_announced_as_it_is_now(tmp_path, out):
    """The weights stay whole."""
    harness = started(tmp_path, LONG | {"keep_newest": 3, "thin": "always", "thin_keep_newest": 1})
    harness.feed(*(write(out, step, optimizer=500) for step in (1, 2)))
    settle(harness)
    assert not (out / "checkpoint-1/optimizer.pt").exists()
    assert (out / "checkpoint-2/optimizer.pt").exists()
    assert verify(out / "checkpoint-1").faults == ()
    event = next(event for event in harness.published if event.kind == "checkpoint")
    assert (event.id, event.state, event.bytes, event.reason) == ("r@1", "complete", 175, "its optimizer state goes")


def test_a_checkpoint_written_anew_at_the_place_of_a_trashed_one_is_another_one(tmp_path, out):
    """Restoring the old one is refused, and the new one is kept."""
    harness = started(tmp_path, LONG)
    harness.feed(write(out, 1), write(out, 2))
    settle(harness)
    harness.feed(write(out, 1, run="s"))
    settle(harness)
    trash = Trash(out)
    with pytest.raises(NotACheckpoint, match="holds something else"):
        trash.restore(trash.find("r@1"))
    assert here(out) == ["checkpoint-1", "checkpoint-2"]


def test_versions_are_backed_up_by_schedule_and_a_failure_is_an_alert_until_it_is_mended(tmp_path, out):
    """Each version once."""
    promote(make(out, 7), tmp_path / "models/versions")
    (tmp_path / "b").write_text("in the way")
    settings = LONG | {"versions": [str(tmp_path / "models/versions")], "backup_to": str(tmp_path / "b"), "backup_every": 1}
    harness = started(tmp_path, settings)
    assert wait_until(lambda: settle(harness) and [alert.state for alert in alerts(harness)] == ["raised"])
    assert alerts(harness)[0].rule == "backup_failed"
    (tmp_path / "b").unlink()
    assert wait_until(lambda: settle(harness) and [alert.state for alert in alerts(harness)] == ["raised", "cleared"])
    assert [backup.name for backup in backups.listed(str(tmp_path / "b"))] == ["models-v001"]


def test_what_is_of_no_kind_that_can_be_recognised_is_neither_deleted_nor_called_damaged(tmp_path, out, caplog):
    """A loop of somebody's own saves as it likes."""
    harness = started(tmp_path)
    for step in (1, 2):
        path = out / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "state.pkl").write_bytes(b"x")
        harness.feed(complete(path, step))
    settle(harness)
    assert here(out) == ["checkpoint-1", "checkpoint-2"]
    assert alerts(harness) == []
    assert "of no kind that can be recognised" in caplog.text
