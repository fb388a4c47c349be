"""Snapshots that are there: the next checkpoint, the daily one, listing, verifying, cleaning."""

import errno
import fcntl
import json
import os
import socket
import struct
import time
from datetime import datetime

import msgspec
import pytest
from click.testing import CliRunner

from tests.plugins.anomaly.feeding import SECOND, steps
from trainbus.bus.events import Checkpoint, RunEnded, RunStarted, Sample, Step
from trainbus.plugins.anomaly import commands
from trainbus.plugins.anomaly.keeping import clean, is_due, snapshots, verify
from trainbus.plugins.anomaly.plugin import AnomalyPlugin
from trainbus.plugins.anomaly.snapshot import FICLONE, add_events, link_or_copy
from trainbus.testing.context import PluginHarness

HERE = socket.gethostname()


def safetensors(path, *, size=16):
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def checkpoint(out, step):
    path = out / f"checkpoint-{step}"
    path.mkdir(parents=True)
    safetensors(path / "model.safetensors")
    (path / "config.json").write_text("{}")
    return Checkpoint(run="r", id=f"r@{step}", step=step, path=str(path), host=HERE)


def started(tmp_path, **snapshot):
    harness = PluginHarness(
        AnomalyPlugin(),
        config={"snapshot": {"min_free_bytes": 0, **snapshot}, "figures": {"enabled": False}},
        directory=tmp_path / "plugin",
    )
    harness.start()
    return harness


def test_a_snapshot_holds_the_events_around_the_incident_also_those_after_it(tmp_path):
    """They come later: when so many are there, or when the run has ended."""
    broken = Step(run="r", step=10, time=10 * SECOND, metrics={"loss": float("nan")})
    for name, later, ended in (("many", 12, False), ("few", 2, True)):
        harness = started(tmp_path / name, events=3, events_after=5)
        harness.feed(*steps([1.0] * 9), checkpoint(tmp_path / name / "out", 5))
        (alert,) = harness.feed(broken)
        harness.feed(Step(run="other", step=1, time=1, metrics={"loss": 1.0}), alert)
        (file,) = (tmp_path / name).rglob("events.jsonl")
        before = file.read_bytes()
        harness.every()
        assert file.read_bytes() == before
        harness.feed(*steps([1.0] * later, first=11))
        if ended:
            harness.feed(RunEnded(run="r", time=99 * SECOND, outcome="failed"))
        else:
            harness.every()
        told = [json.loads(line) for line in file.read_text().splitlines()]
        assert [event.get("step") for event in told if event["kind"] == "step"] == [10, *range(11, 13 if ended else 16)]
        assert ("run_ended" in {event["kind"] for event in told}) == ended
        assert {event["run"] for event in told} == {"r"}
        assert [path.name for path in file.parent.iterdir() if path.name.startswith(".")] == []


def test_that_events_are_still_to_be_added_survives_a_restart(tmp_path):
    """It is part of the state; of a snapshot that is gone by then nothing is left behind."""
    harness = started(tmp_path, events=3, events_after=5)
    harness.feed(*steps([1.0] * 9), checkpoint(tmp_path / "out", 5))
    (alert,) = harness.feed(Step(run="r", step=10, time=10 * SECOND, metrics={"loss": float("nan")}))
    harness.feed(alert)
    again = PluginHarness(AnomalyPlugin(), config={"snapshot": {"events": 3, "events_after": 5}}, context=harness.context)
    again.context.state.update(msgspec.msgpack.decode(msgspec.msgpack.encode(harness.context.state)))
    again.start()
    again.feed(*steps([1.0] * 9, first=11))
    again.every()
    (file,) = (tmp_path / "snapshots").rglob("events.jsonl")
    assert len(file.read_text().splitlines()) == 9
    assert not add_events(tmp_path / "gone", b"{}")


@pytest.mark.parametrize("clones", [True, False])
def test_where_a_file_can_not_be_linked_its_blocks_are_shared_and_where_that_fails_it_is_copied(tmp_path, monkeypatch, clones):
    """Another subvolume: no hard link, but a reflink; another file system: a copy. Times and mode come along."""

    def no_link(*_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def clone(target, request, source):
        assert request == FICLONE
        if not clones:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        os.write(target, b"shared " + os.pread(source, 100, 0))

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(fcntl, "ioctl", clone)
    (tmp_path / "a").write_bytes(b"weights")
    os.utime(tmp_path / "a", (1_000, 1_000))
    (tmp_path / "a").chmod(0o640)
    link_or_copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == (b"shared weights" if clones else b"weights")
    assert (int((tmp_path / "b").stat().st_mtime), (tmp_path / "b").stat().st_mode & 0o777) == (1_000, 0o640)


def test_the_next_checkpoint_after_an_incident_is_kept_too_if_asked(tmp_path):
    """Beside the one before it, told in the same alert."""
    out = tmp_path / "out"
    harness = started(tmp_path, next=True)
    harness.feed(RunStarted(run="r", config={"lr": 1e-4}), *steps([1.0] * 9), checkpoint(out, 5))
    harness.feed(Sample(run="r", step=9, prompt="2+2", answer="4", correct=True, loss=0.1))
    (alert,) = harness.feed(Step(run="r", step=10, time=10 * SECOND, metrics={"loss": float("nan")}))
    (before,) = harness.feed(alert)
    (after,) = harness.feed(checkpoint(out, 20))
    assert (before.evidence["snapshot_of"], after.evidence["snapshot_after_of"]) == ("r@5", "r@20")
    assert harness.feed(checkpoint(out, 30)) == []
    kept = snapshots(tmp_path / "snapshots")
    assert [(one.rule, one.step, one.checkpoint) for one in kept] == [("non_finite", 10, "r@5"), ("non_finite", 10, "r@20")]
    folder = tmp_path / "snapshots" / "r" / kept[0].path.rpartition("/")[2]
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["run_config"] == {"lr": 1e-4}
    assert metadata["recent_samples"][0]["prompt"] == "2+2"
    around = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in around][-2:] == ["step", "alert"]
    assert verify(folder) == []


