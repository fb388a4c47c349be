"""Snapshots that are there: the next checkpoint, the daily one, listing, verifying, cleaning."""

import json
import os
import socket
import struct
import time
from datetime import datetime

import pytest
from click.testing import CliRunner

from tests.plugins.anomaly.feeding import SECOND, steps
from trainbus.bus.events import Checkpoint, RunStarted, Sample, Step
from trainbus.plugins.anomaly import commands
from trainbus.plugins.anomaly.keeping import clean, is_due, snapshots, verify
from trainbus.plugins.anomaly.plugin import AnomalyPlugin
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
