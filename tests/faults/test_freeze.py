"""SIGSTOP of broker, plugin and trainer, and a broker that dies while a plugin works: training never waits, and nobody else does."""

from __future__ import annotations

import os
import signal

from tests.support import wait_for
from trainbus.bus.broker.runs import LOST_RULE
from trainbus.bus.client import Client

LONG = """
class P:
    '''Its hook for step 100 lasts until the test allows its end.'''
    @hookimpl
    def start(self, context):
        self.file = os.open(os.path.join(os.environ["SEEN"], context.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @hookimpl
    {define} on_event(self, event, context):
        if event.kind == "step" and event.step == 100:
            (context.directory / "in").touch()
            while not (context.directory / "out").exists():
                {pause}
        if event.offset >= 0:
            os.write(self.file, b"%d %s %d\\n" % (event.offset, event.source.encode() or b"-", event.seq))
"""


def test_d1_training_does_not_wait_for_a_frozen_broker(storm, record_property):
    """D1, D3: SIGSTOP for thousands of events; publish() goes on in its usual time, and after SIGCONT everything arrives once."""
    storm.up("alpha")
    trainer = storm.trainer("--burst", "50")
    trainer.wait_for_returned(500)
    os.kill(storm.broker_pid(), signal.SIGSTOP)
    trainer.wait_for_more(5_000)
    record_property("longest_publish_seconds", trainer.board.longest)
    os.kill(storm.broker_pid(), signal.SIGCONT)
    storm.finish(trainer)
    assert storm.judge(at_least=5_500).explained == 0


def test_d6_a_frozen_plugin_slows_nobody_and_catches_up(storm):
    """D6: while it is stopped the journal, its neighbour and the training go on; its lag is visible; afterwards it misses nothing."""
    storm.up("alpha", "beta")
    frozen = storm.wait_for_state("alpha", "running").pid
    trainer = storm.trainer()
    trainer.wait_for_returned(300)
    os.kill(frozen, signal.SIGSTOP)
    stopped = trainer.board.returned
    trainer.wait_for_more(1_000)
    storm.wait_for_journal(trainer)
    wait_for(lambda: len(storm.recorded("beta")) > stopped + 500, what="the neighbour to have far more")
    assert len(storm.recorded("alpha")) <= stopped + 10, "and some of its own at the start of a run"
    os.kill(frozen, signal.SIGCONT)
    storm.finish(trainer)
    storm.judge(at_least=1_300)
    assert storm.plugin("alpha").pid == frozen


def test_d6_a_plugin_that_stays_frozen_is_replaced(storm):
    """D6: liveness is progress of its loop: its sockets are connected, and still it is killed, restarted, and misses nothing."""
    storm.up("alpha", bus={"stuck_after": 2.5})
    frozen = storm.wait_for_state("alpha", "running").pid
    trainer = storm.trainer()
    trainer.wait_for_returned(300)
    os.kill(frozen, signal.SIGSTOP)
    storm.wait_for_state("alpha", "running", not_pid=frozen)
    storm.finish(trainer)
    storm.judge(at_least=300)
    assert "stuck" in {event.state for event in storm.events("plugin") if event.name == "alpha"}


def test_d6_the_broker_dies_while_a_plugin_is_in_a_long_plain_hook(storm, site):
    """D6: the hook holds its whole process; it ends when another broker runs, and events go on behind it."""
    _long_hook(storm, site, "def", "time.sleep(0.01)")


def test_d6_the_broker_dies_while_a_plugin_waits_in_a_long_coroutine_hook(storm, site):
    """D6: the host's loop turns meanwhile, loses the broker and finds the next one."""
    _long_hook(storm, site, "async def", "await asyncio.sleep(0.01)")


def _long_hook(storm, site, define, pause):
    site.install("alpha", LONG.format(define=define, pause=pause))
    storm.up("alpha")
    pid = storm.wait_for_state("alpha", "running").pid
    trainer = storm.trainer()
    folder = storm.root / "plugins" / "alpha"
    wait_for((folder / "in").exists, what="the plugin to be in its hook")
    broker = storm.broker_pid()
    os.kill(broker, signal.SIGKILL)
    wait_for(lambda: storm.broker_pid() != broker, what="another broker")
    trainer.wait_for_more(500)
    storm.wait_for_journal(trainer)
    (folder / "out").touch()
    storm.finish(trainer)
    storm.judge(at_least=600)
    assert storm.plugin("alpha").pid == pid
    offsets = [offset for offset, _, _ in storm.recorded("alpha")]
    assert len(offsets) == len(set(offsets)), "it did not die, so nothing may come twice"


# --- the trainer itself ---------------------------------------------------------------------------


def test_d7_a_silent_run_is_lost_and_one_that_comes_back_is_not(storm):
    """D7: SIGSTOP beyond lost_after: run_ended with what is known of why, and an alert. SIGCONT: cleared, and the run ends in order."""
    bus = {"heartbeat_interval": 0.2, "lost_after": 2.0}
    storm.up("alpha", bus=bus)
    trainer = storm.trainer(**bus)
    trainer.wait_for_returned(200)
    storm.wait_for_journal(trainer)
    os.kill(trainer.process.pid, signal.SIGSTOP)
    [lost] = wait_for(lambda: storm.events("run_ended"), what="the lost run")
    assert (lost.run, lost.outcome) == (trainer.run, "lost")
    assert "no sign of life" in lost.reason
    assert str(trainer.process.pid) in lost.reason
    assert f"last step {lost.step}" in lost.reason
    assert _run(storm, trainer).state == "lost"
    os.kill(trainer.process.pid, signal.SIGCONT)
    wait_for(lambda: [alert.state for alert in storm.events("alert") if alert.rule == LOST_RULE] == ["raised", "cleared"])
    wait_for(lambda: _run(storm, trainer).state == "running", what="the run that came back")
    storm.finish(trainer)
    wait_for(lambda: _run(storm, trainer).state == "completed", what="its end")
    storm.judge(at_least=200)


def test_d7_a_killed_trainer_is_a_lost_run_and_its_resumption_is_not(storm):
    """D7: kill -9, silence, lost. A second process that resumes the run un-loses it."""
    bus = {"heartbeat_interval": 0.2, "lost_after": 2.0}
    storm.up(bus=bus)
    first = storm.trainer(run="again", **bus)
    first.wait_for_returned(200)
    storm.wait_for_journal(first)
    first.kill()
    wait_for(lambda: _run(storm, first).state == "lost", what="the lost run")
    second = storm.trainer("--resume", run="again", **bus)
    wait_for(lambda: _run(storm, second).state == "running", what="the resumed run")
    wait_for(lambda: len(storm.seqs(first.board.source)) >= first.board.returned, what="what the first process left")
    storm.finish(second)
    wait_for(lambda: _run(storm, second).state == "completed", what="its end")
    storm.judge(at_least=200)


def _run(storm, trainer):
    with Client(root=storm.root) as client:
        return next(run for run in client.runs() if run.run == trainer.run)
