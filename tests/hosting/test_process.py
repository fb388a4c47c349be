"""Children of a supervisor: started apart, heard, and ended for certain."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.hosting.system import alive
from tests.support import wait_for
from trainbus.bus.config import BusConfig
from trainbus.bus.hosting import process
from trainbus.bus.hosting.member import Member, PluginMember
from trainbus.bus.hosting.output import KeptLog, Output
from trainbus.bus.hosting.supervision import Policy, Supervision

LIVES = """
import os, sys, time
from trainbus.bus.hosting.lifeline import Lifeline
fd = int(sys.argv[sys.argv.index("--lifeline") + 1])
Lifeline(fd, 0.2, stop=lambda: print("asked to stop", flush=True))
print("begun", flush=True)
"""


async def started(source, *, report=None):
    heard = []
    child = await process.start(
        [sys.executable, "-c", source], output=lambda data: heard.append(data.decode()), report=report, environment=dict(os.environ)
    )
    return child, heard


async def until(condition, deadline=15.0):
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


async def test_output_and_reports_come_on_pipes_of_their_own():
    """What the plugin prints can never be mistaken for a report."""
    reports = []
    source = """
import os, sys
fd = int(sys.argv[sys.argv.index("--report") + 1])
print("to stdout", flush=True)
print("to stderr", file=sys.stderr, flush=True)
os.write(fd, b'{"a": 1}\\n')
"""
    child, heard = await started(source, report=reports.append)
    assert await child.wait() == 0
    assert "".join(heard) == "to stdout\nto stderr\n"
    assert reports == [b'{"a": 1}\n']


async def test_a_child_leads_its_own_session():
    """Ctrl-C in the terminal reaches the supervisor alone."""
    child, _ = await started("import time; time.sleep(60)")
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    child.kill()
    assert await child.wait() == -signal.SIGKILL


async def test_a_child_in_an_endless_loop_ends_itself_after_its_grace():
    """The lifeline's thread gets the interpreter between two turns of the loop."""
    child, heard = await started(LIVES + "while True: pass")
    await until(lambda: heard)
    child.ask_to_stop()
    assert await child.wait() == -signal.SIGKILL
    assert "asked to stop" in "".join(heard)


async def test_a_frozen_child_is_killed_when_it_does_not_stop_in_time():
    """SIGSTOP stops its threads too."""
    child, heard = await started(LIVES + "time.sleep(60)")
    await until(lambda: heard)
    os.kill(child.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(child.wait())
    await child.stop(0.1)
    assert await waiting == -signal.SIGKILL


async def test_what_a_child_started_ends_with_it():
    """Its whole process group; the pipe that a grandchild holds does not keep us waiting."""
    child, heard = await started("import subprocess; print(subprocess.Popen(['sleep', '300']).pid, flush=True)")
    assert await child.wait() == 0
    wait_for(lambda: not alive(int(heard[0])))


def test_children_end_when_their_parent_is_killed(tmp_path):
    """Kill -9: the kernel closes the lifeline. The pipe that the child prints to is gone as well, and must not keep it alive."""
    parent = f"""
import asyncio, os, sys
from trainbus.bus.hosting import process
async def main():
    command = [sys.executable, "-c", {LIVES + "while True: pass"!r}]
    child = await process.start(command, output=lambda data: print(child.pid, flush=True), environment=dict(os.environ))
    await child.wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as running:
        pid = int(running.stdout.readline())
        assert alive(pid)
        running.kill()
        wait_for(lambda: not alive(pid))


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (7, "exit code 7"), (-9, "killed by SIGKILL"), (-64, "killed by SIGRTMAX")]
)
def test_the_end_of_a_process_is_told_in_words(code, words):
    """Signals by name."""
    assert process.describe_exit(code) == words


class Dying(Member):
    """Dies at once, every time."""

    def command(self):
        return [sys.executable, "-c", "print('last words'); raise SystemExit(3)"]

    def reported(self, line):
        raise AssertionError(line)


async def test_a_crash_loop_ends_parked_with_the_last_words(tmp_path):
    """With the real processes and a policy of short pauses."""
    changes = []
    supervision = Supervision(Policy(stuck_after=60.0, first_pause=0.01, deaths=3), time.monotonic())
    output = Output("dying", KeptLog(tmp_path / "dying.log", 10_000, 2))
    member = Dying("dying", supervision, output, os.environ, lambda member: changes.append(member.supervision.state))
    keeping = asyncio.create_task(member.keep())
    await until(lambda: supervision.state == "failed")
    assert "died 3 times" in supervision.error
    assert "exit code 3: last words" in supervision.error
    assert changes == ["starting"] * 5 + ["failed"]
    await member.stop(1.0)
    keeping.cancel()
    assert (tmp_path / "dying.log").read_text().count("last words") == 3


async def test_a_command_that_does_not_exist_is_tried_again_and_then_parked(tmp_path):
    """The supervisor lives on."""

    class Missing(Dying):
        def command(self):
            return [str(tmp_path / "missing")]

    supervision = Supervision(Policy(stuck_after=60.0, first_pause=0.01, deaths=3), time.monotonic())
    member = Missing("missing", supervision, Output("m", KeptLog(tmp_path / "m.log", 1_000, 2)), {}, lambda _: None)
    keeping = asyncio.create_task(member.keep())
    await until(lambda: supervision.state == "failed")
    assert "can't be started" in supervision.error
    keeping.cancel()


def test_settings_of_a_plugin_are_not_in_its_command_line(tmp_path):
    """Everybody on a machine can read arguments (`ps`), and settings may hold tokens; an environment is its user's alone."""
    output = Output("notify", KeptLog(tmp_path / "notify.log", 10_000, 2))
    member = PluginMember(
        "notify", output, {"A": "b"}, lambda _: None, root=tmp_path, settings=BusConfig(), options={"url": "https://x/SECRET"}, file=""
    )
    assert "SECRET" not in " ".join(member.command())
    assert json.loads(member.environment()[process.OPTIONS_VARIABLE]) == {"url": "https://x/SECRET"}
    assert member.environment()["A"] == "b"
