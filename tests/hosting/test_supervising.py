"""Plugins come, go and fail while the system runs; nothing is left behind when it ends, however it ends."""

import os
import signal

import pytest

from tests.hosting.system import RECORDER, alive
from tests.support import trainbus, wait_for
from trainbus.errors import RefusedError


def test_plugins_that_can_t_be_loaded_are_parked_with_one_line_and_the_others_run(system, site):
    """A misspelt hook, a wrong argument, an import error, a bad setting: restarting would not help."""
    site.install("recorder", RECORDER)
    site.install("misspelt", "class P:\n    @hookimpl\n    def on_setp(self): pass\n")
    site.install("argument", "class P:\n    @hookimpl\n    def on_step(self, evnt): pass\n")
    site.install("importing", "import surely_missing\nclass P: pass\n")
    system.up("recorder", "misspelt", "argument", "importing")
    expected = {"misspelt": "Did you mean 'on_step'?", "argument": "Did you mean 'event'?", "importing": "surely_missing"}
    for name, words in expected.items():
        status = system.wait_for_state(name, "failed")
        assert words in status.error
        assert "\n" not in status.error
        assert status.restarts == 0
        wait_for(lambda name=name: system.plugin(name).pid is None)
    assert "Traceback" in system.log("importing")
    system.publish(5)
    wait_for(lambda: len(system.seen("recorder")) == 5)
    failed = {alert.plugin for alert in wait_for(lambda: system.events("alert")) if alert.rule == "plugin_failed"}
    assert failed == set(expected)


def test_installed_plugins_and_what_one_printed_are_told(system, site):
    """Any number of last lines; of a plugin that is not in use nothing."""
    site.install("recorder", RECORDER)
    system.up("recorder")
    system.wait_for_state("recorder", "running")
    assert {"anomaly", "recorder", "web"} <= {one["name"] for one in system.supervise("installed")}
    wait_for(lambda: any("recorder starts" in line for line in system.supervise("log", "recorder")))
    assert len(system.supervise("log", "recorder", lines=1)) == 1
    with pytest.raises(RefusedError, match="No plugin named 'anomaly' is in use"):
        system.supervise("log", "anomaly")


def test_a_parked_plugin_that_was_mended_is_restarted_by_name(system, site):
    """And its alert is cleared."""
    site.install("late", "class P:\n    @hookimpl\n    def on_setp(self): pass\n")
    system.up("late")
    system.wait_for_state("late", "failed")
    site.install("late", RECORDER)
    assert system.supervise("restart", "late")["state"] == "running"
    wait_for(lambda: [alert.state for alert in system.events("alert") if alert.rule == "plugin_failed"] == ["raised", "cleared"])


def test_a_bad_setting_names_its_key_and_is_mended_by_reload(system, site):
    """The configuration file is read again; the plugin starts with the new settings."""
    schema = "class C(msgspec.Struct):\n    every: int = 1\n"
    site.install("typed", schema + RECORDER + "\n    @hookimpl\n    def config_schema(self): return C\n")
    site.install("recorder", RECORDER)
    system.up("typed", "recorder", typed={"evry": 3})
    error = system.wait_for_state("typed", "failed").error
    assert "plugin.typed.evry" in error
    assert "plugin.typed.every" in error
    pid = system.wait_for_state("recorder", "running").pid
    system.configure("typed", "recorder", typed={"every": 3})
    answer = system.supervise("reload")
    assert (answer["restarted"], answer["unchanged"], answer["failed"]) == (["typed"], ["recorder"], [])
    assert system.plugin("recorder").pid == pid


def test_plugins_are_added_removed_and_restarted_while_events_flow(system, site):
    """The others are not touched; who comes back goes on where it was."""
    site.install("recorder", RECORDER)
    site.install("second", RECORDER)
    system.up("recorder")
    system.publish(50)
    pid = system.wait_for_state("recorder", "running").pid
    assert system.supervise("add", "second")["state"] == "running"
    wait_for(lambda: len(system.seen("second")) == 50)
    assert "second" in system.config.read_text()
    assert system.supervise("remove", "second")["state"] == "stopped"
    assert "second" not in system.config.read_text()
    system.publish(50)
    assert system.supervise("add", "second", save=False)["state"] == "running"
    assert "second" not in system.config.read_text()
    wait_for(lambda: len(system.seen("second")) == 100)
    assert system.seen("second") == list(range(100))
    before = system.plugin("second").pid
    assert system.supervise("restart", "second")["pid"] != before
    system.publish(10)
    wait_for(lambda: (len(system.seen("second")), len(system.seen("recorder"))) == (110, 110))
    assert system.plugin("recorder").pid == pid


def test_a_broken_configuration_changes_nothing(system, site):
    """Neither a file that is no TOML nor one that names an unknown plugin."""
    site.install("recorder", RECORDER)
    system.up("recorder")
    pid = system.wait_for_state("recorder", "running").pid
    system.config.write_text("plugins = [")
    with pytest.raises(RefusedError, match="trainbus"):
        system.supervise("reload")
    system.configure("recoder")
    with pytest.raises(RefusedError, match="Did you mean 'recorder'"):
        system.supervise("reload")
    with pytest.raises(RefusedError, match="No plugin named 'recoder' is in use"):
        system.supervise("restart", "recoder")
    assert system.plugin("recorder").pid == pid


