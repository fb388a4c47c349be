"""D6 with real processes: at least once, by a cursor that moves with the plugin's state; poison is set aside; nobody slows another."""

import os
import signal

from tests.hosting.system import RECORDER
from tests.support import wait_for
from trainbus.bus.client import Client


def test_a_plugin_sees_every_event_in_order_and_ends_with_its_stop_hook(system, site):
    """Events from before it started too. Down commits the cursor, calls stop, keeps the output, and exits with 0."""
    site.install("recorder", RECORDER)
    system.up("recorder")
    system.publish(500)
    wait_for(lambda: len(system.seen("recorder")) == 500)
    status = system.wait_for_state("recorder", "running")
    assert (status.version, status.restarts, status.dead_letters, status.error) == ("1.2.3", 0, 0, "")
    wait_for(lambda: system.state("recorder") == {"count": 500})
    assert system.down() == 0
    assert system.seen("recorder") == list(range(500))
    assert (system.root / "plugins/recorder/seen").read_text().endswith("stop\n")
    assert "recorder starts" in system.log("recorder")
    assert "recorder | recorder starts" in (system.root.parent / "up.out").read_text()


def test_state_and_cursor_move_together_through_kill_9(system, site):
    """Killed again and again while events flow: no event is missed, and the count in the state is exact, because what comes again
    is counted from the state of the same commit."""
    site.install("recorder", RECORDER)
    system.up("recorder")
    for _ in range(3):
        system.publish(400)
        status = system.wait_for_state("recorder", "running")
        os.kill(status.pid, signal.SIGKILL)
        system.wait_for_state("recorder", "running", not_pid=status.pid)
    system.publish(100)
    wait_for(lambda: system.state("recorder") == {"count": 1300})
    assert sorted(set(system.seen("recorder"))) == list(range(1300))
    assert system.plugin("recorder").restarts == 3


def test_a_hook_that_raises_is_reported_once_and_the_plugin_goes_on(system, site):
    """Logged with its event, counted, one alert for a hundred."""
    source = RECORDER.replace(
        "    @hookimpl\n    def stop", "        if event.step % 2:\n            raise ValueError('odd')\n\n    @hookimpl\n    def stop"
    )
    site.install("raiser", source)
    system.up("raiser")
    system.publish(18)
    wait_for(lambda: len(system.seen("raiser")) == 18)
    alerts = wait_for(lambda: system.events("alert"))
    assert [(alert.id, alert.rule, alert.plugin, alert.state) for alert in alerts] == [
        ("plugin_error:raiser:on_step:ValueError", "plugin_error", "raiser", "raised")
    ]
    assert "on_step raised ValueError on step of run 'r' at offset" in system.log("raiser")
    assert system.plugin("raiser").restarts == 0


def test_an_event_that_kills_its_plugin_goes_to_the_dead_letters(system, site):
    """After max_deliver deaths, with an alert; all others are handled."""
    poison = "        if event.step == 5:\n            os._exit(7)\n"
    site.install("victim", RECORDER.replace('        os.write(self.file, b"%d', poison + '        os.write(self.file, b"%d'))
    site.install("recorder", RECORDER)
    system.up("victim", "recorder", bus={"max_deliver": 2})
    system.publish(20)
    wait_for(lambda: 19 in system.seen("victim"), 40.0)
    assert sorted(set(system.seen("victim"))) == [step for step in range(20) if step != 5]
    with Client(root=system.root) as client:
        letters = client.dead_letters("plugin:victim")
    assert [(letter.attempts, system.events("step")[5].offset) for letter in letters] == [(2, letters[0].offset)]
    alert = wait_for(lambda: [alert for alert in system.events("alert") if alert.rule == "dead_letter"])
    assert [(one.plugin, one.severity) for one in alert] == [("victim", "critical")]
    wait_for(lambda: system.plugin("victim").dead_letters == 1)
    assert system.seen("recorder") == list(range(20))


def test_a_plugin_whose_loop_hangs_is_killed_and_slows_nobody(system, site):
    """An endless loop in a plain hook stops its lines of progress; it is stuck, killed, and its event at last set aside."""
    hang = "        while event.step == 3: pass\n"
    site.install("hanger", RECORDER.replace('        os.write(self.file, b"%d', hang + '        os.write(self.file, b"%d'))
    site.install("recorder", RECORDER)
    system.up("hanger", "recorder", bus={"stuck_after": 2.0, "max_deliver": 1})
    system.publish(10)
    wait_for(lambda: len(system.seen("recorder")) == 10)
    wait_for(lambda: 9 in system.seen("hanger"))
    stuck = [event for event in system.events("plugin") if event.state == "stuck"]
    assert [event.name for event in stuck] == ["hanger"]
    assert "plugin_stuck" in {alert.rule for alert in system.events("alert")}


def test_a_frozen_plugin_is_found_by_its_missing_progress_and_catches_up(system, site):
    """SIGSTOP: its sockets stay connected, its loop does not turn."""
    site.install("recorder", RECORDER)
    site.install("other", RECORDER)
    system.up("recorder", "other", bus={"stuck_after": 2.0})
    frozen = system.wait_for_state("recorder", "running")
    os.kill(frozen.pid, signal.SIGSTOP)
    system.publish(50)
    wait_for(lambda: len(system.seen("other")) == 50)
    wait_for(lambda: len(set(system.seen("recorder"))) == 50)
    assert system.plugin("recorder").pid != frozen.pid


def test_the_broker_may_die_while_a_plugin_is_in_a_long_hook(system, site):
    """The hook ends, the cursor is committed to the new broker, nothing is missed."""
    wait = "        while event.step == 3 and not (context.directory / 'go').exists(): await asyncio.sleep(0.02)\n"
    source = RECORDER.replace("def on_step", "async def on_step").replace(
        '        os.write(self.file, b"%d',
        "        (context.directory / f'at{event.step}').touch()\n" + wait + '        os.write(self.file, b"%d',
    )
    site.install("slow", source)
    system.up("slow")
    system.publish(10)
    wait_for((system.root / "plugins/slow/at3").exists)
    broker = system.broker_pid()
    os.kill(broker, signal.SIGKILL)
    wait_for(lambda: system.broker_pid() != broker)
    wait_for(system.supervisor_answers)
    pid = system.plugin("slow").pid
    (system.root / "plugins/slow/go").touch()
    system.publish(5)
    wait_for(lambda: system.state("slow") == {"count": 15})
    assert system.seen("slow") == list(range(15))
    assert system.plugin("slow").pid == pid


def test_an_orderly_stop_cuts_off_a_coroutine_hook_and_its_event_comes_again(system, site):
    """Restarted in a hook that never ends: no dead letter, the event is handled by the next host."""
    source = RECORDER.replace("def on_step", "async def on_step").replace(
        '        os.write(self.file, b"%d',
        "        (context.directory / 'at').touch()\n"
        "        while not (context.directory / 'go').exists(): await asyncio.sleep(0.02)\n"
        '        os.write(self.file, b"%d',
    )
    site.install("slow", source)
    system.up("slow", bus={"max_deliver": 1, "stop_timeout": 1.0})
    system.publish(1)
    wait_for((system.root / "plugins/slow/at").exists)
    for _ in range(2):
        system.supervise("restart", "slow")
    (system.root / "plugins/slow/go").touch()
    wait_for(lambda: system.seen("slow") == [0])
    with Client(root=system.root) as client:
        assert client.dead_letters() == []
