"""The fake trainer behaves like a run, in memory and on a real bus; recorded histories hold what they say."""

import math

import pytest

import trainbus
from trainbus.bus import events
from trainbus.testing import RECORDED, FakeTrainer, LocalBus, MemoryBus, recorded
from trainbus.testing.record import record


def losses(history):
    return {event.step: event.metrics["loss"] for event in history if event.kind == "step"}


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    """So that a test that fails, fails again."""

    def run(seed):
        bus = MemoryBus()
        FakeTrainer(bus.run("r"), steps=30, seed=seed, clock=bus.clock).train()
        return [events.encode(event) for event in bus.journal]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_it_refuses_what_it_can_not_do_and_says_so():
    """A plugin that asks for something else sees a refusal, as from a trainer."""
    bus = MemoryBus()
    trainer = FakeTrainer(bus.run("r"), steps=10)
    bus.command("r", "dance")
    bus.command("r", "skip", steps=2)
    bus.command("r", "save")
    trainer.train(4)
    assert [result.state for result in bus.events("command_result")] == ["refused", "done", "done"]
    assert [step.step for step in bus.events("step")] == [3, 4]
    assert trainer.stats().checkpoints == 1
    with pytest.raises(ValueError, match="Faults: nan"):
        FakeTrainer(bus.run("s"), fault="fire")


def test_it_trains_on_a_real_bus_and_obeys_a_command_from_there(trainbus_home):
    """The same class, with `trainbus.init` in the place of a run in memory."""
    with LocalBus(trainbus_home) as bus:
        run = trainbus.init("real", run="real", root=bus.root)
        trainer = FakeTrainer(run, steps=20, fault="nan", at=10)
        trainer.train(12)
        assert run.flush(30.0)
        with trainbus.Client(root=bus.root) as client:
            client.command("real", "stop", reason="seen enough")
        while trainer.state == "running":
            trainer.obey()
        assert run.close(timeout=30.0)
        kinds = [event.kind for event in bus.events(run="real")]
        assert (kinds[0], kinds[-1], kinds.count("step")) == ("run_started", "run_ended", 12)
        assert math.isnan(bus.events("step")[-1].metrics["loss"])
        assert bus.events("command_result")[0].state == "done"


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_history_is_a_whole_run(name):
    """Offsets and seqs without holes, times that rise, an end; what comes is a copy that may be changed."""
    history = recorded(name)
    assert [event.offset for event in history] == list(range(len(history)))
    assert [event.time for event in history] == sorted(event.time for event in history)
    assert (history[0].kind, history[-1].kind) == ("run_started", "run_ended")
    mine = [event.seq for event in history if event.source == "trainer"]
    assert mine == list(range(len(mine)))
    history[0].run = "changed"
    assert recorded(name)[0].run == "run-1"


def test_recorded_histories_hold_the_faults_that_they_are_named_after():
    """At step 120 and not before."""
    spike, nan, diverge = losses(recorded("spike")), losses(recorded("nan")), losses(recorded("diverge"))
    healthy = losses(recorded("healthy"))
    assert spike[119] < 2 < 8 < spike[120]
    assert spike[130] < 2
    assert math.isnan(nan[120])
    assert not math.isnan(nan[119])
    assert diverge[200] > 1_000 > 2 > diverge[119]
    assert max(healthy.values()) < 4
    evals = [event.metrics["loss"] for event in recorded("overfit") if event.kind == "eval"]
    assert min(evals) < evals[-1] - 0.3
    assert recorded("killed")[-1].outcome == "lost"
    assert [event.verb for event in recorded("steered") if event.kind == "command"] == ["pause", "resume", "set", "stop"]
    with pytest.raises(ValueError, match="There are: healthy"):
        recorded("nobody")


def test_a_recording_can_be_made_anew():
    """For new ones: the recorder works, and gives a run of the same shape."""
    assert [event.kind for event in record("steered")] == [event.kind for event in recorded("steered")]