@pytest.mark.parametrize(
    ("now", "last", "due"),
    [("02:59", "", False), ("03:00", "", True), ("23:00", "", True), ("03:01", "2026-05-04", False), ("03:00", "2026-05-03", True)],
)
def test_a_daily_snapshot_is_due_once_a_day_from_its_time_on(now, last, due):
    """A machine that slept makes it later on the same day."""
    assert is_due("03:00", datetime.fromisoformat(f"2026-05-04T{now}"), last) is due
    assert is_due("", datetime.fromisoformat("2026-05-04T03:00"), "") is False


def test_the_daily_snapshot_is_made_once(tmp_path):
    """Two passes of the clock, one snapshot, of the newest checkpoint."""
    harness = started(tmp_path, daily="00:00")
    harness.feed(*steps([1.0] * 9), checkpoint(tmp_path / "out", 5), checkpoint(tmp_path / "out", 8))
    assert harness.every() == harness.every() == 60.0
    assert [(one.rule, one.checkpoint) for one in snapshots(tmp_path / "snapshots")] == [("daily", "r@8")]


def made(root, name, *, days, rule="loss_spike"):
    path = root / "r" / name
    path.mkdir(parents=True)
    (path / "metadata.json").write_text(json.dumps({"run": "r", "alert": {"rule": rule}, "step": 1}))
    old = time.time() - days * 86_400
    os.utime(path, (old, old))
    return path


def test_old_snapshots_are_cleaned_away_and_best_models_stay(tmp_path):
    """Thirty-one days, thirty days; half-made ones are none."""
    kept = [made(tmp_path, "a", days=31, rule="new_best"), made(tmp_path, "b", days=29)]
    old = made(tmp_path, "c", days=31)
    made(tmp_path, ".partial-d", days=31)
    assert [one.path for one in clean(tmp_path, days=30)] == [str(old)]
    assert [one.path for one in snapshots(tmp_path)] == [str(path) for path in kept]
    assert not old.exists()


def test_cleaning_ten_days_down_to_seven_leaves_seven(tmp_path):
    """By the command, after a dry run that removes nothing."""
    for day in range(10):
        made(tmp_path, f"day-{day}", days=day + 0.5)
    runner = CliRunner()
    assert "would remove" in runner.invoke(commands.clean_command, [str(tmp_path), "--days", "7", "--dry-run"]).output
    assert len(snapshots(tmp_path)) == 10
    runner.invoke(commands.clean_command, [str(tmp_path), "--days", "7"])
    listed = runner.invoke(commands.list_command, [str(tmp_path), "--json"]).output.splitlines()
    assert len([json.loads(line) for line in listed]) == 7


def test_old_snapshots_go_by_themselves_where_that_is_configured(tmp_path):
    """At the timer."""
    harness = started(tmp_path, keep_days=30.0)
    harness.feed(checkpoint(tmp_path / "out", 5))
    old = made(tmp_path / "snapshots", "c", days=31)
    harness.every()
    assert not old.exists()


def test_verifying_knows_models_shards_and_adapters(tmp_path):
    """A truncated file, a missing shard and missing weights are named."""
    whole = made(tmp_path, "model", days=0)
    safetensors(whole / "model.safetensors")
    (whole / "config.json").write_text("{}")
    adapter = made(tmp_path, "adapter", days=0)
    safetensors(adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text("{}")
    assert (verify(whole), verify(adapter)) == ([], [])
    assert CliRunner().invoke(commands.verify_command, [str(tmp_path)], standalone_mode=False).return_value == 0
    content = (whole / "model.safetensors").read_bytes()
    (whole / "model.safetensors").write_bytes(content[:-1])
    assert "bytes" in verify(whole)[0]
    (whole / "model.safetensors").write_bytes(content[:5])
    assert "header" in verify(whole)[0]
    (whole / "model.safetensors").unlink()
    (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "model-1.safetensors"}}))
    assert verify(whole) == ["model-1.safetensors is missing", "no weights are there"]
    assert CliRunner().invoke(commands.verify_command, [str(tmp_path)], standalone_mode=False).return_value == 1
