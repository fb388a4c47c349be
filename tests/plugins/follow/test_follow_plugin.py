"""The follow plugin with files that grow and a journal in memory; its process may die at any moment."""

import copy
import json
import math
import random

import pytest

from trainbus.bus.events import Command, Eval
from trainbus.errors import ConfigError
from trainbus.plugins.follow.plugin import FollowPlugin
from trainbus.plugins.follow.watched import run_of
from trainbus.testing.context import MemoryContext, PluginHarness


class Journaled(MemoryContext):
    """What is published is in the journal at once, as `flush` promises."""

    def publish(self, event):
        event.offset = len(self.history)
        event.time = 1_700_000_000_000_000_000 + event.offset
        event.source, event.seq = "plugin", event.offset
        super().publish(event)
        self.history.append(event)


class Watching:
    """A follow plugin that can be killed: its state goes back to what was committed, the journal and the files don't."""

    def __init__(self, **config):
        self.config = config
        self.context = Journaled(name="follow")
        self.committed = {}
        self.start()

    def start(self):
        self.context.state = copy.deepcopy(self.committed)
        self.harness = PluginHarness(FollowPlugin(), config=self.config, context=self.context)
        self.harness.start()

    def commit(self):
        self.committed = copy.deepcopy(self.context.state)

    def look(self):
        while self.harness.every() == 0.0:
            pass

    @property
    def told(self):
        return [(event.kind, event.step) for event in self.context.history if hasattr(event, "step")]

    @property
    def stats(self):
        return next(iter(self.harness.manager.get_plugins())).stats()


@pytest.fixture
def watching():
    return Watching


def test_a_log_becomes_a_run_with_a_beginning_and_an_end(watching, tmp_path):
    """As if the training published itself. The run's id follows from the path."""
    log = tmp_path / "mine.out"
    one = watching(files=[{"path": str(log)}])
    one.look()
    assert one.context.history == []
    log.write_text("{'loss': 2.0, 'epoch': 0.1}\n{'loss': nan, 'epoch': 0.2}\n{'eval_loss': 1.9, 'epoch': 0.2}\n")
    one.look()
    started, first, second, evaluation = one.context.history
    assert (started.kind, started.run, started.config) == ("run_started", run_of(log), {"watched": str(log), "format": "lines"})
    assert started.run.startswith("mine-")
    assert {event.run for event in one.context.history} == {started.run}
    assert (first.step, second.step, evaluation.kind) == (1, 2, "eval")
    assert math.isnan(second.metrics["loss"])
    with log.open("a") as stream:
        stream.write("{'train_runtime': '3', 'epoch': '1'}\n")
    one.look()
    ended = one.context.history[-1]
    assert (ended.kind, ended.outcome, ended.step) == ("run_ended", "completed", 2)
    with log.open("a") as stream:
        stream.write("{'loss': 1.0, 'epoch': 0.3}\n")
    one.look()
    again = one.context.history[-2]
    assert (again.kind, again.resumed_from, again.resumed_step) == ("run_started", started.run, 2)


@pytest.mark.parametrize("seed", range(6))
def test_each_row_is_published_once_wherever_the_process_is_killed(watching, tmp_path, seed):
    """The place is committed some time after the events are in the journal: what lies between is recognised."""
    chance = random.Random(seed)
    log = tmp_path / "log.jsonl"
    one = watching(files=[{"path": str(log)}])
    for number in range(120):
        with log.open("a") as stream:
            stream.write(json.dumps({"step": number, "loss": chance.choice((1.0, math.nan, number / 7))}) + "\n")
            if chance.random() < 0.1:
                stream.write(json.dumps({"step": number, "eval_loss": 1.0}) + "\n")
        if chance.random() < 0.4:
            one.look()
        if chance.random() < 0.2:
            one.commit()
        if chance.random() < 0.15:
            one.start()
        if chance.random() < 0.05:  # another plugin evaluates a checkpoint of the same run
            one.context.publish(Eval(run=run_of(log), step=number, dataset="theirs", metrics={"loss": 1.0}))
    one.look()
    assert [event.step for event in one.context.history if event.kind == "step"] == list(range(120))
    assert [event.kind for event in one.context.history].count("run_started") == 1


def test_without_its_state_everything_is_compared_with_the_journal(watching, tmp_path):
    """A cursor that was dropped publishes nothing twice."""
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(5)))
    one = watching(files=[{"path": str(log)}])
    one.look()
    before = len(one.context.history)
    assert before == 6
    one.start()
    one.look()
    assert len(one.context.history) == before


def test_each_path_that_fits_a_pattern_is_a_run(watching, tmp_path):
    """Also those that come later."""
    one = watching(files=[{"path": str(tmp_path / "*" / "log.jsonl")}])
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        one.look()
    assert len({event.run for event in one.context.history}) == 2
    assert one.stats.watched == 2


def test_a_log_that_stands_still_is_a_lost_run_if_that_is_wanted(watching, tmp_path):
    """Told once; never by default."""
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 1.0}\n')
    one = watching(files=[{"path": str(log), "run": "mine"}], lost_after=1e-9)
    for _ in range(3):
        one.look()
    ended = one.context.history[-1]
    assert (ended.kind, ended.outcome, ended.run) == ("run_ended", "lost", "mine")
    assert len(one.context.history) == 3


def test_a_command_for_a_watched_run_is_refused_with_the_reason(watching, tmp_path):
    """Those for others are not its business."""
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "loss": 1.0}\n')
    one = watching(files=[{"path": str(log), "run": "mine"}])
    one.look()
    one.harness.feed(Command(run="other", id="1", verb="pause"), Command(run="mine", id="2", verb="pause"))
    (answer,) = [event for event in one.context.published if event.kind == "command_result"]
    assert (answer.run, answer.command, answer.verb, answer.state) == ("mine", "2", "pause", "refused")
    assert "does not listen" in answer.reason


def test_a_log_that_can_not_be_read_is_an_alert_until_it_can(watching, tmp_path):
    """One incident of one id."""
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "events.out.tfevents.1.bad").write_bytes(b"\xff" * 100)
    one = watching(files=[{"path": str(folder), "run": "mine"}])
    for _ in range(3):
        one.look()
    (alert,) = one.context.history
    assert (alert.id, alert.state, alert.run) == ("follow_unreadable:mine", "raised", "mine")
    assert "is no TensorBoard event file" in alert.message
    assert one.stats.unreadable == 1
    (folder / "events.out.tfevents.1.bad").unlink()
    one.look()
    assert [alert.state for alert in one.context.history] == ["raised", "cleared"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "plugin.follow has nothing to follow"),
        ([{"path": "a.log", "own": {"mine": "("}}], r"plugin\.follow\.files\[0\] \(a\.log\): The pattern 'mine' is no regular expression"),
        ([{"path": "a.log", "patterns": ["keras"]}], "No pattern is called 'keras'"),
        (
            [{"path": "a.log", "run": "r"}, {"path": "b.log", "run": "r"}],
            r"plugin\.follow\.files\[1\]\.run: 'r' would be the run of several",
        ),
        ([{"path": "*.log", "run": "r"}], "would be the run of several logs"),
    ],
)
def test_a_mistake_is_named_at_the_start(watching, files, said):
    """With the table that holds it."""
    with pytest.raises(ConfigError, match=said):
        watching(files=files)
