"""The status file: every field from events, never half a file, and nothing forgotten by a restart."""

from __future__ import annotations

import json
import math
import re
import threading

import pytest

from trainbus.bus import events
from trainbus.bus.home import write_atomically
from trainbus.plugins.status_file.figures import Memory, Status
from trainbus.plugins.status_file.plugin import FILE, StatusFilePlugin
from trainbus.testing.context import PluginHarness


def step(number, loss, **metrics):
    return events.Step(run="r", time=number, step=number, total_steps=100, epoch=0.5, metrics={"loss": loss, **metrics})


def fed(*given):
    memory = Memory()
    for event in given:
        memory.apply(event)
    return memory.status


def test_every_field_is_documented(repository):
    """The page names each of them."""
    page = (repository / "docs" / "plugins" / "status_file.md").read_text()
    assert set(Status.__struct_fields__) - set(re.findall(r"`(\w+)`", page)) == set()


def test_a_training_is_shown_with_its_figures():
    """Steps, speed, model; streaming loss by a tenth, variance and trend of the window; NaN is null and spoils nothing."""
    losses = [4.0, 3.0, 2.0, 1.0]
    status = fed(
        events.RunStarted(run="r", config={"model": "m", "max_length": 512}),
        *(step(n, loss, learning_rate=1e-4, tokens_per_second=100.0 * n) for n, loss in enumerate(losses, 1)),
        step(5, math.nan),
    )
    assert (status.run, status.status, status.model, status.context_window) == ("r", "running", "m", 512)
    assert (status.step, status.total_steps, status.epoch, status.learning_rate) == (5, 100, 0.5, 1e-4)
    assert (status.loss, status.loss_history) == (None, [4.0, 3.0, 2.0, 1.0, None])
    streaming = 4.0
    for loss in losses[1:]:
        streaming += 0.1 * (loss - streaming)
    assert status.streaming_cross_entropy == pytest.approx(streaming, abs=1e-9)
    assert (status.loss_variance, status.loss_trend) == (1.25, -2.0)
    assert (status.tokens_per_second, status.tokens_per_second_average, status.throughput_trend) == (400.0, 250.0, 200.0)


def test_answers_and_evaluations_are_counted():
    """100 fixed results: exact shares of the last 20, 50 and all; the trend against the 20 before."""
    verdicts = [n % 4 == 0 for n in range(60)] + [True] * 40
    status = fed(
        *(events.Sample(run="r", step=n, prompt=f"p{n}", expected="e", answer="a", correct=ok, loss=0.5) for n, ok in enumerate(verdicts)),
        events.Eval(run="r", step=9, metrics={"loss": 1.5, "exact_match": 0.5, "cross_entropy": 1.4, "calibration_error": 0.1}),
        events.Eval(run="r", step=19, metrics={"loss": 1.2, "exact_match": 0.7, "think_penalty_hits": 3.0}),
    )
    assert (status.evals_total, status.evals_correct, status.accuracy) == (100, 55, 0.55)
    assert (status.accuracy_20, status.accuracy_50, status.accuracy_trend) == (1.0, sum(verdicts[-50:]) / 50, 0.0)
    assert [one["prompt"] for one in status.recent_samples] == ["p95", "p96", "p97", "p98", "p99"]
    assert (status.fixed_exact_match, status.fixed_trend, status.validation_loss) == (0.7, pytest.approx(0.2), 1.2)
    assert status.logit_penalties == {"think_penalty_hits": 3.0}


def test_the_queue_errors_and_alerts_are_shown():
    """The current file and how many wait; idle between files; an alert until it is cleared; how it ended."""
    begun = [
        events.RunStarted(run="r"),
        events.Job(run="r", id="1", file="a", state="queued"),
        events.Job(run="r", id="2", file="b", state="queued"),
        events.Job(run="r", id="1", file="a", state="processing"),
        step(1, 1.0),
        events.Metric(run="r", name="queue/megabytes_per_hour", value=90.0),
    ]
    status = fed(*begun)
    assert (status.queue_size, status.current_file, status.batch_number, status.batch_step) == (1, "a", 1, 1)
    assert status.queue_velocity == 90.0
    status = fed(
        *begun,
        events.Job(run="r", id="1", file="a", state="failed", reason="bad"),
        events.Phase(run="r", name="idle", detail="the inbox is empty"),
        events.Alert(run="r", id="x", rule="crash", severity="critical", message="died", evidence={"kind": "gpu_memory"}),
    )
    assert (status.status, status.current_file, status.error_type) == ("idle", "", "gpu_memory")
    assert status.alerts == [{"rule": "crash", "severity": "critical", "message": "died"}]
    status = fed(
        *begun, events.Alert(run="r", id="x"), events.Alert(run="r", id="x", state="cleared"), events.RunEnded(run="r", outcome="stopped")
    )
    assert (status.status, status.alerts) == ("stopped", [])


def test_a_restart_forgets_nothing_and_a_new_run_begins_anew(tmp_path):
    """What it was computed from is in the plugin's state; other runs than those that fit are passed over."""
    harness = PluginHarness(StatusFilePlugin(), config={"path": str(tmp_path / "s.json"), "run": "r*"}, directory=tmp_path)
    harness.start()
    harness.feed(events.RunStarted(run="r1"), events.Step(run="r1", step=3, metrics={"loss": 2.0}), events.RunStarted(run="other"))
    harness.every()
    assert json.loads((tmp_path / "s.json").read_text())["step"] == 3
    again = PluginHarness(StatusFilePlugin(), config={"path": str(tmp_path / "s.json")}, context=harness.context, directory=tmp_path)
    again.start()
    again.feed(events.Step(run="r1", step=4, metrics={"loss": 1.0}))
    again.every()
    told = json.loads((tmp_path / "s.json").read_text())
    assert (told["run"], told["step"], told["loss_history"]) == ("r1", 4, [2.0, 1.0])
    again.feed(events.RunStarted(run="r2"))
    again.stop()
    told = json.loads((tmp_path / "s.json").read_text())
    assert (told["run"], told["step"], told["loss_history"]) == ("r2", None, [])


def test_a_thousand_readers_at_once_always_find_a_whole_file(tmp_path):
    """While it is written as fast as can be."""
    path = tmp_path / FILE
    memory = Memory()
    write_atomically(path, json.dumps({}).encode())
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            memory.apply(step(number, 1.0 / number))
            write_atomically(path, json.dumps({"history": memory.status.loss_history, "step": number}).encode())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(1000):
            assert isinstance(json.loads(path.read_bytes()), dict)
    finally:
        stop.set()
        writer.join()
