"""A real process with a planted leak in a control group, a real broker and plugin: named, predicted, saved, and explained afterwards."""

import logging
from contextlib import ExitStack

import pytest

from tests.hosting.system import System
from tests.plugins.memory.leak_runs import ACT, LEAKS, LIMIT, TORCH_LIMIT, check, check_figures, control_group, trained
from trainbus.machine.text import UnknownError

log = logging.getLogger(__name__)
SEEDS = range(20)


@pytest.fixture
def limited():
    """Makes control groups with a memory limit below this process's own; skips where that is not allowed."""
    with ExitStack() as made:

        def make(limit=LIMIT):
            try:
                return made.enter_context(control_group(limit))
            except (UnknownError, OSError) as error:
                pytest.skip(f"no control group can be made here: {error}")

        yield make


@pytest.fixture
def system(trainbus_home, monkeypatch):
    started = System(trainbus_home)
    yield started
    started.close()


@pytest.mark.timeout(300)
def test_a_leaking_training_is_named_saved_and_its_kill_explained(limited, system, tmp_path):
    """Under a real limit with a real kill: with its rate at the end, with a complete checkpoint."""
    limited()  # may skip: before anything is started
    system.up("memory", memory=ACT)
    code, events = trained(limited(), tmp_path, 0, system.root, LEAKS[0])
    log.info("%s", check(LEAKS[0], code, events, "kernel"))


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_twenty_leaking_trainings_are_named_within_50_steps_and_their_end_within_20_percent_at_half_way(limited, system, tmp_path):
    """The promised figures, each time, on a machine that is not busy with something else."""
    limited()
    system.up("memory", memory=ACT)
    for seed in SEEDS:
        leak = LEAKS[seed % 4]
        code, events = trained(limited(), tmp_path, seed, system.root, leak)
        found = check(leak, code, events, "kernel")
        log.info("seed %d: %s", seed, found)
        check_figures(found, leak)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("seed", range(3))
def test_a_real_training_of_a_network_that_keeps_tensors_is_named_predicted_and_saved(limited, system, tmp_path, seed):
    """The same with PyTorch: forward, backward, AdamW."""
    pytest.importorskip("torch")
    limited()
    system.up("memory", memory=ACT)
    leak = LEAKS[seed]
    code, events = trained(limited(TORCH_LIMIT), tmp_path, seed, system.root, leak, kind="torch")
    found = check(leak, code, events, "kernel")
    log.info("torch seed %d: %s", seed, found)
    check_figures(found, leak)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_a_real_training_of_a_network_without_a_leak_raises_no_alert_in_5000_steps(limited, system, tmp_path):
    """With eight evaluations and four saves, under a limit of which it needs about two thirds."""
    pytest.importorskip("torch")
    limited()
    system.up("memory", memory=ACT)
    code, events = trained(limited(TORCH_LIMIT), tmp_path, 1, system.root, 0, kind="torch", steps=5_000)
    assert code == 0
    assert [event.step for event in events if event.kind == "step"] == list(range(1, 5_001))
    assert sum(event.kind == "checkpoint" and event.state == "complete" for event in events) == 4
    assert [(event.rule, event.message) for event in events if event.kind == "alert"] == []
    assert [event for event in events if event.kind == "command"] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_under_an_address_space_limit_is_saved_as_well(system, tmp_path):
    """Where no control group can be made (ulimit -v): it is refused memory instead of killed, and says so itself."""
    system.up("memory", memory=ACT)
    code, events = trained("rlimit:260000000", tmp_path, 1, system.root, 2.0)
    found = check(2.0, code, events, "python")
    log.info("address space: %s", found)
    check_figures(found, 2.0)


@pytest.mark.timeout(300)
def test_a_real_training_without_a_leak_raises_no_alert(limited, system, tmp_path):
    """Eight evaluations and four saves in 400 steps under a limit of which they need the half."""
    limited()
    system.up("memory", memory=ACT)
    code, events = trained(limited(), tmp_path, 1, system.root, 0)
    assert code == 0
    assert [event.step for event in events if event.kind == "step"] == list(range(1, 401))
    assert [(event.rule, event.message) for event in events if event.kind == "alert"] == []
    assert [event for event in events if event.kind == "command"] == []
    seen = [process.rss for event in system.events("system") for process in event.processes if process.run == "leaky-1"]
    assert max(seen) - min(seen) > 24 << 20, "an evaluation takes 64 MiB: no look fell into one"
