import json
import math

import pytest

from tests.plugins.web.story import SECOND, training
from trainbus.bus.events import Alert, Checkpoint, Gap, Heartbeat, Metric, Other, Phase, Plugin, RunEnded, RunStarted, Sample, Step, System
from trainbus.plugins.web.encoding import to_json
from trainbus.plugins.web.health import SILENT_AFTER
from trainbus.plugins.web.store import CENSUS_EVENTS, Store


@pytest.fixture
def store():
    """An empty store that numbers the events it is fed."""

    class Numbered(Store):
        def feed(self, *events):
            for event in events:
                event.offset = self.position + 1
                self.apply(event)

    return Numbered()


def steps(run, *numbers, **metrics):
    return [Step(run=run, step=n, total_steps=100, time=n * SECOND, metrics=metrics or {"loss": 1 / (n + 1)}) for n in numbers]


def test_a_run_is_described_by_its_events(store):
    """Name, state, step, pace, time left, best loss."""
    store.feed(RunStarted(run="r", name="mine", host="box", time=SECOND), *steps("r", *range(1, 21)))
    detail = store.detail("r", 20 * SECOND)
    assert {key: detail[key] for key in ("name", "state", "step", "total_steps", "host", "steps_per_second", "eta")} == {
        "name": "mine", "state": "running", "step": 20, "total_steps": 100, "host": "box", "steps_per_second": 1.0, "eta": 80.0,
    }  # fmt: skip
    assert detail["best"] == {"step": 20, "loss": 1 / 21}
    assert detail["health"]["level"] == "ok"


def test_a_repeated_event_changes_nothing(store):
    """Delivery is at least once."""
    events = [RunStarted(run="r", time=1), *steps("r", 1, 2), Sample(run="r", step=2, prompt="p")]
    store.feed(*events)
    before = store.detail("r", 0), store.series("r", ["loss"], 100, None, None)
    for event in events:
        store.apply(event)
    assert (store.detail("r", 0), store.series("r", ["loss"], 100, None, None)) == before


def test_a_resumed_run_walks_its_abandoned_steps_again(store):
    """One line, not two: what came after the checkpoint is replaced."""
    store.feed(RunStarted(run="r"), *steps("r", 1, 2, 3, 4, loss=1.0), RunStarted(run="r", resumed_step=2), *steps("r", 3, loss=7.0))
    (loss,) = store.series("r", ["loss"], 100, None, None)
    assert (loss["steps"], loss["values"]) == ([1, 2, 3], [1.0, 1.0, 7.0])


def test_the_life_of_an_alert_is_one_entry(store):
    """Raised, updated and cleared share an id; a cleared one still says what it was."""
    store.feed(*(Alert(run="r", id="a", state=state, severity="critical", message=state) for state in ("raised", "updated", "cleared")))
    shown = [(alert["state"], alert["message"], alert["advice"]) for alert in store.detail("r", 0)["alerts"]]
    assert shown == [("cleared", "updated", "cleared")]


def test_the_states_of_a_checkpoint_are_one_entry(store):
    """While it is written a checkpoint has no id yet; when it is deleted its metrics still count."""
    store.feed(
        Checkpoint(run="r", step=1, path="/c", state="writing"),
        Checkpoint(run="r", id="c", step=1, path="/c", state="complete", metrics={"loss": 0.5}),
        Checkpoint(run="r", id="c", step=1, path="/c", state="deleted"),
    )
    shown = [(checkpoint["state"], checkpoint["metrics"]) for checkpoint in store.detail("r", 0)["checkpoints"]]
    assert shown == [("deleted", {"loss": 0.5})]


@pytest.mark.parametrize(
    ("events", "now", "level", "reason"),
    [
        ([], 1, "ok", "Running"),
        ([], 2 + SILENT_AFTER, "warning", "No sign of life for 31 s"),
        ([Heartbeat(run="r", time=int(SILENT_AFTER) * SECOND)], 1 + SILENT_AFTER, "ok", "Running"),
        ([Alert(run="r", id="a", message="hm")], 1, "warning", "hm"),
        ([Alert(run="r", id="a", message="hm", severity="info")], 1, "ok", "Running"),
        ([Alert(run="r", id="a", message="NaN", severity="critical"), Alert(run="r", id="b", message="hm")], 1, "critical", "NaN"),
        ([Alert(run="r", id="a", severity="critical"), Alert(run="r", id="a", state="cleared")], 1, "ok", "Running"),
        ([System(host="h", risk="high", reason="RAM 95 %")], 1, "critical", "Memory: RAM 95 %"),
        ([System(host="h", risk="high"), System(host="h", risk="medium", reason="RAM 75 %")], 1, "warning", "Memory: RAM 75 %"),
        ([RunEnded(run="r", outcome="completed")], 1000, "ended", "Run completed"),
        ([RunEnded(run="r", outcome="lost", reason="no heartbeat")], 1, "critical", "Run lost: no heartbeat"),
    ],
)
def test_health_is_the_worst_that_is_known_with_its_reason(events, now, level, reason, store):
    """The dot in the header."""
    store.feed(RunStarted(run="r", time=0), *steps("r", 1))
    for event in events:
        if event.kind == "heartbeat":
            store.apply(event)
        else:
            store.feed(event)
    health = store.summaries(int(now * SECOND))[0]["health"]
    assert health["level"] == level
    assert health["reason"].startswith(reason)


