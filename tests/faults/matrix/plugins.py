"""Rows: plugins that misbehave. The other plugin, the journal and the training must not notice."""

from __future__ import annotations

import os
import signal

from tests.faults.matrix.row import row
from tests.faults.matrix.stage import BUS, PATIENCE, Stage
from tests.faults.storm import recorder
from tests.support import wait_for
from trainbus.bus.client import Client

BAD_STEP = 40
DOOMED = """
class P:
    @hookimpl
    def start(self, context): os.kill(os.getpid(), 9)
    @hookimpl
    def on_step(self, event, context): pass
"""


@row(
    "hog",
    "plugin that holds the interpreter for ever",
    "D1 D6",
    note="until it is stuck for 2.5 s and killed, three times; then its event is set aside",
)
def hog(stage: Stage) -> None:
    """A loop in C that neither lets other threads run nor sees a signal."""
    stage.site.install("alpha", recorder(after=f'if event.kind == "step" and event.step == {BAD_STEP}: sum(iter(int, 1))'))
    stage.up("alpha", "beta", bus={**BUS, "stuck_after": 2.5})
    trainer = stage.train()
    wait_for(lambda: stage.events_of("plugin_stuck"), PATIENCE, what="the alert")
    wait_for(lambda: _letters(stage) == 1, PATIENCE, what="the dead letter")
    stage.mended()
    stage.recovered()
    stage.moment(trainer)


@row("long-hook", "restart of the broker during a long hook", "D6")
def long_hook(stage: Stage) -> None:
    wait = "while not (context.directory / 'out').exists(): "
    opened = f'if event.kind == "step" and event.step == {BAD_STEP}:\n    (context.directory / "in").touch()\n    '
    if stage.chance.random() < 0.5:
        source = recorder(before=opened + wait + "time.sleep(0.01)")
    else:
        source = recorder(before=opened + wait + "await asyncio.sleep(0.01)", hook="async def on_event")
    stage.site.install("alpha", source)
    stage.up("alpha", "beta", bus=BUS)
    trainer = stage.train()
    folder = stage.root / "plugins" / "alpha"
    wait_for((folder / "in").exists, PATIENCE, what="the hook to begin")
    before, plugin = stage.broker_pid(), stage.plugin("alpha").pid
    stage.strike(before)
    stage.new_broker(before)
    stage.moment(trainer)
    (folder / "out").touch()
    stage.mended()
    stage.recovered()
    assert stage.plugin("alpha").pid == plugin, "it was replaced"


@row("poison", "poison event: the plugin dies on it each time", "D6")
def poison(stage: Stage) -> None:
    """After max_deliver deaths it is a dead letter, with an alert, and all others are handled."""
    stage.site.install("alpha", recorder(after=f'if event.kind == "step" and event.step == {BAD_STEP}: os.kill(os.getpid(), 9)'))
    stage.up("alpha", "beta", bus={**BUS, "max_deliver": 2})
    trainer = stage.train()
    wait_for(lambda: _letters(stage) == 1, PATIENCE, what="the dead letter")
    wait_for(lambda: stage.events_of("dead_letter"), PATIENCE, what="the alert")
    stage.mended()
    stage.recovered()
    stage.moment(trainer)


@row("raise", "hook that raises at every second event", "D6")
def raising(stage: Stage) -> None:
    """Counted and told; it goes on in the same process."""
    stage.site.install("alpha", recorder(after='if event.seq % 2: raise ValueError("odd")'))
    stage.up("alpha", "beta", bus=BUS)
    plugin = stage.wait_for_state("alpha", "running").pid
    trainer = stage.train()
    stage.moment(trainer)
    stage.mended()
    stage.recovered()
    wait_for(lambda: stage.events_of("plugin_error"), PATIENCE, what="the alert")
    assert stage.plugin("alpha").pid == plugin


@row(
    "crash-loop",
    "plugin that dies at each start",
    "D6",
    note="pauses grow; every fifth round waits until it is parked as failed, which takes a minute; the recording neighbour is judged",
    seconds=400.0,
)
def crash_loop(stage: Stage) -> None:
    stage.site.install("doomed", DOOMED)
    trainer = stage.system("doomed")
    parked = stage.number % 5 == 4
    wait_for(lambda: (stage.plugin("doomed").restarts or 0) >= 3, PATIENCE, what="the third restart")
    if parked:
        wait_for(lambda: stage.plugin("doomed").state == "failed", 200.0, what="the plugin to be parked")
        assert [alert for alert in stage.events("alert") if alert.plugin == "doomed" and alert.severity == "critical"]
    stage.mended()
    stage.recovered()
    stage.moment(trainer)


@row("slow-plugin", "plugin that gets ten times what it can do", "D1 D6", note="recovery: until it has caught up after the training ended")
def slow_plugin(stage: Stage) -> None:
    """10 ms for each of 1,000 events a second: its neighbour is not behind, its own lag is visible, and it misses nothing."""
    stage.site.install("alpha", recorder(before="time.sleep(0.01)"))
    stage.up("alpha", "beta", bus=BUS)
    stage.follower()
    trainer = stage.train()
    trainer.wait_for_returned(800 + stage.chance.randrange(400))
    stage.wait_for_journal(trainer)
    head = len(stage.seqs(trainer.board.source))
    wait_for(lambda: stage.last_recorded("beta") >= head, PATIENCE, what="the neighbour to be on time")
    wait_for(lambda: stage.plugin("alpha").lag, PATIENCE, what="the lag to be seen")
    stage.finish(trainer)
    stage.mended()
    stage.recovered()


@row("frozen-and-replaced", "SIGSTOP of a plugin for good", "D6", note="recovery counts from the SIGSTOP, with stuck_after at 2.5 s")
def frozen_for_good(stage: Stage) -> None:
    """Its sockets stay connected; its loop makes no progress; it is replaced."""
    trainer = stage.system(bus={"stuck_after": 2.5})
    pid = stage.wait_for_state("alpha", "running").pid
    os.kill(pid, signal.SIGSTOP)
    stage.mended()
    stage.wait_for_state("alpha", "running", not_pid=pid)
    stage.recovered()
    stage.moment(trainer)


def _letters(stage: Stage) -> int:
    with Client(root=stage.root) as client:
        return len(client.dead_letters("plugin:alpha"))