def test_the_supervisors_sudden_death_leaves_no_orphans(system, site):
    """Also not a plugin that hangs with the interpreter in its hands, nor what a plugin itself started."""
    site.install(
        "hanger",
        "class P:\n    @hookimpl\n    def on_step(self, context):\n        (context.directory / 'in').touch()\n        while True: pass\n",
    )
    begin = """
        import subprocess
        child = subprocess.Popen(["sleep", "300"])
        (context.directory / "child").write_text(str(child.pid))
"""
    site.install("parent", RECORDER.replace("    def start(self, context):\n", "    def start(self, context):" + begin))
    system.up("hanger", "parent", bus={"stop_timeout": 1.0})
    system.publish(1)
    wait_for((system.root / "plugins/hanger/in").exists)
    child = int(wait_for(lambda: (system.root / "plugins/parent/child").exists() and (system.root / "plugins/parent/child").read_text()))
    pids = wait_for(lambda: pids if len(pids := system.pids()) >= 3 else None) | {child}
    os.kill(system.process.pid, signal.SIGKILL)
    wait_for(lambda: not any(alive(pid) for pid in pids), what=f"end of {pids}")


def test_down_ends_a_plugin_that_hangs(system, site):
    """By force after stop_timeout; the exit is in order."""
    site.install(
        "hanger",
        "class P:\n    @hookimpl\n    def on_step(self, context):\n        (context.directory / 'in').touch()\n        while True: pass\n",
    )
    system.up("hanger", bus={"stop_timeout": 1.0})
    system.publish(1)
    wait_for((system.root / "plugins/hanger/in").exists)
    pids = system.pids()
    assert system.down() == 0
    assert not any(alive(pid) for pid in pids)


def test_a_second_up_is_refused_with_the_pid_of_the_first(system, site):
    """One supervisor for each home (A-71). After a kill -9 the lock is free."""
    system.up()
    second = trainbus("up", "--config", str(system.config))
    assert second.returncode == 4
    assert f"supervisor pid {system.process.pid}" in " ".join(second.stderr.split())
    pids = system.pids()
    system.process.kill()
    system.process.wait()
    wait_for(lambda: not any(alive(pid) for pid in pids))
    system.up()


def test_an_unknown_plugin_in_the_configuration_stops_up_before_it_begins(system, site):
    """With the nearest right name; nothing is left running."""
    site.install("recorder", RECORDER)
    system.configure("recoder")
    result = trainbus("up", "--config", str(system.config))
    assert result.returncode == 6
    assert "Did you mean 'recorder'?" in result.stderr
    assert not (system.root / "bus.json").exists()


def test_a_broker_that_can_t_run_ends_up_with_its_message(system, site):
    """A port in use: told once, exit code 2, nothing restarted for ever."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        system.configure(bus={"router_port": port})
        result = trainbus("up", "--config", str(system.config), timeout=30)
    assert result.returncode in (2, 5)
    assert str(port) in result.stderr


def test_a_start_hook_that_raises_is_restarted_with_its_error_shown(system, site):
    """With growing pauses; it may work later. The timer of another is called on, also after it raised nothing but None."""
    site.install(
        "eager",
        """
        class P:
            @hookimpl
            def start(self, context):
                if not (context.directory / "ready").exists():
                    raise RuntimeError("no server yet")
            @hookimpl
            def every(self, context):
                context.state["ticks"] = context.state.get("ticks", 0) + 1
                context.announce(url="http://127.0.0.1:1/")
                return 0.01 if context.state["ticks"] < 5 else None
        """,
    )
    system.up("eager")
    wait_for(lambda: "RuntimeError: no server yet" in system.plugin("eager").error)
    (system.root / "plugins/eager/ready").touch()
    system.wait_for_state("eager", "running")
    wait_for(lambda: system.state("eager") == {"ticks": 5})
    wait_for(lambda: system.plugin("eager").url == "http://127.0.0.1:1/")


def test_what_a_plugin_publishes_and_asks_for_reaches_the_bus(system, site):
    """Its events carry the run of the event at hand; query sees the history; a lease that is taken is refused with LeaseRefusedError."""
    site.install(
        "busy",
        """
        from trainbus.hookspecs import LeaseRefusedError
        class P:
            @hookimpl
            async def on_step(self, event, context):
                with context.lease("c", mode="exclusive"):
                    try:
                        with context.lease("c"):
                            refused = 0.0
                    except LeaseRefusedError:
                        refused = 1.0
                before = [old.step async for old in context.aquery(kinds=["step"], upto=event.offset)]
                assert before == [old.step for old in context.query(kinds=["step"], upto=event.offset)]
                context.publish(events.Metric(name="before", value=float(len(before)), step=event.step))
                context.publish(events.Metric(name="refused", value=refused))
        """,
    )
    system.up("busy")
    system.publish(2)
    metrics = wait_for(lambda: found if len(found := system.events("metric")) == 4 else None)
    assert [(metric.run, metric.name, metric.value) for metric in metrics] == [
        ("r", "before", 1.0),
        ("r", "refused", 1.0),
        ("r", "before", 2.0),
        ("r", "refused", 1.0),
    ]
