"""Rows: processes are killed or frozen."""

from __future__ import annotations

import os
import signal
from functools import partial

from tests.faults.matrix.row import row
from tests.faults.matrix.stage import PATIENCE, Stage
from tests.faults.storm import recorder
from tests.support import wait_for
from trainbus.bus.client import Client

BUILT_IN = {
    "anomaly": {},
    "retention": {"interval": 1.0},
    "memory": {},
    "web": {"port": 0},
    "inference": {"url": "http://127.0.0.1:9/v1"},
    "notify": {},
}
"""The plugins that come with trainbus, with the least configuration that they start with."""


@row("kill-trainer", "kill -9 of the trainer", "D2 D3 D4")
def kill_trainer(stage: Stage) -> None:
    """What it left is sent by the next trainer, by the command, or by the next `up`."""
    trainer = stage.system()
    heir = stage.chance.choice(("command", "next trainer", "next up"))
    stage.moment(trainer)
    if heir == "next up":
        assert stage.down() == 0
        stage.moment(trainer)
    trainer.kill()
    stage.mended()
    if heir == "command":
        stage.drain()
    elif heir == "next trainer":
        stage.moment(stage.train())
    else:
        stage.up("alpha", "beta")
    stage.recovered()


@row("kill-broker", "kill -9 of the broker", "D2 D3 D5 D6 D8")
def kill_broker(stage: Stage) -> None:
    trainer = stage.system()
    for _ in range(stage.chance.randrange(1, 4)):
        before = stage.broker_pid()
        stage.strike(before)
        stage.mended()
        stage.new_broker(before)
        stage.recovered()
        stage.moment(trainer)


@row("kill-supervisor", "kill -9 of the supervisor", "D2 D3 D6")
def kill_supervisor(stage: Stage) -> None:
    """Broker and plugins end with it; the next `up` goes on."""
    trainer = stage.system()
    pids = stage.pids()
    stage.process.kill()
    stage.process.wait()
    wait_for(lambda: not any(_runs(pid) for pid in pids), PATIENCE, what="the orphans to end")
    stage.moment(trainer)
    stage.up("alpha", "beta")
    stage.mended()
    stage.recovered()


@row("kill-plugin", "kill -9 of a plugin that records everything", "D6")
def kill_plugin(stage: Stage) -> None:
    """One of the two is slow at first, and has fetched more than it has handled when it dies."""
    stage.site.install("alpha", recorder(before='if event.kind == "step" and event.step < 1000: time.sleep(0.004)'))
    trainer = stage.system()
    for name in ("alpha", *stage.chance.choices(("alpha", "beta"), k=stage.chance.randrange(3))):
        pid = stage.wait_for_state(name, "running").pid
        stage.strike(pid)
        stage.mended()
        stage.wait_for_state(name, "running", not_pid=pid)
        stage.recovered()
        stage.moment(trainer)


def kill_built_in(stage: Stage, name: str) -> None:
    """Its durable cursor must get to the journal's end, too."""
    config = dict(BUILT_IN[name])
    if name == "inference":
        questions = stage.folder / "questions.jsonl"
        questions.write_text('{"id": "q", "question": "1+1?", "answer": "2"}\n')
        config["questions"] = str(questions)
    trainer = stage.system(name, options={name: config})
    pid = stage.wait_for_state(name, "running").pid
    stage.moment(trainer)
    stage.strike(pid)
    stage.mended()
    stage.wait_for_state(name, "running", not_pid=pid)
    stage.recovered()
    stage.moment(trainer)
    with Client(root=stage.root) as client:
        head = client.status().head
        wait_for(
            lambda: any(one.consumer == f"plugin:{name}" and one.offset >= head for one in client.consumers()),
            PATIENCE,
            what=f"the cursor of {name} to reach {head}",
        )


for _name in BUILT_IN:
    row(f"kill-{_name}", f"kill -9 of the plugin {_name}", "D6")(partial(kill_built_in, name=_name))


@row("kill-all", "kill -9 of trainer, broker, supervisor and plugins at once", "D2 D3 D4 D6")
def kill_all(stage: Stage) -> None:
    stage.system()
    other = stage.train()
    stage.moment(other)
    stage.kill_everything()
    stage.up("alpha", "beta")
    stage.mended()
    stage.recovered()


def freeze(stage: Stage, whom: str, seconds: float) -> None:
    """SIGSTOP for a time; what is frozen is not replaced within `stuck_after`, which is longer."""
    trainer = stage.system(bus={"stuck_after": 300.0})
    pid = stage.broker_pid() if whom == "broker" else stage.wait_for_state("alpha", "running").pid
    stage.strike(pid, signal.SIGSTOP)
    trainer.wait_for_seconds(seconds)
    stage.strike(pid, signal.SIGCONT)
    stage.mended()
    stage.recovered()
    assert pid == (stage.broker_pid() if whom == "broker" else stage.plugin("alpha").pid), "it was replaced"


for _whom in ("broker", "plugin"):
    for _seconds in (1, 30):
        row(f"freeze-{_whom}-{_seconds}", f"SIGSTOP of the {_whom} for {_seconds} s", "D1 D3 D5" if _whom == "broker" else "D1 D6")(
            partial(freeze, whom=_whom, seconds=_seconds)
        )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