def test_a_lost_run_that_steps_again_is_running(store):
    """The broker's word was the last it knew."""
    store.feed(RunStarted(run="r"), RunEnded(run="r", outcome="lost"), *steps("r", 1))
    assert store.detail("r", 0)["state"] == "running"


def test_metrics_of_plugins_are_series_of_their_run(store):
    """Without a step they belong to the run's present one."""
    store.feed(*steps("r", 5), Metric(run="r", name="entropy", value=0.5), Metric(run="r", name="entropy", value=0.6, step=9))
    (entropy,) = store.series("r", ["entropy"], 10, None, None)
    assert (entropy["steps"], entropy["values"]) == ([5, 9], [0.5, 0.6])


def test_other_ranks_draw_no_second_line(store):
    """Only rank 0 is charted."""
    rank = steps("r", 1, loss=9.0)[0]
    rank.rank = 1
    store.feed(*steps("r", 1, loss=1.0), rank)
    assert store.series("r", ["loss"], 10, None, None)[0]["values"] == [1.0]


def test_what_belongs_to_no_run_is_shared(store):
    """Machines, plugins, alerts of the bus; missing events are counted by run; unknown kinds do no harm."""
    store.feed(
        System(host="h"), System(host="h"), Plugin(name="web", state="running"), Alert(id="bus", message="disk"),
        Gap(run="r", first_seq=3, last_seq=7), Phase(run="r", name="train"), Other(kind="new", run="r"),
    )  # fmt: skip
    shared = store.shared(0)
    assert ([s["host"] for s in shared["systems"]], [p["name"] for p in shared["plugins"]], len(shared["alerts"])) == (["h"], ["web"], 1)
    assert store.detail("r", 0)["missing"] == 5


def test_the_runs_that_were_silent_longest_are_left_out():
    """The number of runs in memory is bounded, and said."""
    store = Store(runs=2)
    for offset, run in enumerate("abc"):
        store.apply(Step(run=run, step=1, time=offset, offset=offset, metrics={"loss": 1.0}))
    assert [run["run"] for run in store.summaries(0)] == ["c", "b"]
    assert store.stats().runs_left_out == 1


def test_answers_are_valid_json_whatever_the_events_say(store):
    """NaN and infinities are null beside their paths."""
    store.feed(*training(), *steps("r", 1, loss=math.nan), Alert(run="r", id="a", evidence={"x": [math.inf, 1]}))

    def refuse(constant):
        raise AssertionError(constant)

    for run in ("r", "qwen3-gsm8k"):
        json.loads(to_json(store.detail(run, 0)), parse_constant=refuse)
    answer = json.loads(to_json(store.detail("r", 0)))
    assert answer["alerts"][0]["evidence"] == {"x": [None, 1]}
    assert answer["not_finite"] == {"alerts.0.evidence.x.0": "inf"}
    assert (answer["metrics"], answer["broken_metrics"]) == ({"loss": None}, ["loss"])


def test_an_unknown_run_and_an_unknown_metric_are_told_apart(store):
    """None for the one, empty columns for the other."""
    store.feed(*steps("r", 1))
    assert store.detail("x", 0) is None
    assert store.series("x", ["loss"], 10, None, None) is None
    assert store.series("r", ["x"], 10, None, None)[0]["steps"] == []


def test_memory_does_not_follow_the_number_of_runs():
    """Above the limit of all points the longest series are halved, whichever run they belong to; extremes and short series stay."""
    store = Store(all_points=20_000)
    store.apply(Step(run="short", step=1, metrics={"loss": 1.0}, offset=0))
    offset = 0
    for step in range(1, 8_001):
        for run in ("a", "b", "c"):
            offset += 1
            loss = 50.0 if (run, step) == ("a", 777) else 1.0 / step
            store.apply(Step(run=run, step=step, time=step, metrics={"loss": loss, "other": 0.5}, offset=offset))
    assert store.stats().points <= 20_000 + 3 * CENSUS_EVENTS
    assert max(store.runs["a"].series["loss"].values) == 50.0
    assert list(store.runs["short"].series["loss"].values) == [1.0]
    assert {store.runs[run].series["loss"].seen for run in "abc"} == {8_000}
