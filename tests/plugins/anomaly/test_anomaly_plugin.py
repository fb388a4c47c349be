"""The plugin as the host runs it: restarts, snapshots, alerts that come twice."""

import json
import math
import random
import shutil
import socket
from collections import namedtuple

import msgspec
import pytest

from trainbus.bus.events import Alert, Checkpoint, Eval, RunEnded, RunStarted, Step
from trainbus.bus.jsonable import to_json
from trainbus.plugins.anomaly.plugin import AnomalyPlugin
from trainbus.testing.context import MemoryContext, PluginHarness

HERE = socket.gethostname()
FREE = {"snapshot": {"min_free_bytes": 0}}


def eventful_run():
    """A run with a spike, a NaN stretch, outliers, evals that improve and get worse, a resume and an end."""
    noise = random.Random(3)
    feed = [RunStarted(run="r", time=1)]
    for step in range(1, 61):
        loss = 1.0 + noise.gauss(0, 0.01) + (3.0 if 20 <= step < 24 else 0.0)
        norm = 1.0 + noise.gauss(0, 0.05) + (10.0 if step == 40 else 0.0)
        feed.append(Step(run="r", step=step, time=step * 10**9, metrics={"loss": math.nan if 30 <= step < 33 else loss, "grad_norm": norm}))
        if step % 10 == 0:
            feed.append(Eval(run="r", step=step, time=step * 10**9 + 1, metrics={"loss": 2.0 - step / 100 if step < 50 else 3.0}))
        if step == 45:
            feed.append(RunStarted(run="r", time=step * 10**9 + 2, resumed_from="c"))
    return [*feed, RunEnded(run="r", time=61 * 10**9)]


def said(published):
    return [(alert.id, alert.state, alert.time, to_json(alert.evidence)) for alert in alerts(published)]


def alerts(published):
    return [event for event in published if isinstance(event, Alert)]


def test_a_restart_after_any_event_and_the_redelivery_of_any_event_change_no_alert(tmp_path):
    """State and cursor are committed together: a kill brings back both, and the events since then come again."""
    straight = PluginHarness(AnomalyPlugin(), directory=tmp_path)
    straight.start()
    expected = said(straight.feed(*eventful_run()))
    assert {one[0].split(":")[0] for one in expected} == {"non_finite", "loss_spike", "new_best"}
    for cut in range(len(eventful_run())):
        for committed in (cut, max(0, cut - 7)):
            context = MemoryContext(directory=tmp_path)
            before = PluginHarness(AnomalyPlugin(), context=context)
            before.start()
            durable, kept = {}, 0
            for number, event in enumerate(eventful_run()[:cut], 1):
                before.feed(event)
                if number == committed:
                    durable, kept = msgspec.msgpack.decode(msgspec.msgpack.encode(context.state)), len(context.published)
            repeated = context.published[kept:]
            context.state.clear()
            context.state.update(durable)
            after = PluginHarness(AnomalyPlugin(), context=context)
            after.start()
            again = after.feed(*eventful_run()[committed:])
            assert said(context.published[:kept] + again) == expected
            assert set(said(repeated)) <= set(said(again))


def test_the_best_survives_a_restart():
    """A value between two restarts is no false best."""
    context = MemoryContext()
    for values, found in (([1.0, 0.9], 2), ([0.95, 0.91], 0), ([0.8], 1)):
        harness = PluginHarness(AnomalyPlugin(), context=context)
        harness.start()
        published = alerts(harness.feed(*(Eval(run="r", step=1, metrics={"eval_loss": value}) for value in values)))
        assert sum(alert.state == "raised" for alert in published) == found


def test_state_of_another_version_is_dropped_with_a_warning_and_the_plugin_goes_on(caplog):
    """Nothing that was once stored may end the plugin."""
    context = MemoryContext()
    context.state["run/r"] = b"\xc1 nonsense"
    harness = PluginHarness(AnomalyPlugin(), context=context)
    harness.start()
    assert "run r" in caplog.text
    assert [alert.rule for alert in alerts(harness.feed(Step(run="r", step=1, metrics={"loss": math.nan})))] == ["non_finite"]


