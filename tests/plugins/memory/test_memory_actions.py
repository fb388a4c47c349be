"""What is asked of a training before its memory ends, and when: dry first, once each, in order, and in time for a save."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.plugins.memory.story import Story
from trainbus.machine.training import Training
from trainbus.plugins.memory.actions import Danger, Incident, decide, lead
from trainbus.plugins.memory.config import MemoryConfig
from trainbus.plugins.memory.protect import Victim, spare
from trainbus.plugins.memory.runs import RunView

ALL = ("free_caches", "save", "pause", "stop")


def asked(view, seconds, incident, *, now=10**9, percent=50.0, **config):
    danger = Danger(seconds, percent, "memory ends")
    return [ask.verb for ask in decide(view, danger, incident, now, MemoryConfig(**config))]


def trained(saves=(10.0,), step_seconds=1.0):
    return RunView(run="r", name="tuning", saves=list(saves), step_seconds=step_seconds)


def test_a_save_is_asked_for_in_time_by_how_long_saves_have_taken():
    """Three times the longest one, the steps until the command is heard, and a margin; a default before the first."""
    assert lead(trained([4.0, 10.0]), MemoryConfig()) == pytest.approx(3 * 10 + 3 * 1 + 2)
    assert lead(trained([]), MemoryConfig(save_seconds=60.0, safety=2.0)) == pytest.approx(2 * 60 + 3 + 2)


def test_each_thing_is_asked_for_once_and_in_order():
    """Caches first, then a save; pause and stop only when that checkpoint is complete."""
    view, incident = trained(), Incident()
    assert asked(view, 500.0, incident, actions=ALL) == []
    assert asked(view, 69.0, incident, actions=ALL) == ["free_caches"]
    assert asked(view, 60.0, incident, actions=ALL) == []
    assert asked(view, 34.0, incident, actions=ALL, now=2 * 10**9) == ["save"]
    assert asked(view, 30.0, incident, actions=ALL, now=3 * 10**9) == []
    view.saved_time = 4 * 10**9
    assert asked(view, 20.0, incident, actions=ALL, now=5 * 10**9) == ["pause", "stop"]
    assert asked(view, 10.0, incident, actions=ALL, now=6 * 10**9) == []


def test_what_the_policy_does_not_name_is_not_asked_for():
    """Stop without save comes at once: it saves by itself."""
    assert asked(trained(), 1.0, Incident(), actions=()) == []
    assert asked(trained(), 1.0, Incident(), actions=("stop",)) == ["stop"]


def test_a_full_memory_needs_no_prediction():
    """From act_percent on."""
    assert asked(trained(), None, Incident(), percent=94.9) == []
    assert asked(trained(), None, Incident(), percent=95.0) == ["free_caches", "save"]


def test_an_end_that_goes_out_of_sight_is_over_and_a_new_one_begins_anew():
    """Caches were freed, and it helped."""
    view, incident = trained(), Incident()
    assert asked(view, 30.0, incident) == ["free_caches", "save"]
    assert asked(view, None, incident) == []
    assert asked(view, 30.0, incident) == ["free_caches", "save"]


def test_an_old_checkpoint_is_saved_again_while_memory_goes_on_ending():
    """The end came later than its early bound."""
    view, incident = trained(), Incident()
    assert asked(view, 30.0, incident, now=10**9) == ["free_caches", "save"]
    view.saved_time = 20 * 10**9
    assert asked(view, 30.0, incident, now=100 * 10**9) == []
    assert asked(view, 30.0, incident, now=200 * 10**9) == ["save"]


def test_nothing_is_killed_unless_a_run_is_named():
    """And only that one, when it is nearly too late."""
    assert "kill" not in asked(trained(), 0.0, Incident(), percent=100.0, actions=ALL)
    assert "kill" not in asked(trained(), 0.0, Incident(), percent=100.0, last_resort="other")
    assert "kill" not in asked(trained(), 0.0, Incident(), percent=97.9, last_resort="tuning")
    assert asked(trained(), None, Incident(), percent=98.0, last_resort="tuning", actions=()) == ["kill"]


@pytest.mark.parametrize("seed", range(5))
def test_a_story_with_a_leak_has_a_checkpoint_before_the_kill(seed):
    """It obeys; the save is complete although the memory of saving itself is needed."""
    config = MemoryConfig(dry_run=False, save_seconds=3.0)
    story = Story(
        seed, warm=40, warm_steps=8, base=1_000, limit=2_500, leak=8, noise=10, eval_every=10_000, save_every=10_000, config=config
    )
    story.run(obey=True)
    assert story.killed
    view = story.watch.state.runs["r"]
    assert view.saved_step is not None
    assert 5 < story.killed - view.saved_step < 160
    assert [verb for _, verb in story.asked][:2] == ["free_caches", "save"]


def test_a_dry_run_says_what_it_would_ask():
    """As an alert of its own, for information; a real one is a warning."""
    for dry, severity, words in ((True, "info", "Would ask tuning to"), (False, "warning", "Asked tuning to")):
        story = Story(1, warm=40, warm_steps=8, base=1_000, limit=2_000, leak=8, noise=10, config=MemoryConfig(dry_run=dry)).run()
        alerts = [alert for _, alert in story.said("memory_action")]
        assert [alert.state for alert in alerts][:2] == ["raised", "updated"]
        assert {alert.severity for alert in alerts} == {severity}
        assert alerts[0].message.startswith(words)


def started(*arguments):
    process = subprocess.Popen([sys.executable, "-c", *arguments], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"ready\n"
    return process, Victim(Training("r", process.pid, time.time_ns(), "tuning"))


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"


def test_the_last_resort_ends_a_process_group_term_first():
    """One that ignores it is killed afterwards; one that is gone is left alone."""
    process, victim = started(STUBBORN)
    assert victim.end(signal.SIGTERM)
    assert victim.alive()
    assert victim.end(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not victim.end(signal.SIGKILL)
    process.stdout.close()


def test_a_process_that_leads_no_group_is_ended_alone():
    """The rest of its group is not the training's: a shell, a launcher, this very process."""
    sent = []
    own = Training("r", os.getpid(), time.time_ns())
    assert Victim(own, group_of=lambda pid: 1, kill=lambda pid, number: sent.append(pid)).end(signal.SIGTERM)
    assert Victim(own, group_of=lambda pid: os.getpid(), kill=lambda pid, number: sent.append(pid)).end(signal.SIGTERM)
    assert sent == [os.getpid()] * 2


def test_a_number_that_belongs_to_another_process_by_now_is_left_alone():
    """It started after the run."""
    victim = Victim(Training("r", os.getpid(), 10**9), kill=lambda pid, number: pytest.fail("killed"))
    assert not victim.alive()
    assert not victim.end(signal.SIGTERM)


def test_the_kernel_is_asked_to_spare_the_watcher(tmp_path):
    """Where that is not allowed, the reason is told."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "oom_score_adj").write_text("0")
    assert spare(tmp_path) == ""
    assert (tmp_path / "self" / "oom_score_adj").read_text() == "-900"
    assert "No such file" in spare(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="lowering it needs the right to")
def test_the_kernel_takes_it():
    """In a process of its own."""
    code = (
        "from pathlib import Path; from trainbus.plugins.memory.protect import spare;"
        "print(repr(spare(Path('/proc'))), Path('/proc/self/oom_score_adj').read_text())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["''", "-900"] or "can't be set" in said