@pytest.fixture
def trained(tmp_path):
    """A run with whole checkpoints at steps 10 and 20 on this host, and a way to feed it."""
    out = tmp_path / "out"
    for step in (10, 20):
        path = out / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(b"weights" * step)
        (path / "trainbus_checkpoint.json").write_text(json.dumps({"id": f"r@{step}"}))
    checkpoints = [Checkpoint(run="r", id=f"r@{step}", step=step, path=str(out / f"checkpoint-{step}"), host=HERE) for step in (10, 20)]

    def run(config=FREE, context=None, loss=math.nan):
        harness = PluginHarness(AnomalyPlugin(), config=config, context=context, directory=tmp_path / "plugin")
        harness.start()
        harness.feed(*(Step(run="r", step=step, time=step * 10**9, metrics={"loss": 1.0}) for step in range(1, 20)), *checkpoints)
        (alert,) = alerts(harness.feed(Step(run="r", step=20, time=20 * 10**9, metrics={"loss": loss})))
        return harness, alert

    return namedtuple("Trained", "out run")(out, run)


def memory_of(harness):
    return next(iter(harness.manager.get_plugins())).detector.runs["r"]


def snapshots(out):
    return sorted(path.name for path in (out.parent / "snapshots").rglob("*") if path.is_dir() and path.parent.name == "r")


def test_a_critical_alert_keeps_the_last_checkpoint_before_the_incident_by_hard_link(trained):
    """The checkpoint of the incident's own step already holds its update, so it is the one before."""
    harness, alert = trained.run()
    (updated,) = harness.feed(alert)
    assert (updated.id, updated.state, updated.evidence["snapshot_of"]) == (alert.id, "updated", "r@10")
    kept = trained.out.parent / "snapshots" / "r" / "anomaly_19700101T000020Z_non_finite_step20"
    assert updated.evidence["snapshot"] == str(kept)
    original = trained.out / "checkpoint-10" / "model.safetensors"
    assert (kept / "model.safetensors").samefile(original)
    shutil.rmtree(original.parent)
    assert (kept / "model.safetensors").read_bytes() == b"weights" * 10


def test_the_metadata_of_a_snapshot_is_valid_json_and_tells_what_happened(trained):
    """NaN is null beside a flag."""
    harness, alert = trained.run()
    (updated,) = harness.feed(alert)
    metadata = json.loads(
        (trained.out.parent / "snapshots/r" / updated.evidence["snapshot"] / "metadata.json").read_text(), parse_constant=pytest.fail
    )
    assert metadata["alert"]["id"] == alert.id
    assert metadata["history"]["loss"] == [[step, 1.0] for step in range(11, 20)] + [[20, None]]
    assert metadata["non_finite"]["history.loss.9.1"] == "nan"
    assert metadata["best"]["loss"] == {"step": 1, "value": 1.0}
    assert metadata["checkpoint"]["step"] == 10
    assert metadata["config"]["rules"]["loss_spike"]["threshold"] == 0.25
    listed = (
        "timestamp reason snapshot config step loss accuracy learning_rate triggers loss_history accuracy_history learning_rate_history"
        " recent_samples best_loss best_loss_step z_scores run_config"
    )
    assert set(listed.split()) <= set(metadata)
    assert metadata["triggers"] == ["non_finite"]


def test_the_same_alert_twice_makes_one_snapshot(trained):
    """After a kill the alert comes again; the second time finds the first's work."""
    harness, alert = trained.run()
    again = msgspec.convert(msgspec.to_builtins(alert), Alert)
    first, second = harness.feed(alert), harness.feed(again)
    assert second == []
    memory_of(harness).kept.clear()  # killed before this was committed
    assert first[0].evidence["snapshot"] == harness.feed(again)[0].evidence["snapshot"]
    assert len(snapshots(trained.out)) == 1


def test_what_a_killed_snapshot_left_behind_is_replaced(trained):
    """A hidden half-made directory is never taken for a snapshot."""
    harness, alert = trained.run()
    half = trained.out.parent / "snapshots/r/.partial-anomaly_19700101T000020Z_non_finite_step20"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    (updated,) = harness.feed(alert)
    assert len(snapshots(trained.out)) == 1
    assert not half.exists()
    assert (trained.out.parent / "snapshots/r" / updated.evidence["snapshot"] / "model.safetensors").read_bytes() == b"weights" * 10


def test_a_full_disk_refuses_a_snapshot_and_the_alert_says_so(trained):
    """Nothing is written below the floor."""
    harness, alert = trained.run(config={"snapshot": {"min_free_bytes": 2**60}})
    (updated,) = harness.feed(alert)
    assert "bytes free" in updated.evidence["snapshot_refused"]
    assert snapshots(trained.out) == []


def test_a_checkpoint_that_is_being_deleted_is_not_snapshotted(trained):
    """The deleting side holds the lease."""
    harness, alert = trained.run()
    harness.context.leases["r@10"] = ["exclusive"]
    (updated,) = harness.feed(alert)
    assert "r@10" in updated.evidence["snapshot_refused"]
    assert snapshots(trained.out) == []


def test_a_directory_that_holds_another_checkpoint_by_now_is_not_snapshotted(trained):
    """The marker file tells."""
    harness, alert = trained.run()
    (trained.out / "checkpoint-10" / "trainbus_checkpoint.json").write_text('{"id": "other@10"}')
    (updated,) = harness.feed(alert)
    assert "other@10" in updated.evidence["snapshot_refused"]


def test_a_warning_makes_a_snapshot_only_where_its_rule_is_named(trained):
    """By default critical alerts alone do."""
    harness, alert = trained.run(loss=2.5)
    assert (alert.rule, harness.feed(alert)) == ("loss_spike", [])
    harness, alert = trained.run(config={"snapshot": {"min_free_bytes": 0, "rules": ["loss_spike"]}}, loss=2.5)
    assert harness.feed(alert)[0].evidence["snapshot_of"] == "r@10"


def test_the_place_of_the_snapshot_is_still_told_when_the_incident_is_cleared(trained):
    """It is evidence of the incident, not of one message."""
    harness, alert = trained.run()
    (updated,) = harness.feed(alert)
    (cleared,) = harness.feed(RunEnded(run="r", time=21 * 10**9, outcome="failed"))
    assert cleared.state == "cleared"
    assert cleared.evidence["snapshot"] == updated.evidence["snapshot"]


def test_a_snapshot_of_an_incident_that_is_over_does_not_open_it_again(trained):
    """The alert came back late: its state is cleared by now."""
    harness, alert = trained.run()
    harness.feed(RunEnded(run="r", time=21 * 10**9, outcome="failed"))
    (late,) = harness.feed(alert)
    assert late.state == "cleared"


def test_checkpoints_of_other_hosts_are_left_to_the_plugin_there(tmp_path):
    """Their paths mean nothing here."""
    harness = PluginHarness(AnomalyPlugin(), config=FREE, directory=tmp_path)
    harness.start()
    harness.feed(Checkpoint(run="r", id="r@1", step=1, path=str(tmp_path), host="elsewhere"))
    assert harness.feed(*alerts(harness.feed(Step(run="r", step=2, metrics={"loss": math.nan})))) == []


def test_a_deleted_or_rewritten_checkpoint_is_not_chosen_and_its_path_may_hold_another(trained):
    """The late news of an old one's deletion does not hide the new one."""
    harness, alert = trained.run()
    memory = memory_of(harness)
    path = str(trained.out / "checkpoint-10")
    assert memory.checkpoint_before(20, HERE).id == "r@10"
    harness.feed(Checkpoint(run="r", step=10, path=path, host=HERE, state="writing"))
    assert memory.checkpoint_before(20, HERE) is None
    harness.feed(Checkpoint(run="r", id="new@10", step=10, path=path, host=HERE))
    harness.feed(Checkpoint(run="r", id="r@10", step=10, path=path, host=HERE, state="deleted"))
    assert memory.checkpoint_before(20, HERE).id == "new@10"
    harness.feed(Checkpoint(run="r", id="new@10", step=10, path=path, host=HERE, state="deleted"))
    assert harness.feed(alert) == []
